"""Four tasks at 384×640, H.264 file to results, whole processes: one small trunk with reuse against four networks.

Every run is a process of its own, from start to exit. Both sides have the same decoder, intake, decoding and writing of
answers, and find their compiled models in a cache on disk. The four networks are those of the street pipeline, one a
head, each with its own trunk, quantized to 8 bits by NNCF. ``--data`` is a folder with ``clips``, ``--video`` a file of
your own; without either, two clips are generated. What is not H.264 is encoded anew, once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import av

import sharedbb as sb
from benchmarks.headline_agreement import FLOAT, NOISE, OWN, REUSE, SAME_FLOAT, SMALL, agreements
from benchmarks.headline_run import HEADS
from benchmarks.limits import decode_ms
from benchmarks.machine import environment, weights
from benchmarks.networks import PIPELINE
from benchmarks.reuse_clips import ALL_STATIC as STATIC
from benchmarks.schema import Limit, Number
from benchmarks.timing import Measurement, Parser, case_of, show

MOVING = "moving-dashcam.mp4"

APART, QUEUED, OURS = "four int8 networks", "four int8 networks, throughput hint", "sharedbb"
DENSE, SAME_REUSE = "sharedbb, dense", "sharedbb, the same weights"
SAME, SAME_INT8 = f"{DENSE}, the same weights", f"{DENSE}, the same weights, int8"

ROUNDS, FRAMES, JUDGED = 2, 2000, 200
STARTING = (
    "the process itself takes {start:.2f} s (interpreter, imports, cached networks), on the shortest clip as long as "
    "{frames:.0f} of its frames; without starting it is {steady:.1f} ×"
)
STARTING_MOVING = "the clip has {frames} frames, and the process's own start takes {start:.2f} s"


@dataclass(frozen=True, slots=True)
class Run:
    """One process: seconds of all of it, frames, seconds from the first result to the last, frames by mode."""

    seconds: float
    frames: int
    steady_s: float
    modes: Mapping[str, int]

    @property
    def frame_ms(self) -> float:
        """Milliseconds a frame, the whole process counted."""
        return self.seconds / self.frames * 1e3

    @property
    def steady_ms(self) -> float:
        """Milliseconds a frame once the first result is there."""
        return self.steady_s / max(1, self.frames - 1) * 1e3

    @property
    def start_s(self) -> float:
        """Seconds of the process that are not spent on frames."""
        return self.seconds - self.steady_ms * self.frames / 1e3


ByWay = Mapping[str, Sequence[Run]]
"""A clip's runs, by what ran."""


def clips_of(data: Path | None, videos: Sequence[Path], work: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Clips of fixed cameras, and of others, as H.264, by name."""
    work.mkdir(parents=True, exist_ok=True)
    names = Counter(video.name for video in videos)
    static, moving = {}, {video.name if names[video.name] == 1 else str(video): video for video in videos}
    if data is not None:
        static = {name: Path(data) / "clips" / name for name in STATIC}
        moving = {MOVING: Path(data) / "clips" / MOVING, **moving}
    elif not videos:
        static, moving = ({f"generated, {motion}": generated(motion, work)} for motion in ("static", "drive"))
    return tuple({name: as_h264(path, work) for name, path in some.items()} for some in (static, moving))


def generated(motion: str, folder: Path, frames: int = 400) -> Path:
    """A made street as H.264, from a camera that stands or one that drives."""
    return encoded(
        f"synthetic:street?motion={motion}&frames={frames}&seed=1&size=960x540&fps=25", folder / f"{motion}.mp4"
    )


def ways(models: Path, rounded: Path) -> dict[str, list[str]]:
    """What each case asks of ``benchmarks.headline_run``, after the clip."""
    engine, reuse = ["engine", "--pipeline"], [word for setting in REUSE for word in ("--set", setting)]
    apart = ["apart", "--pipeline", str(PIPELINE), "--models", str(models), "--hint"]
    return {
        APART: [*apart, "LATENCY"],
        QUEUED: [*apart, "THROUGHPUT"],
        OURS: [*engine, str(SMALL), *reuse],
        SAME_REUSE: [*engine, str(PIPELINE), *reuse],
        DENSE: [*engine, str(SMALL)],
        SAME: [*engine, str(PIPELINE)],
        SAME_INT8: [*engine, str(rounded)],
    }


def run(clip: Path, arguments: Sequence[str], frames: int, results: Path) -> Run:
    """One process on one clip. Raises CalledProcessError with what it printed when it fails."""
    way, *options = arguments
    command = [sys.executable, "-m", "benchmarks.headline_run", way, str(clip), *options]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--frames", str(frames), "--results", str(results)],
        env=environment(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    seconds = time.perf_counter() - start
    return Run(seconds, **json.loads(done.stdout.splitlines()[-1]))


def as_h264(clip: Path, folder: Path) -> Path:
    """The clip, or the same pictures encoded as H.264 in ``folder`` where it is of another format.

    The file's name says of which file, and of which of its states, it was made.
    """
    with av.open(str(clip)) as opened:
        stream = opened.streams.video[0]
        if stream.codec_context.name == "h264":
            return clip
        rate = float(stream.average_rate or 25)
    told = clip.stat()
    of = hashlib.sha256(f"{clip.resolve()} {told.st_size} {told.st_mtime_ns}".encode()).hexdigest()[:8]
    return encoded(clip, folder / f"{clip.stem}-{of}-h264.mp4", rate)


def encoded(source: Path | str, made: Path, rate: float = 25.0) -> Path:
    """A source's pictures as an H.264 file, made when it is not there yet."""
    if not made.is_file():
        unfinished = made.with_suffix(".part.mp4")
        with sb.open_source(source) as opened, sb.VideoSink(unfinished, rate) as sink:
            for frame in opened:
                sink.write(frame.rgb())
        unfinished.replace(made)
    return made


def main() -> None:
    """Measure and keep ``results/headline.json``."""
    parser = Parser(__doc__, rounds=ROUNDS)
    parser.add_argument("--data", type=Path, default=os.environ.get("SHAREDBB_DATA"), help="folder that holds clips/")
    parser.add_argument("--video", type=Path, action="append", default=[], help="a clip of your own, from any camera")
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"of every clip, at most (default: {FRAMES})")
    parser.add_argument("--work", type=Path, default=_work(), help="folder for networks and clips made here")
    options = parser.options()
    if options.quick:
        options.rounds, options.frames = 1, min(options.frames, 60)
    measurement = Measurement("headline", __doc__, options)
    models, rounded = prepared(options)
    static, moving = clips_of(options.data, options.video, options.work)
    clips, asked = {**static, **moving}, ways(models, rounded)
    runs: dict[str, dict[str, list[Run]]] = {name: {} for name in clips}
    for number in range(options.rounds + 1):  # the first fills the caches and is not counted
        for name, clip in clips.items():
            for way, arguments in asked.items():
                if name in static and way not in (APART, OURS, SAME_REUSE):
                    continue
                frames = options.frames if number else 8
                done = run(clip, arguments, frames, options.work / "answers.jsonl")
                if number:
                    runs[name].setdefault(way, []).append(done)
                    print(f"{name}: {way}: {done.frame_ms:.2f} ms a frame, {done.steady_ms:.2f} without starting")
    judged = {name: agreements(clip, models, *held_out(runs[name][OURS][0].frames)) for name, clip in clips.items()}
    timings = {
        f"{name}: {way}": case_of([one.frame_ms / 1e3 for one in done])
        for name, by_way in runs.items()
        for way, done in by_way.items()
    }
    show("ms a frame, whole process", timings, next(name for name in timings if name.endswith(OURS)))
    measurement.keep(
        timings=timings,
        numbers=numbers({name: runs[name] for name in static}, {name: runs[name] for name in moving}),
        limits=_limits(clips),
        spent={f"{name}: {OURS}": _spent(clips[name], runs[name][OURS]) for name in clips},
        notes=_notes(runs, judged),
        details={"clips": {name: _told(by_way, judged[name]) for name, by_way in runs.items()}, "settings": REUSE},
    )


def held_out(frames: int) -> tuple[int, int]:
    """How many frames of a clip are judged, and how many before them are not: street-small learnt from that half."""
    return min(JUDGED, frames - frames // 2), frames // 2


def _work() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sharedbb-benchmarks"


def prepared(options: argparse.Namespace) -> tuple[Path, Path]:
    """The folder of the four networks in 8 bits, and the street pipeline's file in 8 bits; made in a process apart.

    Quantizing imports torch, which would stay in this process's memory and threads. The folder's name says of which
    weights they are and what they were calibrated on.
    """
    of = "camvid" if options.data and (Path(options.data) / "camvid").is_dir() else "clip"
    models = options.work / f"headline-{weights()['street']}-{of}"
    rounded = models / "street-int8.json"
    made = [models / f"{head}.xml" for head in HEADS]
    if not all(path.is_file() for path in (*made, rounded)):
        data = str(options.data) if options.data else ""
        command = [sys.executable, "-m", "benchmarks.headline_networks", str(models), data]
        subprocess.run(command, check=True)
    return models, rounded


def numbers(static: Mapping[str, ByWay], moving: Mapping[str, ByWay]) -> dict[str, Number]:
    """What the headline promises, each as how many times as fast as the four networks."""
    found: dict[str, Number] = {}
    if static:
        whole, steady = (
            geometric_mean(ratio(one, APART, OURS) for one in static.values()) for ratio in (_ratio, _steady)
        )
        ours = [one for by_way in static.values() for one in by_way[OURS]]
        start, shortest = median(one.start_s for one in ours), min(ours, key=lambda one: one.frames)
        why = STARTING.format(start=start, frames=start * 1e3 / shortest.steady_ms, steady=steady)
        found["static clips, geometric mean"] = _times(whole, goal=10.0, why=why)
        found["static clips, geometric mean, without starting"] = _times(steady)
        same = geometric_mean(_steady(one, APART, SAME_REUSE) for one in static.values())
        found["static clips, the same weights, geometric mean, without starting"] = _times(same)
    for name, by_way in moving.items():
        clip, start = Path(name).stem, median(one.start_s for one in by_way[OURS])
        why = STARTING_MOVING.format(frames=by_way[OURS][0].frames, start=start)
        goals = (5.0, 3.0) if name == MOVING else (None, None)
        found |= {
            clip: _times(_ratio(by_way, APART, OURS), goal=goals[0], why=why),
            f"{clip}, without starting": _times(_steady(by_way, APART, OURS)),
            f"{clip}, the same weights, without starting": _times(_steady(by_way, APART, SAME_REUSE)),
            f"{clip}, dense": _times(_ratio(by_way, APART, DENSE), goal=goals[1], why=why),
            f"{clip}, dense, without starting": _times(_steady(by_way, APART, DENSE)),
            f"{clip}, dense, the same weights, without starting": _times(_steady(by_way, APART, SAME)),
            f"{clip}, dense, the same weights in 8 bits, without starting": _times(_steady(by_way, APART, SAME_INT8)),
            f"{clip}, against the throughput hint, without starting": _times(_steady(by_way, QUEUED, OURS)),
        }
    return found


def _times(measured: float, **more: Any) -> Number:
    return Number(measured=round(measured, 2), **more)


def _steady(by_way: ByWay, slow: str, fast: str) -> float:
    """The same ratio without the processes' starts."""
    return _ratio(by_way, slow, fast, "steady_ms")


def _ratio(by_way: ByWay, slow: str, fast: str, what: str = "frame_ms") -> float:
    """The median over rounds of one case's milliseconds over another's in the same round."""
    pairs = zip(by_way[slow], by_way[fast], strict=True)
    return float(median(getattr(one, what) / getattr(other, what) for one, other in pairs))


def _told(by_way: ByWay, judged: Mapping[str, Any]) -> dict[str, Any]:
    """One clip in plain values."""
    told: dict[str, Any] = {"frames": by_way[OURS][0].frames, "agreement": judged}
    for way, done in by_way.items():
        told[way] = {
            "whole_ms": round(median(one.frame_ms for one in done), 3),
            "steady_ms": round(median(one.steady_ms for one in done), 3),
            "start_s": round(median(one.start_s for one in done), 3),
            "modes": dict(done[-1].modes),
        }
    return told


def _limits(clips: Mapping[str, Path]) -> dict[str, Limit]:
    how = "decoded by PyAV as sharedbb opens it, nothing else done, on all cores"
    return {
        f"{name}: decoding alone": Limit(value=round(decode_ms(path), 3), unit="ms", how=how)
        for name, path in clips.items()
    }


def _spent(clip: Path, done: Sequence[Run]) -> dict[str, float]:
    """Where our milliseconds a frame go, the mean of a whole clip: the process's start, and the engine's own stages."""
    engine = sb.compile(sb.load(SMALL, REUSE))
    frames = done[-1].frames
    for _ in engine.stream(clip, max_frames=frames):
        pass
    stages = {
        name: stage.mean_ms * stage.count / frames
        for name, stage in engine.profile.stages.items()
        if not stage.background
    }
    steady = median(one.steady_ms for one in done)
    rest = max(0.0, steady - sum(stages.values()))
    parts = {"start of the process": median(one.start_s for one in done) / frames * 1e3, **stages}
    parts["waiting for the decoder, writing answers"] = rest
    return {name: round(value, 3) for name, value in parts.items()}


def _notes(runs: Mapping[str, ByWay], judged: Mapping[str, Any]) -> list[str]:
    """How far the answers agree, clip by clip."""
    notes = []
    for name in runs:
        own, noise, float_ = (judged[name][what] for what in (OWN, NOISE, FLOAT))
        heads = ", ".join(f"{head} {share:.1%} (noise alone {noise[head]:.1%})" for head, share in own.items())
        same = judged[name][SAME_FLOAT]
        others = ", ".join(f"{head} {float_[head]:.1%} ({same[head]:.1%})" for head in float_)
        speed = f"{_ratio(runs[name], APART, OURS):.1f} × as fast"
        notes.append(
            f"{name}: {speed}; answers as without reuse: {heads}; as the networks in float, street-small and in "
            f"brackets the same weights, both with reuse: {others}"
        )
    return notes


if __name__ == "__main__":
    main()
