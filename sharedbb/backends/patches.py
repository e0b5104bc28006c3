"""Tiles of features: cut out of a map in one indexing operation, compared with what is there, put back in another.

Maps and batches are [N, H, W, C] in memory, tiles [n, h, w, C]. Rows and columns say in cells of a map where each tile
begins. A block is a square of a map's cells that is replaced as one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

# A float32 map [h, w, C] of the key frame as it lies now.
Warp = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Indices = NDArray[np.intp]
Accepted = NDArray[np.bool_]


class ArrayPatches:
    """A map or batch in a NumPy array; ``bfloat16`` says that 16-bit integers hold numbers of that type."""

    def __init__(self, array: NDArray[Any], *, bfloat16: bool = False) -> None:
        self.array = array
        self._bfloat16 = bfloat16
        self._views: dict[tuple[int, int], NDArray[Any]] = {}

    def take(self, rows: Indices, columns: Indices, into: ArrayPatches) -> None:
        """Copy the tiles that begin at ``rows``, ``columns`` into the first places of a batch."""
        _, height, width, _ = into.array.shape
        into.array[: len(rows)] = self._windows(height, width)[0][rows, columns]

    def put(
        self,
        rows: Indices,
        columns: Indices,
        batch: ArrayPatches,
        batch_rows: Indices,
        batch_columns: Indices,
        dirty: Accepted,
        block: int,
        tolerance: float,
    ) -> Accepted:
        """Replace the dirty blocks in which a number moved by more than ``tolerance``; returns which ones did.

        ``batch_rows``, ``batch_columns``: where in each tile of the batch its kept part begins; a batch of one holds
        the parts of all. ``dirty``: bool [n, blocks down, blocks right], over each tile's part; blocks of ``block``
        cells a side.
        """
        count, down, right = dirty.shape
        target = self._windows(down * block, right * block)[0]
        old = target[rows, columns]
        which = np.arange(count) if len(batch.array) > 1 else 0
        new = batch._windows(down * block, right * block)[which, batch_rows, batch_columns]
        by_rows = (count, down, block, right, -1)
        accepted = self._moved(old.reshape(by_rows), new.reshape(by_rows), tolerance) & dirty
        tile, i, j = np.nonzero(accepted)
        if len(tile):
            by_block = new.reshape(count, down, block, right, block, -1).swapaxes(2, 3)
            self._windows(block, block)[0][rows[tile] + i * block, columns[tile] + j * block] = by_block[tile, i, j]
        return accepted

    def spread(self, other: ArrayPatches, block: int) -> NDArray[np.float32]:
        """The largest difference from another map of the same shape in every block of cells, [blocks down, right]."""
        difference = np.abs(self._numbers(self.array[0]) - self._numbers(other.array[0])).max(-1)
        down, right = difference.shape[0] // block, difference.shape[1] // block
        whole = difference[: down * block, : right * block]
        largest: NDArray[np.float32] = whole.reshape(down, block, right, block).max((1, 3))
        return largest

    def move(self, warp: Warp, into: ArrayPatches) -> None:
        """Write this map, moved along, into another one of its shape."""
        moved = warp(self._numbers(self.array[0]))
        if self._bfloat16:
            bits = moved.view(np.uint32)
            into.array[0] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # rounded to nearest even
        else:
            into.array[0] = moved

    def _windows(self, height: int, width: int) -> NDArray[Any]:
        """A view [N, H − height + 1, W − width + 1, height, width, C] of all tiles of that size."""
        found = self._views.get((height, width))
        if found is None:
            count, rows, columns, channels = self.array.shape
            batch, down, right, deep = self.array.strides
            shape = (count, rows - height + 1, columns - width + 1, height, width, channels)
            found = as_strided(self.array, shape, (batch, down, right, down, right, deep))
            self._views[height, width] = found
        return found

    def _moved(self, old: NDArray[Any], new: NDArray[Any], tolerance: float) -> Accepted:
        """bool [n, down, right] of [n, down, rows, right, numbers]: where any number moved by more than tolerated."""
        if tolerance == 0:
            differs: Accepted = (old != new).any(-1).any(2)
            return differs
        difference = self._numbers(new) - self._numbers(old)
        moved: Accepted = np.abs(difference, out=difference).max(-1).max(2) > tolerance
        return moved

    def _numbers(self, tiles: NDArray[Any]) -> NDArray[np.float32]:
        if not self._bfloat16:
            return tiles.astype(np.float32, copy=False)
        widened = tiles.astype(np.uint32)
        widened <<= 16
        return widened.view(np.float32)
