"""The RGB intake: every source form lands at the same place, in the same colours, and bars hold the mean."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

from sharedbb.errors import FrameError
from sharedbb.transforms import RgbIntake
from sharedbb.transforms.colour import Colour
from sharedbb.types import Fit, Frame, Normalization, Size

MEAN = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
NETWORK = Size(96, 160)


def _scene(height: int, width: int) -> np.ndarray:
    """A smooth colour picture, so that filters of different kinds agree on it."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    red, green, blue = x / width, y / height, 0.5 + 0.5 * np.sin(3 * x / width + 2 * y / height)
    return np.rint(np.stack([red, green, blue], -1) * 255).astype(np.uint8)


def _filled(frame: Frame, fit: Fit = "letterbox") -> np.ndarray:
    buffer = np.zeros((1, NETWORK.height, NETWORK.width, 3), np.uint8)
    RgbIntake(buffer, fit, MEAN)(frame)
    return buffer[0]


def _inner(picture: np.ndarray, frame: Frame, fit: Fit) -> np.ndarray:
    """What the intake should give, by way of the geometry's own definition of where each pixel comes from."""
    buffer = np.zeros((1, NETWORK.height, NETWORK.width, 3), np.uint8)
    geometry = RgbIntake(buffer, fit, MEAN)(frame)
    y, x = np.mgrid[0 : NETWORK.height, 0 : NETWORK.width].astype(np.float32) + 0.5
    map_x = (x - geometry.offset_x) / geometry.scale_x - 0.5
    map_y = (y - geometry.offset_y) / geometry.scale_y - 0.5
    return cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("size", [(96, 160), (100, 100), (61, 333), (540, 960), (97, 161)])
def test_pixels_lie_where_the_geometry_says(fit: Fit, size: tuple[int, int]) -> None:
    picture = _scene(*size)
    frame = Frame.of(picture, order="rgb")
    got, expected = _filled(frame, fit).astype(int), _inner(picture, frame, fit).astype(int)
    left, top, width, height = _geometry(frame, fit)
    view = np.s_[max(top, 0) + 1 : top + height - 1, max(left, 0) + 1 : left + width - 1]
    assert np.abs(got[view] - expected[view]).max() <= 6


def _geometry(frame: Frame, fit: Fit) -> tuple[int, int, int, int]:
    buffer = np.zeros((1, NETWORK.height, NETWORK.width, 3), np.uint8)
    return RgbIntake(buffer, fit, MEAN)(frame).placed


@pytest.mark.parametrize("size", [(96, 160), (200, 300), (50, 60)])
def test_bgr_and_rgb_arrays_give_the_same_picture(size: tuple[int, int]) -> None:
    picture = _scene(*size)
    rgb = _filled(Frame.of(picture, order="rgb"))
    bgr = _filled(Frame.of(np.ascontiguousarray(picture[..., ::-1]), order="bgr"))
    assert np.array_equal(rgb, bgr)


@pytest.mark.parametrize("size", [(96, 160), (360, 640), (272, 480)])
@pytest.mark.parametrize("format_", ["yuv420p", "yuv444p", "rgb24", "gray", "yuv420p10le"])
def test_decoder_frames_look_like_their_arrays(size: tuple[int, int], format_: str) -> None:
    picture = _scene(*size)
    video = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=format_)
    from_video = _filled(Frame(0, 0.0, video=video)).astype(int)
    from_array = _filled(Frame.of(video.to_ndarray(format="rgb24"), order="rgb")).astype(int)
    assert np.abs(from_video - from_array).mean() <= 2.0
    assert np.abs(from_video - from_array).max() <= 16


def test_bars_hold_the_mean_and_are_drawn_again_when_the_size_changes() -> None:
    buffer = np.zeros((1, NETWORK.height, NETWORK.width, 3), np.uint8)
    intake = RgbIntake(buffer, "letterbox", MEAN)
    intake(Frame.of(np.full((96, 20, 3), 255, np.uint8)))
    assert (buffer[0, :, 0] == [124, 116, 104]).all()
    assert (buffer[0, :, 80] == 255).all()
    intake(Frame.of(np.full((20, 160, 3), 255, np.uint8)))
    assert (buffer[0, 0] == [124, 116, 104]).all()
    assert (buffer[0, 48] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (4320, 7680), (3, 2)])
def test_extreme_sizes_are_taken(size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 200, np.uint8)
    assert (_filled(Frame.of(picture), "stretch") == 200).all()
    assert (_filled(Frame.of(picture), "letterbox") == 200).any()


def test_a_frame_that_swscale_cannot_read_is_said() -> None:
    class Refuses:
        def reformat(self, *_: object, **__: object) -> None:
            raise av.error.InvalidDataError(1, "damaged planes")

    intake = RgbIntake(np.zeros((1, NETWORK.height, NETWORK.width, 3), np.uint8), "letterbox", MEAN)
    intake._planes = intake._reformatter = Refuses()
    with pytest.raises(FrameError, match=r"frame 7 of 16x16 cannot be converted: .*damaged planes"):
        intake(Frame(7, 0.0, video=av.VideoFrame(16, 16, "yuv420p")))


def test_a_frame_too_narrow_to_be_cropped_is_refused_before_it_fills_the_memory() -> None:
    intake = RgbIntake(np.zeros((1, 384, 640, 3), np.uint8), "crop", MEAN)
    with pytest.raises(FrameError, match="20000x1 is too narrow to fill 640x384"):
        intake(Frame(0, 0.0, np.zeros((1, 20_000, 3), np.uint8)))
    assert intake(Frame(1, 0.0, np.zeros((9, 16, 3), np.uint8))).placed == (-22, 0, 683, 384)


@pytest.mark.parametrize(("colorspace", "range_"), [(5, 1), (1, 1), (5, 2), (1, 2)])
@pytest.mark.parametrize("size", [(96, 160), (50, 70)])
def test_planes_become_the_rgb_that_their_colour_says(colorspace: int, range_: int, size: tuple[int, int]) -> None:
    """Held against floating point: what swscale cuts off is at most three levels, one and a half on average."""
    height, width = size
    video = av.VideoFrame(width, height, "yuv420p")
    video.colorspace, video.color_range = colorspace, range_
    random, planes = np.random.default_rng(0), []
    for plane, (low, high) in zip(video.planes, ((60, 200), (110, 146), (110, 146)), strict=True):
        rows = random.integers(low, high, (plane.height, plane.line_size), np.uint8)
        plane.update(rows.tobytes())
        planes.append(rows[:, : plane.width].astype(np.float64))
    y, u, v = planes[0], *(one.repeat(2, 0).repeat(2, 1)[:height, :width] for one in planes[1:])
    matrix, offset = Colour.of(video).to_rgb()
    expected = (np.stack([y, u, v], -1) - offset) @ matrix.T
    buffer = np.zeros((1, height, width, 3), np.uint8)
    RgbIntake(buffer, "stretch", MEAN)(Frame(0, 0.0, video=video))
    difference = buffer[0] - np.clip(expected, 0, 255)
    assert difference.mean((0, 1)).min() > -1.6
    assert difference.mean((0, 1)).max() < 0.1
    assert difference.min() > -3.05
    assert difference.max() < 0.6


@pytest.mark.parametrize("form", ["yuv422p", "yuv444p", "yuv420p10le", "nv12"])
@pytest.mark.parametrize("size", [(96, 160), (120, 200)])
def test_planes_of_other_formats_are_no_darker(form: str, size: tuple[int, int]) -> None:
    """A picture of large flat patches, so that sampling and resizing change little."""
    random = np.random.default_rng(0)
    patches = random.integers(70, 180, (size[0] // 8, size[1] // 8, 3), np.uint8)
    rgb = np.ascontiguousarray(patches.repeat(8, 0).repeat(8, 1))
    video = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv444p", interpolation=0x2 | 0x40000 | 0x2000
    )
    buffers = []
    for name in ("yuv420p", form):
        buffer = np.zeros((1, 96, 160, 3), np.uint8)
        RgbIntake(buffer, "stretch", MEAN)(Frame(0, 0.0, video=video.reformat(format=name)))
        buffers.append(buffer[0].astype(np.float64))
    brighter = (buffers[1] - buffers[0]).mean((0, 1))
    assert brighter.min() > -0.3
    assert brighter.max() < 1.7
