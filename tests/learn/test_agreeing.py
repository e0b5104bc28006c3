"""Held against teachers: set by set and over all, by labels where there are some, and boxes where there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from sharedbb.learn.agreeing import compared, operating_points, scores
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.judge import judge
from sharedbb.outputs.agreement import Agreement
from sharedbb.outputs.detections import Detections
from sharedbb.outputs.tags import Tags
from sharedbb.spec import Pipeline
from sharedbb.types import Output

PIPELINE = Pipeline.model_validate(
    {
        "name": "tiny",
        "backbone": {"arch": "mobilenet_v3_small"},
        "heads": {
            "objects": {"type": "detection", "taps": [16], "classes": ["car"], "score_threshold": 0.5},
            "scene": {"type": "tags", "taps": [32], "labels": ["road", "car"]},
        },
    }
)

Rows = Sequence[tuple[float, float]]
"""Of boxes of 10×10 pixels: left edge and score."""


def boxes(rows: Rows) -> Detections:
    xyxy = [(left, 0, left + 10, 10) for left, _ in rows]
    scores = np.array([score for _, score in rows], np.float32)
    return Detections(np.array(xyxy, np.float32).reshape(-1, 4), scores, np.zeros(len(rows), np.int64), ("car",))


def tags(*probabilities: float) -> Tags:
    return Tags(("road", "car"), np.array(probabilities, np.float32), 0.5)


class Said:
    """Answers by the level of grey of a picture, and how often each was asked for."""

    def __init__(self, answers: Mapping[int, Mapping[str, Output]]) -> None:
        self.answers, self.asked = answers, [0] * len(answers)

    def __call__(self, rgb: np.ndarray[Any, Any]) -> Mapping[str, Output]:
        level = int(rgb[0, 0, 0])
        self.asked[level] += 1
        return self.answers[level]


def pictures(name: str, levels: Sequence[int], labels: bool = False) -> Data:
    samples = [
        Sample(
            f"{name}{level}", np.full((20, 60, 3), level, np.uint8), np.zeros((20, 60), np.uint8) if labels else None
        )
        for level in levels
    ]
    return Data.given(name, samples, ("road", "car") if labels else ())


TEACHER = Said(
    {
        0: {"objects": boxes([(0, 0.9), (30, 0.8)])},
        1: {"objects": boxes([(0, 0.9)])},
        2: {"objects": boxes([])},
        3: {"objects": boxes([])},
    }
)
STUDENT = Said(
    {
        0: {"objects": boxes([(0, 0.9), (45, 0.4), (30, 0.3)]), "scene": tags(0.9, 0.1)},
        1: {"objects": boxes([(20, 0.6), (0, 0.5)]), "scene": tags(0.2, 0.8)},
        2: {"objects": boxes([(0, 0.4)]), "scene": tags(0.9, 0.1)},
        3: {"objects": boxes([(0, 0.7)]), "scene": tags(0.9, 0.1)},
    }
)


def test_each_set_and_all_together_are_compared_as_agreement_does() -> None:
    shares: list[float] = []
    told = compared(STUDENT, TEACHER, [pictures("a", [0]), pictures("b", [1, 2])], PIPELINE, shares.append)
    by_hand = {"a": Agreement.of(Detections), "b": Agreement.of(Detections), "all": Agreement.of(Detections)}
    for level, name in enumerate("abb"):
        for each in (name, "all"):
            by_hand[each].add(STUDENT.answers[level]["objects"], TEACHER.answers[level]["objects"])
    found = {**{name: one["objects"] for name, one in told["sets"].items()}, "all": told["all"]["objects"]}
    for name, one in by_hand.items():
        assert found[name]["agreement"] == one.overall()["agreement"], name
    assert found["all"]["agreement"] != np.mean([found["a"]["agreement"], found["b"]["agreement"]])
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert told["all"].keys() == {"objects"}


def test_f1_and_the_worst_frame_are_by_what_the_student_decides() -> None:
    told = compared(STUDENT, TEACHER, [pictures("a", [0, 1, 2])], PIPELINE)["sets"]["a"]["objects"]
    assert told["f1"] == pytest.approx(2 * 2 / (3 + 3))  # found: one of one, one of two, none of none at 0.5 and up
    assert told["worst_frame"] == 0
    assert told["worst_decile"] == pytest.approx(2 / 3)


def test_operating_points_are_where_the_students_boxes_match_best() -> None:
    shares: list[float] = []
    found = operating_points(STUDENT, TEACHER, [pictures("a", [1]), pictures("b", [2])], PIPELINE, shares.append)
    assert found == {"objects": 0.45}  # wrong at 0.6, right at 0.5, wrong at 0.4: two of three are kept
    assert shares == [0.5, 1.0]
    assert operating_points(STUDENT, TEACHER, [pictures("none", [2, 3])], PIPELINE) == {}


def test_where_a_teacher_has_no_boxes_the_student_should_have_none() -> None:
    told = compared(STUDENT, TEACHER, [pictures("none", [2, 3])], PIPELINE)
    assert told["all"]["objects"]["agreement"] == 0.5  # its doubtful box at 0.4 is no answer, the one at 0.7 is


def test_labels_are_judged_as_ever_and_every_picture_is_answered_once() -> None:
    student, data = Said(STUDENT.answers), pictures("a", [0, 1], labels=True)
    told = compared(student, TEACHER, [data], PIPELINE)
    assert student.asked[:2] == [1, 1]
    plain = judge(STUDENT, data, PIPELINE.heads)
    assert told["sets"]["a"]["scene"] == {"labelled": plain["scene"]}
    assert told["sets"]["a"]["objects"]["labelled"] == plain["objects"]


def test_a_head_counts_by_its_teacher_or_else_by_its_labels() -> None:
    told = compared(STUDENT, TEACHER, [pictures("a", [0, 1], labels=True), pictures("b", [2])], PIPELINE)
    found = scores(told, ["objects", "scene", "other"])
    by_labels = told["sets"]["a"]["scene"]["labelled"]["f1"]
    assert found == {"objects": told["all"]["objects"]["agreement"], "scene": by_labels}
    assert by_labels < 1
