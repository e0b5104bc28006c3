"""What changed: each frame against the picture that the cached features were computed from, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.reuse.regions import CELL, Mask
from sharedbb.types import Size

Levels = NDArray[np.uint8]
Array = NDArray[np.uint8]

# The planes of a picture as the network reads it: [H, W, 3] RGB alone, or luma [H, W, 1] and others [H/2, W/2, 1].
Picture = Sequence[Array]

LEAST_NOISE, MOST_NOISE = 1.0, 12.0  # grey levels within which the estimate is believed
QUIETEST = 0.3  # of the cells are taken to show noise alone
NOISE_MEMORY = 0.1  # how far a look moves the estimate down; up it goes at once
LOOKS = 4  # frames from one look at the noise to the next
SUDDEN = 2.0  # times the noise: what a look finds beyond may be another scene


class ExactChange:
    """Cells in which any value of any plane differs from the reference."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._differences: dict[tuple[int, ...], Array] = {}

    def look(self, picture: Picture, reference: Picture) -> Mask | None:
        """The mask of cells that differ, None when none does."""
        found: Mask | None = None
        for now, then in zip(picture, reference, strict=True):
            if np.array_equal(_words(now), _words(then)):
                continue
            difference = self._differences.setdefault(now.shape, np.empty(now.shape, np.uint8))
            cv2.absdiff(now, then, dst=difference)
            mask = largest(difference, CELL // (self._size.height // now.shape[0])) > 0
            found = mask if found is None else found | mask
        return found


class NoisyChange:
    """Cells that differ by more than noise does, seen at half the resolution, where a pixel is the mean of four.

    ``look`` gives for each cell the largest difference of a channel from the reference in grey levels, ``adopt`` makes
    cells of the last picture seen the reference. ``noise`` is what the quieter cells differ by from one frame to the
    next: the sensor's and the codec's own doing, estimated as the video goes along, wherever ``believe`` is called.
    """

    def __init__(self, size: Size) -> None:
        self._size = size
        self._shape = (size.height // 2, size.width // 2, 3)
        self._now, self._before, self._reference, self._difference = (np.zeros(self._shape, np.uint8) for _ in range(4))
        self._seen = 0
        self._sample: float | None = None
        self.noise = LEAST_NOISE

    def look(self, picture: Picture) -> Levels:
        """Differences from the reference, uint8 [rows, columns]."""
        self._now, self._before = self._before, self._now
        halve(picture, self._now)
        self._sample = _quiet(self._against(self._before)) if self._seen and self._seen % LOOKS == 1 else None
        self._seen += 1
        return self._against(self._reference)

    def forget_last(self) -> None:
        """The last picture seen is not the one before the next."""
        self._seen = 0

    @property
    def before(self) -> Array | None:
        """The picture looked at before the last one, at half the resolution; None when there was none."""
        return self._before if self._seen > 1 else None

    @property
    def small(self) -> Array:
        """The last picture looked at, at half the resolution."""
        return self._now

    @property
    def reference(self) -> Array:
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

    def _against(self, other: Array) -> Levels:
        cv2.absdiff(self._now, other, dst=self._difference)
        return largest(self._difference, CELL // 2)

    @property
    def rises(self) -> bool:
        """Whether the last look found far more noise than is known: or another scene."""
        return self._sample is not None and self._sample > SUDDEN * self.noise

    def believe(self) -> None:
        """Follow the level that the quieter cells stay under: up at once, down slowly, since codecs pulse."""
        if self._sample is not None:
            self.noise += (self._sample - self.noise) * (1.0 if self._sample > self.noise else NOISE_MEMORY)


def _quiet(levels: Levels) -> float:
    """The level that the quieter cells stay under."""
    at = int(levels.size * QUIETEST)
    return min(max(float(np.partition(levels.ravel(), at)[at]), LEAST_NOISE), MOST_NOISE)


def halve(picture: Picture, into: Array) -> None:
    """Write a picture at half its resolution, its three channels together, into uint8 [H/2, W/2, 3].

    A picture may have this size already, chroma at half of it.
    """
    height, width, _ = into.shape
    if len(picture) == 1:
        cv2.resize(picture[0], (width, height), dst=into, interpolation=cv2.INTER_AREA)
        return
    halves = [
        plane if plane.shape[0] == height else cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA)
        for plane in picture
    ]
    cv2.merge(halves, into)


def _words(plane: Array) -> NDArray[Any]:
    """A plane's bytes, eight at a time where they come out even."""
    flat = plane.reshape(-1)
    return flat.view(np.uint64) if flat.size % 8 == 0 else flat


def largest(difference: Array, side: int) -> Levels:
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


def blocks(plane: Array, side: int) -> Array:
    """A view [rows, columns, side, side, C] of a plane's blocks; it is a whole number of them high and wide."""
    height, width, _ = plane.shape
    return plane.reshape(height // side, side, width // side, side, -1).swapaxes(1, 2)


def paste(source: Picture, target: Picture, mask: Mask) -> None:
    """Copy the mask's cells from one picture to another; the first plane has the picture's full size."""
    rows, columns = np.nonzero(mask)
    for given, own in zip(source, target, strict=True):
        side = CELL * own.shape[0] // source[0].shape[0]
        blocks(own, side)[rows, columns] = blocks(given, side)[rows, columns]
