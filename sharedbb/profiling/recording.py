"""What a profiler has recorded, frozen: the summary, the latest spans, and the frames' latencies over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharedbb.profiling.series import Bucket
from sharedbb.profiling.summary import Summary

Kind = Literal["frame", "stage", "background", "mark"]


class SpanRecord(NamedTuple):
    """One span. ``start`` and ``duration`` are in ns, ``start`` on the host's ``perf_counter``.

    ``kind``: ``frame`` (a whole frame), ``stage`` (inside a frame), ``background`` (in no frame: a decoding thread, a
    sink) or ``mark`` (an event without duration: a reuse, a skip, a drop). ``frame`` is -1 where it is not known.
    """

    kind: Kind
    stream: str
    frame: int
    stage: str
    head: str | None
    why: str
    start: int
    duration: int

    @property
    def end(self) -> int:
        """When it ended, in ns."""
        return self.start + self.duration


@dataclass(frozen=True, slots=True)
class Recording:
    """All that trace and report need; nothing in it changes any more.

    ``spans`` are the latest ones, in the order in which they ended. ``latencies_ms`` is a sample of the frames'
    latencies, shape [n], float64. ``timeline`` has their latencies in ns over the whole run, coarser for a longer run.
    ``complete`` says whether ``spans`` goes back to the beginning.
    """

    summary: Summary
    spans: tuple[SpanRecord, ...] = ()
    latencies_ms: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    timeline: tuple[Bucket, ...] = ()
    complete: bool = True

    def typical_frame(self) -> tuple[SpanRecord, ...]:
        """The frame whose latency is nearest to the median, then its stages and marks by start; empty without frames.

        Only frames count of which every span is still kept.
        """
        horizon = 0 if self.complete or not self.spans else self.spans[0].end
        frames = [span for span in self.spans if span.kind == "frame" and span.start >= horizon]
        if not frames:
            return ()
        middle = self.summary.latency.p50_ms * 1e6
        typical = min(frames, key=lambda span: abs(span.duration - middle))
        inside = [
            span
            for span in self.spans
            if span.kind in ("stage", "mark")
            and (span.stream, span.frame) == (typical.stream, typical.frame)
            and typical.start <= span.start <= typical.end
        ]
        return (typical, *sorted(inside, key=lambda span: (span.start, -span.duration)))
