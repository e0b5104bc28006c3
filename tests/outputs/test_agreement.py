"""Agreement of two runs, against values worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sharedbb.errors import SharedBBError
from sharedbb.outputs import DepthMap, Detections, Embedding, Keypoints, RawOutput, SegmentationMap, Tags
from sharedbb.outputs.agreement import KINDS, Agreement, DetectionAgreement, average_precision
from sharedbb.types import Geometry, Size

NETWORK = Size(32, 32)
SAME = Geometry.fit(NETWORK, NETWORK)


def boxes(*rows: tuple[float, float, str]) -> Detections:
    """Boxes of 10×10 by left edge, score and class."""
    names = ("car", "person", "sign")
    corners = np.array([[left, 0, left + 10, 10] for left, _, _ in rows], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in rows], np.float32)
    return Detections(corners, scores, np.array([names.index(name) for _, _, name in rows], np.int64), names)


def areas(classes: np.ndarray, names: tuple[str, ...] = ("a", "b", "c")) -> SegmentationMap:
    """A map of one cell a pixel."""
    size = Size(*classes.shape)
    return SegmentationMap(np.eye(len(names), dtype=np.float32)[classes], Geometry.fit(size, size), names)


def tags(*answers: float) -> Tags:
    return Tags(("x", "y", "z")[: len(answers)], np.array(answers, np.float32), 0.5)


def points(*places: tuple[float, float], score: float = 0.9) -> Keypoints:
    names = ("nose", "tail", "ear")[: len(places)]
    return Keypoints(np.array(places, np.float32), np.full(len(places), score, np.float32), names, (4.0, 4.0))


EXAMPLES: list[Any] = [
    boxes((0, 0.9, "car"), (20, 0.8, "sign")),
    areas(np.arange(64).reshape(8, 8) % 3),
    DepthMap(np.random.default_rng(0).uniform(1, 50, (8, 8)).astype(np.float32), SAME),
    tags(0.9, 0.1, 0.7),
    points((3, 4), (20, 9)),
    Embedding(np.random.default_rng(0).normal(size=128).astype(np.float32)),
    RawOutput({"a": np.arange(6, dtype=np.float32)}),
]


@pytest.mark.parametrize("answer", EXAMPLES, ids=lambda answer: type(answer).__name__)
def test_an_answer_agrees_with_itself(answer: Any) -> None:
    agreement = Agreement.of(type(answer))
    assert type(agreement) is KINDS[type(answer)]
    for _ in range(3):
        agreement.add(answer, answer)
    summary = agreement.summary()
    assert list(agreement.frames) == [1.0, 1.0, 1.0]
    assert (summary["agreement"], summary["worst_decile"], summary["worst_frame"]) == (1.0, 1.0, 0)


def test_every_type_of_answer_is_measured() -> None:
    assert {type(answer) for answer in EXAMPLES} == set(KINDS)


def test_pixels_and_intersection_over_union() -> None:
    agreement = Agreement.of(SegmentationMap)
    dense = np.array([[0, 0, 0, 0], [1, 1, 1, 1]])
    agreement.add(areas(np.array([[0, 0, 0, 1], [1, 1, 2, 2]])), areas(dense))
    agreement.add(areas(dense), areas(dense))
    summary = agreement.summary()
    assert list(agreement.frames) == [5 / 8, 1.0]
    assert summary["agreement"] == 13 / 16
    # a: 7 in both, 8 in either; b: 6 in both, 8 + 7 - 6 in either; c is nowhere in the truth
    assert summary["iou"] == {"a": 7 / 8, "b": pytest.approx(6 / 9)}
    assert summary["miou"] == pytest.approx((7 / 8 + 6 / 9) / 2)
    assert (summary["worst_decile"], summary["worst_frame"]) == (5 / 8, 0)


def test_pixels_are_counted_at_source_size() -> None:
    geometry = Geometry.fit(Size(64, 128), NETWORK)
    rng = np.random.default_rng(0)
    ours, dense = (SegmentationMap(rng.normal(size=(8, 8, 2)).astype(np.float32), geometry, ("a", "b")) for _ in "ab")
    agreement = Agreement.of(SegmentationMap)
    agreement.add(ours, dense)
    assert agreement.frames[0] == (ours.classes == dense.classes).mean()
    assert dense.classes.shape == (64, 128)


def test_average_precision_of_an_example_by_hand() -> None:
    # Ranked: hit, miss, hit, miss, miss, hit of 4. Precision there: 1, 2/3, 3/6; the fourth is never found.
    scores = np.array([0.5, 0.9, 0.8, 0.7, 0.6, 0.4])
    found = np.array([False, True, False, True, False, True])
    assert average_precision(scores, found, 4) == pytest.approx((1 + 2 / 3 + 3 / 6) / 4)
    # A later, better precision counts for the recalls before it: miss, hit, hit, hit.
    assert average_precision(np.array([4.0, 3, 2, 1]), np.array([False, True, True, True]), 3) == pytest.approx(3 / 4)
    assert average_precision(np.zeros(0), np.zeros(0, np.bool_), 2) == 0


def test_boxes_of_all_frames_are_ranked_together() -> None:
    agreement = Agreement.of(Detections)
    agreement.add(boxes((0, 0.9, "car"), (60, 0.8, "car")), boxes((1, 0.5, "car"), (30, 0.6, "person")))
    agreement.add(boxes((0, 0.7, "car"), (30, 0.6, "sign")), boxes((0, 0.9, "car")))
    summary = agreement.summary()
    # Cars: hit 0.9, miss 0.8, hit 0.7, of 2. Persons: none found of 1. The sign is in no dense answer.
    assert summary["ap50"] == {"car": pytest.approx((1 + 2 / 3) / 2), "person": 0}
    assert summary["agreement"] == pytest.approx((1 + 2 / 3) / 4)
    assert summary["ap50_weighted"] == pytest.approx((1 + 2 / 3) / 2 * 2 / 3)
    assert list(agreement.frames) == pytest.approx([2 / 4, 2 / 3])
    assert summary["f1"] == pytest.approx(4 / 7)


def test_scores_are_best_cut_off_where_the_boxes_left_have_the_best_f1() -> None:
    agreement = DetectionAgreement()
    assert agreement.best_threshold() is None
    dense = boxes((0, 1.0, "car"), (20, 1.0, "car"), (40, 1.0, "sign"))
    # right, right, wrong, right, wrong: F1 with the first n boxes is 2/4, 4/5, 4/6, 6/7, 6/8
    ours = boxes((0, 0.9, "car"), (20, 0.7, "car"), (80, 0.5, "car"), (40, 0.3, "sign"), (60, 0.1, "sign"))
    agreement.add(ours, dense)
    assert agreement.best_threshold() == pytest.approx(0.2)
    agreement.add(boxes((0, 0.3, "car"), (20, 0.3, "car"), (40, 0.3, "sign")), boxes())  # as sure as the last right one
    assert agreement.best_threshold() == pytest.approx(0.6)
    alone = DetectionAgreement()
    alone.add(boxes((0, 0.4, "car")), boxes((0, 1.0, "car")))
    assert alone.best_threshold() == pytest.approx(0.2)  # nothing comes after it
    nothing = DetectionAgreement()
    nothing.add(boxes((0, 0.4, "car")), boxes((50, 1.0, "car")))
    assert nothing.best_threshold() is None


def test_frames_without_boxes() -> None:
    agreement = Agreement.of(Detections)
    agreement.add(boxes(), boxes())
    assert agreement.summary() == {
        "agreement": 1.0,
        "f1": 1.0,
        "ap50": {},
        "ap50_weighted": None,
        "worst_decile": 1.0,
        "worst_frame": 0,
    }
    agreement.add(boxes((0, 0.9, "car")), boxes())
    assert agreement.summary()["agreement"] == 0
    assert list(agreement.frames) == [1.0, 0.0]


def test_depth_within_5_percent_and_its_relative_error() -> None:
    dense, ours = np.full((32, 32), 10.0, np.float32), np.full((32, 32), 10.2, np.float32)
    ours[:, 16:] = 12.0
    dense[:8], ours[:8] = np.nan, np.nan
    agreement = Agreement.of(DepthMap)
    agreement.add(DepthMap(ours, SAME), DepthMap(dense, SAME))
    summary = agreement.summary()
    assert summary["agreement"] == pytest.approx((8 * 32 + 24 * 16) / 32**2)
    assert summary["relative_error"] == pytest.approx(0.11, rel=1e-5)


def test_tags_in_f1_and_equal_answers() -> None:
    agreement = Agreement.of(Tags)
    agreement.add(tags(0.9, 0.1, 0.7), tags(0.9, 0.8, 0.1))
    agreement.add(tags(0.1, 0.1, 0.1), tags(0.2, 0.2, 0.2))
    assert list(agreement.frames) == [0.5, 1.0]
    summary = agreement.summary()
    assert (summary["agreement"], summary["labels"]) == (0.5, 4 / 6)


def test_points_vectors_and_numbers() -> None:
    agreement = Agreement.of(Keypoints)
    agreement.add(points((3, 4), (20, 9), (1, 1)), points((6, 8), (25, 9), (1, 1)))
    assert agreement.summary()["agreement"] == pytest.approx(2 / 3)
    agreement = Agreement.of(Embedding)
    agreement.add(Embedding(np.array([1, 0], np.float32)), Embedding(np.array([0.6, 0.8], np.float32)))
    agreement.add(Embedding(np.array([1, 0], np.float32)), Embedding(np.array([-1, 0], np.float32)))
    assert list(agreement.frames) == pytest.approx([0.6, 0])
    agreement = Agreement.of(RawOutput)
    agreement.add(RawOutput({"a": np.array([100, 1.0])}), RawOutput({"a": np.array([98, 1.5])}))
    assert agreement.summary()["agreement"] == 0.5


class Told:
    """An answer from elsewhere."""

    def __init__(self, value: int) -> None:
        self.value = value

    def to_dict(self) -> dict[str, Any]:
        return {"value": self.value}


class Measured(Told):
    def changed(self, dense: Measured) -> float:
        return abs(self.value - dense.value) / 10


def test_answers_from_elsewhere_say_it_themselves_or_are_compared_as_they_read() -> None:
    agreement = Agreement.of(Told)
    agreement.add(Told(3), Told(3))
    agreement.add(Told(3), Told(4))
    assert list(agreement.frames) == [1.0, 0.0]
    agreement = Agreement.of(Measured)
    agreement.add(Measured(3), Measured(4))
    assert list(agreement.frames) == [0.9]


@pytest.mark.parametrize(("count", "taken"), [(1, 1), (10, 1), (11, 2), (40, 4)])
def test_the_worst_tenth_and_the_first_of_the_worst(count: int, taken: int) -> None:
    agreement = Agreement.of(Measured)
    values = np.random.default_rng(count).permutation(np.arange(count) % 8)
    for value in values.tolist():
        agreement.add(Measured(value), Measured(0))
    summary = agreement.summary()
    assert summary["worst_decile"] == pytest.approx(1 - np.sort(values)[::-1][:taken].mean() / 10)
    assert summary["worst_frame"] == values.argmax()


def test_what_cannot_be_compared() -> None:
    with pytest.raises(SharedBBError, match="answers about a, b cannot be compared with those about a, b, c"):
        Agreement.of(SegmentationMap).add(areas(np.zeros((2, 2), int), ("a", "b")), areas(np.zeros((2, 2), int)))
    with pytest.raises(SharedBBError, match="not a single frame"):
        Agreement.of(Tags).summary()
