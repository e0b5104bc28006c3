"""A teacher's operating point, its names, and what it says of itself."""

from __future__ import annotations

import numpy as np
import pytest

from sharedbb.errors import CompressionError
from sharedbb.learn.teachers import Teacher, TeacherHead
from sharedbb.outputs import Detections, Tags
from sharedbb.types import Output

SCORES = np.array([0.9, 0.5, 0.3], np.float32)
HEADS = {
    "boxes": TeacherHead("detection", ("car",), 0.5, "boxes"),
    "scene": TeacherHead("tags", ("day",), 0.5, "scene"),
}


def soft(rgb: np.ndarray) -> dict[str, Output]:
    boxes = np.array([[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3]], np.float32)
    return {
        "boxes": Detections(boxes, SCORES, np.zeros(3, np.int64), ("car",)),
        "scene": Tags(("day",), np.array([0.2], np.float32), 0.5),
    }


@pytest.fixture
def teacher() -> Teacher:
    return Teacher("street", HEADS, soft, {"kind": "onnx", "file": "a.onnx", "sha256": "00", "parameters": 3})


def test_boxes_below_the_operating_point_are_only_soft_answers(teacher: Teacher) -> None:
    rgb = np.zeros((4, 4, 3), np.uint8)
    found, told = teacher(rgb)["boxes"], teacher(rgb)["scene"]
    assert isinstance(found, Detections)
    assert (found.scores.tolist(), found.boxes.tolist()) == (pytest.approx([0.9, 0.5]), [[0, 0, 1, 1], [1, 1, 2, 2]])
    assert isinstance(told, Tags)
    assert told["day"] == pytest.approx(0.2)
    assert len(teacher.soft(rgb)["boxes"]) == 3  # type: ignore[arg-type]


def test_heads_under_other_names(teacher: Teacher) -> None:
    renamed = teacher.renamed({"boxes": "cars"})
    assert [*renamed(np.zeros((4, 4, 3), np.uint8))] == [*renamed.heads] == ["cars"]
    again = renamed.renamed({"cars": "vehicles"})
    assert again.describe()["heads"] == {
        "vehicles": {"type": "detection", "names": ["car"], "threshold": 0.5, "own": "boxes"}
    }
    with pytest.raises(CompressionError, match=r"teacher street has no head 'car'; it has boxes \(detection\), scene"):
        teacher.renamed({"car": "cars"})


def test_the_digest_is_of_what_decides_the_answers(teacher: Teacher) -> None:
    moved = Teacher("other", HEADS, soft, {**teacher.facts, "file": "b.onnx", "parameters": 4})
    assert moved.digest == teacher.digest
    assert Teacher("street", HEADS, soft, {**teacher.facts, "sha256": "01"}).digest != teacher.digest
    first, second = (teacher.renamed({old: "head"}) for old in HEADS)
    assert first.digest != second.digest
