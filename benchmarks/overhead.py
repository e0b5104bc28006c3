"""What the engine itself costs on a frame, beside its networks, and on what; whether it grows over many frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import av
import numpy as np
import psutil

import sharedbb as sb
from benchmarks import networks
from benchmarks.schema import Case, Number
from benchmarks.timing import Measurement, Parser, case_of, show
from sharedbb.runtime import engine as loop
from sharedbb.runtime.reading import Reading
from sharedbb.types import Frame

WARM = 10
STEP, WITHOUT = "step", "overhead without output decoding"
PARTS = ("transform", "plan", "networks", "calls", "decode", "rest")
"""Of a step: the picture into the network's input, what is due, the stages' sessions, all around these, answers from
what the heads gave, and all else (the frame, the result, the lock)."""

GROWTH_GOAL_MIB = 10
WHY_CALLS = (
    "{stages} a frame; beside the network a call holds its span in the profile (without it, {bare:.0f} µs), the "
    "look-up of inputs and the hand-over of answers"
)
WHY_TRANSFORM = (
    "mostly the picture's way into the input buffer, which swscale converts and resizes; planes read straight by the "
    "network would spare the conversion"
)


class Clock:
    """Adds up the seconds spent in calls of one function, and counts them."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.seconds, self.calls = 0.0, 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                self.seconds += time.perf_counter() - start
                self.calls += 1

        return timed


@contextmanager
def clocked(kind: Any, name: str) -> Iterator[Clock]:
    """Time every call of a class's method, on whatever object, or of a module's function."""
    clock, plain = Clock(), getattr(kind, name)
    setattr(kind, name, clock.around(plain))
    try:
        yield clock
    finally:
        setattr(kind, name, plain)


def decoded_frames(count: int, height: int, width: int) -> list[Frame]:
    """Frames as a decoder of 8-bit 4:2:0 video gives them, each another picture."""
    rng = np.random.default_rng(0)
    frames = []
    for index in range(count):
        small = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
        video = av.VideoFrame.from_ndarray(small.repeat(16, 0).repeat(16, 1), "rgb24").reformat(format="yuv420p")
        frames.append(Frame(index, index / 25, video=video))
    return frames


def per_frame(engine: sb.Engine, frames: list[Frame], rounds: int) -> dict[str, list[float]]:
    """Seconds of every frame by PARTS, and of the whole ``step``; ``a call``: the seconds of ``calls`` by stage run."""
    for frame in frames[:2]:
        engine.step(frame)
    (session,) = {type(session) for session in engine.state().sessions.values()}
    taken: dict[str, list[float]] = {name: [] for name in (STEP, *PARTS, "a call")}
    with ExitStack() as stack:
        clocks = [
            stack.enter_context(clocked(kind, name))
            for kind, name in (
                (sb.Engine, "step"),
                (Reading, "read"),
                (loop, "plan"),
                (session, "__call__"),
                (sb.Engine, "_execute"),
                (sb.Engine, "_decode"),
            )
        ]
        for number in range(rounds + WARM):
            for clock in clocks:
                clock.reset()
            engine.step(frames[number % len(frames)])
            step, transform, plan, running, execute, decode = (clock.seconds for clock in clocks)
            calls, rest = execute - running, step - transform - plan - execute - decode
            values = (step, transform, plan, running, calls, decode, rest, calls / clocks[3].calls)
            if number >= WARM:
                for name, value in zip(taken, values, strict=True):
                    taken[name].append(value)
    return taken


def summed(taken: Mapping[str, list[float]]) -> dict[str, Case]:
    """The whole step, what of it is not a network, and of that what is not decoding of outputs."""
    step, running, decode = (np.array(taken[name]) for name in (STEP, "networks", "decode"))
    kinds = {STEP: step, "overhead": step - running, WITHOUT: step - running - decode}
    return {name: case_of(list(seconds)) for name, seconds in kinds.items()}


def growth(engine: sb.Engine, frames: list[Frame], count: int) -> dict[str, float]:
    """Resident memory in MiB after a tenth of the frames, at most 500, and at the end."""
    process, first, early = psutil.Process(), min(500, count // 10), 0.0
    for number in range(count):
        if number == first:
            early = process.memory_info().rss / 2**20
        engine.step(frames[number % len(frames)])
    late = process.memory_info().rss / 2**20
    return {
        "frames": count,
        f"after_{first}_mib": round(early, 1),
        "at_end_mib": round(late, 1),
        "grown_mib": round(late - early, 1),
    }


def main() -> None:
    """Measure and keep ``results/overhead.json``."""
    parser = Parser(__doc__, rounds=300)
    parser.add_argument("--frames", type=int, help="over which memory may grow (default: 5000)")
    options = parser.options()
    measurement = Measurement("overhead", __doc__, options)
    engine, bare = sb.compile(networks.street()), sb.compile(networks.street(), profile=False)
    small, large = decoded_frames(16, 384, 640), decoded_frames(16, 720, 1280)
    cases = {
        "640x384 H.264 frame": (engine, small),
        "1280x720 H.264 frame": (engine, large),
        "640x384 H.264 frame, not profiled": (bare, small),
    }
    taken = {label: per_frame(*case, options.rounds) for label, case in cases.items()}
    timings = {f"{name}, {label}": case for label, seconds in taken.items() for name, case in summed(seconds).items()}
    show("engine overhead, street, four heads", timings, "overhead, 640x384 H.264 frame")
    grown = growth(engine, small, options.frames or (500 if options.quick else 5000))
    parts = {label: spent(seconds) for label, seconds in taken.items()}
    measurement.keep(
        timings=timings,
        numbers={**_numbers(timings, taken, len(engine.state().sessions)), **_growth(grown)},
        spent=parts,
        notes=[f"{label}: {said(one)}" for label, one in parts.items()],
        details={"growth": grown, "stages": len(engine.state().sessions)},
    )


def spent(taken: Mapping[str, list[float]]) -> dict[str, float]:
    """Median milliseconds of every part."""
    return {part: round(float(np.median(taken[part])) * 1e3, 4) for part in PARTS}


def said(parts: Mapping[str, float]) -> str:
    """How much of a step the networks are, which no engine could do without, and where the rest goes."""
    rest = sorted(((ms, part) for part, ms in parts.items() if part != "networks"), reverse=True)
    share = parts["networks"] / sum(parts.values())
    return f"{share:.1%} of the step is networks; the rest is " + ", ".join(f"{part} {ms:.2f} ms" for ms, part in rest)


def _numbers(
    timings: Mapping[str, Case], taken: Mapping[str, Mapping[str, list[float]]], stages: int
) -> dict[str, Number]:
    """The engine's own time beside the goals, which are set for a frame of the network's own size."""
    label = "640x384 H.264 frame"
    call, bare = (
        case_of([1e3 * seconds for seconds in taken[which]["a call"]]) for which in (label, f"{label}, not profiled")
    )
    why_calls = WHY_CALLS.format(stages="one stage" if stages == 1 else f"{stages} stages", bare=bare.median_ms)
    return {
        "overhead": _number(timings[f"overhead, {label}"], 1.0, "ms", WHY_TRANSFORM),
        WITHOUT: _number(timings[f"{WITHOUT}, {label}"], 0.3, "ms", WHY_TRANSFORM),
        "calling a stage": _number(call, 30, "µs", why_calls),
    }


def _number(case: Case, goal: float, unit: str, why: str) -> Number:
    return Number(
        measured=case.median_ms, low=case.low_ms, high=case.high_ms, goal=goal, better="lower", unit=unit, why=why
    )


def _growth(grown: Mapping[str, float]) -> dict[str, Number]:
    name = f"memory grown over {grown['frames']} frames"
    return {name: Number(measured=grown["grown_mib"], goal=GROWTH_GOAL_MIB, better="lower", unit="MiB")}


if __name__ == "__main__":
    main()
