"""What the engine itself costs on a frame, beside its networks; and whether it grows over thousands of frames."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import psutil

import sharedbb as sb
from benchmarks import networks
from benchmarks.timing import Timing, keep, rows, show
from sharedbb.types import Frame


class Clocked:
    """A session that adds up the time spent inside it."""

    def __init__(self, session: Callable[[Any], Any]) -> None:
        self.session = session
        self.seconds = 0.0

    def __call__(self, features: Any) -> Any:
        start = time.perf_counter()
        results = self.session(features)
        self.seconds += time.perf_counter() - start
        return results


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
    """Seconds a frame: the whole step, what is not a network, and of that what is not decoding of outputs."""
    state = engine.state()
    engine.step(frames[0])
    clocked = [Clocked(session) for session in state.sessions.values()]
    plain, state.sessions = state.sessions, dict(zip(state.sessions, clocked, strict=True))
    decode, spent = engine._decode, [0.0]

    def timed_decode(*args: Any) -> None:
        start = time.perf_counter()
        decode(*args)
        spent[0] += time.perf_counter() - start

    engine._decode = timed_decode  # type: ignore[method-assign]
    taken: dict[str, list[float]] = {"step": [], "overhead": [], "overhead without output decoding": []}
    for number in range(rounds + 10):
        for session in clocked:
            session.seconds = 0.0
        spent[0] = 0.0
        start = time.perf_counter()
        engine.step(frames[number % len(frames)])
        step = time.perf_counter() - start
        if number >= 10:
            overhead = step - sum(session.seconds for session in clocked)
            taken["step"].append(step)
            taken["overhead"].append(overhead)
            taken["overhead without output decoding"].append(overhead - spent[0])
    state.sessions = plain
    engine._decode = decode  # type: ignore[method-assign]
    return taken


def growth(engine: sb.Engine, frames: list[Frame], count: int) -> dict[str, float]:
    """Resident memory in MiB after the first 500 frames and at the end."""
    process = psutil.Process()
    early = 0.0
    for number in range(count):
        if number == 500:
            early = process.memory_info().rss / 2**20
        engine.step(frames[number % len(frames)])
    late = process.memory_info().rss / 2**20
    return {
        "frames": count,
        "after_500_mib": round(early, 1),
        "at_end_mib": round(late, 1),
        "grown_mib": round(late - early, 1),
    }


def main() -> None:
    """Measure and keep ``results/overhead.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--frames", type=int, default=5000)
    options = parser.parse_args()
    engine = sb.compile(networks.street())
    results: dict[str, Any] = {}
    timings: dict[str, Timing] = {}
    for label, height, width in (("640x384", 384, 640), ("1280x720", 720, 1280)):
        taken = per_frame(engine, decoded_frames(16, height, width), options.rounds)
        timings |= {f"{name}, {label} H.264 frame": Timing.of(seconds) for name, seconds in taken.items()}
    bare = sb.compile(networks.street(), profile=False)
    taken = per_frame(bare, decoded_frames(16, 384, 640), options.rounds)
    timings |= {f"{name}, 640x384 H.264 frame, not profiled": Timing.of(seconds) for name, seconds in taken.items()}
    results["timings"] = rows(timings)
    results["goals_ms"] = {"overhead": 1.0, "overhead without output decoding": 0.3}
    results["growth"] = growth(engine, decoded_frames(16, 384, 640), options.frames)
    results["growth"]["goal_mib"] = 10
    show("engine overhead, street, four heads", timings, "overhead, 640x384 H.264 frame")
    print(results["growth"])
    print(f"kept in {keep('overhead', results)}")


if __name__ == "__main__":
    main()
