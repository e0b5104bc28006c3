"""What heads are asked, and what one map of classes says about it."""

from __future__ import annotations

import numpy as np
import pytest

from sharedbb.learn.labels import (
    EDGES,
    VOID,
    Asked,
    asked,
    boundary_of,
    boxes_of,
    classes_of,
    edge_cells,
    edges_of,
    tags_of,
)
from sharedbb.spec import DepthHead, DetectionHead, EmbeddingHead, Head, SegmentationHead, TagsHead

CLASSES = ("sky", "road", "car", "person", "sign")
ROAD, CAR, PERSON, SIGN = 1, 2, 3, 4


def planted() -> np.ndarray:
    """A road with a car of 40×20 pixels, a person of 10×24, and a sign too small to be asked for."""
    made = np.full((96, 128), ROAD, np.uint8)
    made[50:70, 20:60] = CAR
    made[30:54, 90:100] = PERSON
    made[10:14, 70:74] = SIGN
    return made


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (SegmentationHead(taps=(4,), classes=CLASSES), Asked("classes", (0, 1, 2, 3, 4))),
        (SegmentationHead(taps=(4,), classes=("car", "road")), Asked("classes", (CAR, ROAD))),
        (SegmentationHead(taps=(4,), classes=("car", "water")), None),
        (SegmentationHead(taps=(4,), classes=EDGES), Asked("edges")),
        (DetectionHead(taps=(8,), classes=("sign", "car")), Asked("boxes", (SIGN, CAR))),
        (DetectionHead(taps=(8,), classes=("dog",)), None),
        (TagsHead(taps=(32,), labels=("sky",)), Asked("tags", (0,))),
        (EmbeddingHead(taps=(32,)), None),
        (DepthHead(taps=(4,)), None),
    ],
)
def test_a_set_asks_what_its_class_names_say(head: Head, expected: Asked | None) -> None:
    assert asked(head, CLASSES) == expected
    assert asked(head, ()) is None


def test_distances_are_asked_where_there_are_some() -> None:
    assert asked(DepthHead(taps=(4,)), (), depth=True) == Asked("depth")


def test_a_set_that_has_edges_as_classes_asks_for_those() -> None:
    head = SegmentationHead(taps=(4,), classes=EDGES)
    assert asked(head, ("edge", "inside", "other")) == Asked("classes", (1, 0))


def test_classes_of_a_head_are_numbered_as_it_does_and_others_are_void() -> None:
    labels = np.array([[ROAD, CAR, PERSON, VOID, 77]], np.uint8)
    assert classes_of(labels, (PERSON, ROAD)).tolist() == [[1, VOID, 0, VOID, VOID]]


def test_boxes_bound_the_planted_components() -> None:
    ids = (PERSON, SIGN, CAR)
    boxes = boxes_of(planted(), ids)
    found = {
        (ids[index], tuple(box.tolist()), bool(ignored))
        for index, box, ignored in zip(boxes.classes, boxes.xyxy, boxes.ignored, strict=True)
    }
    assert found == {
        (CAR, (20, 50, 60, 70), False),
        (PERSON, (90, 30, 100, 54), False),
        (SIGN, (70, 10, 74, 14), True),
    }
    assert boxes.xyxy.dtype == np.float32
    assert boxes.classes.dtype == np.int64


def test_diagonal_neighbours_are_one_object_and_a_split_one_is_two() -> None:
    made = np.full((64, 64), ROAD, np.uint8)
    made[0:10, 0:10] = made[10:20, 10:20] = CAR
    made[40:50, 0:30] = CAR
    made[40:50, 14:16] = SIGN
    found = sorted(boxes_of(made, (CAR,)).xyxy.tolist())
    assert found == [[0, 0, 20, 20], [0, 40, 14, 50], [16, 40, 30, 50]]


def test_thin_components_are_ignored_however_long() -> None:
    made = np.full((64, 64), ROAD, np.uint8)
    made[0:5, 0:60] = CAR
    assert boxes_of(made, (CAR,)).ignored.tolist() == [True]


def test_a_map_without_objects_has_no_boxes() -> None:
    boxes = boxes_of(np.full((32, 32), VOID, np.uint8), (CAR, PERSON))
    assert len(boxes) == 0
    assert boxes.xyxy.shape == (0, 4)


def test_boundary_lies_on_both_sides_and_not_along_void() -> None:
    made = np.full((8, 12), ROAD, np.uint8)
    made[:, 4:8] = CAR
    made[:, 8:] = VOID
    assert np.flatnonzero(boundary_of(made).all(axis=0)).tolist() == [3, 4]
    assert boundary_of(made).sum() == 2 * 8
    assert np.array_equal(boundary_of(made.T), boundary_of(made).T)


@pytest.mark.parametrize("stride", [4, 8])
def test_edge_cells_match_a_plain_loop(stride: int) -> None:
    made = np.random.default_rng(0).choice([0, 3, VOID], (32, 48), p=[0.02, 0.97, 0.01]).astype(np.uint8)
    made[:8, :16] = 3
    edge, target = boundary_of(made), edge_cells(edges_of(made), stride)
    assert target.shape == (32 // stride, 48 // stride)
    for row, column in np.ndindex(*target.shape):
        cell = np.s_[stride * row : stride * (row + 1), stride * column : stride * (column + 1)]
        assert target[row, column] == (1 if edge[cell].any() else VOID if (made[cell] == VOID).any() else 0)
    assert {0, 1} <= set(np.unique(target).tolist())


def test_tags_need_a_thousandth_of_what_is_known() -> None:
    made = np.full((100, 100), VOID, np.uint8)
    made[:40] = ROAD
    made[0, :4] = SIGN
    made[1, :3] = CAR
    assert tags_of(made, (SIGN, CAR, ROAD, 0)).tolist() == [True, False, True, False]
    assert not tags_of(np.full((4, 4), VOID, np.uint8), (0, 1)).any()
