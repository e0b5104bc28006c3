"""What a head is, by what it answers."""

from __future__ import annotations

import numpy as np
import pytest

from sharedbb.errors import GraphError
from sharedbb.learn.teachers.heads import TeacherHead, shapes
from sharedbb.outputs import DepthMap, Detections, RawOutput, Tags
from sharedbb.types import Geometry, Output, Size

GEOMETRY = Geometry.fit(Size(8, 12), Size(8, 12))
TAGS = Tags(("day", "rain"), np.zeros(2, np.float32), 0.5)
BOXES = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ("car",))
DEPTH = DepthMap(np.ones((8, 12), np.float32), GEOMETRY)


@pytest.mark.parametrize(
    ("answer", "head"),
    [
        (TAGS, TeacherHead("tags", ("day", "rain"), 0.4)),
        (BOXES, TeacherHead("detection", ("car",), 0.4)),
        (DEPTH, TeacherHead("depth")),
    ],
)
def test_type_names_and_operating_point(answer: Output, head: TeacherHead) -> None:
    found = TeacherHead.of("mine", answer, 0.4)
    assert (found, found.own) == (head, "mine")


def test_answers_that_nothing_can_be_learnt_from() -> None:
    with pytest.raises(GraphError, match="'mine' answers with RawOutput; what can be learnt is SegmentationMap, Dete"):
        TeacherHead.of("mine", RawOutput({}), None)


def test_shapes_are_said_with_names() -> None:
    assert shapes({"a": np.zeros((1, 2)), "b": np.zeros(3)}) == "a (1, 2), b (3,)"
    assert shapes({}) == "nothing"
