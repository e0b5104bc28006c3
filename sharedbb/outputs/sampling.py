"""Reading a low-resolution network map at every source pixel: bilinear, half-pixel centres, edges clamped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sharedbb.types import Geometry


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """For every source pixel along one axis, the two map cells it lies between and how far towards the second.

    ``low`` and ``high``: int64 cell indices, ascending; ``fraction``: float32 in 0–1. Read-only, shared.
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    fraction: NDArray[np.float32]

    @property
    def cells(self) -> slice:
        """The cells that any source pixel reads: letterbox bars and cropped overhang lie outside."""
        return slice(int(self.low[0]), int(self.high[-1]) + 1)


@lru_cache(maxsize=32)
def axes(geometry: Geometry, height: int, width: int) -> tuple[Axis, Axis]:
    """How source rows and columns lie in a map of ``height`` × ``width`` cells that covers the network's input."""
    source, network = geometry.source, geometry.network
    rows = _axis(source.height, geometry.scale_y, geometry.offset_y, height / network.height, height)
    columns = _axis(source.width, geometry.scale_x, geometry.offset_x, width / network.width, width)
    return rows, columns


def resample(plane: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """A map [h, w] over the network's input, read at every source pixel: float32 [H, W], contiguous."""
    rows, columns = axes(geometry, *plane.shape)
    plane = plane[rows.cells]
    low, high = plane[:, columns.low], plane[:, columns.high]
    wide = low + (high - low) * columns.fraction
    first = rows.low[0]
    result: NDArray[np.float32] = wide[rows.low - first]
    step = wide[rows.high - first]
    step -= result
    step *= rows.fraction[:, None]
    result += step
    return result


def _axis(pixels: int, scale: float, offset: float, cells_per_pixel: float, cells: int) -> Axis:
    centres = (np.arange(pixels) + 0.5) * scale + offset
    place = np.clip(centres * cells_per_pixel - 0.5, 0, cells - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, cells - 1)
    fraction = (place - low).astype(np.float32)
    for array in (low, high, fraction):
        array.setflags(write=False)
    return Axis(low, high, fraction)
