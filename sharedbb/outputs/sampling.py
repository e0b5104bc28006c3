"""Reading a low-resolution network map at every source pixel: bilinear, half-pixel centres, edges clamped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
    y, x = np.arange(source.height) + 0.5, np.arange(source.width) + 0.5
    rows = _axis(y, geometry.scale_y, geometry.offset_y, height / network.height, height)
    columns = _axis(x, geometry.scale_x, geometry.offset_x, width / network.width, width)
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


def read_at_cells(
    cells: NDArray[np.float32], geometry: Geometry, other: Geometry, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """A map read where another one's cells lie that show the picture; both are of the same source.

    ``cells``: float32 [h, w] or [h, w, C] over the network's input, placed by ``geometry``; ``other`` and ``shape``
    (height, width) are the other map's. Bilinear between the centres of cells, as at source pixels.
    """
    rows, columns = _cell_axes(geometry, cells.shape[0], cells.shape[1], other, *shape)
    channels = (1,) * (cells.ndim - 2)
    wide = _between(cells[:, columns.low], cells[:, columns.high], columns.fraction.reshape(1, -1, *channels))
    return _between(wide[rows.low], wide[rows.high], rows.fraction.reshape(-1, 1, *channels))


def _between(low: NDArray[np.float32], high: NDArray[np.float32], fraction: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        mixed: NDArray[np.float32] = low + (high - low) * fraction
    return np.where(low == high, low, mixed)  # also where both are infinite


@lru_cache(maxsize=32)
def _cell_axes(
    geometry: Geometry, height: int, width: int, other: Geometry, rows: int, columns: int
) -> tuple[Axis, Axis]:
    """How the cells of another map that show the picture lie in one of ``height`` × ``width`` cells."""
    seen_rows, seen_columns = axes(other, rows, columns)
    y = _in_source(seen_rows.cells, other.network.height / rows, other.scale_y, other.offset_y, other.source.height)
    x = _in_source(seen_columns.cells, other.network.width / columns, other.scale_x, other.offset_x, other.source.width)
    network = geometry.network
    return (
        _axis(y, geometry.scale_y, geometry.offset_y, height / network.height, height),
        _axis(x, geometry.scale_x, geometry.offset_x, width / network.width, width),
    )


def _in_source(cells: slice, side: float, scale: float, offset: float, pixels: int) -> NDArray[np.float64]:
    """The centres of cells along one axis in source pixels; those beyond the picture's edge on it."""
    centres: NDArray[np.float64] = ((np.arange(cells.start, cells.stop) + 0.5) * side - offset) / scale
    return centres.clip(0, pixels)


def _axis(points: NDArray[np.floating[Any]], scale: float, offset: float, cells_per_pixel: float, cells: int) -> Axis:
    """Where source points along one axis lie between cells."""
    place = np.clip((points * scale + offset) * cells_per_pixel - 0.5, 0, cells - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, cells - 1)
    fraction = (place - low).astype(np.float32)
    for array in (low, high, fraction):
        array.setflags(write=False)
    return Axis(low, high, fraction)
