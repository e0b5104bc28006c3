"""Answers drawn on their picture: areas, boxes, points, depth, and words, readable from 320 to 1920 pixels."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.media.pen import INK, PAPER, Chip, Color, Image, Label, Pen, Rect
from sharedbb.outputs import DepthMap, Detections, Embedding, Keypoints, SegmentationMap, Tags
from sharedbb.outputs.keypoints import LEAST_SCORE
from sharedbb.outputs.sampling import axes
from sharedbb.types import FrameResult

# Classes of streets in the colours that people expect; every other name gets a hue of its own.
KNOWN: Mapping[str, Color] = {
    "sky": (110, 165, 220),
    "building": (150, 110, 90),
    "pole": (205, 200, 175),
    "road": (130, 75, 150),
    "pavement": (235, 95, 190),
    "tree": (85, 150, 60),
    "sign": (245, 205, 50),
    "fence": (190, 150, 110),
    "vehicle": (45, 125, 245),
    "pedestrian": (240, 70, 70),
    "cyclist": (255, 140, 40),
    "edge": (255, 245, 140),
}
HUES, TONES = 18, ((0.65, 0.95), (0.85, 0.65), (0.35, 0.9))  # of all others: how many; saturation and value
AREA_OPACITY = 0.42
LEAST_SHARE = 0.005  # of the picture that a class must cover to be named
INSET_SHARE = 0.24  # of the picture's width
NEAREST, FARTHEST = 0.01, 10000.0  # metres that can be told apart


@lru_cache(maxsize=4096)
def color_of(name: str) -> Color:
    """The colour of a class, RGB: the same in every picture."""
    if name in KNOWN:
        return KNOWN[name]
    turn, tone = divmod(crc32(name.encode("utf-8", "replace")), len(TONES))
    red, green, blue = colorsys.hsv_to_rgb(turn % HUES / HUES, *TONES[tone])
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(result: FrameResult) -> Image:
    """The frame with every head's answer on it: (height, width, 3) uint8 RGB at source size, a new array.

    Areas lie under boxes and points; depth stands in the upper right corner, near bright and far dark. A segmentation
    of two classes is drawn as its second one, outlined. Along the lower edge stand the areas' colours, tags, embeddings
    and the ages of answers that did not run on this frame. Labels never overlap: of the boxes that crowd, the less
    certain ones go without. Answers of other types are left out.
    """
    pen = Pen(result.frame.rgb().copy())
    labels: list[Label] = []
    for kind, draw_kind in _DRAWN.items():
        for output in result.outputs.values():
            if isinstance(output, kind):
                labels.extend(draw_kind(pen, output))
    pen.caption(list(_words(result)))
    pen.labels(labels)
    return pen.canvas


def _areas(pen: Pen, answer: SegmentationMap) -> list[Label]:
    classes = _at_size(pen, answer.classes)
    if len(answer.names) == 2:
        _outlined(pen, classes, color_of(answer.names[1]))
    else:
        table = np.zeros((256, 1, 3), np.uint8)
        table[: len(answer.names), 0] = [color_of(name) for name in answer.names]
        colors = cv2.applyColorMap(classes, table)
        cv2.addWeighted(pen.canvas, 1 - AREA_OPACITY, colors, AREA_OPACITY, 0, dst=pen.canvas)
    return []


def _at_size(pen: Pen, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The classes at the picture's size, from which an answer to an earlier frame may differ."""
    if classes.shape == pen.canvas.shape[:2]:
        return classes
    return cv2.resize(classes, (pen.width, pen.height), interpolation=cv2.INTER_NEAREST).view(np.uint8)


def _outlined(pen: Pen, mask: NDArray[np.uint8], color: Color) -> None:
    """Tint where the mask is 1, with a solid line along its inner edge."""
    levels = np.arange(256, dtype=np.float32)[None, :, None] * (1 - AREA_OPACITY)
    tint = np.rint(levels + np.array(color, np.float32) * AREA_OPACITY).astype(np.uint8)
    cv2.copyTo(cv2.LUT(pen.canvas, tint), mask, pen.canvas)
    inner = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=(pen.line + 1) // 2, borderValue=1)
    solid = np.empty_like(pen.canvas)
    cv2.rectangle(solid, (0, 0), (pen.width, pen.height), color, cv2.FILLED)  # much faster than assigning
    cv2.copyTo(solid, cv2.subtract(mask, inner), pen.canvas)


def _boxes(pen: Pen, answer: Detections) -> list[Label]:
    labels = []
    limits = np.array([pen.width - 1, pen.height - 1] * 2, np.float32)
    known = np.isfinite(answer.boxes)
    corners = np.rint(np.clip(np.nan_to_num(answer.boxes), 0, limits)).astype(int)
    for position in np.argsort(answer.scores, kind="stable"):  # the surest is drawn last, over the others
        left, top, right, bottom = map(int, corners[position])
        if not known[position].all() or left >= right or top >= bottom:
            continue
        name, score = answer.names[int(answer.classes[position])], float(answer.scores[position])
        color = color_of(name)
        if pen.line > 1:
            cv2.rectangle(pen.canvas, (left, top), (right, bottom), PAPER, pen.line + 2)
        cv2.rectangle(pen.canvas, (left, top), (right, bottom), color, pen.line)
        text = _named(pen, name, f"{score:.2f}")
        above, inside, under = top - pen.line_height, top + pen.line, bottom + pen.line
        places = ((left, above), (left, under), (right, top), (left + pen.line, inside))
        labels.append(Label(text, color, places, score))
    return labels


def _named(pen: Pen, name: str, number: str) -> str:
    """A name and a number; of a name that is too long its end is left out."""
    return f"{pen.cut(name, pen.width // 2 - pen.text_width(' ' + number))} {number}".strip()


def _points(pen: Pen, answer: Keypoints) -> list[Label]:
    labels = []
    radius = 2 * pen.line
    for (x, y), score, name in zip(answer.points.tolist(), answer.scores.tolist(), answer.names, strict=True):
        if not (score >= LEAST_SCORE and 0 <= x <= pen.width and 0 <= y <= pen.height):
            continue
        column, row, color = round(x), round(y), color_of(name)
        cv2.circle(pen.canvas, (column, row), radius + pen.line, PAPER, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(pen.canvas, (column, row), radius, color, cv2.FILLED, cv2.LINE_AA)
        text = pen.cut(name, pen.width // 2)
        if text:
            right, middle = column + 2 * radius, row - pen.line_height // 2
            left = column - 2 * radius - pen.text_width(text) - 2 * pen.pad
            under, above = row + 2 * radius, row - 2 * radius - pen.line_height
            labels.append(
                Label(text, color, ((right, middle), (left, middle), (column, under), (column, above)), score)
            )
    return labels


def _depth(pen: Pen, answer: DepthMap) -> list[Label]:
    """Near is bright, on a logarithmic scale; further maps stand below the first."""
    width, margin = round(pen.width * INSET_SHARE), 3 * pen.line
    height = round(width * pen.height / pen.width)
    left, top = pen.width - width - margin, margin
    for other in pen.taken:
        top = max(top, other.bottom + margin)
    if min(width, height) < 8 or top + height + pen.line_height > pen.height:
        return []
    rows, columns = axes(answer.geometry, *answer.cells.shape)
    metres = np.nan_to_num(answer.cells[rows.cells, columns.cells], nan=FARTHEST, posinf=FARTHEST, neginf=NEAREST)
    log = np.log(cv2.resize(metres, (width, height), interpolation=cv2.INTER_LINEAR).clip(NEAREST, FARTHEST))
    low, high = float(log.min()), float(log.max())
    nearness = np.rint((high - log) / max(high - low, 1e-6) * 255).astype(np.uint8)
    shown = cv2.cvtColor(cv2.applyColorMap(nearness, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    pen.fill(Rect(left - pen.line, top - pen.line, left + width + pen.line, top + height + pen.line), INK)
    pen.canvas[top : top + height, left : left + width] = shown
    pen.taken.append(Rect(left - pen.line, top - pen.line, pen.width, top + height + pen.line))
    text = f"{_metres(np.exp(low))} to {_metres(np.exp(high))} m"
    pen.label(Label(text, PAPER, ((left, top + height + pen.line),), 1.0))
    return []


def _metres(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


_DRAWN: Mapping[type, Callable[[Pen, Any], list[Label]]] = {
    SegmentationMap: _areas,
    Detections: _boxes,
    Keypoints: _points,
    DepthMap: _depth,
}


def _words(result: FrameResult) -> Iterator[list[Chip]]:
    """Three lines: areas' names; tags and embeddings; the frame's number, its time and what on it is not fresh."""
    areas, others = [], []
    for head, output in result.outputs.items():
        if isinstance(output, SegmentationMap):
            shown = output.names[1:] if len(output.names) == 2 else output.names
            seen = [Chip(name, color_of(name)) for name in shown if output.share[name] >= LEAST_SHARE]
            areas += [Chip(f"{head}:"), *seen]
        elif isinstance(output, Tags):
            others.append(Chip(f"{head}: {', '.join(output.present) or 'nothing'}"))
        elif isinstance(output, Embedding):
            numbers = " ".join(f"{value:+.2f}" for value in output.vector[:3].tolist())
            others.append(Chip(f"{head}: {numbers} ... ({output.vector.size} numbers)"))
    yield areas
    yield others
    aged = [Chip(f"{head} {fresh.age_ms:.0f} ms old") for head, fresh in result.freshness.items() if not fresh.ran]
    yield [Chip(f"frame {result.index}"), Chip(f"{result.timestamp:.2f} s"), *aged]
