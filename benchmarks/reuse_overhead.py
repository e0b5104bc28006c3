"""What reuse itself costs on a frame computed in parts: looking, planning, cutting out, comparing, pasting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from rich.table import Table

import sharedbb as sb
from benchmarks import networks
from benchmarks.reuse_exact import still
from benchmarks.reuse_runs import Setup, compiled, console
from benchmarks.timing import SETTLE_SECONDS, Timing, rows
from sharedbb.reuse.regions import CELL
from sharedbb.runtime.memory import Memory
from sharedbb.types import Frame

SIDES = (1, 2, 4, 6, 8)
"""Of a square of cells that changes on a frame, somewhere: up to 64 of them are dirty."""

FRAMES, WARM, GOAL_MS = 300, 12, 0.6
PARTS = ("observe", "gather", "compare and scatter", "plan and the rest", "overhead", "networks")
"""Of a frame: looking at the picture, cutting out, pasting what moved, all else of reuse; their sum; the sessions."""

MODES = {"exact": {"audit": 0}, "bounded": {"audit": 0, "refresh": 0}}


class Clock:
    """Adds up the seconds spent in calls of one function."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


@contextmanager
def clocked(kind: Any, method: str) -> Iterator[Clock]:
    """Time every call of a method of a class, on whatever object."""
    clock, plain = Clock(), getattr(kind, method)
    setattr(kind, method, clock.around(plain))
    try:
        yield clock
    finally:
        setattr(kind, method, plain)


def changes(picture: np.ndarray, side: int, count: int) -> Iterator[Frame]:
    """Frames on each of which one more square of ``side``×``side`` whole cells became its negative."""
    rng = np.random.default_rng(0)
    height, width = picture.shape[:2]
    for index in range(count):
        picture = picture.copy()
        top = CELL * rng.integers(0, height // CELL - side + 1)
        left = CELL * rng.integers(0, width // CELL - side + 1)
        place = picture[top : top + CELL * side, left : left + CELL * side]
        np.subtract(255, place, out=place)
        yield Frame.of(picture, index=index, timestamp=index / 25, order="rgb")


def per_frame(engine: sb.Engine, frames: Iterator[Frame], warm: int = WARM) -> dict[str, list[float]]:
    """Seconds of the frames computed in parts, by PARTS: all that reuse does, ``overhead``, and the networks."""
    program = engine.program
    assert program.whole is not None
    session = type(program.whole.executable.session())
    (picture,) = program.device.picture(program.size, program.planes).features.values()
    patches = type(program.device.patches(picture))
    with ExitStack() as stack:
        clocks = [
            stack.enter_context(clocked(kind, method))
            for kind, method in (
                (Memory, "observe"),
                (Memory, "follow"),
                (patches, "take"),
                (patches, "put"),
                (session, "__call__"),
            )
        ]
        engine.close("main")
        taken: dict[str, list[float]] = {part: [] for part in PARTS}
        for number, frame in enumerate(frames):
            time.sleep(SETTLE_SECONDS)
            for clock in clocks:
                clock.seconds = 0.0
            result = engine.step(frame)
            if number < warm or result.mode != "partial":
                continue
            observe, follow, take, put, running = (clock.seconds for clock in clocks)
            overhead = observe + follow - running
            seconds = (observe, take, put, overhead - observe - take - put, overhead, running)
            for part, spent in zip(PARTS, seconds, strict=True):
                taken[part].append(spent)
    engine.close("main")
    return taken


def measure(setup: Setup) -> dict[str, Any]:
    """The street pipeline at 384×640, exact and bounded, from one dirty cell to 64."""
    pipeline = networks.street()
    picture, count = still(setup, pipeline.input.network_size), setup.count(FRAMES)
    cases: dict[str, Any] = {}
    for mode, settings in MODES.items():
        engine = compiled(pipeline, mode=mode, **settings)
        for side in SIDES:
            taken = per_frame(engine, changes(picture, side, count))
            partial = len(taken["overhead"])
            timings = {name: Timing.of(seconds) for name, seconds in taken.items() if seconds}
            cases[f"{mode}, {side * side} dirty"] = {"frames": count, "partial": partial, "timings": rows(timings)}
    _show(cases)
    medians = [case["timings"]["overhead"]["median_ms"] for case in cases.values() if case["timings"]]
    number = {"measured": max(medians, default=None), "goal": GOAL_MS}
    return {"input": str(pipeline.input.network_size), "cases": cases, "numbers": {"overhead_ms_most": number}}


def _show(cases: dict[str, Any]) -> None:
    table = Table(title="reuse on a frame computed in parts, median ms", title_justify="left")
    for column in ("case", "frames", *PARTS):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, case in cases.items():
        timings = case["timings"]
        medians = (f"{timings[part]['median_ms']:.3f}" if timings else "–" for part in PARTS)
        table.add_row(name, str(case["partial"]), *medians)
    console().print(table)
