"""Plans: clocks, ages, priorities and the deadline, as pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedbb.program import HeadPlan, Program, Stage, StageFacts
from sharedbb.runtime.schedule import Moment, plan, predicted
from sharedbb.types import Size


def _stage(name: str, heads: Sequence[str], cost: float) -> Stage:
    facts = StageFacts(name, ("input",), (f"{name}_f",), tuple(heads), 4, ((1,),), (), True, 1, 1, 1, cost)
    return Stage(facts, object())


def _program(heads: Sequence[HeadPlan], cost: dict[str, float], deadline: float | None = None) -> Program:
    """A trunk that all need, and a stage for each head, with the given milliseconds."""
    names = [head.name for head in heads]
    stages = (_stage("trunk", names, cost["trunk"]), *(_stage(name, [name], cost[name]) for name in names))
    return Program(
        name="p",
        size=Size(32, 32),
        stages=stages,
        heads={head.name: head for head in heads},
        device=object(),
        intake=lambda buffer: lambda frame: None,
        deadline_ms=deadline,
    )


def _head(name: str, **clock: float | None) -> HeadPlan:
    return HeadPlan(name, {"output": f"{name}_f"}, lambda raw, geometry: raw, **clock)


def _play(program: Program, frames: int, step: float = 0.04, pace: float = 1.0) -> list[tuple[str, ...]]:
    last: dict[str, tuple[int, float]] = {}
    ran = []
    for frame in range(frames):
        found = plan(program, Moment(frame, frame * step, last, pace))
        last.update(dict.fromkeys(found.due, (frame, frame * step)))
        ran.append(found.due)
    return ran


COST = {"trunk": 5.0, "a": 1.0, "b": 2.0, "c": 4.0}


def test_without_a_deadline_clocks_alone_decide() -> None:
    program = _program([_head("a"), _head("b", every=2), _head("c", every=3)], COST)
    assert _play(program, 7) == [("a", "b", "c"), ("a",), ("a", "b"), ("a", "c"), ("a", "b"), ("a",), ("a", "b", "c")]


def test_a_deadline_runs_what_fits_and_nobody_starves() -> None:
    program = _program([_head("a"), _head("b"), _head("c")], COST, deadline=8.5)
    ran = _play(program, 12)
    assert ran[0] == ("a", "b", "c")
    for due in ran[1:]:
        assert predicted(program.stages_for(frozenset(due))) <= 9.0  # one head alone may take 9 with its trunk
        assert due
    for name in "abc":
        assert sum(name in due for due in ran) >= 4


def test_what_is_left_out_is_said() -> None:
    program = _program([_head("a", priority=1), _head("b"), _head("c")], COST, deadline=8.5)
    found = plan(program, Moment(1, 0.04, dict.fromkeys("abc", (0, 0.0))))
    assert found.due == ("a", "b")
    assert found.dropped == ("c",)
    assert found.predicted_ms == 8.0
    assert [one.facts.name for one in found.stages] == ["trunk", "a", "b"]


def test_priority_goes_first() -> None:
    program = _program([_head("a"), _head("b"), _head("c", priority=5)], COST, deadline=9.5)
    assert all("c" in due for due in _play(program, 6))


def test_a_slower_machine_runs_less() -> None:
    program = _program([_head("a", priority=2), _head("b", priority=1), _head("c")], COST, deadline=12.0)
    last = dict.fromkeys("abc", (0, 0.0))
    assert plan(program, Moment(1, 0.04, last)).due == ("a", "b", "c")
    assert plan(program, Moment(1, 0.04, last, pace=1.3)).due == ("a", "b")
    assert plan(program, Moment(1, 0.04, last, pace=100.0)).due == ("a",)


def test_asked_heads_run_whatever_the_clock_and_deadline() -> None:
    program = _program([_head("a", every=5), _head("b"), _head("c")], COST, deadline=1.0)
    last = dict.fromkeys("abc", (0, 0.0))
    assert plan(program, Moment(1, 0.04, last), ["c", "a", "c"]).due == ("a", "c")
    assert plan(program, Moment(1, 0.04, last), []).stages == ()


@given(
    costs=st.lists(st.floats(0.01, 100), min_size=4, max_size=4),
    deadline=st.floats(0.1, 200),
    ages=st.lists(st.one_of(st.none(), st.floats(1, 500)), min_size=3, max_size=3),
    every=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    priorities=st.lists(st.integers(-2, 2), min_size=3, max_size=3),
    steps=st.lists(st.floats(0.001, 0.3), min_size=5, max_size=40),
    paces=st.lists(st.floats(0.1, 50), min_size=40, max_size=40),
)
def test_no_answer_is_ever_older_than_allowed(
    costs: list[float],
    deadline: float,
    ages: list[float | None],
    every: list[int],
    priorities: list[int],
    steps: list[float],
    paces: list[float],
) -> None:
    heads = [
        _head(name, every=n, max_age_ms=age, priority=priority)
        for name, n, age, priority in zip("abc", every, ages, priorities, strict=True)
    ]
    program = _program(heads, dict(zip(("trunk", "a", "b", "c"), costs, strict=True)), deadline)
    last: dict[str, tuple[int, float]] = {}
    now = 0.0
    for frame, step in enumerate(steps):
        now += step
        found = plan(program, Moment(frame, now, last, paces[frame]))
        last.update(dict.fromkeys(found.due, (frame, now)))
        assert set(found.due).isdisjoint(found.dropped)
        for head in heads:
            if head.max_age_ms is not None:
                assert (now - last[head.name][1]) * 1e3 <= head.max_age_ms


@pytest.mark.parametrize("deadline", [None, 0.5])
def test_the_first_frame_answers_everything(deadline: float | None) -> None:
    program = _program([_head("a"), _head("b")], COST, deadline)
    assert plan(program, Moment(0, 0.0, {})).due == ("a", "b")
