"""Answers of teachers: each picture is answered once, whatever happens in between, and labels are left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharedbb.errors import CompressionError
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.known import Classes, Direction, Metres, Objects, Points, Present
from sharedbb.learn.teachers import Teacher, TeacherHead, answered, known_of
from sharedbb.learn.teachers.answers import Answers, digest_of
from sharedbb.outputs import DepthMap, Detections, Embedding, Keypoints, RawOutput, SegmentationMap, Tags
from sharedbb.types import Geometry, Output, Size

GEOMETRY = Geometry.fit(Size(6, 9), Size(6, 9))


class Brightness:
    """Answers with the mean of a picture as the only share, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, rgb: np.ndarray) -> dict[str, Output]:
        self.asked += 1
        return {"bright": Tags(("bright",), np.array([rgb.mean() / 255], np.float32), 0.5)}


def teacher(answer: Callable[..., Any], name: str = "light", head: str = "bright", **facts: Any) -> Teacher:
    return Teacher(name, {head: TeacherHead("tags", ("bright",), 0.5)}, answer, facts)


@pytest.fixture
def pictures() -> Data:
    rng = np.random.default_rng(10)
    return Data.given("noise", [Sample(str(i), rng.integers(0, 40 * i + 1, (6, 9, 3), np.uint8)) for i in range(5)])


def shares(data: Data) -> list[float]:
    found = [sample.known["bright"] for sample in data]
    assert all(isinstance(one, Present) for one in found)
    return [float(one.shares[0]) for one in found if isinstance(one, Present)]


class TestKnown:
    def test_numbers_of_any_type_are_kept_as_they_are_stored(self) -> None:
        boxes = np.array([[0.0, 0, 3, 3]])
        found: Any = known_of(Detections(boxes, np.array([0.4]), np.array([1], np.int32), ("a", "b")))  # type: ignore[arg-type]
        assert (found.boxes.xyxy.dtype, found.boxes.scores.dtype) == (np.float32, np.float32)
        assert found.boxes.classes.dtype == np.int64
        found = known_of(Tags(("a", "b"), np.array([0.9, 0.2]), 0.5))  # type: ignore[arg-type]
        assert found.shares.dtype == np.float32

    def test_every_type_of_answer(self) -> None:
        logits = np.random.default_rng(11).normal(0, 1, (6, 9, 3)).astype(np.float32)
        ground = SegmentationMap(logits, GEOMETRY, ("a", "b", "c"))
        found: Any = known_of(ground)
        assert isinstance(found, Classes)
        assert np.array_equal(found.map, logits.argmax(-1))
        boxes = np.array([[0, 0, 3, 3]], np.float32)
        found = known_of(Detections(boxes, np.array([0.4], np.float32), np.array([1]), ("a", "b")))
        assert isinstance(found, Objects)
        assert (found.boxes.scores.tolist(), found.boxes.ignored.tolist()) == ([pytest.approx(0.4)], [False])
        assert found.void is None
        found = known_of(Keypoints(np.ones((2, 2), np.float32), np.ones(2, np.float32), ("left_eye", "right_eye")))
        assert isinstance(found, Points)
        assert found.mirror == (1, 0)
        found = known_of(Embedding(np.array([0.6, 0.8], np.float32)))
        assert isinstance(found, Direction)

    def test_distances_that_cannot_be_are_unknown(self) -> None:
        cells = np.full((6, 9), 5, np.float32)
        cells[0] = (np.inf, -1, 0, np.nan, 2, 3, 4, 5, 6)
        found = known_of(DepthMap(cells, GEOMETRY))
        assert isinstance(found, Metres)
        assert np.isnan(found.map[0, :4]).all()
        assert np.isfinite(found.map[2:]).all()

    def test_nothing_is_known_of_other_answers(self) -> None:
        with pytest.raises(CompressionError, match="nothing can be learnt from answers of type RawOutput"):
            known_of(RawOutput({}))


class TestAnswered:
    def test_every_picture_is_answered_once(self, pictures: Data, tmp_path: Path) -> None:
        light, told = Brightness(), []
        data = answered(pictures, {"light": teacher(light)}, tmp_path, lambda *progress: told.append(progress))
        assert told == [(done, 5) for done in range(1, 6)]
        assert data.taught == ("bright",)
        assert shares(data) == pytest.approx([sample.rgb.mean() / 255 for sample in pictures])
        again = answered(pictures, {"light": teacher(light)}, tmp_path)
        assert shares(again) == shares(data)
        assert shares(again.of("train")) == shares(data)[:3]
        assert light.asked == 5

    def test_a_killed_run_goes_on(self, pictures: Data, tmp_path: Path) -> None:
        def killed(done: int, total: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

        light = Brightness()
        with pytest.raises(KeyboardInterrupt):
            answered(pictures, {"light": teacher(light)}, tmp_path / "a", killed)
        assert light.asked == 3
        data = answered(pictures, {"light": teacher(light)}, tmp_path / "a")
        assert light.asked == 5
        answered(pictures, {"light": teacher(light)}, tmp_path / "b")
        a, b = ({p.name: p.read_bytes() for p in (tmp_path / run).rglob("*.answer")} for run in "ab")
        assert a == b
        assert len(data) == len(a)

    def test_another_teacher_or_another_picture_is_answered_anew(self, pictures: Data, tmp_path: Path) -> None:
        light = Brightness()
        answered(pictures, {"light": teacher(light, version=1)}, tmp_path)
        answered(pictures, {"other": teacher(light, "other", version=1, file="elsewhere")}, tmp_path)
        assert light.asked == 5
        answered(pictures, {"light": teacher(light, version=2)}, tmp_path)
        assert light.asked == 10
        changed = [Sample(sample.name, sample.rgb ^ 1) for sample in pictures]
        answered(Data.given("noise", changed), {"light": teacher(light, version=1)}, tmp_path)
        assert light.asked == 15

    def test_damaged_files_are_answered_anew(self, pictures: Data, tmp_path: Path) -> None:
        light = Brightness()
        right = shares(answered(pictures, {"light": teacher(light)}, tmp_path))
        first, second, third, *_ = sorted(tmp_path.rglob("*.answer"))
        first.write_bytes(b"")
        second.write_bytes(second.read_bytes()[:-1])
        third.unlink()
        assert shares(answered(pictures, {"light": teacher(light)}, tmp_path)) == right
        assert light.asked == 8

    def test_what_does_not_fit_in_memory_is_read_from_disk(self, pictures: Data, tmp_path: Path) -> None:
        light = Brightness()
        answers = Answers((teacher(light),), tmp_path, free=4)  # the share of one picture
        first, second = pictures[1], pictures[2]
        kept, read = answers(first)["bright"], answers(second)["bright"]
        assert answers(first)["bright"] is kept
        assert answers(second)["bright"] is not read
        assert np.array_equal(getattr(answers(second)["bright"], "shares"), getattr(read, "shares"))  # noqa: B009
        assert light.asked == 2

    def test_labels_and_what_other_teachers_said_stay(self, pictures: Data, tmp_path: Path) -> None:
        labels = np.ones((6, 9), np.uint8)
        data = Data.given("noise", [Sample("a", pictures[0].rgb, labels)], ("road", "sky"))
        first = answered(data, {"light": teacher(Brightness())}, tmp_path)
        named = teacher(lambda rgb: {"dark": Brightness()(rgb)["bright"]}, head="dark")
        both = answered(first, {"dark": named}, tmp_path)
        assert both.taught == ("bright", "dark")
        assert {*both[0].known} == {"bright", "dark"}
        assert both[0].labels is labels

    def test_two_teachers_of_one_head(self, pictures: Data, tmp_path: Path) -> None:
        with pytest.raises(CompressionError, match="head 'bright' has several teachers, a and b; give each head one"):
            answered(pictures, {name: teacher(Brightness()) for name in "ab"}, tmp_path)

    def test_a_folder_that_cannot_be_written(self, pictures: Data, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(CompressionError, match=r"cannot write .*/file/.*; make room and run again"):
            answered(pictures, {"light": teacher(Brightness())}, tmp_path / "file")


def test_the_digest_of_a_picture_is_of_its_pixels_and_its_size() -> None:
    rgb = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert digest_of(rgb) == digest_of(np.asfortranarray(rgb))
    assert len({digest_of(rgb), digest_of(rgb.reshape(4, 3, 3)), digest_of(rgb + np.uint8(1))}) == 3
