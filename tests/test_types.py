from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharedbb.errors import FrameError
from sharedbb.types import Frame, FrameResult, Freshness, Geometry, Size

SIDES = st.integers(1, 8192)
SIZES = st.builds(Size, SIDES, SIDES)
NETWORKS = st.builds(Size, st.integers(1, 40).map(lambda n: 32 * n), st.integers(1, 40).map(lambda n: 32 * n))
FITS: st.SearchStrategy[Any] = st.sampled_from(["letterbox", "stretch", "crop"])


@given(source=SIZES, network=NETWORKS, fit=FITS, across=st.floats(0, 1), down=st.floats(0, 1))
def test_points_come_back_from_the_network(source: Size, network: Size, fit: Any, across: float, down: float) -> None:
    geometry = Geometry.fit(source, network, fit)
    points = np.array([[across * source.width, down * source.height]], np.float32)
    again = geometry.to_source(geometry.to_network(points))
    # float32 network pixels hold positions to about network size × 2⁻²², whatever the scale
    tolerance = 1e-3 + 2e-6 * np.abs(geometry.to_network(points)) / (geometry.scale_x, geometry.scale_y)
    slack = 2e-6 * max(abs(geometry.offset_x) / geometry.scale_x, abs(geometry.offset_y) / geometry.scale_y)
    assert (np.abs(again - points) <= tolerance + slack + 1e-6 * max(source.width, source.height)).all()


@given(source=SIZES, network=NETWORKS)
def test_letterbox_holds_the_whole_source_and_touches_two_sides(source: Size, network: Size) -> None:
    left, top, width, height = Geometry.fit(source, network, "letterbox").placed
    assert left >= 0
    assert top >= 0
    assert left + width <= network.width
    assert top + height <= network.height
    assert width == network.width or height == network.height
    assert abs(network.width - width - 2 * left) <= 1
    assert abs(network.height - height - 2 * top) <= 1


@given(source=SIZES, network=NETWORKS)
def test_crop_fills_the_network_and_stretch_equals_it(source: Size, network: Size) -> None:
    left, top, width, height = Geometry.fit(source, network, "crop").placed
    assert left <= 0
    assert top <= 0
    assert left + width >= network.width
    assert top + height >= network.height
    assert Geometry.fit(source, network, "stretch").placed == (0, 0, network.width, network.height)


@given(source=SIZES, network=NETWORKS, fit=FITS)
def test_corners_of_the_source_are_corners_of_its_place(source: Size, network: Size, fit: Any) -> None:
    geometry = Geometry.fit(source, network, fit)
    left, top, width, height = geometry.placed
    corners = geometry.to_network(np.array([0, 0, source.width, source.height], np.float32))
    expected = np.array([left, top, left + width, top + height])
    assert np.abs(corners - expected).max() <= 1e-4 + 1e-6 * np.abs(expected).max()


def test_boxes_and_points_of_any_shape_are_moved_and_clipped() -> None:
    geometry = Geometry.fit(Size(100, 200), Size(64, 64))  # scale 0.32, 16 rows of bar above
    boxes = np.array([[[0, 0, 64, 64], [32, 32, 48, 40]]], np.float32)
    np.testing.assert_allclose(geometry.to_source(boxes), [[[0, 0, 200, 100], [100, 50, 150, 75]]], rtol=1e-6)
    assert geometry.to_source(np.zeros((0, 4), np.float32)).shape == (0, 4)
    assert boxes[0, 0].tolist() == [0, 0, 64, 64]


def test_sizes_read_as_width_by_height() -> None:
    assert str(Size(384, 640)) == "640x384"


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.full((4, 6), 7, np.uint8), [7, 7, 7]),
        (np.full((4, 6, 1), 7, np.uint8), [7, 7, 7]),
        (np.full((4, 6, 4), (1, 2, 3, 99), np.uint8), [3, 2, 1]),
        (np.full((4, 6, 3), (256, 512, 65535), np.uint16), [255, 2, 1]),
        (np.full((4, 6, 3), (0.0, 0.5, 1.0), np.float32), [255, 128, 0]),
        (np.full((4, 6, 3), (0.0, 0.5, 1.0), np.float16), [255, 128, 0]),
        (torch.tensor([1, 2, 3], dtype=torch.uint8).reshape(3, 1, 1).expand(3, 4, 6), [1, 2, 3]),
        (torch.tensor([1, 2, 3], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(1, 3, 4, 6), [1, 2, 3]),
        (torch.tensor([1, 2, 3], dtype=torch.uint8).expand(4, 6, 3), [1, 2, 3]),
        (torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1).expand(3, 4, 6), [0, 128, 255]),
    ],
    ids=["HW", "HW1", "BGRA", "uint16", "float32", "float16", "CHW", "NCHW", "HWC tensor", "float tensor"],
)
def test_what_callers_have_becomes_rgb(picture: Any, expected: list[int]) -> None:
    frame = Frame.of(picture, index=5, timestamp=0.2)
    assert frame.size == Size(4, 6)
    assert frame.rgb().dtype == np.uint8
    np.testing.assert_array_equal(frame.rgb(), np.full((4, 6, 3), expected, np.uint8))
    assert frame.rgb() is frame.rgb()
    assert (frame.index, frame.timestamp) == (5, 0.2)


def test_the_order_of_an_array_s_channels_is_the_caller_s_word() -> None:
    picture = np.full((2, 2, 3), (1, 2, 3), np.uint8)
    assert Frame.of(picture).rgb()[0, 0].tolist() == [3, 2, 1]
    assert Frame.of(picture, order="rgb").rgb()[0, 0].tolist() == [1, 2, 3]


def test_a_frame_and_a_decoder_s_frame_are_taken_as_they_are() -> None:
    video = av.VideoFrame.from_ndarray(np.full((16, 32, 3), (10, 20, 30), np.uint8), format="rgb24")
    frame = Frame.of(video, index=2)
    assert frame.video is video
    assert frame.size == Size(16, 32)
    assert frame.rgb()[3, 3].tolist() == [10, 20, 30]
    assert Frame.of(frame, index=9) is frame


@pytest.mark.parametrize("give", [lambda result: pickle.loads(pickle.dumps(result)), copy.deepcopy])
def test_a_result_on_a_decoder_s_frame_can_be_sent_to_another_process(give: Callable[[FrameResult], Any]) -> None:
    video = av.VideoFrame.from_ndarray(np.full((16, 32, 3), (10, 20, 30), np.uint8), format="rgb24")
    frame = Frame(2, 0.5, video=video)
    given = give(FrameResult(frame, Geometry.fit(frame.size, Size(32, 32)), {}, {}))
    assert (given.index, given.timestamp, given.geometry) == (2, 0.5, Geometry.fit(Size(16, 32), Size(32, 32)))
    np.testing.assert_array_equal(given.frame.rgb(), frame.rgb())


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), r"HW or HWC .* \(2, 4, 4, 3\); pass frames one at a time"),
        (np.zeros(5, np.uint8), r"HW or HWC .* \(5,\)"),
        (np.zeros((0, 4, 3), np.uint8), "not empty"),
        (np.zeros((4, 4, 2), np.uint8), r"1, 3 or 4 channels, got 2 in shape \(4, 4, 2\)"),
        (np.zeros((4, 4, 3), np.int64), "uint8, uint16 or float in 0–1, got int64"),
        (np.zeros((4, 4, 3), np.bool_), "got bool"),
        (np.full((4, 4, 3), np.nan), "NaN or infinite"),
        (np.full((4, 4, 3), np.inf), "NaN or infinite"),
        (np.full((4, 4, 3), 255.0), "must lie in 0–1, got 255 to 255; divide by 255"),
        (np.full((4, 4, 3), -0.5), "must lie in 0–1"),
        (torch.zeros(2, 3, 4, 4), "one at a time"),
        ("street.jpg", "cannot take a str as a frame"),
        (None, "cannot take a NoneType"),
    ],
)
def test_anything_else_is_one_clear_error(picture: Any, message: str) -> None:
    with pytest.raises(FrameError, match=message):
        Frame.of(picture)


def test_a_result_is_a_mapping_that_becomes_one_json_line() -> None:
    class Answer:
        def to_dict(self) -> dict[str, Any]:
            return {"value": 3}

    frame = Frame.of(np.zeros((4, 6, 3), np.uint8), index=7, timestamp=1 / 3)
    fresh = Freshness(ran=True, age_frames=0, age_ms=0.12345, why="full")
    result = FrameResult(frame, Geometry.fit(frame.size, Size(32, 32)), {"scene": Answer()}, {"scene": fresh})
    assert list(result) == ["scene"]
    assert len(result) == 1
    with pytest.raises(KeyError, match="no answer of a head 'road'"):
        result["road"]
    assert json.loads(result.to_json()) == {
        "frame": 7,
        "timestamp": 0.333333,
        "stream": "main",
        "width": 6,
        "height": 4,
        "mode": "dense",
        "work": 1.0,
        "heads": {"scene": {"value": 3}},
        "freshness": {"scene": {"ran": True, "age_frames": 0, "age_ms": 0.123, "why": "full", "error": None}},
    }


def test_numbers_that_json_does_not_know_are_null() -> None:
    class Answer:
        def to_dict(self) -> dict[str, Any]:
            return {"values": [1.5, math.nan, (math.inf,)], "name": "NaN"}

    frame = Frame.of(np.zeros((4, 6, 3), np.uint8))
    line = FrameResult(frame, Geometry.fit(frame.size, Size(32, 32)), {"own": Answer()}, {}).to_json()
    assert json.loads(line, parse_constant=pytest.fail)["heads"] == {
        "own": {"values": [1.5, None, [None]], "name": "NaN"}
    }


def test_a_result_says_how_it_was_computed() -> None:
    frame = Frame.of(np.zeros((4, 6, 3), np.uint8))
    result = FrameResult(frame, Geometry.fit(frame.size, Size(32, 32)), {}, {}, mode="partial", work=1 / 3)
    told = result.to_dict()
    assert (told["mode"], told["work"]) == ("partial", 0.3333)


def test_freshness_says_what_an_audit_measured() -> None:
    fresh = Freshness(ran=False, age_frames=2, age_ms=66.66666, why="reused", error=1 / 300)
    assert fresh.to_dict() == {"ran": False, "age_frames": 2, "age_ms": 66.667, "why": "reused", "error": 0.00333}


def test_an_order_of_colours_that_there_is_not() -> None:
    with pytest.raises(FrameError, match="'rgb' or 'bgr', got 'hsv'"):
        Frame.of(np.zeros((4, 4, 3), np.uint8), order="hsv")
