"""Answers drawn on their picture: areas, boxes, points, depth, and words, readable from 320 to 1920 pixels."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.outputs import DepthMap, Detections, Embedding, Keypoints, SegmentationMap, Tags
from sharedbb.types import FrameResult

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

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
AREA_OPACITY = 0.42
INK, PAPER = (255, 255, 255), (22, 24, 30)


@cache
def color_of(name: str) -> Color:
    """The colour of a class, RGB: the same in every picture."""
    if name in KNOWN:
        return KNOWN[name]
    hue = sum((position + 1) * byte for position, byte in enumerate(name.encode())) * 0.618034 % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(result: FrameResult) -> Image:
    """The frame with every head's answer on it: (height, width, 3) uint8 RGB at source size, a new array.

    Areas lie under boxes and points; depth stands in a corner; tags, embeddings and the ages of answers that did not
    run on this frame are words along the lower edge. Answers of other types are left out.
    """
    canvas = result.frame.rgb().copy()
    pen = _Pen(canvas)
    for kind in (SegmentationMap, Detections, Keypoints, DepthMap):
        for output in result.outputs.values():
            if isinstance(output, kind):
                _DRAWN[kind](pen, output)
    pen.caption(_words(result))
    return canvas


class _Pen:
    """Line widths and letters in proportion to the picture."""

    def __init__(self, canvas: Image) -> None:
        self.canvas = canvas
        self.height, self.width = canvas.shape[:2]
        side = max(min(self.height * 16 / 9, self.width), 64)
        self.line = max(1, round(side / 420))
        self.scale = float(np.clip(side / 1150, 0.34, 1.6))
        self.weight = 2 if self.scale > 0.8 else 1

    def measure(self, text: str) -> tuple[int, int]:
        """Width and height of a text's plate."""
        (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, self.scale, self.weight)
        pad = self._pad()
        return width + 2 * pad, height + below + pad

    def plate(self, text: str, left: int, top: int, background: Color) -> None:
        """A text on a filled rectangle, kept within the picture."""
        width, height = self.measure(text)
        left = int(np.clip(left, 0, max(0, self.width - width)))
        top = int(np.clip(top, 0, max(0, self.height - height)))
        cv2.rectangle(self.canvas, (left, top), (left + width, top + height), background, cv2.FILLED)
        light = 0.3 * background[0] + 0.59 * background[1] + 0.11 * background[2]
        ink = PAPER if light > 140 else INK
        baseline = (left + self._pad(), top + height - self._pad() - self.weight)
        cv2.putText(self.canvas, text, baseline, cv2.FONT_HERSHEY_SIMPLEX, self.scale, ink, self.weight, cv2.LINE_AA)

    def caption(self, lines: list[str]) -> None:
        """Lines along the lower edge, on a darkened strip; a line that is too wide is cut."""
        shown = [self._fitted(_plain(line)) for line in lines if line]
        if not shown:
            return
        height = self.measure("Ag")[1]
        top = max(0, self.height - height * len(shown) - self._pad())
        self.canvas[top:] = (self.canvas[top:] * np.float32(0.35)).astype(np.uint8)
        for row, line in enumerate(shown):
            place = (self._pad() * 2, min(self.height - 2, top + height * (row + 1) - self._pad()))
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(self.canvas, line, place, font, self.scale, INK, self.weight, cv2.LINE_AA)

    def _fitted(self, line: str) -> str:
        if self.measure(line)[0] <= self.width - 2 * self._pad():
            return line
        while line and self.measure(line + "...")[0] > self.width - 2 * self._pad():
            line = line[:-1]
        return line + "..."

    def _pad(self) -> int:
        return max(2, round(6 * self.scale))


def _plain(text: str) -> str:
    """OpenCV's letters are ASCII."""
    return text.encode("ascii", "replace").decode()


def _areas(pen: _Pen, answer: SegmentationMap) -> None:
    classes = answer.classes
    if len(answer.names) == 2:  # something or not: only the something is drawn
        mask = classes == 1
        pen.canvas[mask] = color_of(answer.names[1])
        return
    colors = np.array([color_of(name) for name in answer.names], np.uint8)
    tinted = cv2.addWeighted(pen.canvas, 1 - AREA_OPACITY, colors[classes], AREA_OPACITY, 0)
    pen.canvas[...] = tinted


def _boxes(pen: _Pen, answer: Detections) -> None:
    order = np.argsort(answer.scores)  # the surest is drawn last, over the others
    for position in order:
        left, top, right, bottom = (round(float(value)) for value in answer.boxes[position])
        color = color_of(answer.names[int(answer.classes[position])])
        cv2.rectangle(pen.canvas, (left, top), (right, bottom), PAPER, pen.line + 2, cv2.LINE_AA)
        cv2.rectangle(pen.canvas, (left, top), (right, bottom), color, pen.line, cv2.LINE_AA)
    for position in order:
        left, top = (round(float(value)) for value in answer.boxes[position, :2])
        name = answer.names[int(answer.classes[position])]
        text = _plain(f"{name} {answer.scores[position]:.2f}")
        pen.plate(text, left, top - pen.measure(text)[1], color_of(name))


def _points(pen: _Pen, answer: Keypoints) -> None:
    for (x, y), name in zip(answer.points, answer.names, strict=True):
        centre = (round(float(x)), round(float(y)))
        cv2.circle(pen.canvas, centre, pen.line * 3 + 1, PAPER, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(pen.canvas, centre, pen.line * 3, color_of(name), cv2.FILLED, cv2.LINE_AA)
        pen.plate(_plain(name), centre[0] + pen.line * 5, centre[1], color_of(name))


def _depth(pen: _Pen, answer: DepthMap) -> None:
    """Near is bright, on a logarithmic scale, in the upper right corner."""
    metres = answer.metres
    width = max(16, round(pen.width * 0.28))
    height = max(9, round(width * pen.height / pen.width))
    log = np.log(np.maximum(cv2.resize(metres, (width, height), interpolation=cv2.INTER_AREA), 1e-3))
    low, high = float(log.min()), float(log.max())
    nearness = np.rint((high - log) / max(high - low, 1e-6) * 255).astype(np.uint8)
    inset = cv2.cvtColor(cv2.applyColorMap(nearness, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    margin = pen.line * 4
    top, left = min(margin, pen.height - height), max(0, pen.width - width - margin)
    pen.canvas[top : top + height, left : left + width] = inset
    cv2.rectangle(pen.canvas, (left, top), (left + width - 1, top + height - 1), INK, pen.line)
    pen.plate(f"{np.exp(low):.1f} to {np.exp(high):.0f} m", left, top + height, PAPER)


_DRAWN: Mapping[type, Callable[[_Pen, Any], None]] = {
    SegmentationMap: _areas,
    Detections: _boxes,
    Keypoints: _points,
    DepthMap: _depth,
}


def _words(result: FrameResult) -> list[str]:
    """Tags and embeddings, then the frame's number, time and what on it is not fresh."""
    lines = []
    for name, output in result.outputs.items():
        if isinstance(output, Tags):
            lines.append(f"{name}: {', '.join(output.present) or 'nothing'}")
        elif isinstance(output, Embedding):
            lines.append(f"{name}: {output.vector.size} numbers, first {output.vector[0]:+.3f}")
    aged = [f"{name} {fresh.age_ms:.0f} ms old" for name, fresh in result.freshness.items() if not fresh.ran]
    lines.append("  ".join([f"frame {result.index}", f"{result.timestamp:.2f} s", *aged]))
    return lines
