"""Where one head's answers of two runs differ, drawn on the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.media.pen import PAPER, Chip, Color, Image, Pen
from sharedbb.outputs import DepthMap, Detections, Keypoints, SegmentationMap, Tags
from sharedbb.outputs.depth import TOLERANCE
from sharedbb.types import Frame, Output

OURS, DENSE, DIFFERS = (255, 140, 40), (70, 150, 255), (240, 60, 60)
GREY_LEVEL, GREY_CONTRAST = 70, 0.45  # of the picture under the differences
OPACITY = 0.8


def contrast(frame: Frame, ours: Output, dense: Output) -> Image:
    """The frame in grey with what differs between two answers to it: (height, width, 3) uint8 RGB, a new array.

    Pixels of another class, or off by more than 5 % in depth, are red. Boxes without a partner and points that moved
    are orange where they are ours and blue where they are the dense run's; what matches is not drawn. The caption says
    it in words, and is all there is for tags; answers of other types leave the frame grey.
    """
    grey = cv2.cvtColor(frame.rgb(), cv2.COLOR_RGB2GRAY)
    dimmed = cv2.convertScaleAbs(grey, alpha=GREY_CONTRAST, beta=GREY_LEVEL)
    pen = Pen(cv2.cvtColor(dimmed, cv2.COLOR_GRAY2RGB).view(np.uint8))
    draw = next((draw for kind, draw in _DRAWN.items() if isinstance(ours, kind)), None)
    if draw is not None:
        pen.caption([draw(pen, ours, dense)])
    return pen.canvas


def _areas(pen: Pen, ours: SegmentationMap, dense: SegmentationMap) -> list[Chip]:
    return _marked(pen, ours.classes != dense.classes, "another class")


def _depth(pen: Pen, ours: DepthMap, dense: DepthMap) -> list[Chip]:
    off = ~np.isclose(ours.metres, dense.metres, rtol=TOLERANCE, atol=0, equal_nan=True)
    return _marked(pen, off, "off by more than 5 %")


def _marked(pen: Pen, differs: NDArray[np.bool_], what: str) -> list[Chip]:
    """Pixels in red, and their share in words."""
    solid = np.array(DIFFERS, np.float32) * OPACITY
    pen.canvas[differs] = np.rint(pen.canvas[differs] * (1 - OPACITY) + solid).astype(np.uint8)
    return [Chip(f"{what}: {np.count_nonzero(differs) / differs.size:.1%} of the pixels", DIFFERS)]


def _boxes(pen: Pen, ours: Detections, dense: Detections) -> list[Chip]:
    partners = ours.partners(dense)
    missed = np.setdiff1d(np.arange(len(dense)), partners)
    extra = np.flatnonzero(partners < 0)
    for answer, rows, color in ((dense, missed, DENSE), (ours, extra, OURS)):
        limits = np.array([pen.width - 1, pen.height - 1] * 2, np.float32)
        for left, top, right, bottom in np.rint(np.clip(answer.boxes[rows], 0, limits)).astype(int).tolist():
            cv2.rectangle(pen.canvas, (left, top), (right, bottom), PAPER, 2 * pen.line + 2)
            cv2.rectangle(pen.canvas, (left, top), (right, bottom), color, 2 * pen.line)
    return _told([ours.labels[row] for row in extra], [dense.labels[row] for row in missed])


def _points(pen: Pen, ours: Keypoints, dense: Keypoints) -> list[Chip]:
    rows = np.flatnonzero(ours.moved(dense)).tolist()
    for row in rows:
        sides = [(answer, color) for answer, color in ((dense, DENSE), (ours, OURS)) if answer.present[row]]
        places = [(round(float(x)), round(float(y))) for x, y in (answer.points[row] for answer, _ in sides)]
        if len(places) == 2:
            cv2.line(pen.canvas, places[0], places[1], DIFFERS, pen.line, cv2.LINE_AA)
        for place, (_, color) in zip(places, sides, strict=True):
            cv2.circle(pen.canvas, place, 2 * pen.line, color, cv2.FILLED, cv2.LINE_AA)
    return [Chip("moved: " + (", ".join(ours.names[row] for row in rows) or "none"), DIFFERS)]


def _labels(pen: Pen, ours: Tags, dense: Tags) -> list[Chip]:
    extra = [name for name in ours.present if name not in dense.present]
    return _told(extra, [name for name in dense.present if name not in ours.present])


def _told(extra: list[str], missed: list[str]) -> list[Chip]:
    """What only one of the two runs says."""
    return [_list("only ours", extra, OURS), _list("only dense", missed, DENSE)]


def _list(what: str, names: list[str], color: Color) -> Chip:
    return Chip(f"{what}: {', '.join(dict.fromkeys(names)) or 'none'}", color)


_DRAWN: Mapping[type, Callable[[Pen, Any, Any], list[Chip]]] = {
    SegmentationMap: _areas,
    Detections: _boxes,
    Keypoints: _points,
    DepthMap: _depth,
    Tags: _labels,
}
