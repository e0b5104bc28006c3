"""From dirty cells to what a segment computes again: nothing, a few equal tiles in one batch, or all of it.

Everything here is counted in pixels of the network's input. A mask is a bool array over a grid of 16×16 of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.types import Size

CELL = 16  # height and width of a mask's cell

Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]


def grid(size: Size) -> tuple[int, int]:
    """Rows and columns of a mask over a picture; the last ones may be cut off by its border."""
    return -(-size.height // CELL), -(-size.width // CELL)


@dataclass(frozen=True, slots=True)
class Margin:
    """How far beyond the pixels of an output the input is read, on each side."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """What a local segment needs to be computed in parts.

    ``inputs`` and ``outputs``: the stride of each, ``margins``: how far each input is read beyond an output. Crops and
    tiles begin at multiples of ``align``.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    margins: tuple[Margin, ...]
    align: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Tiling:
        """What ``to_dict`` gave, after JSON made lists of the tuples."""
        margins = tuple(Margin(**margin) for margin in stored["margins"])
        return cls(tuple(stored["inputs"]), tuple(stored["outputs"]), margins, stored["align"])

    @property
    def step(self) -> int:
        """What the origins of tiles are multiples of: whole cells of the mask, aligned."""
        return math.lcm(self.align, CELL)

    def ring(self) -> Margin:
        """The margin around a tile that its crop has: the widest of all inputs, aligned."""
        widest = (max(getattr(margin, side) for margin in self.margins) for side in ("top", "bottom", "left", "right"))
        return Margin(*(-(-width // self.align) * self.align for width in widest))

    def crop(self, size: int, picture: Size) -> Size:
        """Height and width of the crop that tiles of ``size`` are computed from; never larger than the picture."""
        ring = self.ring()
        height, width = size + ring.top + ring.bottom, size + ring.left + ring.right
        return Size(min(height, picture.height), min(width, picture.width))

    def reached(self, changed: Sequence[Mask | None]) -> Mask | None:
        """The cells of the outputs that changed cells of the inputs can touch; None where nothing changed."""
        found: Mask | None = None
        for mask, margin in zip(changed, self.margins, strict=True):
            if mask is None:
                continue
            grown = _grown(mask, margin)
            found = grown if found is None else found | grown
        return None if found is None else whole_cells(found, max(self.outputs))


def _grown(mask: Mask, margin: Margin) -> Mask:
    """Every cell that reads, within the margin, a cell of the mask."""
    up, down = -(-margin.top // CELL), -(-margin.bottom // CELL)
    left, right = -(-margin.left // CELL), -(-margin.right // CELL)
    if not (up or down or left or right):
        return mask
    kernel = np.ones((up + down + 1, left + right + 1), np.uint8)
    # An output reads from ``top`` above it to ``bottom`` below it.
    grown = cv2.dilate(mask.view(np.uint8), kernel, anchor=(left, up), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return grown.view(np.bool_)


def whole_cells(mask: Mask, stride: int) -> Mask:
    """The mask with every cell of a feature of ``stride`` that has a dirty part dirty as a whole."""
    if stride <= CELL:
        return mask
    factor = stride // CELL
    rows, columns = mask.shape
    padded = np.pad(mask, ((0, -rows % factor), (0, -columns % factor)))
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor).any((1, 3))
    return blocks.repeat(factor, 0).repeat(factor, 1)[:rows, :columns]


@dataclass(frozen=True, slots=True)
class Price:
    """What one batch costs: up to ``count`` tiles of ``size`` pixels a side in ``milliseconds``, with all around it."""

    size: int
    count: int
    milliseconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Cover:
    """Tiles that together cover a mask: which bucket (its place among the prices), where they begin, and the time."""

    bucket: int
    rows: Indices
    columns: Indices
    milliseconds: float = 0.0


def cover(mask: Mask, prices: Sequence[Price], step: int, picture: Size, dense_ms: float) -> Cover | None:
    """The cheapest tiles that cover a mask; None when computing everything costs less.

    ``prices``: the buckets that there are, in any order. ``step``: multiples at which tiles may begin.
    """
    best: tuple[float, int, Indices, Indices] | None = None
    limit, dirty = dense_ms, int(np.count_nonzero(mask))
    for size in sorted({price.size for price in prices}):
        able = [(price, at) for at, price in enumerate(prices) if price.size == size]
        most = max(int(min(limit / price.milliseconds, mask.size)) * price.count for price, _ in able)
        if dirty > most * (size // CELL) ** 2:
            continue
        placed = _placed(mask, size // CELL, max(1, step // CELL), most)
        if placed is None:
            continue
        needed = len(placed[0])
        milliseconds, at = min((-(-needed // price.count) * price.milliseconds, at) for price, at in able)
        if milliseconds < limit:
            limit = milliseconds
            best = (milliseconds, at, *placed)
    if best is None:
        return None
    milliseconds, bucket, rows, columns = best
    size = prices[bucket].size
    last_row, last_column = max(0, picture.height - size), max(0, picture.width - size)
    return Cover(bucket, np.minimum(rows * CELL, last_row), np.minimum(columns * CELL, last_column), milliseconds)


def _placed(mask: Mask, side: int, step: int, most: int) -> tuple[Indices, Indices] | None:
    """Squares of ``side`` cells that cover the mask, strip by strip from the top; None for more than ``most`` of them.

    Each begins at the first dirty cell that none before covers, down to a multiple of ``step``.
    """
    dirty_rows = np.flatnonzero(mask.any(1)).tolist()
    rows: list[int] = []
    columns: list[int] = []
    covered = -1
    for row in dirty_rows:
        if row < covered:
            continue
        top = row - row % step
        covered = top + side
        reached = -1
        for column in np.flatnonzero(mask[row:covered].any(0)).tolist():
            if column < reached:
                continue
            left = column - column % step
            reached = left + side
            rows.append(top)
            columns.append(left)
            if len(rows) > most:
                return None
    return np.array(rows, np.intp), np.array(columns, np.intp)
