"""Weights as symbols of a byte each, and back: grids of integers, codebooks, runs of zeros."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sharedbb.coding.form import FLOAT, Coding
from sharedbb.errors import ArtifactError

LONGEST = 255
"""A run of zeros that goes on: so many zeros and no value behind them."""

_LEAST_SCALE = 2.0**-100
_SCALE_BITS = 16


def grid(rows: NDArray[np.float32], coding: Coding) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Scale and zero point of each row of a matrix, as columns, from its least and its greatest value.

    A scale has 16 significant bits, rounded down. So its multiples by up to 8 bits are exact in float32, both ends of
    the grid are reached, and the grid of the rounded weights is the same grid again.
    """
    low = rows.min(axis=1, initial=0.0).astype(np.float64)
    high = rows.max(axis=1, initial=0.0).astype(np.float64)
    if coding.symmetric:
        high = np.maximum(high, -low)
        low = -high
    mantissa, exponent = np.frexp((high - low) / _greatest(coding))
    scale = np.ldexp(np.floor(np.ldexp(mantissa, _SCALE_BITS)), exponent - _SCALE_BITS)
    scale = np.maximum(scale, _LEAST_SCALE)
    zero = np.floor(-low / scale + 0.5)
    return scale.astype(FLOAT)[:, None], zero.astype(np.uint8)[:, None]


def to_grid(
    rows: NDArray[np.float32], scale: NDArray[np.float32], zero: NDArray[np.uint8], coding: Coding
) -> NDArray[np.uint8]:
    """The symbols of a matrix on the grid of each row: multiples of its scale, counted from its zero point.

    Halves are rounded down, as the zero point is rounded up: the least value must keep its symbol 0.
    """
    steps = np.ceil(rows / scale.astype(np.float64) - 0.5)
    return np.clip(steps + zero, 0, _greatest(coding)).astype(np.uint8)


def from_grid(symbols: NDArray[np.uint8], scale: NDArray[np.float32], zero: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The values of a matrix of symbols: ``to_grid`` the other way."""
    steps = symbols.astype(np.int16) - zero.astype(np.int16)
    return steps.astype(FLOAT) * scale


def _greatest(coding: Coding) -> int:
    """The greatest symbol; symmetric grids do without the last, to have as many steps below zero as above."""
    return (1 << coding.bits) - (2 if coding.symmetric else 1)


def from_codebook(name: str, indices: NDArray[np.uint8], book: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """The values of indices. Raises ArtifactError when there is no codebook, or one is beyond it."""
    if book is None or (indices.size and int(indices.max()) >= book.size):
        raise ArtifactError(f"coded weights: {name!r} points outside its codebook; do not trust this file")
    return book[indices]


def runs_before(kept: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """How many zeros stand before each kept place of ``size``; ``LONGEST`` is a part of a longer run.

    The zeros behind the last place are told by as many whole parts as there are.
    """
    zeros = np.diff(kept, prepend=-1) - 1
    ends = np.cumsum(zeros // LONGEST + 1)
    behind = size - 1 - int(kept[-1]) if kept.size else size
    runs = np.full((int(ends[-1]) if kept.size else 0) + behind // LONGEST, LONGEST, np.uint8)
    runs[ends - 1] = zeros % LONGEST
    return runs


def places_behind(name: str, runs: NDArray[np.uint8], size: int) -> NDArray[np.int64]:
    """The kept places: ``runs_before`` the other way. Raises ArtifactError when the runs are of another size."""
    ends = np.cumsum(runs.astype(np.int64) + (runs < LONGEST))
    behind = size - (int(ends[-1]) if ends.size else 0)
    if not 0 <= behind < LONGEST:
        raise ArtifactError(f"coded weights: the runs of zeros of {name!r} do not fill it; do not trust this file")
    places: NDArray[np.int64] = ends[runs < LONGEST] - 1
    return places
