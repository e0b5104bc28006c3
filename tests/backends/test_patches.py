"""Tiles cut out and put back, in NumPy and torch, against slices in a loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from sharedbb.backends.patches import ArrayPatches
from sharedbb.backends.torch_patches import TensorPatches

Map = np.ndarray


@dataclass(frozen=True)
class Kind:
    """A way to hold numbers: made of float32 values that it holds exactly, and read back as such."""

    name: str

    def patches(self, values: Map) -> Any:
        """A map or batch [N, H, W, C]."""
        if self.name == "float32":
            return ArrayPatches(values.astype(np.float32))
        if self.name == "float16":
            return ArrayPatches(values.astype(np.float16))
        if self.name == "bfloat16":
            return ArrayPatches((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16), bfloat16=True)
        dtype = {"torch": torch.float32, "torch bfloat16": torch.bfloat16, "torch float64": torch.float64}[self.name]
        nchw = torch.from_numpy(values.astype(np.float32)).to(dtype).permute(0, 3, 1, 2)
        held = nchw.contiguous(memory_format=torch.channels_last)
        return TensorPatches(held.permute(0, 2, 3, 1))

    def values(self, patches: Any) -> Map:
        """What it holds, as float32."""
        if isinstance(patches, TensorPatches):
            return patches.tensor.float().numpy()
        if self.name == "bfloat16":
            return (patches.array.astype(np.uint32) << 16).view(np.float32)
        return patches.array.astype(np.float32)


KINDS = [Kind(name) for name in ("float32", "float16", "bfloat16", "torch", "torch bfloat16", "torch float64")]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def _numbers(dice: np.random.Generator, shape: tuple[int, ...]) -> Map:
    """Values of few bits, so that every type holds them, and their differences, exactly."""
    return dice.integers(-64, 65, shape).astype(np.float32) / 8


def _put(
    old: Map, places: Any, batch: Map, batch_places: Any, dirty: np.ndarray, block: int, tolerance: float
) -> tuple[Map, np.ndarray]:
    """The map after it, and the blocks taken, in loops."""
    result, accepted = old.copy(), np.zeros_like(dirty)
    for tile, (row, column) in enumerate(zip(*places, strict=True)):
        which = tile if len(batch) > 1 else 0
        for down, right in zip(*np.nonzero(dirty[tile]), strict=True):
            y, x = row + down * block, column + right * block
            y0, x0 = batch_places[0][tile] + down * block, batch_places[1][tile] + right * block
            new = batch[which, y0 : y0 + block, x0 : x0 + block]
            if np.abs(new - old[0, y : y + block, x : x + block]).max() > tolerance:
                accepted[tile, down, right] = True
                result[0, y : y + block, x : x + block] = new
    return result, accepted


@kinds
@pytest.mark.parametrize("count", [1, 3, 5])
def test_taking_fills_the_first_places_of_a_batch(kind: Kind, count: int) -> None:
    dice = np.random.default_rng(count)
    values, filled = _numbers(dice, (1, 13, 17, 3)), _numbers(dice, (5, 6, 4, 3))
    rows, columns = dice.integers(0, 13 - 6 + 1, count), dice.integers(0, 17 - 4 + 1, count)
    rows[0], columns[0] = 7, 13
    whole, batch = kind.patches(values), kind.patches(filled)
    whole.take(rows, columns, batch)
    expected = filled.copy()
    for tile, (row, column) in enumerate(zip(rows, columns, strict=True)):
        expected[tile] = values[0, row : row + 6, column : column + 4]
    assert np.array_equal(kind.values(batch), expected)
    assert np.array_equal(kind.values(whole), values)


def test_the_picture_is_taken_as_it_is() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 16, 20, 3), np.uint8)
    batches = np.zeros((2, 8, 8, 3), np.uint8), torch.zeros((2, 8, 8, 3), dtype=torch.uint8)
    rows, columns = np.array([0, 8]), np.array([3, 12])
    ArrayPatches(picture).take(rows, columns, ArrayPatches(batches[0]))
    TensorPatches(torch.from_numpy(picture)).take(rows, columns, TensorPatches(batches[1]))
    assert np.array_equal(batches[0], np.stack([picture[0, :8, 3:11], picture[0, 8:, 12:]]))
    assert np.array_equal(batches[1].numpy(), batches[0])


@kinds
@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("tolerance", [0.0, 4.0])
def test_putting_takes_the_dirty_blocks_that_moved(kind: Kind, block: int, tolerance: float) -> None:
    dice = np.random.default_rng(block)
    side = 8
    old = _numbers(dice, (1, 24, 32, 2))
    rows, columns = np.array([0, 16, 8]), np.array([24, 0, 8])
    batch_rows, batch_columns = np.array([0, 4, 2]), np.array([4, 0, 1])
    batch = _numbers(dice, (4, 12, 12, 2))
    for tile in range(3):  # the same numbers as there are, some of them moved, in some blocks
        own = np.s_[batch_rows[tile] : batch_rows[tile] + side, batch_columns[tile] : batch_columns[tile] + side]
        there = old[0, rows[tile] : rows[tile] + side, columns[tile] : columns[tile] + side]
        some = np.kron(dice.random((2, 2)) < 0.7, dice.random((4, 4)) < 0.4)[..., None]
        batch[tile][own] = there + dice.choice([0.125, 4.0, 4.125, -6], there.shape) * some
    dirty = dice.random((3, side // block, side // block)) < 0.7
    arguments = (rows, columns), batch, (batch_rows, batch_columns), dirty, block, tolerance
    expected, accepted = _put(old, *arguments)
    patches = kind.patches(old)
    found = patches.put(rows, columns, kind.patches(batch), batch_rows, batch_columns, dirty, block, tolerance)
    assert found.dtype == np.bool_
    assert np.array_equal(found, accepted)
    assert np.array_equal(kind.values(patches), expected)
    assert 0 < accepted.sum() < dirty.sum()


@kinds
def test_moving_by_just_the_tolerance_keeps_the_old_numbers(kind: Kind) -> None:
    old = np.zeros((1, 4, 4, 2), np.float32)
    batch = np.zeros((1, 4, 4, 2), np.float32)
    batch[0, 0, 0, 1], batch[0, 3, 3, 0], batch[0, 0, 3, 0] = -0.5, 0.5, 0.75
    patches, at, dirty = kind.patches(old), (np.array([0]), np.array([0])), np.ones((1, 2, 2), np.bool_)
    accepted = patches.put(*at, kind.patches(batch), *at, dirty, 2, 0.5)
    assert accepted.tolist() == [[[False, True], [False, False]]]
    assert np.array_equal(np.argwhere(kind.values(patches)), [[0, 0, 3, 0]])
    again = patches.put(*at, kind.patches(batch), *at, dirty, 2, 0.25)
    assert again.tolist() == [[[True, False], [False, True]]]


@kinds
def test_a_batch_of_one_holds_the_parts_of_all(kind: Kind) -> None:
    dice = np.random.default_rng(0)
    old, new = _numbers(dice, (1, 12, 16, 3)), _numbers(dice, (1, 12, 16, 3))
    rows, columns = np.array([0, 4, 8, 8]), np.array([12, 4, 0, 4])
    dirty = np.ones((4, 1, 1), np.bool_)
    expected, accepted = _put(old, (rows, columns), new, (rows, columns), dirty, 4, 0.0)
    patches = kind.patches(old)
    found = patches.put(rows, columns, kind.patches(new), rows, columns, dirty, 4, 0.0)
    assert accepted.all()
    assert np.array_equal(found, accepted)
    assert np.array_equal(kind.values(patches), expected)


@kinds
@pytest.mark.parametrize("tolerance", [0.0, 2.0])
def test_tiles_that_overlap_agree(kind: Kind, tolerance: float) -> None:
    """Two tiles at the far border, one of them pushed back into the picture, with the same numbers where both lie."""
    dice = np.random.default_rng(0)
    old, new = _numbers(dice, (1, 8, 12, 2)), _numbers(dice, (1, 8, 12, 2))
    new[0, :, 4:6] = old[0, :, 4:6]
    rows, columns = np.array([0, 0]), np.array([0, 4])
    batch = np.stack([new[0, :, :8], new[0, :, 4:]])
    blocks = dice.random((4, 6)) < 0.6
    dirty = np.stack([blocks[:, :4], blocks[:, 2:]])
    zero = np.zeros(2, np.intp)
    expected, accepted = _put(old, (rows, columns), batch, (zero, zero), dirty, 2, tolerance)
    patches = kind.patches(old)
    found = patches.put(rows, columns, kind.patches(batch), zero, zero, dirty, 2, tolerance)
    assert np.array_equal(found, accepted)
    assert np.array_equal(kind.values(patches), expected)
    unmoved = ~np.repeat(np.repeat(blocks, 2, 0), 2, 1)
    assert np.array_equal(kind.values(patches)[0][unmoved], old[0][unmoved])


@kinds
def test_nothing_dirty_changes_nothing(kind: Kind) -> None:
    dice = np.random.default_rng(0)
    old, batch = _numbers(dice, (1, 8, 8, 2)), _numbers(dice, (2, 4, 4, 2))
    patches, at, zero = kind.patches(old), (np.array([0, 4]), np.array([4, 0])), np.zeros(2, np.intp)
    accepted = patches.put(*at, kind.patches(batch), zero, zero, np.zeros((2, 2, 2), np.bool_), 2, 0.0)
    assert not accepted.any()
    assert np.array_equal(kind.values(patches), old)


@kinds
@pytest.mark.parametrize("block", [1, 3, 4])
def test_the_spread_is_the_largest_difference_of_every_whole_block(kind: Kind, block: int) -> None:
    dice = np.random.default_rng(block)
    one, other = _numbers(dice, (1, 9, 14, 3)), _numbers(dice, (1, 9, 14, 3))
    expected = np.zeros((9 // block, 14 // block), np.float32)
    for row, column in np.ndindex(expected.shape):
        at = np.s_[0, row * block : (row + 1) * block, column * block : (column + 1) * block]
        expected[row, column] = np.abs(one[at] - other[at]).max()
    found = kind.patches(one).spread(kind.patches(other), block)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
