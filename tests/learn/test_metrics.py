"""Metrics against plain ways of computing the same."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sharedbb.errors import CompressionError
from sharedbb.learn.labels import VOID, Boxes
from sharedbb.learn.metrics import (
    BoundaryF1,
    BoxPrecision,
    CocoPrecision,
    Confusion,
    DepthAccuracy,
    TagF1,
    TagPrecision,
    covered,
    mean_known,
)

CAR, SIGN = 0, 3


def boxes(*items: tuple[int, tuple[float, float, float, float]], ignored: tuple[bool, ...] | None = None) -> Boxes:
    return Boxes(
        np.float32([box for _, box in items]).reshape(-1, 4),
        np.int64([index for index, _ in items]),
        np.array(ignored or [False] * len(items), dtype=bool),
    )


def test_iou_by_counting() -> None:
    rng = np.random.default_rng(0)
    confusion = Confusion(4)
    pairs = [(rng.choice([0, 1, 2, VOID], (9, 7)).astype(np.uint8), rng.integers(0, 3, (9, 7), np.uint8)) for _ in "ab"]
    for truth, said in pairs:
        confusion.add(truth, said)
    truth, said = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    truth, said = truth[truth != VOID], said[truth != VOID]
    for index in range(3):
        expected = ((truth == index) & (said == index)).sum() / ((truth == index) | (said == index)).sum()
        assert confusion.iou()[index] == pytest.approx(expected)
    assert np.isnan(confusion.iou()[3])
    assert confusion.mean_iou() == pytest.approx(confusion.iou()[:3].mean())
    assert confusion.accuracy() == pytest.approx((truth == said).mean())


def test_what_never_occurs_is_not_a_number() -> None:
    assert np.isnan(Confusion(3).mean_iou())
    assert np.isnan(Confusion(3).accuracy())
    assert np.isnan(BoxPrecision(2).mean())
    assert np.isnan(TagF1(2).mean())
    assert np.isnan(BoundaryF1().scores()[2])
    assert np.isnan(DepthAccuracy().delta1())
    assert mean_known(np.array([0.25, np.nan, 0.75])) == 0.5


def test_average_precision_against_a_plain_reference() -> None:
    rng = np.random.default_rng(0)
    metric, everything, wanted = BoxPrecision(1), [], 0
    for _ in range(12):
        true = _random_boxes(rng, 5)
        said = np.concatenate([true[:4] + rng.normal(0, 3, (4, 4)).astype(np.float32), _random_boxes(rng, 4)])
        scores = rng.permutation(8).astype(np.float32) / 8 + rng.random(8, np.float32) / 100
        metric.add(Boxes(true, np.zeros(5, np.int64), np.zeros(5, bool)), said, scores, np.zeros(8, np.int64))
        everything += _reference_matches(true, said, scores)
        wanted += 5
    assert metric.mean() == pytest.approx(_reference_area(everything, wanted), abs=1e-9)
    assert 0.2 < metric.mean() < 0.95


def test_perfect_boxes_have_average_precision_one_and_doubles_cost() -> None:
    true = boxes((CAR, (0, 0, 20, 20)), (SIGN, (50, 50, 70, 70)))
    perfect, doubled = BoxPrecision(4), BoxPrecision(4)
    perfect.add(true, true.xyxy, np.float32([0.9, 0.8]), true.classes)
    assert perfect.mean() == 1
    assert np.isnan(perfect.average_precision()).tolist() == [False, True, True, False]
    other = boxes((CAR, (0, 0, 20, 20)), (CAR, (100, 0, 120, 20)))
    said = np.float32([[0, 0, 20, 20], [0, 0, 20, 19], [100, 0, 120, 20]])
    doubled.add(other, said, np.float32([0.9, 0.8, 0.7]), np.zeros(3, np.int64))
    assert doubled.mean() == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_pictures_without_answers_lower_recall() -> None:
    metric = BoxPrecision(1)
    true = boxes((CAR, (0, 0, 20, 20)))
    metric.add(true, true.xyxy, np.float32([0.9]), true.classes)
    metric.add(true, np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert metric.mean() == 0.5
    assert metric.wanted.tolist() == [2]


def test_what_hits_an_ignored_box_does_not_count() -> None:
    true = boxes((CAR, (0, 0, 20, 20)), (CAR, (50, 50, 55, 55)), ignored=(False, True))
    metric, punished = BoxPrecision(4), BoxPrecision(4)
    near, far = np.float32([[50, 50, 55, 56], [0, 0, 20, 20]]), np.float32([[80, 50, 85, 56], [0, 0, 20, 20]])
    metric.add(true, near, np.float32([0.9, 0.8]), np.zeros(2, np.int64))
    punished.add(true, far, np.float32([0.9, 0.8]), np.zeros(2, np.int64))
    assert metric.mean() == 1
    assert punished.mean() == 0.5


class TestCoco:
    """Against the definition, on few enough boxes to count by hand."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("pycocotools")

    def test_precision_at_101_recalls_and_ten_overlaps(self) -> None:
        metric = CocoPrecision(2)
        true = boxes((CAR, (0, 0, 100, 10)), (CAR, (0, 50, 100, 60)))
        said = np.float32([[0, 0, 100, 10], [0, 80, 100, 90], [0, 50, 62, 60]])  # right, wrong, right up to 0.62
        metric.add(true, said, np.float32([0.9, 0.8, 0.7]), np.int64([0, 0, 0]))
        found = metric.average_precision()
        assert found.shape == (10, 2)
        half = (51 * 1 + 50 * 2 / 3) / 101
        assert found[:, 0] == pytest.approx([half] * 3 + [51 / 101] * 7)
        assert np.isnan(found[:, 1]).all()
        assert metric.wanted.tolist() == [2, 0]

    def test_boxes_in_crowds_do_not_count(self) -> None:
        metric = CocoPrecision(1)
        crowd = boxes((CAR, (0, 0, 10, 10)), (CAR, (50, 50, 100, 100)), ignored=(False, True))
        said = np.float32([[60, 60, 70, 70], [70, 70, 90, 90], [0, 0, 10, 10]])
        metric.add(crowd, said, np.float32([0.9, 0.8, 0.7]), np.zeros(3, np.int64))
        assert metric.average_precision()[:, 0] == pytest.approx(np.ones(10))
        assert metric.wanted.tolist() == [1]

    def test_nothing_found_is_nought_and_nothing_there_not_a_number(self) -> None:
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        missed, empty = CocoPrecision(1), CocoPrecision(1)
        missed.add(boxes((CAR, (0, 0, 9, 9))), *none)
        empty.add(boxes(), *none)
        assert missed.average_precision().tolist() == [[0.0]] * 10
        assert np.isnan(empty.average_precision()).all()

    def test_it_prints_nothing(self, capsys: pytest.CaptureFixture[str]) -> None:
        metric = CocoPrecision(1)
        metric.add(boxes((CAR, (0, 0, 9, 9))), np.float32([[0, 0, 9, 9]]), np.float32([0.5]), np.zeros(1, np.int64))
        metric.average_precision()
        assert capsys.readouterr().out == ""


def test_without_pycocotools_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    metric = CocoPrecision(1)
    metric.add(boxes((CAR, (0, 0, 9, 9))), np.float32([[0, 0, 9, 9]]), np.float32([0.5]), np.zeros(1, np.int64))
    with pytest.raises(CompressionError, match=r"needs pycocotools: pip install 'sharedbb\[train\]'"):
        metric.average_precision()


def test_tags_are_ranked_by_probability() -> None:
    metric = TagPrecision(3)
    for truth, said in (((1, 0, 0), (0.9, 0.2, 0.5)), ((0, 1, 0), (0.8, 0.9, 0.5)), ((1, 1, 0), (0.7, 0.3, 0.5))):
        metric.add(np.array(truth, bool), np.float32(said))
    found = metric.average_precision()
    assert found[:2] == pytest.approx([(1 + 2 / 3) / 2, 1.0])
    assert np.isnan(found[2])
    assert np.isnan(TagPrecision(2).average_precision()).tolist() == [True, True]


def test_covered_is_the_share_of_the_first() -> None:
    found = covered(np.float32([[0, 0, 10, 10], [20, 20, 30, 30]]), np.float32([[5, 0, 50, 10], [0, 0, 4, 4]]))
    assert found == pytest.approx(np.array([[0.5, 0.16], [0, 0]]))


def test_boundary_f1_forgives_the_tolerance_and_no_more() -> None:
    truth, none = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    truth[:, 10] = True
    for shift, expected in ((0, 1.0), (4, 1.0), (5, 0.0)):
        metric = BoundaryF1()
        metric.add(truth, np.roll(truth, shift, axis=1), none)
        assert metric.scores()[2] == pytest.approx(expected)
    said = truth.copy()
    said[:, 30] = True
    both, void, empty = BoundaryF1(), BoundaryF1(), BoundaryF1()
    both.add(truth, said, none)
    assert both.scores()[:2] == pytest.approx((0.5, 1.0))
    void.add(truth, said, np.arange(40)[None] >= 25 + np.zeros((40, 1)))
    assert void.scores() == pytest.approx((1.0, 1.0, 1.0))
    empty.add(truth, none, none)
    assert empty.scores()[2] == 0


def test_tag_f1_by_counting() -> None:
    metric = TagF1(3)
    metric.add(np.array([True, False, False]), np.array([True, True, False]))
    metric.add(np.array([True, True, False]), np.array([False, True, False]))
    assert metric.f1()[:2] == pytest.approx([2 / 3, 2 / 3])
    assert np.isnan(metric.f1()[2])
    assert metric.mean() == pytest.approx(2 / 3)


def test_tags_that_nobody_knows_of_do_not_count() -> None:
    counted, ranked = TagF1(2), TagPrecision(2)
    known = np.array([True, False])
    for metric, said in ((counted, np.array([True, True])), (ranked, np.array([0.9, 0.8], np.float32))):
        metric.add(np.array([True, False]), said, known)  # type: ignore[attr-defined]
        metric.add(np.array([True, True]), said)  # type: ignore[attr-defined]
    assert counted.f1().tolist() == [1.0, 1.0]
    assert ranked.average_precision().tolist() == [1.0, 1.0]


def test_distances_count_within_a_quarter_both_ways_and_only_where_known() -> None:
    metric = DepthAccuracy(nearest=1.0, farthest=50.0)
    truth = np.float32([[10, 10, 10, 10, np.nan, np.inf, 0, 0.5, 100]])
    metric.add(truth, np.float32([[12.4, 12.6, 8.1, 7.9, 1, 1, 1, 1, 1]]))
    assert metric.delta1() == 0.5
    assert metric.relative_error() == pytest.approx((0.24 + 0.26 + 0.19 + 0.21) / 4)


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, size = rng.uniform(0, 80, (count, 2)), rng.uniform(10, 30, (count, 2))
    return np.concatenate([corner, corner + size], 1).astype(np.float32)


def _reference_matches(true: np.ndarray, said: np.ndarray, scores: np.ndarray) -> list[tuple[float, bool]]:
    taken: set[int] = set()
    matches = []
    for one in np.argsort(-scores):
        best, place = 0.0, -1
        for index, other in enumerate(true):
            width = min(said[one][2], other[2]) - max(said[one][0], other[0])
            height = min(said[one][3], other[3]) - max(said[one][1], other[1])
            shared = max(0.0, width) * max(0.0, height)
            whole = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (said[one], other)) - shared
            if index not in taken and shared / whole > best:
                best, place = shared / whole, index
        if best >= 0.5:
            taken.add(place)
        matches.append((float(scores[one]), best >= 0.5))
    return matches


def _reference_area(matches: list[tuple[float, bool]], wanted: int) -> float:
    """Area under precision made monotone, by its definition: at each recall, the best precision from there on."""
    ordered = sorted(matches, reverse=True)
    curve = []
    for count in range(1, len(ordered) + 1):
        hits = sum(hit for _, hit in ordered[:count])
        curve.append((hits / wanted, hits / count))
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - before) * max(precision for _, precision in curve[place:])
        before = recall
    return area
