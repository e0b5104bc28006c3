"""Ways that are not taken for a while: looking after crowded frames, and what costs as much as everything."""

from __future__ import annotations

import pytest

from sharedbb.reuse.worth import CROWDS, ENOUGH, LONGEST_PAUSE, MOST_PATIENCE, WAYS, Way, Worth


def _pause(worth: Worth) -> int:
    """Frames until looking goes on."""
    frames = 0
    while worth.is_crowded:
        worth.tick()
        frames += 1
    return frames


def _off(worth: Worth, way: Way) -> int:
    """Frames until a way is taken again."""
    frames = 0
    while not worth.pays(way):
        worth.tick()
        frames += 1
    return frames


def _frames(worth: Worth, milliseconds: float, dense_ms: float = 10.0, way: Way = "partial", cycle: int = 0) -> None:
    worth.judge("dense", dense_ms, crowded=False)
    for _ in range(ENOUGH):
        worth.judge(way, milliseconds, crowded=False, cycle=cycle)


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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("milliseconds", "pays"), [(9.0, True), (9.8, False)])
def test_a_way_must_cost_less_than_everything(way: Way, milliseconds: float, pays: bool) -> None:
    worth = Worth()
    _frames(worth, milliseconds, way=way)
    assert worth.pays(way) == pays
    assert all(worth.pays(other) for other in WAYS if other != way)
    assert not worth.is_crowded


@pytest.mark.parametrize("way", WAYS)
def test_every_further_pause_is_twice_as_long_until_it_pays_again(way: Way) -> None:
    worth, lengths = Worth(), []
    for _ in range(7):
        _frames(worth, 12, way=way)
        lengths.append(_off(worth, way))
    assert lengths == [min(MOST_PATIENCE, LONGEST_PAUSE * 2**n) for n in range(7)]
    for _ in range(10):
        _frames(worth, 1, way=way)
    _frames(worth, 200, way=way)
    assert _off(worth, way) == LONGEST_PAUSE


@pytest.mark.parametrize(("partial_ms", "pays"), [(3.6, True), (4.2, False)])
def test_parts_must_cost_less_than_moving_along_where_that_is_done(partial_ms: float, pays: bool) -> None:
    """A key frame of 10 ms and three moved ones of 2 ms come to 4 ms a frame."""
    worth = Worth()
    _frames(worth, 2.0, way="warped", cycle=4)
    _frames(worth, partial_ms, cycle=4)
    assert worth.pays("partial") == pays
    alone = Worth()
    _frames(alone, 2.0, way="warped")
    _frames(alone, partial_ms)
    assert alone.pays("partial")


def test_a_frame_that_makes_buffers_ready_says_nothing() -> None:
    worth = Worth()
    worth.begin()
    worth.judge("dense", 1000, crowded=False)
    _frames(worth, 12)
    assert not worth.pays("partial")
