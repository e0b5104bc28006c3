"""Which heads are due on a frame, and what they need: a pure function of clocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache

from sharedbb.program import FramePlan, HeadPlan, Program, Stage


def plan(
    program: Program, frame: int, last_run: Mapping[str, tuple[int, float]], asked: Collection[str] | None = None
) -> FramePlan:
    """The plan for a stream's frame number ``frame``.

    A head is due when it never ran or ``every`` frames have passed since it did. ``asked`` names the heads to run
    instead, due or not.
    """
    due = tuple(asked) if asked is not None else _due(program.heads, frame, last_run)
    return FramePlan(due, _stages(program, frozenset(due)))


def _due(heads: Mapping[str, HeadPlan], frame: int, last_run: Mapping[str, tuple[int, float]]) -> tuple[str, ...]:
    return tuple(
        name for name, head in heads.items() if name not in last_run or frame - last_run[name][0] >= head.every
    )


@lru_cache(maxsize=256)
def _stages(program: Program, due: frozenset[str]) -> tuple[Stage, ...]:
    return program.stages_for(due)
