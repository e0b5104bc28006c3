from __future__ import annotations

import json

import numpy as np
import pytest

from sharedbb.outputs import RawOutput, raw_decoder
from sharedbb.outputs.raw import LISTED, part, plain, sigmoid
from sharedbb.types import Geometry, Size

GEOMETRY = Geometry.fit(Size(10, 10), Size(32, 32))


def test_arrays_are_copied_and_feature_maps_are_nchw_again() -> None:
    nhwc = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    raw = {"map": nhwc, "vector": np.ones((1, 5), np.float32)}
    answer = raw_decoder()(raw, GEOMETRY)
    expected = nhwc.transpose(0, 3, 1, 2).copy()
    nhwc[:] = 0
    np.testing.assert_array_equal(answer["map"], expected)
    assert answer["map"].flags.c_contiguous
    assert answer["vector"].shape == (1, 5)
    assert repr(answer) == "RawOutput(map (1, 4, 2, 3), vector (1, 5))"
    with pytest.raises(KeyError, match=r"no part 'mask'; this output has \['map', 'vector'\]"):
        answer["mask"]


def test_to_dict_lists_small_arrays_and_describes_large_ones() -> None:
    raw = {"small": np.array([[1.5, np.nan]], np.float32), "large": np.zeros((1, LISTED + 1), np.float32)}
    record = json.loads(json.dumps(raw_decoder()(raw, GEOMETRY).to_dict(), allow_nan=False))
    assert record["arrays"]["small"] == {"shape": [1, 2], "values": [[1.5, None]]}
    assert record["arrays"]["large"] == {"shape": [1, LISTED + 1]}


def test_part_is_a_view_without_the_batch_axis() -> None:
    array = np.zeros((1, 3, 2), np.float32)
    assert np.shares_memory(part({"a": array}, "a", None, 2), array)
    assert part({"a": array}, "a", 3, 2).shape == (3, 2)


@pytest.mark.parametrize(
    ("value", "expected"), [(1.2345, 1.23), (np.float32("nan"), None), ([1, np.inf], [1.0, None]), ([], [])]
)
def test_plain_values(value: object, expected: object) -> None:
    assert plain(value, 2) == expected


def test_sigmoid_equals_its_definition() -> None:
    logits = np.linspace(-30, 30, 1001, dtype=np.float32)
    result = sigmoid(logits)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, 1 / (1 + np.exp(-logits.astype(np.float64))), atol=2e-7)


def test_changed_is_the_share_of_numbers_off_by_a_hundredth_of_the_largest() -> None:
    dense = RawOutput({"a": np.array([[100.0, -1, 0, np.nan]], np.float32), "b": np.array([0.5, 0.5], np.float32)})
    near = RawOutput({"a": np.array([[99.1, -1.9, 0.9, np.nan]], np.float32), "b": np.array([0.496, 0.5], np.float32)})
    far = RawOutput({"a": np.array([[98.9, -1, 1.1, 0]], np.float32), "b": np.array([0.5, 0.494], np.float32)})
    assert dense.changed(dense) == near.changed(dense) == 0
    assert far.changed(dense) == pytest.approx(4 / 6)
    assert RawOutput({}).changed(RawOutput({})) == 0


def test_arrays_of_another_shape_have_changed() -> None:
    dense = RawOutput({"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)})
    assert RawOutput({"a": np.zeros((3, 2), np.float32), "b": np.zeros(2, np.float32)}).changed(dense) == 0.75
