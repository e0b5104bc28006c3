"""What heads learn and are judged by, derived from one map of classes a picture: classes, boundaries, boxes, tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.spec import Head

VOID = 255
"""The label of a pixel that nobody knows, and of a cell that is not asked for."""

EDGES = ("inside", "edge")
"""The classes of a segmentation head that answers where one class ends and another begins."""

MIN_BOX_AREA = 48
MIN_BOX_SIDE = 6
MIN_TAG_SHARE = 0.001

LabelMap = NDArray[np.uint8]

Kind = Literal["classes", "edges", "boxes", "tags", "depth"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the labels of a set can ask of a head.

    ``kind``: the class of each pixel, class boundaries, boxes, tags, or distances. ``ids``: for each class or label of
    the head, in its order, the class of the set; none for boundaries and distances.
    """

    kind: Kind
    ids: tuple[int, ...] = ()


def asked(head: Head, classes: Sequence[str], *, depth: bool = False, boxed: bool = False) -> Asked | None:
    """What a set with these classes, and with distances or not, can ask of ``head``; None where it knows nothing.

    Segmentation, detection and tags are asked for when the set has every class or label of the head, by name;
    boundaries, of a segmentation head with the classes EDGES, when it has classes at all. ``boxed``: the set's labels
    are boxes, which say nothing of pixels.
    """
    if head.type == "depth":
        return Asked("depth") if depth else None
    names = tuple(getattr(head, "labels" if head.type == "tags" else "classes", ()))
    if head.type not in _KINDS or not classes or (boxed and head.type == "segmentation"):
        return None
    if set(names) <= set(classes):
        return Asked(_KINDS[head.type], tuple(classes.index(name) for name in names))
    return Asked("edges") if head.type == "segmentation" and names == EDGES else None


_KINDS: dict[str, Kind] = {"segmentation": "classes", "detection": "boxes", "tags": "tags"}


@dataclass(frozen=True, slots=True)
class Boxes:
    """Objects of one picture: ``xyxy`` float32 [n, 4] in pixels, ``classes`` int64 [n] (index into the head's classes).

    ``ignored`` bool [n] marks those that are not asked for, such as too small ones: neither object nor background.
    ``scores`` float32 [n], 0–1: how sure a teacher is of them; None where all are certain.
    """

    xyxy: NDArray[np.float32]
    classes: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    scores: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def certainty(self) -> NDArray[np.float32]:
        """The scores, 1 where there are none."""
        return np.ones(len(self), np.float32) if self.scores is None else self.scores

    def only(self, keep: NDArray[np.bool_]) -> Boxes:
        """Those for which ``keep`` bool [n] is true."""
        scores = None if self.scores is None else self.scores[keep]
        return Boxes(self.xyxy[keep], self.classes[keep], self.ignored[keep], scores)

    def of_classes(self, ids: Sequence[int]) -> Boxes:
        """Those of the classes ``ids``, whose positions become their classes."""
        kept = self.only(np.isin(self.classes, ids))
        return replace(kept, classes=np.array([ids.index(one) for one in kept.classes.tolist()], np.int64))


def classes_of(labels: LabelMap, ids: Sequence[int]) -> LabelMap:
    """The map in a head's own classes: a pixel of the set's class ``ids[k]`` becomes k, any other VOID. HW uint8."""
    table = np.full(256, VOID, np.uint8)
    table[list(ids)] = np.arange(len(ids), dtype=np.uint8)
    return table[labels]


def boxes_of(labels: LabelMap, ids: Sequence[int]) -> Boxes:
    """The bounding box of every connected component (8 neighbours) of the classes ``ids``; ``classes`` index those.

    ``labels`` is HW uint8. A component under MIN_BOX_AREA pixels, or whose shorter side is under MIN_BOX_SIDE, is
    ignored. What the labels cannot tell apart stays one box (touching cars), and what a pole splits is two.
    """
    xyxy, classes, ignored = [], [], []
    for index, value in enumerate(ids):
        count, _, stats, _ = cv2.connectedComponentsWithStats((labels == value).astype(np.uint8), connectivity=8)
        for left, top, width, height, area in stats[1:count].tolist():
            xyxy.append((left, top, left + width, top + height))
            classes.append(index)
            ignored.append(area < MIN_BOX_AREA or min(width, height) < MIN_BOX_SIDE)
    return Boxes(np.array(xyxy, np.float32).reshape(-1, 4), np.array(classes, np.int64), np.array(ignored, bool))


def boundary_of(labels: LabelMap) -> NDArray[np.bool_]:
    """Pixels with a direct neighbour (left, right, above, below) of another class, bool HW: lines two pixels thick.

    A border with void is no boundary.
    """
    edge = np.zeros(labels.shape, dtype=bool)
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1, :], np.s_[1:, :])):
        a, b = labels[first], labels[second]
        differs = (a != b) & (a != VOID) & (b != VOID)
        edge[first] |= differs
        edge[second] |= differs
    return edge


def edges_of(labels: LabelMap) -> LabelMap:
    """``boundary_of`` with what is unknown, uint8 HW: 1 edge, 0 inside, VOID."""
    return np.where(boundary_of(labels), 1, np.where(labels == VOID, VOID, 0)).astype(np.uint8)


def edge_cells(edges: LabelMap, stride: int) -> LabelMap:
    """A map of ``edges_of`` by cells of ``stride``² pixels, uint8 [H / stride, W / stride]: 1 edge, 0 inside, VOID.

    A cell is an edge when it holds an edge's pixel, so lines are one or two cells thick; a cell without one that
    touches void is void. Height and width must be multiples of ``stride``.
    """
    edge, void = _any_in_cell(edges == 1, stride), _any_in_cell(edges == VOID, stride)
    return np.where(edge, 1, np.where(void, VOID, 0)).astype(np.uint8)


def tags_of(labels: LabelMap, ids: Sequence[int]) -> NDArray[np.bool_]:
    """Which of the classes ``ids`` cover at least MIN_TAG_SHARE of the pixels that are not void, bool [len(ids)]."""
    counts = np.bincount(labels.ravel(), minlength=VOID + 1)[:VOID]
    return np.asarray(counts[list(ids)] >= max(1.0, MIN_TAG_SHARE * counts.sum()))


def _any_in_cell(mask: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    height, width = mask.shape
    return np.asarray(mask.reshape(height // stride, stride, width // stride, stride).any(axis=(1, 3)))
