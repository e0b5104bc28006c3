"""What the four heads learn, all of it derived from one map of classes: boxes, class boundaries, tags."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SURFACES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "vehicle",
    "pedestrian",
    "cyclist",
)
VOID = 11
OBJECTS = ("vehicle", "pedestrian", "cyclist", "sign")
EDGES = ("inside", "edge")
EDGE_STRIDE = 4
IGNORED = 255

MIN_OBJECT_AREA = 48
MIN_OBJECT_SIDE = 6
MIN_TAG_SHARE = 0.001

LabelMap = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Boxes:
    """Objects of one picture: ``xyxy`` float32 [n, 4] in pixels, ``classes`` int64 [n] (index into OBJECTS).

    ``ignored`` bool [n] marks the components that are too small to be asked for: neither object nor background.
    """

    xyxy: NDArray[np.float32]
    classes: NDArray[np.int64]
    ignored: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.classes)


def boxes_of(labels: LabelMap) -> Boxes:
    """The bounding box of every connected component (8 neighbours) of the object classes.

    ``labels`` is HW uint8. A component under MIN_OBJECT_AREA pixels, or whose shorter side is under MIN_OBJECT_SIDE,
    is ignored. What the labels cannot tell apart stays one box (touching cars), and what a pole splits is two.
    """
    xyxy, classes, ignored = [], [], []
    for index, name in enumerate(OBJECTS):
        mask = (labels == SURFACES.index(name)).astype(np.uint8)
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for left, top, width, height, area in stats[1:count]:
            xyxy.append((left, top, left + width, top + height))
            classes.append(index)
            ignored.append(area < MIN_OBJECT_AREA or min(width, height) < MIN_OBJECT_SIDE)
    return Boxes(np.float32(xyxy).reshape(-1, 4), np.int64(classes), np.array(ignored, dtype=bool))


def boundary_of(labels: LabelMap) -> NDArray[np.bool_]:
    """Pixels with a direct neighbour (left, right, above, below) of another class, HW: lines two pixels thick.

    A border with void is no boundary.
    """
    edge = np.zeros(labels.shape, dtype=bool)
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = labels[first], labels[second]
        differs = (a != b) & (a != VOID) & (b != VOID)
        edge[first] |= differs
        edge[second] |= differs
    return edge


def edge_target(labels: LabelMap) -> LabelMap:
    """Class of each cell of EDGE_STRIDE² pixels, [h/4, w/4] uint8: 1 edge, 0 inside, IGNORED.

    A cell is an edge when it holds a pixel of ``boundary_of``, so lines are one or two cells (4–8 pixels) thick; a cell
    without one that touches void is ignored. Height and width must be multiples of EDGE_STRIDE.
    """
    edge = _any_in_cell(boundary_of(labels))
    void = _any_in_cell(labels == VOID)
    return np.where(edge, 1, np.where(void, IGNORED, 0)).astype(np.uint8)


def tags_of(labels: LabelMap) -> NDArray[np.bool_]:
    """Which of SURFACES cover at least MIN_TAG_SHARE of the pixels that are not void, bool [11]."""
    counts = np.bincount(labels.ravel(), minlength=VOID + 1)[:VOID]
    return counts >= max(1.0, MIN_TAG_SHARE * counts.sum())


def _any_in_cell(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    height, width = mask.shape
    return mask.reshape(height // EDGE_STRIDE, EDGE_STRIDE, width // EDGE_STRIDE, EDGE_STRIDE).any(axis=(1, 3))
