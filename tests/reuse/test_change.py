"""What changed, against loops over the cells; the estimate of noise, against noise of a known strength."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from sharedbb.reuse.change import (
    LEAST_NOISE,
    LOOKS,
    MOST_NOISE,
    QUIETEST,
    ExactChange,
    NoisyChange,
    blocks,
    largest,
    paste,
)
from sharedbb.reuse.regions import CELL, Mask, grid
from sharedbb.types import Size

SIZES = [Size(16, 16), Size(48, 64), Size(96, 80), Size(736, 32)]
Picture = np.ndarray


def _pictures(size: Size, seed: int = 0) -> tuple[Picture, Picture]:
    """A picture, and one that differs from it in a few pixels by one grey level up to all."""
    dice = np.random.default_rng(seed)
    one = dice.integers(0, 256, (size.height, size.width, 3), np.uint8)
    other = one.copy()
    for _ in range(dice.integers(1, 6)):
        at = dice.integers(size.height), dice.integers(size.width), dice.integers(3)
        other[at] ^= dice.integers(1, 256, dtype=np.uint8)
    return one, other


def _by_cells(one: Picture, other: Picture, side: int) -> np.ndarray:
    """The largest difference of a channel in every block, in loops."""
    rows, columns = one.shape[0] // side, one.shape[1] // side
    found = np.zeros((rows, columns), np.uint8)
    difference = np.abs(one.astype(np.int16) - other)
    for row, column in itertools.product(range(rows), range(columns)):
        found[row, column] = difference[row * side : (row + 1) * side, column * side : (column + 1) * side].max()
    return found


def _halved(picture: Picture) -> Picture:
    height, width, _ = picture.shape
    return cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_exact_look_finds_every_cell_with_a_pixel_that_differs(size: Size) -> None:
    change = ExactChange(size)
    for seed in range(6):
        one, other = _pictures(size, seed)
        mask = change.look((one,), (other,))
        again = change.look((other,), (one,))
        assert mask is not None
        assert again is not None
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, _by_cells(one, other, CELL) > 0)
        assert np.array_equal(mask, again)
    assert change.look((one,), (one.copy(),)) is None


@pytest.mark.parametrize("place", [(0, 0), (15, 16), (16, 15), (47, 63)])
def test_one_grey_level_of_one_channel_is_a_change(place: tuple[int, int]) -> None:
    one = np.full((48, 64, 3), 7, np.uint8)
    other = one.copy()
    other[(*place, 2)] += 1
    mask = ExactChange(Size(48, 64)).look((other,), (one,))
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[place[0] // CELL, place[1] // CELL]]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_noisy_look_finds_the_largest_difference_at_half_the_size(size: Size) -> None:
    change = NoisyChange(size)
    first, _ = _pictures(size, 50)
    change.look((first,))
    change.adopt()
    for seed in range(5):
        picture, _ = _pictures(size, seed)
        levels = change.look((picture,))
        assert levels.shape == grid(size)
        assert np.array_equal(levels, _by_cells(_halved(picture), _halved(first), CELL // 2))
    assert not change.look((first,)).any()


def test_half_the_size_is_the_mean_of_four() -> None:
    size = Size(32, 32)
    change = NoisyChange(size)
    change.look((np.zeros((32, 32, 3), np.uint8),))
    change.adopt()
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[0, 0, 0], picture[17:19, 2:4, 1] = 200, 80  # a quarter of 200; two halves of 80
    assert change.look((picture,)).tolist() == [[50, 0], [40, 0]]


def test_adopting_a_mask_changes_those_cells_only() -> None:
    size = Size(96, 80)
    change = NoisyChange(size)
    (first, _), (second, _), (third, _) = (_pictures(size, seed) for seed in (1, 2, 3))
    change.look((first,))
    change.adopt()
    change.look((second,))
    mask: Mask = np.random.default_rng(0).random(grid(size)) < 0.4
    change.adopt(mask)
    reference = first.copy()
    paste((second,), (reference,), mask)
    assert np.array_equal(change.look((third,)), _by_cells(_halved(third), _halved(reference), CELL // 2))
    change.adopt()
    assert not change.look((third,)).any()
    assert np.array_equal(change.look((second,)) > 0, np.ones(grid(size), np.bool_))


def _noisy(strength: float, frames: int, seed: int = 0) -> list[Picture]:
    """Pictures of a still scene with sensor noise of a standard deviation in grey levels."""
    dice = np.random.default_rng(seed)
    scene = dice.integers(60, 200, (160, 160, 3)).astype(np.float64)
    return [np.rint(scene + dice.normal(0, strength, scene.shape)).clip(0, 255).astype(np.uint8) for _ in range(frames)]


def _expected(pictures: list[Picture]) -> float:
    """What the quieter cells differ by from each frame to the next: the median over the frames."""
    pairs = itertools.pairwise(map(_halved, pictures))
    return float(np.median([np.quantile(_by_cells(one, other, CELL // 2), QUIETEST) for one, other in pairs]))


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.0, 4.0])
def test_noise_of_a_known_strength_is_found(strength: float) -> None:
    pictures = _noisy(strength, 10)
    change = NoisyChange(Size(160, 160))
    for picture in pictures:
        change.look((picture,))
        change.believe()
    expected = min(max(_expected(pictures), LEAST_NOISE), MOST_NOISE)
    assert change.noise == pytest.approx(expected, abs=1.0)
    # Mean of four: half the deviation; difference of two: times √2; largest of 192: about 2.8 deviations.
    assert change.noise == pytest.approx(max(LEAST_NOISE, strength / 2 * 2**0.5 * 2.8), abs=1.5)


def test_a_moving_object_is_not_taken_for_noise() -> None:
    pictures = _noisy(1.0, 10)
    for index, picture in enumerate(pictures):
        picture[:80, 10 * index : 10 * index + 60] = 255 * (index % 2)
    change = NoisyChange(Size(160, 160))
    for picture in pictures:
        change.look((picture,))
        change.believe()
    assert change.noise <= _expected(_noisy(1.0, 10)) + 2


def test_the_estimate_rises_at_once_and_sinks_slowly() -> None:
    change, seen = NoisyChange(Size(160, 160)), []
    for picture in [*_noisy(0, 2 * LOOKS), *_noisy(3, 2 * LOOKS), *_noisy(0, 8 * LOOKS)]:
        change.look((picture,))
        change.believe()
        seen.append(change.noise)
    assert seen[2 * LOOKS - 1] == LEAST_NOISE
    loud = max(seen)
    assert seen[2 * LOOKS + 1] == pytest.approx(loud, abs=2)
    assert loud > 4
    sinking = seen[4 * LOOKS + 1 :]
    assert sinking == sorted(sinking, reverse=True)
    assert loud / 4 < sinking[-1] < loud * 0.75


def test_more_than_the_most_is_not_believed() -> None:
    change = NoisyChange(Size(160, 160))
    for level in (0, 255) * 4:
        change.look((np.full((160, 160, 3), level, np.uint8),))
        change.believe()
    assert change.noise == MOST_NOISE


def test_noise_that_rises_suddenly_is_told_and_not_believed_by_itself() -> None:
    change = NoisyChange(Size(160, 160))
    for picture in _noisy(1, 2 * LOOKS + 1):
        change.look((picture,))
        change.believe()
        assert not change.rises or change.noise > 1.5
    known = change.noise
    change.look((_noisy(1, 1, seed=7)[0],))  # another scene, on a frame that is looked at for noise
    assert change.rises
    assert change.noise == known


def test_a_picture_from_long_ago_says_nothing_about_noise() -> None:
    change = NoisyChange(Size(160, 160))
    for picture in _noisy(1, 2 * LOOKS + 1):
        change.look((picture,))
        change.believe()
    known = change.noise
    change.forget_last()
    for place, picture in enumerate(_noisy(1, 3, seed=7)):
        assert (change.before is not None) == (place > 1)
        change.look((picture,))
        assert (change.before is not None) == (place > 0)
        change.believe()
    assert change.noise == pytest.approx(known, abs=1)


@pytest.mark.parametrize("side", [1, 2, 8, 16])
@pytest.mark.parametrize("shape", [(16, 16, 3), (48, 80, 3), (96, 32, 1)])
def test_the_largest_of_every_block(side: int, shape: tuple[int, int, int]) -> None:
    difference = np.random.default_rng(side).integers(0, 256, shape, np.uint8)
    assert np.array_equal(largest(difference, side), _by_cells(difference, np.zeros(shape, np.uint8), side))


def test_blocks_cut_off_by_the_border_count_as_far_as_they_go() -> None:
    difference = np.random.default_rng(0).integers(0, 256, (19, 37, 3), np.uint8)
    padded = np.zeros((32, 48, 3), np.uint8)
    padded[:19, :37] = difference
    assert np.array_equal(largest(difference, CELL), largest(padded, CELL))


def test_blocks_are_a_view_of_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8)
    found = blocks(picture, 8)
    assert found.shape == (6, 4, 8, 8, 3)
    for row, column in itertools.product(range(6), range(4)):
        assert np.array_equal(found[row, column], picture[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8])
    found[1, 2] = 0
    assert not picture[8:16, 16:24].any()


def test_pasting_copies_the_cells_of_the_mask() -> None:
    size = Size(96, 80)
    (source, _), (target, _) = _pictures(size, 1), _pictures(size, 2)
    mask = np.random.default_rng(3).random(grid(size)) < 0.5
    expected = target.copy()
    for row, column in zip(*np.nonzero(mask), strict=True):
        at = slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL)
        expected[at] = source[at]
    paste((source,), (target,), mask)
    assert np.array_equal(target, expected)
