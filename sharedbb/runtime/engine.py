"""The engine: frame in, every head's answer out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

from sharedbb.errors import FrameError
from sharedbb.profiling import NullProfiler, Profiler, Summary
from sharedbb.program import FramePlan, Program
from sharedbb.runtime.memory import Memory
from sharedbb.runtime.schedule import is_outdated, plan
from sharedbb.runtime.state import StreamState
from sharedbb.runtime.streams import Prefetch
from sharedbb.types import ColorOrder, Frame, FrameResult, StemError

OpenSource = Callable[[Any], Any]

# What the profiler counts of a head, by why its answer is as old as it is.
EVENTS: Mapping[str, Literal["ran", "reused", "dropped"]] = {
    **dict.fromkeys(("full", "partial", "warped"), "ran"),
    **dict.fromkeys(("still", "reused"), "reused"),
    "dropped": "dropped",
}


def changed(answer: Any, dense: Any) -> float | None:
    """The share of an answer that differs from the dense one; None of answers that cannot tell."""
    share = getattr(answer, "changed", None)
    return None if share is None else float(share(dense))


@contextmanager
def _reduced(source: Any, intake: Any) -> Iterator[None]:
    """Meanwhile a source that can decode pictures at less than their size does so, as far as the intake allows."""
    if not hasattr(source, "at_least"):
        yield
        return
    before, source.at_least = source.at_least, intake.needs
    try:
        yield
    finally:
        source.at_least = before


def _closing(source: Any) -> AbstractContextManager[Any]:
    """The source's own context, where it has one."""
    return source if isinstance(source, AbstractContextManager) else nullcontext()


class Engine:
    """Runs a compiled program on any number of streams; made by ``sharedbb.compile``.

    ``open_source`` turns what ``stream`` is given (a path, an address, a camera index) into an iterable of frames.
    """

    def __init__(
        self, program: Program, open_source: OpenSource = iter, profiler: Profiler | NullProfiler | None = None
    ) -> None:
        self.program = program
        self.profiler = profiler if profiler is not None else NullProfiler()
        self._open_source = open_source
        self._states: dict[str, StreamState] = {}
        self._started = time.perf_counter()
        self._lock = threading.Lock()

    def step(
        self,
        picture: Any,
        *,
        stream: str = "main",
        heads: Iterable[str] | None = None,
        timestamp: float | None = None,
        order: ColorOrder = "bgr",
    ) -> FrameResult:
        """Run one frame and return every head's answer to it.

        ``picture``: HWC uint8 or float 0–1 array (``order`` says BGR or RGB), torch tensor (RGB), decoder's frame or
        ``Frame``. ``stream`` keeps the memories of several cameras apart. ``heads`` runs exactly these heads, due or
        not; the others answer with what they last said. ``timestamp`` in seconds; without one a ``Frame``'s own, or
        since the engine began. Where it lies before the last frame's, a clock was set back: ages go on from there.

        Threads may call this at will: they take turns. Raises FrameError for a picture that cannot be read, a timestamp
        that is no number and unknown heads; the stream goes on afterwards.
        """
        with self._lock:
            return self._step(picture, self.state(stream), heads, timestamp, order)

    def _step(
        self,
        picture: Any,
        state: StreamState,
        heads: Iterable[str] | None,
        timestamp: float | None,
        order: ColorOrder,
    ) -> FrameResult:
        frame, asked = self._frame(picture, state, timestamp, order), self._known(heads)
        with self.profiler.frame(state.name, frame.index):
            state.take_in(frame)
            return self._answers(frame, state, asked)

    def _answers(self, frame: Frame, state: StreamState, heads: Sequence[str] | None) -> FrameResult:
        """Run what is due, or the heads asked for, on the frame that was taken in."""
        with self.profiler.span("plan"):
            due = plan(self.program, state.moment(frame.timestamp), heads)
        if state.memory is None:
            state.reading.read(self.profiler)
            self._execute(due, state)
            self._decode(due, state, frame)
            result = self._result(due, state, frame)
        else:
            try:
                result = self._recall(due, state, state.memory, frame)
            except BaseException:
                state.memory.forget()  # what was taken for computed may not be
                raise
        state.frames += 1
        return result

    def stream(
        self, source: Any, *, name: str = "main", max_frames: int | None = None
    ) -> Generator[FrameResult, None, None]:
        """Results for every frame of a source, decoded ahead in a thread of its own.

        ``source``: whatever ``sharedbb.open_source`` takes, or an iterable of pictures. A live source drops its oldest
        waiting frames when the engine is late (``schedule.when_late``); a file never does.
        """
        opened = self._open_source(source)
        self.reset(name)
        live = bool(getattr(opened, "live", False))
        with (
            _closing(opened),
            _reduced(opened, self.state(name).reading.intake),
            Prefetch(opened, self.program.queue, self.program.when_late, live) as frames,
        ):
            try:
                for frame in islice(frames, max_frames):
                    self._count_lost(frames, name)
                    yield self.step(frame, stream=name)
            finally:
                self._count_lost(frames, name)

    def _count_lost(self, frames: Prefetch, stream: str) -> None:
        dropped, skipped = frames.lost()
        self.profiler.drop(stream, dropped)
        self.profiler.skip(stream, skipped)

    @property
    def smaller(self) -> tuple[Program, ...]:
        """The same network for smaller inputs, where the pipeline has several sizes."""
        return ()

    def state(self, stream: str = "main") -> StreamState:
        """What a stream remembers; made at its first use."""
        if stream not in self._states:
            self._states[stream] = StreamState(self.program, stream)
        return self._states[stream]

    def reset(self, stream: str = "main") -> None:
        """Forget what a stream has seen, for example when its camera was moved."""
        with self._lock:
            self.state(stream).reset()

    def close(self, stream: str) -> None:
        """Free a stream's buffers."""
        with self._lock:
            self._states.pop(stream, None)

    @property
    def profile(self) -> Summary:
        """What was measured so far: stages, percentiles, heads."""
        return self.profiler.summary()

    def _frame(self, picture: Any, state: StreamState, timestamp: float | None, order: ColorOrder) -> Frame:
        seconds = time.perf_counter() - self._started if timestamp is None else timestamp
        frame = Frame.of(picture, index=state.frames, timestamp=seconds, order=order)
        if timestamp is not None and frame.timestamp != timestamp:
            frame = replace(frame, timestamp=timestamp)
        frame.checked()
        # A decoder counts in fractions, arrays hold numbers of NumPy's: JSON knows neither.
        return frame if type(frame.timestamp) is float else replace(frame, timestamp=float(frame.timestamp))

    def _known(self, heads: Iterable[str] | None) -> Sequence[str] | None:
        if heads is not None:
            heads = (heads,) if isinstance(heads, str) else tuple(heads)
        unknown = [head for head in heads or () if head not in self.program.heads]
        if unknown:
            raise FrameError(f"no head named {unknown[0]!r}; this pipeline has {', '.join(self.program.heads)}")
        return heads

    def _execute(self, due: FramePlan, state: StreamState) -> None:
        """Run the planned stages; each reads features where the last one left them."""
        features, known = state.features, len(state.sessions)
        start = time.perf_counter()
        for stage in due.stages:
            facts, session = stage.facts, state.session(stage)
            with self.profiler.span(facts.name):
                results = session([features[name] for name in facts.inputs])
            features.update(zip(facts.outputs, results, strict=True))
        # The first run of a stage prepares what later ones find ready: it says nothing about the pace.
        state.begun = start if len(state.sessions) == known else None

    def _decode(self, due: FramePlan, state: StreamState, frame: Frame) -> None:
        """Turn the raw answers of the heads that ran into outputs in source pixels."""
        with self.profiler.span("decode"):
            plans = [self.program.heads[name] for name in due.due]
            # Reading an answer waits for the device that computes it.
            raw = {
                head.name: {part: self.program.device.answer(state.features[at]) for part, at in head.answers.items()}
                for head in plans
            }
            if state.begun is not None:
                state.keep_pace(due.predicted_ms, (time.perf_counter() - state.begun) * 1e3)
            outputs = {head.name: head.decoder(raw[head.name], state.geometry) for head in plans}
        state.outputs.update(outputs)  # all of them or none: a head that answered to a frame that fails is due again
        now = dict.fromkeys(outputs, (state.frames, frame.timestamp))
        state.last_run.update(now)
        state.current.update(now)

    def _recall(self, due: FramePlan, state: StreamState, memory: Memory, frame: Frame) -> FrameResult:
        """A frame's answers with as little computed as the bargain allows."""
        profiler, moment = self.profiler, state.moment(frame.timestamp)
        urgent = [head for head in due.due if is_outdated(self.program, moment, head)]
        with profiler.span("observe"):
            sight = memory.observe(frame, state.geometry, profiler)
        is_ready, start = memory.is_ready, time.perf_counter()
        mode: str = memory.follow(sight, due.due, frame.timestamp, profiler, urgent)
        if mode in ("dense", "key") and is_ready:
            state.keep_pace(memory.whole_ms, (time.perf_counter() - start) * 1e3)
        if mode == "still":  # nothing was left out for want of time
            due = replace(due, due=(*due.due, *due.dropped), dropped=())
        with profiler.span("decode"):
            if mode == "warped":
                why = self._moved(due.due, state, memory)
            else:
                why = self._answer(tuple(self.program.heads) if mode == "key" else due.due, state, memory)
        if mode not in ("dense", "key") and due.due and memory.is_audited(mode):
            with profiler.span("audit"):
                self._audit(mode, due, state, memory)
            mode, why = "audit", dict.fromkeys(self.program.heads, "full")
        if mode in ("key", "audit"):  # every head has answered
            due = replace(due, dropped=())
        if mode in ("dense", "key") and memory.knows_nothing:
            self._measure_floor(due.due, state, memory)
        if mode != "warped" and memory.keys is not None:
            memory.keys.outputs.update((head, state.outputs[head]) for head in why)
        now = (state.frames, frame.timestamp)
        state.last_run.update(dict.fromkeys(due.due, now))
        state.known.update((head, now) for head in self.program.heads if not memory.is_behind(head))
        for head, reason in why.items():
            if mode != "warped" or reason != "reused":  # the answer is that of the features
                state.current[head] = state.known[head]
        return self._result(due, state, frame, why, mode)

    def _answer(self, heads: Sequence[str], state: StreamState, memory: Memory) -> dict[str, str]:
        """Decode what changed of these heads' answers; returns why each answer is what it is."""
        why = {}
        for name in heads:
            head = self.program.heads[name]
            why[name] = memory.news(name)
            if why[name] in ("full", "partial") or name not in state.outputs:
                answers = {part: self.program.device.answer(state.features[at]) for part, at in head.answers.items()}
                state.outputs[name] = head.decoder(answers, state.geometry)
        return why

    def _moved(self, heads: Sequence[str], state: StreamState, memory: Memory) -> dict[str, str]:
        """Move the key frame's answers along with the picture; returns why each answer is what it is."""
        assert memory.keys is not None
        why = {}
        for name in heads:
            answer, why[name] = memory.keys.answer(self.program.heads[name], state.geometry)
            if answer is not None:
                state.outputs[name] = answer
                memory.outdate(name)
        return why

    def _audit(self, mode: str, due: FramePlan, state: StreamState, memory: Memory) -> None:
        """Compute the frame in full as well, and learn from how far the answers were off."""
        served = {name: state.outputs[name] for name in due.due}
        state.reading.read(self.profiler)
        memory.compute_all()
        self._answer(tuple(self.program.heads), state, memory)
        errors = {name: changed(served[name], state.outputs[name]) for name in due.due}
        memory.learn(mode, {name: error for name, error in errors.items() if error is not None})
        self._measure_floor(tuple(self.program.heads), state, memory)

    def _measure_floor(self, heads: Sequence[str], state: StreamState, memory: Memory) -> None:
        """Find out how much of the answers of these heads to a dense frame one grey level of noise changes."""
        wanted = [name for name in heads if memory.wants_floor(name)]
        if wanted:
            noisy, floor = memory.compute_noisy(), {}
            for name in wanted:
                head = self.program.heads[name]
                answers = {part: self.program.device.answer(noisy[at]) for part, at in head.answers.items()}
                floor[name] = changed(head.decoder(answers, state.geometry), state.outputs[name])
            memory.allow(floor)

    def _result(
        self,
        due: FramePlan,
        state: StreamState,
        frame: Frame,
        why: Mapping[str, str] | None = None,
        mode: str = "dense",
    ) -> FrameResult:
        freshness = {name: state.freshness(name, frame.timestamp, due.dropped, why) for name in state.outputs}
        for name, fresh in freshness.items():
            self.profiler.head(name, EVENTS[fresh.why])
        work, memory = due.work, state.memory
        if memory is not None:
            work = memory.work()
            self.profiler.computed(mode, work, memory.changes.refreshed, memory.error)
        error = self._stem_error(due, state, mode) if self.program.certificates else None
        return FrameResult(frame, state.geometry, dict(state.outputs), freshness, state.name, mode, work, error)

    def _stem_error(self, due: FramePlan, state: StreamState, mode: str) -> StemError | None:
        """What leaving bands out changes at most in the picture that the stem has read; None where it did not run."""
        if mode in ("still", "held", "warped") or not due.due:
            return None
        with self.profiler.span("certify") as span:
            read = state.reading.picture if state.memory is None else state.memory.reference
            (picture,) = read.planes.values()
            measured = [(one, one.measure(picture[0])) for one in self.program.certificates]
            bound = max(float(one.bound(levels).max()) for one, levels in measured)
            error = StemError(bound, max(float(one.rms(levels).max()) for one, levels in measured))
            span.why = str(error)
            return error
