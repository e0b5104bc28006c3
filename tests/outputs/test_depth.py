from __future__ import annotations

import json

import numpy as np
import pytest

from sharedbb.errors import GraphError
from sharedbb.outputs import DepthMap, depth_decoder
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


def test_changed_is_the_share_of_cells_off_by_more_than_5_percent() -> None:
    cells = raw()["depth"][0, ..., 0]
    dense = DepthMap(cells, Geometry.fit(NETWORK, NETWORK))
    moved = cells * np.float32(1.049)
    moved[2, :6] = cells[2, :6] * np.float32(0.94)
    moved[3, :6] = cells[3, :6] * np.float32(1.06)
    assert DepthMap(moved, dense.geometry).changed(dense) == 12 / (16 * 24)
    assert dense.changed(dense) == 0


def test_changed_knows_what_is_not_a_number_and_not_the_picture() -> None:
    cells = np.full((16, 24), 10.0, np.float32)
    cells[8, :12], cells[9, 0] = np.nan, np.inf
    geometry = Geometry.fit(Size(32, 96), NETWORK)  # cells 3 to 13 are read
    dense = DepthMap(cells, geometry)
    moved = cells.copy()
    moved[:3] = 99
    assert DepthMap(moved, geometry).changed(dense) == 0
    moved[8, :3], moved[9, :2] = 10, (10, np.nan)
    assert DepthMap(moved, geometry).changed(dense) == pytest.approx(5 / 240)


def test_maps_of_two_resolutions_are_compared_where_they_show_the_same() -> None:
    small, large = (Geometry.fit(Size(90, 50), size) for size in (Size(32, 48), NETWORK))
    rows, columns = np.indices((8, 12), np.float32)
    coarse = 20 + rows + 0.5 * columns
    rows, columns = (np.indices((16, 24), np.float32) + 0.5) / 2 - 0.5
    rows, columns = rows.clip(0, 7), columns.clip(0, 11)  # no map goes on beyond the centres of its outer cells
    dense = DepthMap(20 + rows + 0.5 * columns, large)
    assert DepthMap(coarse, small).changed(dense) == 0
    assert DepthMap(coarse * np.float32(1.04), small).changed(dense) == 0
    assert DepthMap(coarse * np.float32(1.06), small).changed(dense) == 1
    coarse[4:] = np.inf
    dense.cells[8:] = np.inf  # row 7 is read between a finite and an infinite one
    assert DepthMap(coarse, small).changed(dense) == pytest.approx(1 / 16)
