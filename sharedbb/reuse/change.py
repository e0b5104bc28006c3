"""What changed: each frame against the picture that the cached features were computed from, cell by cell."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.reuse.regions import CELL, Mask
from sharedbb.types import Size

Levels = NDArray[np.uint8]
Picture = NDArray[np.uint8]

LEAST_NOISE, MOST_NOISE = 1.0, 12.0  # grey levels within which the estimate is believed
QUIETEST = 0.3  # of the cells are taken to show noise alone
NOISE_MEMORY = 0.1  # how far a look moves the estimate down; up it goes at once
LOOKS = 4  # frames from one look at the noise to the next


class ExactChange:
    """Cells in which any channel of any pixel differs from the reference."""

    def __init__(self, size: Size) -> None:
        self._difference = np.empty((size.height, size.width, 3), np.uint8)

    def look(self, picture: Picture, reference: Picture) -> Mask | None:
        """The mask of cells that differ, None when none does; both pictures are uint8 [H, W, 3]."""
        if np.array_equal(_words(picture), _words(reference)):
            return None
        cv2.absdiff(picture, reference, dst=self._difference)
        return largest(self._difference, CELL) > 0


class NoisyChange:
    """Cells that differ by more than noise does, seen at half the resolution, where a pixel is the mean of four.

    ``look`` gives for each cell the largest difference of a channel from the reference in grey levels, ``adopt`` makes
    cells of the last picture seen the reference. ``noise`` is what the quieter cells differ by from one frame to the
    next: the sensor's and the codec's own doing, estimated as the video goes along.
    """

    def __init__(self, size: Size) -> None:
        self._size = size
        self._shape = (size.height // 2, size.width // 2, 3)
        self._now, self._before, self._reference, self._difference = (np.zeros(self._shape, np.uint8) for _ in range(4))
        self._seen = 0
        self.noise = LEAST_NOISE

    def look(self, picture: Picture) -> Levels:
        """Differences from the reference, uint8 [rows, columns], for a picture uint8 [H, W, 3]."""
        self._now, self._before = self._before, self._now
        height, width, _ = self._shape
        cv2.resize(picture, (width, height), dst=self._now, interpolation=cv2.INTER_AREA)
        if self._seen % LOOKS == 1:
            self._estimate(self._against(self._before))
        self._seen += 1
        return self._against(self._reference)

    @property
    def before(self) -> Picture | None:
        """The picture looked at before the last one, at half the resolution; None when there was none."""
        return self._before if self._seen > 1 else None

    @property
    def small(self) -> Picture:
        """The last picture looked at, at half the resolution."""
        return self._now

    @property
    def reference(self) -> Picture:
        """What the cached features were computed from, at half the resolution."""
        return self._reference

    def adopt(self, mask: Mask | None = None) -> None:
        """Take the last picture looked at as the reference, in the cells of the mask or whole."""
        if mask is None:
            self._reference[...] = self._now
            return
        half = CELL // 2
        rows, columns = np.nonzero(mask)
        blocks(self._reference, half)[rows, columns] = blocks(self._now, half)[rows, columns]

    def _against(self, other: Picture) -> Levels:
        cv2.absdiff(self._now, other, dst=self._difference)
        return largest(self._difference, CELL // 2)

    def _estimate(self, levels: Levels) -> None:
        """Follow the level that the quieter cells stay under: up at once, down slowly, since codecs pulse."""
        quiet = float(np.partition(levels.ravel(), int(levels.size * QUIETEST))[int(levels.size * QUIETEST)])
        quiet = min(max(quiet, LEAST_NOISE), MOST_NOISE)
        self.noise += (quiet - self.noise) * (1.0 if quiet > self.noise else NOISE_MEMORY)


def _words(picture: Picture) -> NDArray[Any]:
    """The picture's bytes, eight at a time where they come out even."""
    flat = picture.reshape(-1)
    return flat.view(np.uint64) if flat.size % 8 == 0 else flat


def largest(difference: Picture, side: int) -> Levels:
    """The largest value in every block of ``side`` pixels: uint8 [rows, columns] of [H, W, C]."""
    height, width, channels = difference.shape
    if height % side or width % side:
        difference = np.pad(difference, ((0, -height % side), (0, -width % side), (0, 0)))
        height, width, _ = difference.shape
    rows, columns = height // side, width // side
    by_rows = difference.reshape(rows, side, width * channels).max(1)
    # Reducing over the first of two axes takes less than half the time of reducing over short rows.
    by_block = np.ascontiguousarray(by_rows.reshape(rows * columns, side * channels).T)
    levels: Levels = by_block.max(0).reshape(rows, columns)
    return levels


def blocks(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A view [rows, columns, side, side, C] of a picture's blocks; it is a whole number of them high and wide."""
    height, width, _ = picture.shape
    return picture.reshape(height // side, side, width // side, side, -1).swapaxes(1, 2)


def paste(source: Picture, target: Picture, mask: Mask) -> None:
    """Copy the mask's cells from one picture to another, both uint8 [H, W, 3]."""
    rows, columns = np.nonzero(mask)
    blocks(target, CELL)[rows, columns] = blocks(source, CELL)[rows, columns]
