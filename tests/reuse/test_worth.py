"""Pauses of looking for what changed: after crowded frames, and where parts cost as much as everything."""

from __future__ import annotations

import pytest

from sharedbb.reuse.worth import CROWDS, ENOUGH, LONGEST_PAUSE, MOST_PATIENCE, Worth


def _pause(worth: Worth) -> int:
    """Frames until looking goes on."""
    frames = 0
    while worth.is_paused:
        worth.tick()
        frames += 1
    return frames


def _frames(worth: Worth, partial_ms: float, dense_ms: float = 10.0) -> None:
    worth.judge("dense", dense_ms, crowded=False)
    for _ in range(ENOUGH):
        worth.judge("partial", partial_ms, crowded=False)


def test_a_row_of_crowded_frames_is_followed_by_a_pause_as_long() -> None:
    worth = Worth()
    began = [worth.judge("dense", 10, crowded=True) for _ in range(CROWDS)]
    assert began == [False] * (CROWDS - 1) + [True]
    assert _pause(worth) == CROWDS
    for _ in range(2 * LONGEST_PAUSE):
        worth.judge("dense", 10, crowded=True)
    assert _pause(worth) == LONGEST_PAUSE


def test_a_frame_in_parts_between_them_ends_the_row_and_one_that_was_not_crowded_does_not() -> None:
    worth = Worth()
    for how, crowded in (("dense", True), ("dense", True), ("partial", False), ("dense", True), ("dense", False)):
        assert not worth.judge(how, 10, crowded=crowded)
    assert not worth.judge("dense", 10, crowded=True)
    assert worth.judge("dense", 10, crowded=True)


@pytest.mark.parametrize(("partial_ms", "pauses"), [(9.0, False), (9.8, True)])
def test_parts_must_cost_less_than_everything(partial_ms: float, pauses: bool) -> None:
    worth = Worth()
    _frames(worth, partial_ms)
    assert worth.is_paused == pauses


def test_every_further_pause_is_twice_as_long_until_parts_pay_again() -> None:
    worth, lengths = Worth(), []
    for _ in range(7):
        _frames(worth, 12)
        lengths.append(_pause(worth))
    assert lengths == [min(MOST_PATIENCE, LONGEST_PAUSE * 2**n) for n in range(7)]
    for _ in range(10):
        _frames(worth, 1)
    _frames(worth, 200)
    assert _pause(worth) == LONGEST_PAUSE


def test_a_frame_that_makes_buffers_ready_says_nothing_and_warped_ones_neither() -> None:
    worth = Worth()
    worth.begin()
    worth.judge("dense", 1000, crowded=False)
    worth.judge("warped", 1000, crowded=False)
    _frames(worth, 12)
    assert worth.is_paused
