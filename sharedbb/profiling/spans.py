"""The profiler: what ran on each frame, how long it took, and why it ran or did not."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from time import perf_counter_ns
from types import TracebackType
from typing import Any, Literal, Self

from sharedbb.errors import SharedBBError
from sharedbb.profiling.clocks import CudaClock
from sharedbb.profiling.recording import Kind, Recording, SpanRecord
from sharedbb.profiling.series import Reservoir, Timeline
from sharedbb.profiling.summary import (
    HeadSummary,
    Latency,
    ReuseSummary,
    StageSummary,
    Summary,
    installed_versions,
    machine_name,
)

HeadEvent = Literal["ran", "reused", "dropped"]

_HEAD_EVENTS = ("ran", "reused", "dropped")
_MOST_WHYS = 128
_MOST_PENDING = 4096
_TIMELINE_BUCKETS = 2048
_FACTS = ("pipeline", "source", "device", "backend", "precision")


class Span:
    """Times its ``with`` block. ``why`` (and outside of frames ``stream`` and ``frame``) may be set inside the block.

    A block left by an exception is recorded with the reason ``failed``.
    """

    __slots__ = (
        "_clock",
        "_kind",
        "_nested",
        "_parent",
        "_profiler",
        "_start",
        "frame",
        "head",
        "stage",
        "stream",
        "why",
    )

    _kind: Kind
    _start: Any  # a stamp of the clock: ns of the host, or a CUDA event

    def __init__(self, profiler: Profiler, stage: str, why: str, head: str | None, stream: str, frame: int) -> None:
        self._profiler = profiler
        self.stage = stage
        self.why = why
        self.head = head
        self.stream = stream
        self.frame = frame

    def __enter__(self) -> Self:
        active = self._profiler._active
        parent = self._parent = active.span
        if parent is None:
            self._kind = "background"
            self._clock: Any = perf_counter_ns
        else:
            self._kind = "background" if parent._kind == "background" else "stage"
            self._clock = parent._clock
            self.stream = parent.stream
            self.frame = parent.frame
        self._nested = 0
        active.span = self
        self._start = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = self._clock()
        profiler = self._profiler
        profiler._active.span = self._parent
        if kind is not None:
            self.why = "failed"
        profiler._close(self, self._start, end)


class FrameSpan(Span):
    """Times a whole frame; spans of the same thread inside its block belong to it."""

    __slots__ = ("_outer",)

    def __enter__(self) -> Self:
        active = self._profiler._active
        self._outer, self._parent = active.span, None
        self._kind = "frame"
        self._nested = 0
        self._clock = self._profiler._stamp
        active.span = self
        self._start = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._profiler._active.span = self._outer


class _Active(threading.local):
    """The innermost open span of each thread."""

    span: Span | None = None


class _Stage:
    """What is kept of one stage: a sample of its durations, its own time inside frames, its reasons; ns."""

    __slots__ = ("background", "durations", "own", "whys")

    def __init__(self, samples: int) -> None:
        self.durations = Reservoir(samples)
        self.own = 0
        self.background = True
        self.whys: dict[str, int] = {}

    def count(self, why: str) -> None:
        """One more span or mark for this reason; past a fixed number of reasons, for ``other``."""
        whys = self.whys
        if why in whys:
            whys[why] += 1
        elif len(whys) < _MOST_WHYS:
            whys[why] = 1
        else:
            whys["other"] = whys.get("other", 0) + 1


class Profiler:
    """Records spans, marks and counts from any number of threads, in bounded memory.

    ``clock``: ``"host"`` times blocks with the host's clock; ``"cuda"`` times what lies inside frames with CUDA events,
    read once the device has passed them (spans outside of frames stay on the host's clock). ``keep``: how many of the
    latest spans trace and report can show (about 200 bytes each). ``samples``: how many durations of a stage quantiles
    are computed from: all up to that number, a uniform sample of it afterwards.

    Raises BackendError for ``"cuda"`` where there is no CUDA device.
    """

    def __init__(self, clock: Literal["host", "cuda"] = "host", *, keep: int = 16_384, samples: int = 8_192) -> None:
        if clock not in ("host", "cuda"):
            raise SharedBBError(f"no profiler clock {clock!r} (known: host, cuda)")
        if keep < 1 or samples < 1:
            raise SharedBBError(f"a profiler must keep at least 1 span and 1 sample, got {keep} and {samples}")
        self._keep, self._samples = keep, samples
        self._cuda = CudaClock() if clock == "cuda" else None
        self._stamp = self._cuda.stamp if self._cuda else perf_counter_ns
        self._active = _Active()
        self._lock = threading.Lock()
        self._facts = dict.fromkeys(_FACTS, "")
        self._clear()

    def _clear(self) -> None:
        self._records: deque[tuple[Any, ...]] = deque(maxlen=self._keep)
        self._pending: deque[tuple[Span, Any, Any]] = deque()
        self._stages: dict[str, _Stage] = {}
        self._heads: dict[str, list[int]] = {}
        self._latencies = Reservoir(self._samples)
        self._timeline = Timeline(_TIMELINE_BUCKETS)
        self._dropped = self._skipped = 0
        self._modes: dict[str, int] = {}
        self._errors: dict[str, float] = {}
        self._work = self._refreshed = 0.0
        self._begin: int | None = None
        self._failed = 0
        self._end = 0

    def frame(self, stream: str, index: int) -> Span:
        """Context manager around the work on one frame; ``index`` counts from 0 in its stream."""
        return FrameSpan(self, "frame", "full", None, stream, index)

    def span(
        self, stage: str, why: str = "full", head: str | None = None, *, stream: str = "", frame: int = -1
    ) -> Span:
        """Context manager around one stage's work; spans nest.

        ``why``: ``full``, ``partial 12 %``, ``reused``, ``skipped``, ... Inside a frame the span belongs to that frame;
        ``stream`` and ``frame`` are for work outside of any (decoding threads, sinks).
        """
        return Span(self, stage, why, head, stream, frame)

    def mark(self, stage: str, why: str, head: str | None = None) -> None:
        """Note that a stage took no time on this frame, and why (``skipped``, ``reused``): counted, not timed."""
        inside = self._active.span
        stream, frame = ("", -1) if inside is None else (inside.stream, inside.frame)
        with self._lock:
            self._stage(stage).count(why)
            self._records.append(("mark", stream, frame, stage, head, why, perf_counter_ns(), 0))

    def head(self, name: str, what: HeadEvent) -> None:
        """Count one frame of a head: it ``ran``, its earlier answer was ``reused``, or its answer was ``dropped``."""
        if what not in _HEAD_EVENTS:
            raise SharedBBError(f"a head cannot be {what!r} (known: {', '.join(_HEAD_EVENTS)})")
        with self._lock:
            counts = self._heads.setdefault(name, [0, 0, 0])
            counts[_HEAD_EVENTS.index(what)] += 1

    def computed(self, mode: str, work: float, refreshed: float, errors: Mapping[str, float]) -> None:
        """Count a frame by how it was computed with temporal reuse; see ``ReuseSummary`` for the numbers."""
        with self._lock:
            self._modes[mode] = self._modes.get(mode, 0) + 1
            self._work += work
            self._refreshed += refreshed
            self._errors.update(errors)

    def drop(self, stream: str, count: int = 1) -> None:
        """Count frames of a live source left out because the engine was late."""
        if count < 1:
            return
        with self._lock:
            self._dropped += count
            self._records.append(("mark", stream, -1, "frame", None, "dropped", perf_counter_ns(), 0))

    def skip(self, stream: str, count: int = 1) -> None:
        """Count damaged frames left out."""
        if count < 1:
            return
        with self._lock:
            self._skipped += count
            self._records.append(("mark", stream, -1, "frame", None, "skipped", perf_counter_ns(), 0))

    def describe(
        self,
        *,
        pipeline: str | None = None,
        source: str | None = None,
        device: str | None = None,
        backend: str | None = None,
        precision: str | None = None,
    ) -> None:
        """Say what is being run, for summary and report; what is not given stays as it was."""
        given = zip(_FACTS, (pipeline, source, device, backend, precision), strict=True)
        self._facts.update((name, fact) for name, fact in given if fact is not None)

    def reset(self) -> None:
        """Forget what was recorded (a warm-up, say), not what was described."""
        self._settle(wait=True)
        with self._lock:
            self._clear()

    def summary(self) -> Summary:
        """The numbers so far."""
        self._settle(wait=True)
        with self._lock:
            frames, seconds = self._latencies.count, (self._end - (self._begin or 0)) / 1e9
            return Summary(
                **self._facts,
                frames=frames,
                seconds=seconds,
                fps=frames / seconds if seconds > 0 else 0.0,
                dropped_frames=self._dropped,
                skipped_frames=self._skipped,
                latency=Latency(*_times_ms(self._latencies), self._latencies.largest / 1e6),
                stages={
                    name: self._stage_summary(stage) for name, stage in self._stages.items() if stage.durations.count
                },
                heads={name: HeadSummary(*counts) for name, counts in self._heads.items()},
                whys={name: dict(stage.whys) for name, stage in self._stages.items()},
                reuse=self._reuse(),
                machine=machine_name(),
                versions=dict(installed_versions()),
            )

    def _reuse(self) -> ReuseSummary | None:
        frames = sum(self._modes.values())
        if not frames:
            return None
        return ReuseSummary(dict(self._modes), self._work / frames, self._refreshed / frames, dict(self._errors))

    def recording(self) -> Recording:
        """The numbers so far, with the latest spans and the latencies over time: what trace and report show."""
        summary = self.summary()
        with self._lock:
            return Recording(
                summary=summary,
                spans=tuple(SpanRecord._make(record) for record in self._records),
                latencies_ms=self._latencies.sample() / 1e6,
                timeline=self._timeline.buckets(),
                complete=len(self._records) < self._keep,
            )

    def _stage_summary(self, stage: _Stage) -> StageSummary:
        whole = self._latencies.total + self._failed  # what stages took in frames that failed is theirs as well
        share = min(1.0, stage.own / whole) if whole else 0.0
        return StageSummary(stage.durations.count, *_times_ms(stage.durations), share, stage.background)

    def _stage(self, name: str) -> _Stage:
        stage = self._stages.get(name)
        if stage is None:
            stage = self._stages[name] = _Stage(self._samples)
        return stage

    def _close(self, span: Span, start: Any, end: Any) -> None:
        """Take a finished span; one with CUDA stamps waits until the device has passed them."""
        if self._cuda is None or span._kind == "background":
            with self._lock:
                self._take(span, start, end - start)
            return
        with self._lock:
            self._pending.append((span, start, end))
        if span._kind == "frame":
            self._settle(wait=False)

    def _settle(self, *, wait: bool) -> None:
        """Take the pending spans that the device has finished, in their order; all of them with ``wait``."""
        if self._cuda is None:
            return
        with self._lock:
            while self._pending:
                span, start, end = self._pending[0]
                if not end.query():
                    if not wait and len(self._pending) < _MOST_PENDING:
                        return
                    end.synchronize()
                self._pending.popleft()
                self._take(span, *self._cuda.resolve(start, end))

    def _take(self, span: Span, start: int, duration: int) -> None:
        """Book a span with known times in ns; children come before their parents; the lock is held."""
        kind = span._kind
        if kind == "frame" and span.why == "failed":
            self._stage("frame").count("failed")
            self._failed += duration
        elif kind == "frame":
            self._latencies.add(duration)
            self._timeline.add(start, duration)
            self._begin = start if self._begin is None else min(self._begin, start)
            self._end = max(self._end, start + duration)
        else:
            stage = self._stage(span.stage)
            stage.durations.add(duration)
            stage.count(span.why)
            if kind == "stage":
                stage.background = False
                stage.own += duration - span._nested
                assert span._parent is not None
                span._parent._nested += duration
        self._records.append((kind, span.stream, span.frame, span.stage, span.head, span.why, start, duration))


def _times_ms(durations: Reservoir) -> tuple[float, float, float, float]:
    p50, p95, p99 = durations.percentiles(50, 95, 99)
    return p50 / 1e6, p95 / 1e6, p99 / 1e6, durations.mean / 1e6


class _NullSpan(Span):
    """Times nothing; shared by all, whatever is set on it is never read."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class NullProfiler(Profiler):
    """A profiler that records nothing and costs next to nothing; its summary has zeros for every number."""

    def __init__(self) -> None:
        super().__init__(keep=1, samples=1)
        self._nothing = _NullSpan(self, "", "", None, "", -1)

    def frame(self, stream: str, index: int) -> Span:
        """A context manager that does nothing."""
        return self._nothing

    def span(
        self, stage: str, why: str = "full", head: str | None = None, *, stream: str = "", frame: int = -1
    ) -> Span:
        """A context manager that does nothing."""
        return self._nothing

    def mark(self, stage: str, why: str, head: str | None = None) -> None:
        """Nothing."""

    def head(self, name: str, what: HeadEvent) -> None:
        """Nothing."""

    def computed(self, mode: str, work: float, refreshed: float, errors: Mapping[str, float]) -> None:
        """Nothing."""

    def drop(self, stream: str, count: int = 1) -> None:
        """Nothing."""

    def skip(self, stream: str, count: int = 1) -> None:
        """Nothing."""
