"""Lines, letters and where labels go: what drawing on a picture of any size needs, in pixels fit for that size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

INK, PAPER = (255, 255, 255), (22, 24, 30)
FONT = cv2.FONT_HERSHEY_SIMPLEX
FULL_SIZE = 27.0  # about the height in pixels of the font's letters at scale 1
MOST_LETTERS = 200  # of a text, before it is measured
STRIP_SHARE = 0.3  # of the picture's height may be covered by the caption
STRIP_LIGHT = 0.3  # of the picture still shines through it


@dataclass(frozen=True, slots=True)
class Rect:
    """Pixels from left to right and top to bottom, the last ones excluded."""

    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: Rect) -> bool:
        """Whether they have a pixel in common."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


@dataclass(frozen=True, slots=True)
class Label:
    """A text in search of a place: the upper left corners to try, best first; ``score`` decides who goes first."""

    text: str
    color: Color
    corners: tuple[tuple[int, int], ...]
    score: float


@dataclass(frozen=True, slots=True)
class Chip:
    """A word of the caption, with a patch of colour before it if it has one."""

    text: str
    color: Color | None = None


class Pen:
    """Draws on one picture, (height, width, 3) uint8 RGB, in place.

    ``line`` is the width of lines. Labels and blocks keep clear of each other: what takes up room is in ``taken``.
    """

    def __init__(self, canvas: Image) -> None:
        self.canvas = canvas
        self.height, self.width = canvas.shape[:2]
        side = min(self.height * 16 / 9, self.width)
        self.line = max(1, round(side / 420))
        self.scale = float(np.clip(9 + side / 110, 10, 30)) / FULL_SIZE
        self.weight = 2 if self.scale > 0.6 else 1
        self.pad = max(2, round(7 * self.scale))
        (_, self._above), self._below = cv2.getTextSize("Agjpqy", FONT, self.scale, self.weight)
        self._below = max(self._below, round(self._above * 0.3))
        self.line_height = self._above + self._below + self.pad
        self.taken: list[Rect] = []

    def text_width(self, text: str) -> int:
        """Width of a text in pixels, without a margin."""
        return int(cv2.getTextSize(text, FONT, self.scale, self.weight)[0][0])

    def cut(self, text: str, width: int) -> str:
        """As much of the text as fits into the width, with dots where something is missing; "" where nothing fits."""
        text = "".join(letter if letter.isprintable() else "?" for letter in text[:MOST_LETTERS])
        text = text.encode("utf-8", "replace").decode()
        if self.text_width(text) <= width:
            return text
        shorter = (text[:length].rstrip() + "..." for length in range(len(text) - 1, 0, -1))
        return next((cut for cut in shorter if self.text_width(cut) <= width), "")

    def write(self, text: str, left: int, top: int, color: Color) -> None:
        """A line of text, its box at (left, top)."""
        place = (left, top + self.pad // 2 + self._above)
        cv2.putText(self.canvas, text, place, FONT, self.scale, color, self.weight, cv2.LINE_AA)

    def fill(self, rect: Rect, color: Color) -> None:
        """A filled rectangle."""
        if rect.left < rect.right and rect.top < rect.bottom:
            corners = (rect.left, rect.top), (rect.right - 1, rect.bottom - 1)
            cv2.rectangle(self.canvas, *corners, color, cv2.FILLED)

    def label(self, label: Label) -> bool:
        """A text on a plate of its colour at the first of its places that is free; False when none is."""
        width, height = self.text_width(label.text) + 2 * self.pad, self.line_height
        if width > self.width or height > self.height:
            return False
        for corner in label.corners:
            left, top = max(0, min(corner[0], self.width - width)), max(0, min(corner[1], self.height - height))
            rect = Rect(left, top, left + width, top + height)
            if not any(rect.overlaps(other) for other in self.taken):
                self.fill(rect, label.color)
                red, green, blue = label.color
                self.write(label.text, left + self.pad, top, PAPER if 3 * red + 6 * green + blue > 1300 else INK)
                self.taken.append(rect)
                return True
        return False

    def labels(self, labels: Iterable[Label]) -> None:
        """All labels for which there is room, the surest first."""
        for label in sorted(labels, key=lambda label: -label.score):
            self.label(label)

    def caption(self, lines: Sequence[Sequence[Chip]]) -> None:
        """Lines of words on a darkened strip along the lower edge, wrapped.

        The strip covers at most 30 % of the picture; of what is too much the last line stays and the first ones.
        """
        rows = [row for line in lines for row in self._wrapped(line)]
        room = int((self.height * STRIP_SHARE - self.pad) // self.line_height)
        if room < 1 or not rows:
            return
        rows = [*rows[: room - 1], rows[-1]] if len(rows) > room else rows
        top = self.height - len(rows) * self.line_height - self.pad
        strip = self.canvas[top:]
        cv2.convertScaleAbs(strip, dst=strip, alpha=STRIP_LIGHT)
        self.taken.append(Rect(0, top, self.width, self.height))
        for number, row in enumerate(rows):
            left, upper = 2 * self.pad, top + self.pad // 2 + number * self.line_height
            for chip in row:
                left = self._chip(chip, left, upper) + 2 * self.pad

    def _wrapped(self, line: Sequence[Chip]) -> list[list[Chip]]:
        """The words in rows that fit the picture's width."""
        room = self.width - 4 * self.pad
        rows: list[list[Chip]] = []
        left = 0
        for chip in line:
            patch = self._patch if chip.color else 0
            text = self.cut(chip.text, room - patch)
            width = patch + self.text_width(text)
            if not rows or left + width > room:
                rows.append([])
                left = 0
            rows[-1].append(Chip(text, chip.color))
            left += width + 2 * self.pad
        return rows

    def _chip(self, chip: Chip, left: int, top: int) -> int:
        """Draw a word; returns where it ends."""
        if chip.color:
            middle = top + (self.pad + self._above + self._below) // 2
            half = self._above // 2
            self.fill(Rect(left, middle - half, left + 2 * half, middle + half), chip.color)
            left += self._patch
        self.write(chip.text, left, top, INK)
        return left + self.text_width(chip.text)

    @property
    def _patch(self) -> int:
        """Width of a patch of colour and the gap after it."""
        return self._above // 2 * 2 + self.pad
