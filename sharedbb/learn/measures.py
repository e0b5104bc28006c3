"""What is measured of a head by labels: its answers against what is known of each picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sharedbb.learn.known import Classes, Edges, Metres, Objects, Present
from sharedbb.learn.labels import EDGES, VOID, Asked, Kind
from sharedbb.learn.metrics import (
    BoundaryF1,
    BoxPrecision,
    CocoPrecision,
    Confusion,
    DepthAccuracy,
    TagF1,
    TagPrecision,
    mean_known,
)
from sharedbb.spec import Head


class Measure(ABC):
    """One head's answers against what is known of the pictures, picture by picture."""

    @abstractmethod
    def add(self, truth: Any, ours: Any) -> None:
        """What one picture's labels say of this head, and its answer, in the picture's pixels."""

    @abstractmethod
    def metrics(self) -> dict[str, Any]:
        """Plain JSON values."""


def measure_of(head: Head, question: Asked, boxed: bool) -> Measure:
    """What measures a head by labels that ask ``question``; ``boxed``: they are boxes that somebody drew."""
    return CocoMeasure(head) if boxed and question.kind == "boxes" else _KINDS[question.kind](head)


class ClassesMeasure(Measure):
    """The class of each pixel."""

    def __init__(self, head: Any) -> None:
        self._names = head.classes
        self._confusion = Confusion(len(head.classes))

    def add(self, truth: Classes, ours: Any) -> None:
        """Count pixels."""
        self._confusion.add(truth.map, ours.classes)

    def metrics(self) -> dict[str, Any]:
        """Mean IoU over the classes that occur."""
        found = self._confusion
        return {
            "miou": _number(found.mean_iou()),
            "accuracy": _number(found.accuracy()),
            "iou": _named(self._names, found.iou()),
        }


class EdgesMeasure(Measure):
    """Where one class ends and another begins."""

    def __init__(self, head: Any) -> None:
        self._boundary = BoundaryF1()

    def add(self, truth: Edges, ours: Any) -> None:
        """Count boundary pixels."""
        self._boundary.add(truth.map == 1, ours.mask(EDGES[1]), truth.map == VOID)

    def metrics(self) -> dict[str, Any]:
        """F1 within the tolerance."""
        precision, recall, f1 = self._boundary.scores()
        return {"f1": _number(f1), "precision": precision, "recall": recall, "tolerance_px": self._boundary.tolerance}


class BoxesMeasure(Measure):
    """Boxes of connected components."""

    def __init__(self, head: Any) -> None:
        self._names = head.classes
        self._boxes = BoxPrecision(len(head.classes))

    def add(self, truth: Objects, ours: Any) -> None:
        """Match boxes."""
        self._boxes.add(truth.boxes, ours.boxes, ours.scores, ours.classes)

    def metrics(self) -> dict[str, Any]:
        """Average precision at IoU 0.5, and how many boxes were asked for."""
        found = self._boxes
        return {
            "map50": _number(found.mean()),
            "ap50": _named(self._names, found.average_precision()),
            "boxes": dict(zip(self._names, found.wanted.tolist(), strict=True)),
        }


class CocoMeasure(Measure):
    """Boxes that somebody drew."""

    def __init__(self, head: Any) -> None:
        self._names = head.classes
        self._boxes = CocoPrecision(len(head.classes))

    def add(self, truth: Objects, ours: Any) -> None:
        """Take down boxes."""
        self._boxes.add(truth.boxes, ours.boxes, ours.scores, ours.classes)

    def metrics(self) -> dict[str, Any]:
        """Average precision at IoU 0.5 and over 0.5 to 0.95, and how many boxes were asked for."""
        found = self._boxes.average_precision()
        half, mean = found[0], found.mean(axis=0)
        return {
            "map50": _number(mean_known(half)),
            "map": _number(mean_known(mean)),
            "ap50": _named(self._names, half),
            "ap": _named(self._names, mean),
            "boxes": dict(zip(self._names, self._boxes.wanted.tolist(), strict=True)),
        }


class TagsMeasure(Measure):
    """Which classes are there at all."""

    def __init__(self, head: Any) -> None:
        self._names = head.labels
        self._tags, self._ranked = TagF1(len(head.labels)), TagPrecision(len(head.labels))

    def add(self, truth: Present, ours: Any) -> None:
        """Count tags."""
        there, known = truth.shares >= 0.5, ~np.isnan(truth.shares)
        self._tags.add(there, ours.answers, known)
        self._ranked.add(there, ours.probabilities, known)

    def metrics(self) -> dict[str, Any]:
        """F1 at the head's threshold and average precision over all, each the mean over tags."""
        f1, precision = self._tags.f1(), self._ranked.average_precision()
        return {
            "f1": _number(mean_known(f1)),
            "map": _number(mean_known(precision)),
            "f1_by_tag": _named(self._names, f1),
            "ap": _named(self._names, precision),
        }


class DepthMeasure(Measure):
    """The distance of each pixel, within the head's range."""

    def __init__(self, head: Any) -> None:
        self._depth = DepthAccuracy(head.min_m, head.max_m)

    def add(self, truth: Metres, ours: Any) -> None:
        """Compare distances."""
        self._depth.add(truth.map, ours.metres)

    def metrics(self) -> dict[str, Any]:
        """Share of pixels off by less than a quarter, and mean relative error."""
        return {"delta1": _number(self._depth.delta1()), "relative_error": _number(self._depth.relative_error())}


_KINDS: Mapping[Kind, Callable[[Any], Measure]] = {
    "classes": ClassesMeasure,
    "edges": EdgesMeasure,
    "boxes": BoxesMeasure,
    "tags": TagsMeasure,
    "depth": DepthMeasure,
}


def _named(names: Sequence[str], values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def _number(value: float) -> float | None:
    """None for what never occurs."""
    return None if np.isnan(value) else float(value)
