from __future__ import annotations

import json

import numpy as np
import pytest

from sharedbb.errors import GraphError
from sharedbb.outputs import depth_decoder
from sharedbb.outputs.sampling import resample
from sharedbb.types import Geometry, Size

NETWORK = Size(64, 96)


def raw() -> dict[str, np.ndarray]:
    return {"depth": np.random.default_rng(0).uniform(1, 50, (1, 16, 24, 1)).astype(np.float32)}


def test_metres_are_the_cells_upsampled_once() -> None:
    given = raw()
    cells = given["depth"][0, ..., 0].copy()
    geometry = Geometry.fit(Size(90, 50), NETWORK)
    answer = depth_decoder(None)(given, geometry)
    given["depth"][:] = 0
    np.testing.assert_array_equal(answer.metres, resample(cells, geometry))
    assert answer.metres is answer.metres
    assert repr(answer) == "DepthMap(50x90 from 24x16 cells)"


def test_to_dict_looks_at_the_picture_and_not_at_the_bars() -> None:
    given = raw()
    given["depth"][0, :3] = 1000.0
    given["depth"][0, 13:] = 0.0
    answer = depth_decoder(None)(given, Geometry.fit(Size(32, 96), NETWORK))  # cells 3 to 13 are read
    record = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    seen = given["depth"][0, 3:13]
    assert record["nearest_m"] == pytest.approx(seen.min(), abs=1e-3)
    assert record["median_m"] == pytest.approx(np.median(seen), abs=1e-3)
    assert record["farthest_m"] == pytest.approx(seen.max(), abs=1e-3)
    assert (record["width"], record["height"]) == (96, 32)


def test_another_shape_is_an_error() -> None:
    with pytest.raises(GraphError, match=r"'depth' has shape \(1, 16, 24, 2\)"):
        depth_decoder(None)({"depth": np.zeros((1, 16, 24, 2), np.float32)}, Geometry.fit(NETWORK, NETWORK))
