"""One network at two or three input sizes: every frame runs at the size that time and agreement allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

from sharedbb.errors import SharedBBError
from sharedbb.profiling import NullProfiler, Profiler
from sharedbb.program import Program, Stage
from sharedbb.runtime.engine import Engine, OpenSource, changed
from sharedbb.runtime.place import Place, hand_over
from sharedbb.runtime.schedule import plan, predicted
from sharedbb.runtime.sizes import Rules, choose
from sharedbb.runtime.state import StreamState
from sharedbb.types import ColorOrder, Frame, FrameResult, Freshness

_PLAIN = tuple(field.name for field in fields(FrameResult))


@dataclass(slots=True)
class LadderResult(FrameResult):
    """The answers to one frame, and why it was computed at its size (``geometry.network``).

    ``sized``: ``largest``; ``agreement``: a smaller size, since its answers keep the budget; ``deadline``: one, since a
    larger size takes too long; ``deadline over budget``: likewise, although audits found its answers beyond the budget.
    An audited frame (``mode``) hands out the largest size's answers. ``work`` counts in frames of the largest size.
    """

    sized: str = "largest"

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON: one line of ``out.jsonl``."""
        network = self.geometry.network
        return {**FrameResult.to_dict(self), "network": [network.height, network.width], "sized": self.sized}


class Ladder(Engine):
    """Runs the same network at two or three input sizes; made by ``sharedbb.compile``.

    ``programs`` answer the same heads, the largest size first; ``program`` is that one. They share a profiler, in which
    stages of smaller sizes carry their size in their names, and the mark ``size`` counts why frames had theirs.

    Raises SharedBBError for sizes that do not get smaller or answer other heads.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        rules: Rules,
        open_source: OpenSource = iter,
        profiler: Profiler | NullProfiler | None = None,
    ) -> None:
        super().__init__(programs[0], open_source, profiler)
        _check(programs)
        self.programs = tuple(programs)
        self.rules = rules
        named = [programs[0], *map(_named, programs[1:])]
        self._rungs = [Engine(program, profiler=self.profiler) for program in named]
        self._audits = [Engine(replace(program, bargain=None)) for program in named]
        self._costs = [program.macs / programs[0].macs if programs[0].macs else 1.0 for program in programs]
        self._places: dict[str, Place] = {}

    @property
    def smaller(self) -> tuple[Program, ...]:
        """The programs of all sizes but the first."""
        return self.programs[1:]

    def state(self, stream: str = "main") -> StreamState:
        """What a stream remembers at the size in use."""
        if stream not in self._places:
            reuses = self.program.bargain is not None
            place = self._places[stream] = Place(stream, self.rules, len(self._rungs), reuses=reuses)
            place.states[0] = StreamState(self._rungs[0].program, stream)
        return self._places[stream].state

    def reset(self, stream: str = "main") -> None:
        """Forget what a stream has seen, at all sizes; it begins at the largest again."""
        with self._lock:
            self.state(stream)
            self._places[stream].reset()

    def close(self, stream: str) -> None:
        """Free a stream's buffers."""
        with self._lock:
            self._places.pop(stream, None)

    def _step(
        self,
        picture: Any,
        state: StreamState,
        heads: Iterable[str] | None,
        timestamp: float | None,
        order: ColorOrder,
    ) -> FrameResult:
        place, asked = self._places[state.name], self._known(heads)
        frame, pace = self._frame(picture, state, timestamp, order), state.pace
        with self.profiler.frame(state.name, frame.index):
            size = choose(self.rules, place.standing, place.outlook(*self._predicted(state, frame, asked)))
            now = self._taken_in(frame, place, size)
            place.take(size)
            audited = place.is_audited(now.reading.picture) and (asked is None or len(asked) > 0)
            compared = tuple(self.program.heads) if asked is None else asked
            result = self._rungs[size]._answers(frame, now, compared if audited else asked)
            result.work *= self._costs[size]
            if place.standing.age == 1:
                now.pace = pace  # a size's first frame prepares what later ones find ready
            if audited:
                self._compare(result, place, compared)
            return self._sized(result, place)

    def _predicted(
        self, state: StreamState, frame: Frame, asked: Sequence[str] | None
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """By size, the milliseconds for the heads whose turn it is, and for all; nothing without a deadline."""
        if self.rules.deadline_ms is None:
            return (0.0,) * len(self.programs), (0.0,) * len(self.programs)
        turn = plan(self.program, state.moment(frame.timestamp), asked)
        due, everything = frozenset((*turn.due, *turn.dropped)), frozenset(self.program.heads)
        loads = [state.pace * predicted(program.stages_for(due)) for program in self.programs]
        peaks = [state.pace * predicted(program.stages_for(everything)) for program in self.programs]
        return tuple(loads), tuple(map(max, loads, peaks))

    def _taken_in(self, frame: Frame, place: Place, size: int) -> StreamState:
        """Bring the frame into a size's input; that size's state, which knows what the one in use so far knew."""
        before, rung = place.state, self._rungs[size]
        if size not in place.states:
            place.states[size] = StreamState(rung.program, place.name)
        now = place.states[size]
        now.take_in(frame)
        now.reading.read(self.profiler)
        if now is not before:
            hand_over(before, now)
        return now

    def _compare(self, result: FrameResult, place: Place, heads: Sequence[str]) -> None:
        """Compute a frame at the largest size as well, learn from how far the answers are off, and hand out its own.

        Without a deadline, the next smaller size is computed too, to find out whether it agrees.
        """
        size, state, truth = place.standing.at, place.state, result
        with self.profiler.span("audit"):
            if size > 0 or state.memory is not None:
                truth = self._dense(0, result, place, heads)
            if size > 0:
                place.learn(size, _errors(result, truth, heads))
            if self.rules.deadline_ms is None and size + 1 < len(self._rungs):
                place.learn(size + 1, _errors(self._dense(size + 1, result, place, heads), truth, heads))
        answers = {head: truth[head] for head in heads}
        if state.memory is None:  # a memory compares its own answers
            state.outputs.update(answers)
        result.outputs.update(answers)
        for head in heads:
            result.freshness[head] = Freshness(True, 0, 0.0, "full", result.freshness[head].error)
        result.geometry, result.mode = truth.geometry, "audit"

    def _dense(self, size: int, result: FrameResult, place: Place, heads: Sequence[str]) -> FrameResult:
        """The frame's answers at a size, with nothing reused."""
        rung = self._audits[size]
        if size not in place.dense:
            place.dense[size] = StreamState(rung.program, place.name)
        state = place.dense[size]
        state.take_in(result.frame)
        result.work += self._costs[size]
        return rung._answers(result.frame, state, heads)

    def _sized(self, result: FrameResult, place: Place) -> LadderResult:
        """The result with its size's errors, and why it has that size."""
        size, freshness = place.standing.at, result.freshness
        why = "largest" if size == 0 else "agreement" if self.rules.deadline_ms is None else "deadline"
        if size > 0:
            evidence = place.evidence[size]
            if why == "deadline" and evidence.breaks(self.rules.budget):
                why = "deadline over budget"
            freshness = {head: replace(one, error=evidence.error.get(head)) for head, one in freshness.items()}
        self.profiler.mark("size", f"{self.programs[size].size} {why}")
        plain = {name: getattr(result, name) for name in _PLAIN}
        return LadderResult(**{**plain, "freshness": freshness}, sized=why)


def _errors(served: FrameResult, truth: FrameResult, heads: Sequence[str]) -> dict[str, float]:
    """By head, the share of its answer that differs from the true one; without those that cannot tell."""
    shares = {head: changed(served[head], truth[head]) for head in heads}
    return {head: share for head, share in shares.items() if share is not None}


def _check(programs: Sequence[Program]) -> None:
    for larger, smaller in pairwise(programs):
        if smaller.size.height > larger.size.height or smaller.size.width > larger.size.width:
            raise SharedBBError(f"the sizes of a ladder get smaller, got {smaller.size} after {larger.size}")
        if [*larger.heads] != [*smaller.heads]:
            heads = " and ".join(", ".join(program.heads) for program in (larger, smaller))
            raise SharedBBError(f"the sizes of a ladder answer the same heads, got {heads}")


def _named(program: Program) -> Program:
    """The program with its size in the names of its stages."""

    def named(stage: Stage) -> Stage:
        return replace(stage, facts=replace(stage.facts, name=f"{stage.facts.name} {program.size}"))

    return replace(
        program,
        stages=tuple(map(named, program.stages)),
        fused={heads: named(stage) for heads, stage in program.fused.items()},
        whole=program.whole and named(program.whole),
        fresh=program.fresh and named(program.fresh),
    )
