"""When frames are looked at, what follows for the thresholds, and that a refresh comes everywhere in time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sharedbb.reuse.audit import (
    COMFORT,
    DRIFT,
    FARTHER,
    FIRST_AUDITS,
    FIRST_HORIZON,
    FIRST_PAUSE,
    FLOORS,
    GROSS,
    LONGEST_CLOCK,
    LONGEST_HORIZON,
    LONGEST_PAUSE,
    LOOSER,
    LOOSEST,
    SHORTEST_CLOCK,
    TIGHTER,
    TIGHTEST,
    Canary,
    Trust,
    Walk,
)

BUDGET = 0.02
COMFORTABLE = {"a": 0.0, "b": BUDGET * COMFORT / 2}
SLIGHT, GROSSLY = {"a": 0.0, "b": BUDGET * 1.5}, {"a": 0.0, "b": BUDGET * 2 * GROSS}


def _turns(share: float, frames: int, seed: int = 0) -> list[int]:
    """The frames looked at, from 1, when all are of one kind."""
    canary = Canary(share, seed)
    return [frame for frame in range(1, frames + 1) if canary.turn("partial")]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_share_of_frames_looked_at_is_the_one_asked_for(share: float) -> None:
    frames = 20_000
    found = len([frame for frame in _turns(share, frames) if frame not in FIRST_AUDITS])
    deviation = math.sqrt(frames * share * (1 - share))
    assert abs(found - frames * share) < 4 * deviation


def test_the_first_frames_of_every_kind_are_looked_at_by_plan() -> None:
    assert _turns(1e-9, 1000) == list(FIRST_AUDITS)
    assert _turns(1.0, 50) == list(range(1, 51))
    assert _turns(0.0, 1000) == []
    canary = Canary(1e-9, 0)
    found = [(kind, at) for at in range(1, 21) for kind in ("partial", "warped") if canary.turn(kind)]
    assert found == [(kind, at) for at in FIRST_AUDITS if at <= 20 for kind in ("partial", "warped")]


def test_the_dice_are_the_seeds_own() -> None:
    assert _turns(0.1, 500, seed=1) == _turns(0.1, 500, seed=1)
    assert _turns(0.1, 500, seed=1) != _turns(0.1, 500, seed=2)
    gaps = np.diff(_turns(0.1, 500))
    assert len(set(gaps.tolist())) > 5  # not a beat that a repeating scene could fall in with


def test_a_broken_budget_tightens_and_a_kept_one_loosens() -> None:
    trust = Trust(BUDGET, scale=1.0, clock=4)
    assert not trust.learn(GROSSLY)
    assert (trust.scale, trust.clock) == (pytest.approx(TIGHTER), 3)
    assert trust.learn(COMFORTABLE)
    assert (trust.scale, trust.clock) == (pytest.approx(TIGHTER * LOOSER), 4)
    assert (trust.audits, trust.broken) == (2, 1)
    assert TIGHTER * LOOSER < 1  # one broken budget outweighs one that is kept


def test_the_clock_learns_only_where_something_waited_for_it() -> None:
    trust = Trust(BUDGET, clock=4)
    assert trust.learn(COMFORTABLE, waited=False)
    assert (trust.scale, trust.clock) == (pytest.approx(LOOSER), 4)


def test_slight_errors_break_the_budget_when_they_last() -> None:
    """On average, that is: a single audit says little; between comfort and the budget nothing changes."""
    trust = Trust(BUDGET)
    kept = [trust.learn(SLIGHT) for _ in range(30)]
    assert kept[0]
    assert not any(kept[15:])
    between = Trust(BUDGET)
    for _ in range(60):
        assert between.learn({"a": BUDGET * (COMFORT + 1) / 2})
    scale = between.scale
    assert between.learn({"a": BUDGET * (COMFORT + 1) / 2})
    assert between.scale == scale
    assert between.error["a"] == pytest.approx(BUDGET * (COMFORT + 1) / 2, rel=0.01)


def test_what_noise_does_by_itself_is_no_error_of_reuse() -> None:
    heads = {"a": BUDGET * 0.5, "b": BUDGET * 3}
    strict, fair = Trust(BUDGET), Trust(BUDGET)
    for floor in (0.0, BUDGET * 2, BUDGET * 4):
        assert not fair.knows_floor("b")
        fair.allow({"a": 0.0, "b": floor})
    assert fair.floor == {"a": 0.0, "b": pytest.approx(BUDGET * 2)}
    kept = [(strict.learn(heads), fair.learn(heads)) for _ in range(30)]
    assert kept[-1] == (False, True)
    for _ in range(FLOORS):
        fair.allow({"a": 0.0})
    assert fair.knows_floor("a")
    assert not fair.knows_floor("c")
    fair.allow({"c": BUDGET})
    assert fair.floor["c"] == BUDGET
    assert not strict.has_looked
    for _ in range(FLOORS):
        assert not strict.knows_floor("d")
        strict.allow({"d": None})  # an answer that cannot tell is not asked for ever
    assert (strict.floor, strict.has_looked, strict.knows_floor("d")) == ({}, True, True)


def test_an_audit_that_compared_nothing_says_nothing() -> None:
    trust = Trust(BUDGET)
    for _ in range(5):
        assert trust.learn({})
    assert (trust.scale, trust.clock, trust.audits, trust.horizon) == (1.0, 2, 0, FIRST_HORIZON)


def test_the_worst_head_decides() -> None:
    trust = Trust(BUDGET)
    assert not trust.learn({"a": 0.0, "b": 1.0, "c": 0.0})
    assert trust.learn({})


def test_what_adds_up_shortens_the_time_to_the_next_frame_in_full() -> None:
    """In proportion to how far above the budget it came, and leaves thresholds and clock alone."""
    trust = Trust(budget=0.02)
    trust._judged["road"] = 0.04  # as after many audits like these
    for _ in range(8):
        trust.learn({"road": 0.04}, age=DRIFT + 20)
    assert trust.horizon < FIRST_HORIZON
    assert (trust.scale, trust.clock) == (Trust(0.02).scale, Trust(0.02).clock)
    known = trust.horizon
    trust._judged.clear()
    for _ in range(20):
        trust.learn({"road": 0.0}, age=known - 1)
    assert trust.horizon == known
    trust.learn({"road": 0.0}, age=known)
    assert trust.horizon == int(FARTHER * known)
    for _ in range(40):
        trust.learn({"road": 0.0}, age=LONGEST_HORIZON)
    assert trust.horizon == LONGEST_HORIZON


def test_an_error_soon_after_a_frame_in_full_is_the_thresholds_doing() -> None:
    trust = Trust(budget=0.02)
    for _ in range(4):
        trust.learn({"road": 0.1}, age=DRIFT)
    assert trust.horizon == FIRST_HORIZON
    assert trust.scale < 1


def test_thresholds_have_limits() -> None:
    trust = Trust(BUDGET)
    for _ in range(50):
        trust.learn(COMFORTABLE)
    assert (trust.scale, trust.clock) == (LOOSEST, LONGEST_CLOCK)
    for _ in range(50):
        trust.learn(GROSSLY)
    assert (trust.scale, trust.clock) == (TIGHTEST, SHORTEST_CLOCK)
    keys = Trust(BUDGET, longest=3, shortest=2)
    for _ in range(50):
        keys.learn(COMFORTABLE)
    assert keys.clock == 3
    for _ in range(50):
        keys.learn(GROSSLY)
    assert keys.clock == 2


def _tightest(trust: Trust) -> Trust:
    while (trust.scale, trust.clock) != (TIGHTEST, trust.shortest):
        trust.learn(GROSSLY)
        assert trust.pause == 0
    return trust


def _paused_frames(trust: Trust) -> int:
    """For how many frames from now on nothing is reused."""
    for frame in range(2 * LONGEST_PAUSE):
        trust.tick()
        if not trust.is_paused:
            return frame
    raise AssertionError("it never ends")


@pytest.mark.parametrize("shortest", [1, 2])
def test_what_the_tightest_do_not_keep_is_given_up_for_longer_and_longer(shortest: int) -> None:
    trust = _tightest(Trust(BUDGET, shortest=shortest))
    found = []
    for _ in range(6):
        trust.learn(GROSSLY)
        found.append(_paused_frames(trust))
        assert not trust.is_paused
    assert found == [min(FIRST_PAUSE * 2**step, LONGEST_PAUSE) for step in range(6)]
    trust.learn(COMFORTABLE)
    while trust.pause == 0:
        trust.learn(GROSSLY)
    assert _paused_frames(trust) == FIRST_PAUSE


def test_where_nothing_may_wait_waiting_is_tried_again_later_and_later() -> None:
    """Frames that are all computed in full are not audited: what was learnt of them would stand for good."""
    trust, found = Trust(BUDGET, clock=2), []
    for _ in range(4):
        trust.learn(GROSSLY)
        assert trust.clock == 1
        frames = 0
        while trust.clock == 1:
            trust.tick()
            trust.spared_nothing()
            frames += 1
        assert trust.clock == 2
        assert trust.probes
        found.append(frames)
    assert found == [FIRST_PAUSE * 2**step for step in range(4)]
    trust.learn(COMFORTABLE)
    assert not trust.probes
    trust.learn(GROSSLY)
    trust.learn(GROSSLY)
    for _ in range(FIRST_PAUSE):
        assert trust.clock == 1
        trust.spared_nothing()
    assert trust.clock == 2


SHARES = st.one_of(st.floats(0.002, 1.0), st.sampled_from([0.005, 1 / 49, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 1.0]))


@settings(max_examples=120, deadline=None)
@given(SHARES, st.integers(1, 30), st.integers(1, 30))
@example(1 / 49, 8, 3)
def test_the_walk_comes_to_every_cell_in_time(share: float, rows: int, columns: int) -> None:
    """However one looks: no cell waits for more than 1 / share frames from one visit to the next."""
    walk, limit = Walk(share, rows, columns), math.ceil(1 / share - 1e-9)
    waited = np.zeros((rows, columns), np.intp)
    taken = 0
    frames = 3 * limit
    for _ in range(frames):
        waited += 1
        mask = walk.turn()
        if mask is not None:
            assert mask.shape == (rows, columns)
            assert mask.dtype == np.bool_
            waited[mask] = 0
            taken += int(mask.sum())
        assert waited.max() < limit
    assert taken / (rows * columns) <= frames * share + 1 + 1e-6


def test_no_share_is_no_walk() -> None:
    walk = Walk(0.0, 4, 4)
    assert all(walk.turn() is None for _ in range(1000))


def test_the_walk_goes_in_bands_and_rests_between() -> None:
    walk = Walk(0.05, 8, 3)
    turns = [walk.turn() for _ in range(20)]
    at = [frame for frame, mask in enumerate(turns, 1) if mask is not None]
    assert at == [5, 10, 15, 20]
    assert [np.flatnonzero(turns[frame - 1].any(1)).tolist() for frame in at] == [[0, 1], [2, 3], [4, 5], [6, 7]]  # type: ignore[union-attr]
