"""What teachers answer to the pictures of a set, worked out once and kept on disk.

There is one file for a picture and a teacher, named by the digests of both, so a killed run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sharedbb.errors import CompressionError
from sharedbb.learn.data import KEPT_BYTES, Data, Sample
from sharedbb.learn.known import Classes, Direction, Known, Metres, Objects, Points, Present, mirror_of
from sharedbb.learn.labels import Boxes
from sharedbb.learn.teachers.stored import arrays_of, packed, unpacked
from sharedbb.learn.teachers.teacher import Rgb, Teacher
from sharedbb.outputs import DepthMap, Detections, Embedding, Keypoints, SegmentationMap, Tags
from sharedbb.types import Output

SUFFIX = ".answer"
UNFINISHED = ".part"

Progress = Callable[[int, int], None]
"""Told how many pictures are done, of how many."""


def answered(data: Data, teachers: Mapping[str, Teacher], folder: str | Path, progress: Progress | None = None) -> Data:
    """The set with what teachers say of each picture: ``Sample.known`` of the heads by the names they have there.

    Every picture is answered now, unless it is in ``folder`` already; the answers are read when pictures are. Raises
    CompressionError where two teachers answer for one head, or the folder cannot be written.
    """
    heads = [head for teacher in teachers.values() for head in teacher.heads]
    twice = [head for head in heads if heads.count(head) > 1]
    if twice:
        both = " and ".join(name for name, teacher in teachers.items() if twice[0] in teacher.heads)
        raise CompressionError(f"head {twice[0]!r} has several teachers, {both}; give each head one")
    answers = Answers(tuple(teachers.values()), Path(folder))
    for done, sample in enumerate(data, start=1):
        answers(sample)
        if progress is not None:
            progress(done, len(data))
    return data.taught_by(heads, answers)


@dataclass(slots=True, eq=False)
class Answers:
    """What ``teachers`` say of pictures, from ``folder``, from memory while ``free`` bytes last, or by asking them."""

    teachers: tuple[Teacher, ...]
    folder: Path
    free: int = KEPT_BYTES
    _kept: dict[str, Mapping[str, Known]] = field(default_factory=dict)

    def __call__(self, sample: Sample) -> Mapping[str, Known]:
        """What is known of a picture, by head. Raises CompressionError where a file cannot be written."""
        picture = digest_of(sample.rgb)
        if picture in self._kept:
            return self._kept[picture]
        found: dict[str, Known] = {}
        for teacher in self.teachers:
            found |= self._by(teacher, sample.rgb, picture)
        size = sum(array.nbytes for known in found.values() for array in arrays_of(known).values())
        if size <= self.free:
            self.free -= size
            self._kept[picture] = found
        return found

    def _by(self, teacher: Teacher, rgb: Rgb, picture: str) -> Mapping[str, Known]:
        """What one teacher says: as it is read back from its file, so that a new answer is like an old one."""
        path = self.folder / teacher.digest[:16] / f"{picture}{SUFFIX}"
        size = rgb.shape[0], rgb.shape[1]
        found = unpacked(_content(path), teacher.heads, size)
        if found is None:
            told = packed({head: known_of(answer) for head, answer in teacher.soft(rgb).items()})
            _write(path, told)
            found = unpacked(told, teacher.heads, size)
            assert found is not None
        return found


def known_of(answer: Output) -> Known:
    """What an answer says of its picture. Raises CompressionError for answers that nothing can be learnt from.

    Boxes keep their scores. Distances that are not finite or not above 0 are unknown.
    """
    match answer:
        case SegmentationMap():
            return Classes(answer.classes)
        case Detections():
            none = np.zeros(len(answer), np.bool_)
            boxes, scores = (np.asarray(array, np.float32) for array in (answer.boxes, answer.scores))
            return Objects(Boxes(boxes, np.asarray(answer.classes, np.int64), none, scores))
        case DepthMap():
            with np.errstate(invalid="ignore"):  # between two pixels that are infinitely far
                metres = np.asarray(answer.metres, np.float32)
            return Metres(np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(np.nan)))
        case Tags():
            return Present(np.asarray(answer.probabilities, np.float32))
        case Keypoints():
            points, scores = (np.asarray(array, np.float32) for array in (answer.points, answer.scores))
            return Points(points, scores, mirror_of(answer.names))
        case Embedding():
            return Direction(np.asarray(answer.vector, np.float32))
    raise CompressionError(f"nothing can be learnt from answers of type {type(answer).__name__}")


def digest_of(rgb: Rgb) -> str:
    """SHA-256 of a picture's size and pixels, in 32 hexadecimal digits."""
    found = hashlib.sha256(repr(rgb.shape).encode())
    found.update(np.ascontiguousarray(rgb).data)
    return found.hexdigest()[:32]


def _content(path: Path) -> bytes:
    """A file's content; nothing where it is not there or cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _write(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise CompressionError(f"cannot write {path}: {error.strerror or error}; make room and run again") from error
