"""A teacher: a trained network with its input and its format, a picture in, answers in source pixels out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import CompressionError, GraphError
from sharedbb.learn.teachers.formats import Format
from sharedbb.learn.teachers.heads import Arrays, TeacherHead, shapes
from sharedbb.outputs.detections import Detections
from sharedbb.spec.fuse import TeacherInput
from sharedbb.transforms.rgb import RgbIntake
from sharedbb.types import Frame, Normalization, Output, Size

Rgb = NDArray[np.uint8]
Answer = Callable[[Rgb], Mapping[str, Output]]

WHERE = ("file", "parameters")
"""Facts that do not decide what a teacher answers."""


@dataclass(frozen=True, slots=True, eq=False)
class Teacher:
    """A network to learn from; ``name`` as in messages, ``heads`` by the names that it answers under.

    ``soft`` answers a picture, HWC uint8 RGB of any size, in its pixels; boxes reach down to half of the operating
    point. ``facts``: what it is and how it is run, plain JSON values; but for WHERE they decide what it answers.
    """

    name: str
    heads: Mapping[str, TeacherHead]
    soft: Answer
    facts: Mapping[str, Any]

    def __call__(self, rgb: Rgb) -> dict[str, Output]:
        """The answers at the operating point, by head."""
        return {name: at_threshold(answer, self.heads[name].threshold) for name, answer in self.soft(rgb).items()}

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of what decides its answers."""
        facts = {name: fact for name, fact in self.describe().items() if name not in WHERE}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """What it is: kind, file, its digest, input, format, number of parameters, and the heads; plain JSON values."""
        return {**self.facts, "heads": {name: head.to_dict() for name, head in self.heads.items()}}

    def renamed(self, heads: Mapping[str, str]) -> Teacher:
        """Only the heads named, {its head: new name}. Raises CompressionError for one that it does not have."""
        for head in heads:
            if head not in self.heads:
                there = ", ".join(f"{name} ({kind.type})" for name, kind in self.heads.items())
                raise CompressionError(f"teacher {self.name} has no head {head!r}; it has {there}")

        def soft(rgb: Rgb) -> dict[str, Output]:
            answers = self.soft(rgb)
            return {new: answers[head] for head, new in heads.items()}

        return replace(self, heads={new: self.heads[head] for head, new in heads.items()}, soft=soft)


def at_threshold(answer: Output, threshold: float | None) -> Output:
    """The answer without the boxes whose score is below ``threshold``; any other answer as it is."""
    if threshold is None or not isinstance(answer, Detections):
        return answer
    kept = answer.scores >= threshold
    return Detections(answer.boxes[kept], answer.scores[kept], answer.classes[kept], answer.names)


class Decoded:
    """A network between intake and format: a picture in, answers out, boxes down to half of the operating point.

    ``network`` takes [1, H, W, 3] uint8 RGB of the input's size and computes the arrays that the format reads. Not for
    several threads at once.
    """

    def __init__(self, network: Callable[[NDArray[np.uint8]], Arrays], given: TeacherInput, decode: Format) -> None:
        size, mean, std = Size(*given.size), given.mean, given.std
        in_rgb = Normalization(mean, std) if given.order == "rgb" else Normalization(mean[::-1], std[::-1])
        self._network, self._decode = network, decode
        self._buffer = np.zeros((1, size.height, size.width, 3), np.uint8)
        self._intake = RgbIntake(self._buffer, given.fit, in_rgb)

    def __call__(self, rgb: Rgb) -> Mapping[str, Output]:
        """The answers in the picture's pixels. Raises GraphError for arrays that the format cannot read."""
        geometry = self._intake(Frame.of(rgb, order="rgb"))
        raw = self._network(self._buffer)
        try:
            return self._decode(raw, geometry)
        except GraphError as error:
            raise GraphError(f"{error}; the network computes {shapes(raw)}") from error

    def placed(self, rgb: Rgb) -> NDArray[np.uint8]:
        """The picture as the network takes it, [1, H, W, 3]."""
        self._intake(Frame.of(rgb, order="rgb"))
        return self._buffer.copy()
