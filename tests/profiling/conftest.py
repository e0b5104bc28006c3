"""A profiler with a clock that the test winds, and a recording of a short run."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from sharedbb.profiling import Profiler, Recording, spans

MS = 1_000_000


class Clock:
    """Stands still until it is moved; in ns, as ``perf_counter_ns``."""

    def __init__(self) -> None:
        self.now = 5 * MS

    def __call__(self) -> int:
        return self.now

    def move(self, milliseconds: float) -> None:
        self.now += round(milliseconds * MS)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every profiler made after it."""
    clock = Clock()
    monkeypatch.setattr(spans, "perf_counter_ns", clock)
    return clock


@pytest.fixture
def record(clock: Clock) -> Callable[..., Recording]:
    """Record a run: frames of a transform of 2 ms and a network with a trunk of 6 to 8 ms inside, drawn in between."""

    def _record(frames: int = 12, *, network: str = "network", head: str = "road", **facts: str) -> Recording:
        profiler = Profiler()
        profiler.describe(**{"pipeline": "street", "source": "clip.mp4", "device": "cpu", **facts})
        for index, extra in zip(range(frames), itertools.cycle((0, 1, 2)), strict=False):
            with profiler.frame("main", index):
                with profiler.span("transform"):
                    clock.move(2)
                with profiler.span(network):
                    clock.move(0.25)
                    with profiler.span("trunk", "partial 12 %" if index else "full"):
                        clock.move(6 + extra)
                clock.move(0.5)
                if index % 3:
                    profiler.mark(f"head {head}", "reused", head=head)
                else:
                    with profiler.span(f"head {head}", head=head):
                        clock.move(1)
                profiler.head(head, "reused" if index % 3 else "ran")
            with profiler.span("draw", stream="main", frame=index):
                clock.move(3)
        profiler.drop("main", 2)
        return profiler.recording()

    return _record
