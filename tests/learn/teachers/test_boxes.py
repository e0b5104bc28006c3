"""Formats of detectors against plain loops over boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sharedbb.errors import GraphError
from sharedbb.learn.teachers.boxes import (
    BoxesFormat,
    Candidates,
    FastestDetFormat,
    FcosFormat,
    SsdFormat,
    UltraFaceFormat,
    YoloFormat,
    prior_boxes,
)
from sharedbb.learn.teachers.formats import Wanted
from sharedbb.learn.teachers.teacher import at_threshold
from sharedbb.outputs.detections import DetectionDecoder, Detections
from sharedbb.types import Geometry, Size

SIZE = Size(64, 96)
WHOLE = Geometry.fit(SIZE, SIZE, "stretch")
TWO = Wanted(("cat", "dog"), 0.6)


def boxes_of(answers: Any) -> Detections:
    return answers["boxes"]


def rows_of(found: Detections) -> list[tuple[float, ...]]:
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
    return [(*(round(side, 3) for side in box), round(score, 5), kind) for box, score, kind in rows]


class TestCandidates:
    def test_boxes_come_to_the_source_clipped_and_best_first_and_those_without_area_go(self) -> None:
        boxes = np.array([[-10, 2, 10, 22], [40, 10, 60, 30], [200, 10, 210, 30], [5, 5, 5, 9]], np.float32)
        found = Candidates(boxes, np.array([0.5, 0.9, 0.8, 0.7], np.float32), np.zeros(4, np.int64))
        stay, placed = found.kept(Geometry.fit(Size(128, 192), SIZE, "stretch"), 0.3, 0.5)
        assert stay.tolist() == [1, 0]
        assert placed.tolist() == [[80, 20, 120, 60], [0, 4, 20, 44]]

    def test_overlapping_boxes_go_within_a_class_only(self) -> None:
        boxes = np.array([[0, 0, 20, 20], [0, 0, 20, 18], [0, 0, 18, 20]], np.float32)
        found = Candidates(boxes, np.array([0.7, 0.9, 0.8], np.float32), np.array([0, 0, 1]))
        assert found.kept(WHOLE, 0.1, 0.5)[0].tolist() == [1, 2]
        assert found.kept(WHOLE, 0.1, 0.95)[0].tolist() == [1, 2, 0]

    def test_low_scores_and_what_is_no_number_go(self) -> None:
        boxes = np.array([[0, 0, 9, 9], [20, 20, 29, 29], [40, 40, np.nan, 49], [60, 40, 69, 49]], np.float32)
        found = Candidates(boxes, np.array([0.299, 0.3, 0.9, np.nan], np.float32), np.zeros(4, np.int64))
        assert found.kept(WHOLE, np.float32(0.3).item(), 0.5)[0].tolist() == [1]

    def test_no_boxes_are_no_boxes(self) -> None:
        none = Candidates(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        stay, boxes = none.kept(WHOLE, 0.1, 0.5)
        assert (len(stay), boxes.shape) == (0, (0, 4))


class TestYolo:
    def rows(self, extra: int = 0) -> np.ndarray:
        rng = np.random.default_rng(1)
        centres = rng.uniform((10, 10), (86, 54), (40, 2))
        return np.concatenate([centres, rng.uniform(4, 20, (40, 2)), rng.uniform(0, 1, (40, 2 + extra))], 1)[None]

    def expected(self, rows: np.ndarray, objects: bool) -> set[tuple[float, ...]]:
        """All boxes before suppression, by a plain loop."""
        found = set()
        for x, y, width, height, *scores in rows[0].astype(np.float32).tolist():
            classes = [scores[0] * one for one in scores[1:]] if objects else scores
            for kind, score in enumerate(classes):
                left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
                if score >= 0.3:
                    box = (max(left, 0), max(top, 0), min(right, 96), min(bottom, 64))
                    found.add((*(round(side, 3) for side in box), round(score, 5), kind))
        return found

    @pytest.mark.parametrize("objects", [False, True])
    def test_rows_and_columns_with_objectness_and_without(self, objects: bool) -> None:
        rows = self.rows(int(objects)).astype(np.float32)
        decode = YoloFormat(Wanted(TWO.classes, 0.6, 1.0))
        found = rows_of(boxes_of(decode({"any": rows}, WHOLE)))
        assert np.allclose(sorted(found), sorted(self.expected(rows, objects)), atol=2e-3)
        assert found == rows_of(boxes_of(decode({"any": rows.transpose(0, 2, 1)}, WHOLE)))

    def test_in_shares_of_the_picture(self) -> None:
        rows = self.rows().astype(np.float32)
        shares = rows.copy()
        shares[..., :4] /= (96, 64, 96, 64)
        same = boxes_of(YoloFormat(TWO, normalised=True)({"any": shares}, WHOLE))
        assert np.allclose(same.boxes, boxes_of(YoloFormat(TWO)({"any": rows}, WHOLE)).boxes, atol=1e-4)

    def test_logits(self) -> None:
        rows = self.rows().astype(np.float32)
        logits = rows.copy()
        logits[..., 4:] = np.log(rows[..., 4:] / (1 - rows[..., 4:]))
        same = boxes_of(YoloFormat(TWO, activation="sigmoid")({"any": logits}, WHOLE))
        assert np.allclose(same.scores, boxes_of(YoloFormat(TWO)({"any": rows}, WHOLE)).scores, atol=1e-5)


class TestSoft:
    def test_what_is_above_the_operating_point_is_what_a_decoder_at_that_point_finds(self) -> None:
        rows = TestYolo().rows().astype(np.float32)
        soft = boxes_of(YoloFormat(Wanted(TWO.classes, 0.7))({"any": rows}, WHOLE))
        strict = boxes_of(YoloFormat(Wanted(TWO.classes, 1.4))({"any": rows}, WHOLE))  # its half is 0.7
        assert len(soft) > len(strict) > 3
        assert soft.scores.min() >= 0.35
        found = at_threshold(soft, 0.7)
        assert isinstance(found, Detections)
        assert rows_of(found) == rows_of(strict)


class TestSsd:
    def test_corners_and_the_background(self) -> None:
        scores = np.array([[[0.9, 0.05, 0.05], [0.1, 0.2, 0.7], [0.0, 0.9, 0.1]]], np.float32)
        boxes = np.array([[[0, 0, 1, 1], [0.25, 0.25, 0.5, 0.5], [0, 0.5, 0.25, 1]]], np.float32)
        found = boxes_of(SsdFormat(TWO)({"scores": scores, "boxes": boxes}, WHOLE))
        assert rows_of(found) == [(0, 32, 24, 64, 0.9, 0), (24, 16, 48, 32, 0.7, 1)]
        logits = np.log(np.maximum(scores, 1e-9))
        same = boxes_of(SsdFormat(TWO, activation="softmax")({"scores": logits, "boxes": boxes}, WHOLE))
        assert rows_of(same) == rows_of(found)
        pixels = boxes * np.array([96, 64, 96, 64], np.float32)
        assert rows_of(boxes_of(SsdFormat(TWO, normalised=False)({"scores": scores, "boxes": pixels}, WHOLE))) == (
            rows_of(found)
        )

    def test_priors_lie_row_by_row_and_end_at_the_picture(self) -> None:
        found = prior_boxes(Size(40, 70), (32,), ((16, 100),))
        expected = []
        for row in range(2):
            for column in range(3):
                for side in (16, 100):
                    centre = min((column + 0.5) * 32 / 70, 1), min((row + 0.5) * 32 / 40, 1)
                    expected.append((*centre, min(side / 70, 1), min(side / 40, 1)))
        assert np.allclose(found, expected)

    def test_a_box_made_to_an_offset_from_a_prior_comes_back(self) -> None:
        decode = UltraFaceFormat(Wanted(("face",), 0.7))
        network = Size(240, 320)
        priors = prior_boxes(network, decode.strides, decode.sizes)
        assert len(priors) == 4420
        scores = np.zeros((1, 4420, 2), np.float32)
        offsets = np.zeros((1, 4420, 4), np.float32)
        place = 3600 + 2 * (7 * 20 + 4)  # row 7, column 4 at stride 16, the smaller size
        wanted = np.array([60.0, 110.0, 100.0, 170.0])
        centre, sides = (wanted[:2] + wanted[2:]) / 2 / (320, 240), (wanted[2:] - wanted[:2]) / (320, 240)
        prior = np.array([(4.5 * 16) / 320, (7.5 * 16) / 240, 32 / 320, 32 / 240])
        offsets[0, place, :2] = (centre - prior[:2]) / prior[2:] / 0.1
        offsets[0, place, 2:] = np.log(sides / prior[2:]) / 0.2
        scores[0, place, 1] = 0.8
        found = boxes_of(decode({"scores": scores, "boxes": offsets}, Geometry.fit(network, network, "stretch")))
        assert np.allclose(found.boxes, [wanted], atol=1e-3)
        assert found.scores.tolist() == pytest.approx([0.8])


class TestFastestDet:
    def test_a_plain_loop_over_cells_finds_the_same(self) -> None:
        rng = np.random.default_rng(2)
        array = rng.normal(0, 1, (1, 7, 2, 3)).astype(np.float32)
        array[0, 0] = rng.uniform(0.5, 1, (2, 3))
        array[0, 5:] = rng.uniform(0, 1, (2, 2, 3))
        expected = []
        for row in range(2):
            for column in range(3):
                objects, x, y, width, height, *classes = array[0, :, row, column].tolist()
                score = objects**0.6 * max(classes) ** 0.4
                if score < 0.3:
                    continue
                cx, cy = (column + math.tanh(x)) / 3, (row + math.tanh(y)) / 2
                half = [0.5 / (1 + math.exp(-side)) for side in (width, height)]
                box = [cx - half[0], cy - half[1], cx + half[0], cy + half[1]]
                box = [min(max(side * end, 0), end) for side, end in zip(box, (96, 64, 96, 64), strict=True)]
                if box[2] > box[0] and box[3] > box[1]:
                    expected.append((*box, score, classes.index(max(classes))))
        found = rows_of(boxes_of(FastestDetFormat(Wanted(TWO.classes, 0.6, 1.0))({"758": array}, WHOLE)))
        assert len(found) == 5
        assert np.allclose(sorted(found), sorted(expected), atol=1e-3)


class TestFcos:
    def test_as_the_decoder_of_a_pipeline(self) -> None:
        rng = np.random.default_rng(3)
        raw = {
            "scores": rng.normal(-1, 1.5, (1, 120, 2)).astype(np.float32),
            "distances": rng.uniform(0.2, 3, (1, 120, 4)).astype(np.float32),
        }
        found = boxes_of(FcosFormat(TWO, strides=(8, 16))(raw, WHOLE))
        same = DetectionDecoder((8, 16), TWO.classes, 0.3, 0.45, 300)(raw, WHOLE)
        assert len(found) > 5
        assert rows_of(found) == rows_of(same)


class TestBoxes:
    @pytest.mark.parametrize("batch", [False, True])
    def test_labels_that_count_from_one_and_those_without_a_name(self, batch: bool) -> None:
        raw = {
            "boxes": np.array([[0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [60, 10, 70, 20]], np.float32),
            "scores": np.array([0.9, 0.8, 0.7, 0.1], np.float32),
            "labels": np.array([1, 2, 3, 1]),
        }
        raw = {name: array[None] for name, array in raw.items()} if batch else raw
        found = boxes_of(BoxesFormat(TWO, first_label=1)(raw, WHOLE))
        assert rows_of(found) == [(0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 1)]
        found = boxes_of(BoxesFormat(TWO)(raw, WHOLE))
        assert [found.labels, found.scores.tolist()] == [("dog",), pytest.approx([0.9])]

    def test_none_at_all(self) -> None:
        raw = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, np.int64)}
        assert len(boxes_of(BoxesFormat(TWO)(raw, WHOLE))) == 0


MISFITS = {
    "yolo": (YoloFormat(TWO), {"a": (1, 5, 9)}, r"needs rows \[1, n, 6\] or \[1, n, 7\] for 2 classes"),
    "yolo several": (YoloFormat(TWO), {"a": (1, 5, 6), "b": (1,)}, "needs one array, rows .*; say which under"),
    "boxes": (
        BoxesFormat(TWO),
        {"boxes": (5, 4), "scores": (5,)},
        r"boxes \[n, 4\], scores \[n\] and labels \[n\]; say",
    ),
    "boxes length": (BoxesFormat(TWO), {"boxes": (5, 4), "scores": (5,), "labels": (4,)}, "needs boxes"),
    "ssd": (SsdFormat(TWO), {"scores": (1, 5, 2), "boxes": (1, 5, 4)}, r"scores \[1, n, 3\], the background first"),
    "ssd names": (SsdFormat(TWO), {"a": (1, 5, 3), "boxes": (1, 5, 4)}, "under 'outputs'"),
    "ssd sizes": (SsdFormat(TWO, strides=(8,)), {"scores": (1, 5, 3), "boxes": (1, 5, 4)}, "lists of sizes, got 0"),
    "ssd priors": (
        SsdFormat(TWO, strides=(32,), sizes=((9.0,),)),
        {"scores": (1, 5, 3), "boxes": (1, 5, 4)},
        "has 5 boxes, strides and sizes make 6 priors at 96x64",
    ),
    "fastestdet": (FastestDetFormat(TWO), {"a": (1, 85, 2, 2)}, r"an array \[1, 7, h, w\] for 2 classes"),
    "fcos": (FcosFormat(TWO), {"scores": (1, 120, 3), "distances": (1, 120, 4)}, "'scores' has shape"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_arrays_that_do_not_fit_are_refused_with_what_is_needed(case: str) -> None:
    decode, sizes, message = MISFITS[case]
    with pytest.raises(GraphError, match=message):
        decode({name: np.zeros(shape, np.float32) for name, shape in sizes.items()}, WHOLE)
