"""Which heads run on a frame, and what they need: a pure function of clocks, ages and measured times."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from sharedbb.program import FramePlan, Program, Stage


@dataclass(frozen=True, slots=True)
class Moment:
    """What the plan of a frame depends on.

    ``frame`` counts the stream's frames, ``timestamp`` is in seconds, ``last_run`` holds both for each head's last run,
    ``current`` for the frame whose picture each head's answer is true of, which is the same where nothing is reused.
    ``pace`` is how much longer stages take now than when they were compiled.
    """

    frame: int
    timestamp: float
    last_run: Mapping[str, tuple[int, float]]
    pace: float = 1.0
    current: Mapping[str, tuple[int, float]] | None = None


def plan(program: Program, moment: Moment, asked: Collection[str] | None = None) -> FramePlan:
    """The plan for a frame.

    A head's turn comes when ``every`` frames have passed since it ran. A head that never ran, or whose answer would be
    older than its ``max_age_ms``, runs whatever else happens. Under a deadline the others follow by priority, then by
    how long they have waited, as long as the time for all is predicted to suffice; at least one head runs when it is
    one's turn. ``asked`` names the heads to run instead, due or not, deadline or not.
    """
    if asked is not None:
        return _made(program, tuple(asked), ())
    must = tuple(name for name in program.heads if _must(program, moment, name))
    turn = tuple(name for name in program.heads if name not in must and _is_turn(program, moment, name))
    if program.deadline_ms is None:
        return _made(program, (*must, *turn), ())
    chosen = list(must)
    for name in sorted(turn, key=lambda head: _rank(program, moment, head)):
        if not chosen or moment.pace * predicted(program.stages_for(frozenset((*chosen, name)))) <= program.deadline_ms:
            chosen.append(name)
    return _made(program, tuple(chosen), tuple(name for name in turn if name not in chosen))


def predicted(stages: Iterable[Stage]) -> float:
    """Milliseconds that stages took when they were compiled."""
    return sum(stage.facts.measured_ms or 0.0 for stage in stages)


def _made(program: Program, due: tuple[str, ...], dropped: tuple[str, ...]) -> FramePlan:
    ordered = tuple(name for name in program.heads if name in due)
    heads = frozenset(ordered)
    stages = program.stages_for(heads)
    return FramePlan(ordered, stages, dropped, predicted(stages), program.share_for(heads))


def _is_turn(program: Program, moment: Moment, name: str) -> bool:
    return moment.frame - moment.last_run[name][0] >= program.heads[name].every


def _must(program: Program, moment: Moment, name: str) -> bool:
    """Whether there is no answer yet, or it would be older than allowed when this frame is answered."""
    return name not in moment.last_run or is_outdated(program, moment, name)


def is_outdated(program: Program, moment: Moment, name: str) -> bool:
    """Whether a head's answer would be older than its ``max_age_ms``, if it stayed as it is."""
    limit, known = program.heads[name].max_age_ms, moment.last_run if moment.current is None else moment.current
    return limit is not None and name in known and (moment.timestamp - known[name][1]) * 1e3 > limit


def _rank(program: Program, moment: Moment, name: str) -> tuple[int, float]:
    """Sorts the more important first, among equals the one that has waited longest for its own clock."""
    head = program.heads[name]
    return -head.priority, -(moment.frame - moment.last_run[name][0]) / head.every
