"""Which size a frame is computed at: never too late for a smaller one, never back and forth."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharedbb.runtime.sizes import LONGEST_HOLD, Evidence, Outlook, Rules, Standing, after, choose

SIZES = 3


def _standing(at: int = 0, age: int = 100, hold: int = 10) -> Standing:
    return Standing(at, age, hold)


def _loads(*loads: float, breaks: bool = False) -> Outlook:
    return Outlook(loads, tuple(1.1 * load for load in loads), breaks)


def _audits(*, breaks: bool = False, agrees: bool = False) -> Outlook:
    return Outlook((0.0,) * SIZES, (0.0,) * SIZES, breaks, agrees)


@pytest.mark.parametrize(
    ("standing", "outlook", "expected"),
    [
        (_standing(), _loads(9, 5, 2), 0),
        (_standing(), _loads(11, 5, 2), 1),
        (_standing(age=1), _loads(11, 10.5, 2), 2),
        (_standing(), _loads(13, 12, 11), 2),
        (_standing(at=2), _loads(13, 12, 11), 2),
        (_standing(at=2), _loads(9, 5, 2), 1),
        (_standing(at=2), _loads(7, 5, 2), 0),
        (_standing(at=2, age=9), _loads(7, 5, 2), 2),
        (_standing(at=2, age=9), _loads(7, 5, 2, breaks=True), 0),
        (_standing(at=1), _loads(11, 5, 2, breaks=True), 1),
    ],
)
def test_a_deadline_takes_the_largest_size_that_keeps_it(standing: Standing, outlook: Outlook, expected: int) -> None:
    """Down at once; up with a margin for all heads and after the hold, which a broken budget ends."""
    assert choose(Rules(hold=10, deadline_ms=10.0), standing, outlook) == expected


@pytest.mark.parametrize(
    ("standing", "outlook", "expected"),
    [
        (_standing(), _audits(), 0),
        (_standing(), _audits(agrees=True), 1),
        (_standing(age=9), _audits(agrees=True), 0),
        (_standing(at=1), _audits(agrees=True), 2),
        (_standing(at=2), _audits(), 2),
        (_standing(at=2, age=1), _audits(breaks=True), 0),
        (_standing(at=1, age=1), _audits(breaks=True, agrees=True), 0),
    ],
)
def test_without_a_deadline_audits_decide(standing: Standing, outlook: Outlook, expected: int) -> None:
    assert choose(Rules(hold=10), standing, outlook) == expected


def _sizes(rules: Rules, outlooks: list[Outlook]) -> list[int]:
    standing, sizes = Standing(0, 0, rules.hold), []
    for outlook in outlooks:
        size = choose(rules, standing, outlook)
        standing = after(rules, standing, size)
        sizes.append(size)
    return sizes


def _changes(sizes: list[int]) -> list[tuple[int, int, int]]:
    """Frame, size before and size after, of every change."""
    return [(at, before, now) for at, (before, now) in enumerate(pairwise(sizes), 1) if before != now]


@st.composite
def _hostile(draw: st.DrawFn) -> list[Outlook]:
    """Loads that hover around the deadline of 10 ms, in spells of a few frames, and audits that say anything."""
    dice = random.Random(draw(st.integers(0, 2**32 - 1)))
    calm, outlooks = draw(st.integers(1, 20)), []
    while len(outlooks) < 400:
        first = dice.choice([2.0, 7.2, 9.9, 10.1, 14.0, 40.0])
        loads = (first, first * dice.uniform(0.4, 1), first * dice.uniform(0.1, 0.4))
        breaks, agrees = dice.random() < 0.1, dice.random() < 0.5
        outlooks += [Outlook(loads, tuple(load * 1.1 for load in loads), breaks, agrees)] * dice.randint(1, calm)
    return outlooks


@settings(max_examples=60, deadline=None)
@given(outlooks=_hostile(), hold=st.integers(1, 50))
def test_no_frame_is_late_when_a_smaller_size_fits(outlooks: list[Outlook], hold: int) -> None:
    sizes = _sizes(Rules(hold=hold, deadline_ms=10.0), outlooks)
    for size, outlook in zip(sizes, outlooks, strict=True):
        assert outlook.loads[size] <= 10 or size == SIZES - 1


@settings(max_examples=60, deadline=None)
@given(outlooks=_hostile(), hold=st.integers(1, 50), deadline=st.sampled_from([None, 10.0]))
def test_sizes_do_not_oscillate(outlooks: list[Outlook], hold: int, deadline: float | None) -> None:
    """What nothing forces comes at least ``hold`` frames after the last change."""
    rules = Rules(hold=hold, deadline_ms=deadline)
    last = 0
    for at, before, now in _changes(_sizes(rules, outlooks)):
        late = deadline is not None and outlooks[at].loads[before] > deadline
        assert at - last >= hold or late or outlooks[at].breaks
        assert now < before or late or deadline is None
        last = at


def test_changes_that_must_be_undone_each_time_become_rare() -> None:
    """A load that is small enough to climb at the smaller size and always too large above."""
    rules = Rules(hold=10, deadline_ms=10.0)
    standing, changes = Standing(0, 0, rules.hold), []
    for frame in range(20_000):
        size = choose(rules, standing, _loads(12, 5) if standing.at == 0 else _loads(7, 5))
        if size != standing.at:
            changes.append(frame)
        standing = after(rules, standing, size)
    gaps = [later - earlier for earlier, later in pairwise(changes)][1::2]
    assert gaps[:6] == [1] * 6  # one frame at the larger size
    assert [later - earlier for earlier, later in pairwise(changes)][0:12:2] == [10, 20, 40, 80, 160, 320]
    assert standing.hold == LONGEST_HOLD * rules.hold
    assert len(changes) < 2 * 20_000 / (LONGEST_HOLD * rules.hold) + 12


def test_a_change_that_lasted_brings_the_hold_back() -> None:
    rules = Rules(hold=10)
    mistaken = after(rules, Standing(1, 12, 10, tried=True), 0)
    assert mistaken == Standing(0, 1, 20)
    again = after(rules, Standing(0, 20, 20), 1)
    assert again == Standing(1, 1, 20, tried=True)
    assert after(rules, Standing(1, 39, 20, tried=True), 0).hold == 40
    assert after(rules, Standing(1, 40, 20, tried=True), 0).hold == 10


def test_evidence_is_the_average_of_the_latest_audits_of_the_worst_head() -> None:
    evidence = Evidence()
    assert not evidence.breaks(0.0)
    for _ in range(3):
        assert not evidence.agrees(0.02)
        evidence.learn({"road": 0.01, "depth": 0.02})
    assert evidence.agrees(0.02)
    evidence.learn({"depth": 0.03})
    assert evidence.error == pytest.approx({"road": 0.01, "depth": 0.025})
    assert evidence.breaks(0.02)
    evidence.learn({"depth": 0.01})
    assert evidence.agrees(0.02)


def test_heads_that_cannot_tell_never_agree() -> None:
    evidence = Evidence()
    for _ in range(5):
        evidence.learn({})
    assert not evidence.agrees(1.0)
    assert not evidence.breaks(0.0)
