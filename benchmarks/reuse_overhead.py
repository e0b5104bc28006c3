"""What reuse itself costs on a frame computed in parts: looking, planning, cutting out, comparing, pasting."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from rich.table import Table

import sharedbb as sb
from benchmarks import networks
from benchmarks.overhead import clocked
from benchmarks.reuse_exact import still
from benchmarks.reuse_runs import Setup, compiled, console
from benchmarks.schema import Case, Number
from benchmarks.sections import Section
from benchmarks.timing import SETTLE_SECONDS, case_of
from sharedbb.reuse.regions import CELL
from sharedbb.runtime.memory import Memory
from sharedbb.runtime.reading import Reading
from sharedbb.types import Frame

SIDES = (1, 2, 4, 6, 8)
"""Of a square of cells that changes on a frame, somewhere: up to 64 of them are dirty."""

FRAMES, WARM, GOAL_MS = 300, 12, 0.6
PARTS = ("observe", "gather", "compare and scatter", "plan and the rest", "overhead", "networks")
"""Of a frame: looking at the picture, cutting out, pasting what moved, all else of reuse; their sum; the sessions."""

MASKS = "mostly planning in Python: masks spread from stage to stage and covered with tiles; one native pass would help"
MODES = {"exact": {"audit": 0}, "bounded": {"audit": 0, "refresh": 0}}


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
                (Reading, "read"),
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
                clock.reset()
            result = engine.step(frame)
            if number < warm or result.mode != "partial":
                continue
            read, observe, follow, take, put, running = (clock.seconds for clock in clocks)
            observe -= read  # an array is read whole to be looked at
            overhead = observe + follow - running
            seconds = (observe, take, put, overhead - observe - take - put, overhead, running)
            for part, spent in zip(PARTS, seconds, strict=True):
                taken[part].append(spent)
    engine.close("main")
    return taken


def measure(setup: Setup) -> Section:
    """The street pipeline at 384×640, exact and bounded, from one dirty cell to 64."""
    pipeline = networks.street()
    picture, count = still(setup, pipeline.input.network_size), setup.count(FRAMES)
    partial: dict[str, int] = {}
    cases: dict[str, dict[str, Case]] = {}
    for mode, settings in MODES.items():
        engine = compiled(pipeline, mode=mode, **settings)
        for side in SIDES:
            name, taken = f"{mode}, {side * side} dirty", per_frame(engine, changes(picture, side, count))
            partial[name] = len(taken["overhead"])
            if partial[name]:
                cases[name] = {part: case_of(seconds) for part, seconds in taken.items()}
    _show(cases)
    most = max((parts["overhead"].median_ms for parts in cases.values()), default=None)
    return Section(
        details={
            "input": str(pipeline.input.network_size),
            "frames": count,
            "partial": partial,
            "parts": _plain(cases),
        },
        timings={name: parts["overhead"] for name, parts in cases.items()},
        numbers={
            "of reuse on a frame in parts, most": Number(
                measured=most, goal=GOAL_MS, better="lower", unit="ms", why=MASKS
            )
        },
        spent={
            name: {part: case.median_ms for part, case in parts.items() if part != "overhead"}
            for name, parts in cases.items()
        },
    )


def _plain(cases: Mapping[str, Mapping[str, Case]]) -> dict[str, dict[str, Any]]:
    return {name: {part: case.model_dump() for part, case in parts.items()} for name, parts in cases.items()}


def _show(cases: Mapping[str, Mapping[str, Case]]) -> None:
    table = Table(title="reuse on a frame computed in parts, median ms", title_justify="left")
    for column in ("case", "frames", *PARTS):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, parts in cases.items():
        medians = (f"{case.median_ms:.3f}" for case in parts.values())
        table.add_row(name, str(parts["overhead"].runs), *medians)
    console().print(table)
