"""What differs between two answers is seen, and what does not is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sharedbb.media.contrast import DENSE, OURS, contrast
from sharedbb.outputs import DepthMap, Detections, Embedding, Keypoints, SegmentationMap, Tags
from sharedbb.types import Frame, Geometry, Size

SIZE = Size(192, 320)
FRAME = Frame(0, 0.0, np.full((192, 320, 3), (40, 90, 160), np.uint8))
SAME = Geometry.fit(SIZE, SIZE)


def coloured(picture: np.ndarray) -> np.ndarray:
    """Where a picture is not grey, above the caption."""
    return (np.ptp(picture.astype(int), axis=2) > 20)[:140]


def boxes(*lefts: int) -> Detections:
    corners = np.array([[left, 20, left + 40, 60] for left in lefts], np.float32).reshape(-1, 4)
    return Detections(corners, np.linspace(0.9, 0.5, len(lefts), dtype=np.float32), np.zeros(len(lefts), int), ("car",))


def areas(classes: np.ndarray) -> SegmentationMap:
    return SegmentationMap(np.eye(3, dtype=np.float32)[classes], SAME, ("a", "b", "c"))


def test_pixels_of_another_class_are_red() -> None:
    dense = np.zeros((192, 320), int)
    ours = dense.copy()
    ours[30:50, 100:130] = 2
    picture = contrast(FRAME, areas(ours), areas(dense))
    assert picture.shape == (192, 320, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(coloured(picture), (ours != dense)[:140])
    metres = np.full((192, 320), 10.0, np.float32)
    off = np.where(ours > 0, np.float32(10.6), np.float32(10.4))
    np.testing.assert_array_equal(
        coloured(contrast(FRAME, DepthMap(off, SAME), DepthMap(metres, SAME))), (ours != dense)[:140]
    )
    assert FRAME.rgb()[0, 0].tolist() == [40, 90, 160]


def test_boxes_without_a_partner_are_drawn_in_the_colour_of_their_side() -> None:
    picture = contrast(FRAME, boxes(10, 100), boxes(12, 200))
    shown = coloured(picture)
    assert not shown[:, :70].any()
    assert picture[40, 100].tolist() == list(OURS)
    assert picture[40, 200].tolist() == list(DENSE)


@pytest.mark.parametrize(
    "answer",
    [
        boxes(10, 100),
        boxes(),
        areas(np.zeros((192, 320), int)),
        Tags(("x",), np.ones(1, np.float32), 0.5),
        Keypoints(np.array([[20, 30]], np.float32), np.ones(1, np.float32), ("nose",)),
        Embedding(np.ones(4, np.float32)),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_equal_answers_leave_the_frame_grey(answer: Any) -> None:
    assert not coloured(contrast(FRAME, answer, answer)).any()


def test_moved_points_are_joined() -> None:
    ours, dense = (Keypoints(np.array([[x, 70]], np.float32), np.ones(1, np.float32), ("nose",)) for x in (50, 150))
    picture = contrast(FRAME, ours, dense)
    assert coloured(picture)[70, 50:150].all()
    assert picture[70, 50].tolist() == list(OURS)
    assert picture[70, 150].tolist() == list(DENSE)
