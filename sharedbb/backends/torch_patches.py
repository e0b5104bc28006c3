"""Tiles of features held by torch, on the CPU or a GPU; see ``sharedbb.backends.patches``."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedbb.backends.patches import Accepted, Indices, Warp


class TensorPatches:
    """A map or batch in a tensor [N, H, W, C]: a view of the channels_last tensor that the network reads."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @torch.inference_mode()
    def take(self, rows: Indices, columns: Indices, into: TensorPatches) -> None:
        """Copy the tiles that begin at ``rows``, ``columns`` into the first places of a batch."""
        _, height, width, _ = into.tensor.shape
        into.tensor[: len(rows)] = self._windows(height, width)[0][self._at(rows), self._at(columns)]

    @torch.inference_mode()
    def put(
        self,
        rows: Indices,
        columns: Indices,
        batch: TensorPatches,
        batch_rows: Indices,
        batch_columns: Indices,
        dirty: Accepted,
        block: int,
        tolerance: float,
    ) -> Accepted:
        """Replace the dirty blocks in which a number moved by more than ``tolerance``; returns which ones did."""
        count, down, right = dirty.shape
        target = self._windows(down * block, right * block)[0]
        at = self._at(rows), self._at(columns)
        old = target[at]
        which: Tensor | int = torch.arange(count, device=self.tensor.device) if len(batch.tensor) > 1 else 0
        new = batch._windows(down * block, right * block)[which, self._at(batch_rows), self._at(batch_columns)]
        moved = (new != old) if tolerance == 0 else ((new.float() - old.float()).abs() > tolerance)
        by_block = moved.any(-1).reshape(count, down, block, right, block).any(4).any(2)
        chosen = by_block & torch.from_numpy(dirty).to(by_block.device)
        accepted: Accepted = chosen.cpu().numpy()
        if accepted.any():
            cells = chosen.repeat_interleave(block, 1).repeat_interleave(block, 2)[..., None]
            target[at] = torch.where(cells, new, old)
        return accepted

    def spread(self, other: TensorPatches, block: int) -> NDArray[np.float32]:
        """The largest difference from another map of the same shape in every block of cells, [blocks down, right]."""
        difference = (self.tensor[0].float() - other.tensor[0].float()).abs().amax(-1)
        down, right = difference.shape[0] // block, difference.shape[1] // block
        whole = difference[: down * block, : right * block]
        largest: NDArray[np.float32] = whole.reshape(down, block, right, block).amax((1, 3)).cpu().numpy()
        return largest

    @torch.inference_mode()
    def move(self, warp: Warp, into: TensorPatches) -> None:
        """Write this map, moved along, into another one of its shape."""
        moved = warp(self.tensor[0].float().cpu().numpy())
        into.tensor[0] = torch.from_numpy(moved).to(into.tensor)

    def _windows(self, height: int, width: int) -> Tensor:
        count, rows, columns, channels = self.tensor.shape
        batch, down, right, deep = self.tensor.stride()
        shape = (count, rows - height + 1, columns - width + 1, height, width, channels)
        return self.tensor.as_strided(shape, (batch, down, right, down, right, deep))

    def _at(self, places: Indices) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(places)).to(self.tensor.device)
