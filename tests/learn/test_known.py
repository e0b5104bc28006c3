"""What is known of a picture, followed into crops and asked of labels."""

from __future__ import annotations

import numpy as np
import pytest

from sharedbb.learn.augment import training_crop
from sharedbb.learn.data import Sample
from sharedbb.learn.known import (
    Classes,
    Direction,
    Edges,
    Known,
    Metres,
    Objects,
    Points,
    Present,
    known_by_labels,
    mirror_of,
)
from sharedbb.learn.labels import VOID, Asked, Boxes, boundary_of, boxes_of
from sharedbb.learn.warp import Warp

SIZE = (48, 64)
BOX = (20, 12, 44, 32)


def boxes(*rows: tuple[float, float, float, float], scores: tuple[float, ...] | None = None) -> Boxes:
    count = len(rows)
    given = None if scores is None else np.array(scores, np.float32)
    return Boxes(np.array(rows, np.float32).reshape(-1, 4), np.zeros(count, np.int64), np.zeros(count, bool), given)


def warp(scale: float = 1.0, left: float = 0.0, top: float = 0.0, *, mirror: bool = False) -> Warp:
    matrix = np.array([[scale, 0, -left], [0, scale, -top]], np.float32)
    if mirror:
        matrix[0] = -matrix[0]
        matrix[0, 2] += SIZE[1] - 1
    return Warp(matrix, SIZE, SIZE, scale)


def picture() -> Sample:
    """A bright box on black, with its label and everything that a teacher could say of it."""
    left, top, right, bottom = BOX
    labels = np.zeros(SIZE, np.uint8)
    labels[top:bottom, left:right] = 1
    rgb = np.repeat(labels[..., None] * np.uint8(255), 3, axis=2)
    known: dict[str, Known] = {
        "map": Classes(labels),
        "things": Objects(boxes(BOX)),
        "corner": Points(np.array([[left, top], [right, top]], np.float32), np.ones(2, np.float32), (1, 0)),
    }
    return Sample("box", rgb, labels, boxes=boxes(BOX), known=known)


@pytest.mark.parametrize("seed", range(12))
def test_everything_known_stays_on_what_it_names_in_any_crop(seed: int) -> None:
    crop = training_crop(picture(), (64, 96), np.random.default_rng(seed))
    assert crop.labels is not None
    assert np.array_equal(crop.known["map"].map, crop.labels)  # type: ignore[union-attr]
    rows, columns = np.nonzero(crop.labels == 1)
    things = crop.known["things"]
    assert isinstance(things, Objects)
    if not len(rows):
        assert not (~things.boxes.ignored).any()
        return
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert things.boxes.xyxy[0] == pytest.approx(seen, abs=1.01)
    assert crop.boxes is not None
    assert np.array_equal(crop.boxes.xyxy, things.boxes.xyxy)
    points = crop.known["corner"]
    assert isinstance(points, Points)
    inside = points.scores > 0
    corners = np.array([[seen[0], seen[1]], [seen[2], seen[1]]])  # in a mirror the left one is still the first
    assert points.xy[inside] == pytest.approx(corners[inside], abs=1.01)


def test_boxes_are_cut_off_and_what_is_left_of_a_small_part_does_not_count() -> None:
    corners = (0, 0, 21, 40), (30, 0, 60, 20), (50, 30, 54, 34), (0, 40, 8, 48)
    moved = Objects(boxes(*corners, scores=(0.9, 0.8, 0.7, 0.6))).warped(warp(left=15)).boxes
    assert moved.xyxy.tolist() == [[0, 0, 6, 40], [15, 0, 45, 20], [35, 30, 39, 34]]
    assert moved.ignored.tolist() == [True, False, True]  # two sevenths are left; whole; too small
    assert moved.certainty.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_what_lies_outside_the_picture_is_unknown() -> None:
    out = warp(left=-10)
    assert (Classes(np.ones(SIZE, np.uint8)).warped(out).map[:, :10] == VOID).all()
    assert (Edges(np.ones(SIZE, np.uint8)).warped(out).map[:, :10] == VOID).all()
    assert np.isnan(Metres(np.ones(SIZE, np.float32)).warped(out).map[:, :10]).all()
    known = Objects(boxes(), np.zeros(SIZE, bool)).warped(out)
    assert known.void is not None
    assert known.void[:, :10].all()
    assert not known.void[:, 10:].any()
    assert Objects(boxes()).warped(out).void is None


def test_nearer_things_are_larger() -> None:
    assert np.unique(Metres(np.full(SIZE, 8.0, np.float32)).warped(warp(2.0)).map).tolist() == [4.0]


def test_most_of_the_picture_must_be_seen_for_what_is_said_of_all_of_it() -> None:
    whole, part = warp(left=20), warp(left=30)
    assert whole.visible == pytest.approx(44 / 64)
    tags, vector = Present(np.array([0.9, 0.2], np.float32)), Direction(np.array([1, 0], np.float32))
    assert tags.warped(whole) is tags
    assert vector.warped(whole) is vector
    cut = tags.warped(part).shares
    assert np.isnan(cut[0])  # may have been cut off
    assert cut[1] == np.float32(0.2)  # was nowhere
    assert np.isnan(vector.warped(part).vector).all()


def test_left_and_right_change_places_in_a_mirror() -> None:
    names = ("left_eye", "right_eye", "nose", "left_ear")
    assert mirror_of(names) == (1, 0, 2, 3)
    points = Points(np.array([[10, 5], [30, 5], [20, 9], [2, 5]], np.float32), np.ones(4, np.float32), mirror_of(names))
    assert points.warped(warp(mirror=True)).xy.tolist() == [[34, 5], [54, 5], [44, 9], [62, 5]]
    assert points.warped(warp(left=5)).scores.tolist() == [1, 1, 1, 0]


def test_labels_answer_what_they_can() -> None:
    sample = picture()
    labels = sample.labels
    assert labels is not None
    asked = {
        "classes": Asked("classes", (1, 0)),
        "edges": Asked("edges"),
        "boxes": Asked("boxes", (1,)),
        "tags": Asked("tags", (0, 1, 2)),
        "depth": Asked("depth"),
    }
    bare = Sample("bare", sample.rgb, labels)
    known = known_by_labels(bare, asked)
    assert known.keys() == asked.keys() - {"depth"}
    assert np.array_equal(known["classes"].map, 1 - labels)  # type: ignore[union-attr]
    assert np.array_equal(known["edges"].map == 1, boundary_of(labels))  # type: ignore[union-attr]
    assert np.array_equal(known["boxes"].boxes.xyxy, boxes_of(labels, (1,)).xyxy)  # type: ignore[union-attr]
    assert known["tags"].shares.tolist() == [1, 1, 0]  # type: ignore[union-attr]
    assert known_by_labels(Sample("none", sample.rgb), asked) == {}
    assert "tags" not in known_by_labels(Sample("void", sample.rgb, np.full(SIZE, VOID, np.uint8)), asked)


def test_labelled_boxes_are_taken_as_they_are_in_the_heads_classes() -> None:
    given = Boxes(
        np.array([[0, 0, 9, 9], [10, 0, 29, 9], [0, 20, 9, 39]], np.float32),
        np.array([7, 3, 9]),
        np.array([False, False, True]),
    )
    sample = Sample("boxed", np.zeros((*SIZE, 3), np.uint8), boxes=given)
    known = known_by_labels(sample, {"boxes": Asked("boxes", (3, 9)), "tags": Asked("tags", (7, 9, 4))})
    objects, tags = known["boxes"], known["tags"]
    assert isinstance(objects, Objects)
    assert objects.boxes.classes.tolist() == [0, 1]
    assert objects.boxes.xyxy.tolist() == given.xyxy[1:].tolist()
    assert objects.boxes.ignored.tolist() == [False, True]
    assert isinstance(tags, Present)
    assert np.array_equal(tags.shares, [1, np.nan, 0], equal_nan=True)  # of 9 there is one that does not count


def test_distances_that_are_none_are_unknown() -> None:
    depth = np.full(SIZE, 4.0, np.float32)
    depth[0, :5] = 0.0, -1.0, np.inf, -np.inf, np.nan
    sample = Sample("lidar", np.zeros((*SIZE, 3), np.uint8), depth=depth)
    metres = known_by_labels(sample, {"depth": Asked("depth")})["depth"]
    assert isinstance(metres, Metres)
    assert np.isnan(metres.map[0, :5]).all()
    assert (metres.map[1:] == 4).all()
