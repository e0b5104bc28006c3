"""What is known of one picture for one head: by labels or by a teacher, in the picture's pixels and the head's classes.

A head of which nothing is known in a picture has no entry; what is known only in part says so (VOID, NaN, ``ignored``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sharedbb.learn.data import Sample
from sharedbb.learn.labels import (
    MIN_BOX_AREA,
    MIN_BOX_SIDE,
    VOID,
    Asked,
    Boxes,
    LabelMap,
    boxes_of,
    classes_of,
    edges_of,
    tags_of,
)
from sharedbb.learn.warp import Warp

LEAST_VISIBLE = 0.6
"""Share of a picture that a crop must show for what is known of the whole picture to hold for the crop."""

LEAST_OF_BOX = 0.3
"""Share of a box that must lie inside the crop; less of it is neither object nor background."""


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """``map`` uint8 [H, W]: the class of each pixel, VOID where nobody knows."""

    map: LabelMap

    def warped(self, warp: Warp) -> Classes:
        """As it lies in a crop."""
        return Classes(warp.classes(self.map, VOID))


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """``map`` uint8 [H, W]: 1 on the pixels on both sides of a boundary, 0 elsewhere, VOID where nobody knows."""

    map: LabelMap

    def warped(self, warp: Warp) -> Edges:
        """As it lies in a crop. Lines get thinner or thicker with the picture: take labels where there are any."""
        return Edges(warp.classes(self.map, VOID))


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """``boxes`` in pixels, with the head's classes; ``void`` bool [H, W]: where nobody looked, None for nowhere."""

    boxes: Boxes
    void: NDArray[np.bool_] | None = None

    def warped(self, warp: Warp) -> Objects:
        """As they lie in a crop, cut off at its borders; small ones, and small parts of one, are ignored."""
        moved = warp.boxes(self.boxes.xyxy)
        cut = moved.copy()
        cut[:, 0::2] = cut[:, 0::2].clip(0, warp.size[1])
        cut[:, 1::2] = cut[:, 1::2].clip(0, warp.size[0])
        (width, height), whole = (cut[:, 2:] - cut[:, :2]).T, np.prod(moved[:, 2:] - moved[:, :2], axis=1)
        area = width * height
        tiny = (area < MIN_BOX_AREA) | (np.minimum(width, height) < MIN_BOX_SIDE) | (area < LEAST_OF_BOX * whole)
        boxes = replace(self.boxes, xyxy=cut, ignored=self.boxes.ignored | tiny).only(area > 0)
        void = None if self.void is None else warp.classes(self.void.astype(np.uint8), 1) > 0
        return Objects(boxes, void)


@dataclass(frozen=True, slots=True, eq=False)
class Present:
    """``shares`` float32 [labels], 0–1: how surely each label is right for the picture, NaN where nobody knows."""

    shares: NDArray[np.float32]

    def warped(self, warp: Warp) -> Present:
        """What is absent stays absent; what is there may have been cut off, unless most of the picture is seen."""
        if warp.visible >= LEAST_VISIBLE:
            return self
        return Present(np.where(self.shares < 0.5, self.shares, np.nan).astype(np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Metres:
    """``map`` float32 [H, W]: distances in metres, NaN where nobody knows."""

    map: NDArray[np.float32]

    def warped(self, warp: Warp) -> Metres:
        """As they lie in a crop, shorter by as much as things are larger."""
        return Metres(warp.distances(self.map))


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """``xy`` float32 [K, 2] in pixels and ``scores`` float32 [K], 0–1; ``mirror``: its counterpart in a mirror."""

    xy: NDArray[np.float32]
    scores: NDArray[np.float32]
    mirror: tuple[int, ...]

    def warped(self, warp: Warp) -> Points:
        """As they lie in a crop; what is outside has the score 0, and a mirror changes left and right."""
        xy = warp.points(self.xy)
        inside = (xy >= 0).all(axis=1) & (xy < (warp.size[1], warp.size[0])).all(axis=1)
        order = list(self.mirror) if warp.mirrored else slice(None)
        return Points(xy[order], np.where(inside, self.scores, 0).astype(np.float32)[order], self.mirror)


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """``vector`` float32 [D] of length 1: what the whole picture looks like; of NaN where nobody knows."""

    vector: NDArray[np.float32]

    def warped(self, warp: Warp) -> Direction:
        """The same where most of the picture is seen, else unknown."""
        return self if warp.visible >= LEAST_VISIBLE else Direction(np.full_like(self.vector, np.nan))


Known = Classes | Edges | Objects | Present | Metres | Points | Direction


def mirror_of(names: Sequence[str]) -> tuple[int, ...]:
    """For each name the index of its counterpart in a mirror: left_eye and right_eye, otherwise itself."""
    there = {name: index for index, name in enumerate(names)}
    return tuple(there.get(_swapped(name), index) for index, name in enumerate(names))


def _swapped(name: str) -> str:
    return name.replace("left", "\0").replace("right", "left").replace("\0", "right")


def known_by_labels(sample: Sample, questions: Mapping[str, Asked]) -> dict[str, Known]:
    """What a picture's own labels say of each head that its set can ask about."""
    found = {name: _answer(sample, question) for name, question in questions.items()}
    return {name: known for name, known in found.items() if known is not None}


def _metres(depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distances, NaN where they are not known: where a map has 0, less, or no number."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))


def _answer(sample: Sample, question: Asked) -> Known | None:
    labels = sample.labels
    match question.kind:
        case "depth":
            return None if sample.depth is None else Metres(_metres(sample.depth))
        case "boxes" if sample.boxes is not None:
            return Objects(sample.boxes.of_classes(question.ids))
        case "tags" if sample.boxes is not None:
            ignored = sample.boxes.ignored
            there, perhaps = (np.isin(question.ids, sample.boxes.classes[which]) for which in (~ignored, ignored))
            return Present(np.where(there, 1.0, np.where(perhaps, np.nan, 0.0)).astype(np.float32))
    if labels is None:
        return None
    match question.kind:
        case "classes":
            return Classes(classes_of(labels, question.ids))
        case "edges":
            return Edges(edges_of(labels))
        case "boxes":
            return Objects(boxes_of(labels, question.ids), labels == VOID)
        case "tags":
            known = bool((labels != VOID).any())
            return Present(tags_of(labels, question.ids).astype(np.float32)) if known else None
