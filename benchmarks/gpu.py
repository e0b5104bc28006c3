"""On a GPU: four heads on one trunk against four networks as CUDA graphs, for one camera and for eight.

``python -m benchmarks.gpu`` needs a CUDA device; without one it says so and leaves everything as it was. Networks are
timed by CUDA events, from pictures on the GPU to float32 answers there; "frames to results" is the host's time from
decoded frames to decoded answers. ``--only`` measures some of the sections and keeps the others; ``--precision auto``
lets the engine choose, which compiles everything three times. ``--device cpu --quick`` runs the same code on a CPU, to
see whether it works: graphs are plain calls there. The results are kept after every section. Section ``reuse`` comes
last since its compiling, of batches of tiles in many sizes, takes the longest by far.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import sharedbb as sb
from benchmarks import gpu_reuse
from benchmarks.gpu_clock import busy_share, event_rounds, held_mib, limits_of, traced
from benchmarks.gpu_peers import SEPARATE, Peer
from benchmarks.gpu_work import ENGINE, GRAPHS, MERGED, PARTS, Cameras, Rivals
from benchmarks.schema import RESULTS, Number, Suite
from benchmarks.sections import chosen
from benchmarks.timing import Measurement, Parser, Rounds, case_of, interleaved, show

PIPELINE = Path(__file__).parent.parent / "pipelines" / "street.yaml"
SMALL = [96, 160]  # input of a quick run on a CPU
GOAL, BUSY_GOAL = 3.0, 90.0
RESULTS_TOO = "frames to results"
KEPT = ("timings", "numbers", "limits", "spent", "absent", "details")

Fields = dict[str, dict[str, Any]]
"""What a section found, by field of ``Suite``; the names begin with the section's."""


@dataclass(frozen=True)
class Setup:
    """What every section is given; ``engine_mib``: the GPU's memory that the engine holds with one stream."""

    pipeline: sb.Pipeline
    engine: sb.Engine
    engine_mib: float
    frames: list[sb.Frame]
    peers: Mapping[str, Peer]
    rounds: int
    device: torch.device
    data: Path | None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Setup:
        """Compile the street pipeline for the device and start one stream."""
        device = torch.device(options.device)
        pipeline, before = pipeline_of(options), held_mib(device)
        engine = sb.compile(pipeline, profile=False)
        frames = gpu_reuse.frames_of("moving", 8, options.data)
        engine.step(frames[0], stream="camera 0")
        precision = engine.program.device.precision
        same = pipeline.model_copy(update={"runtime": pipeline.runtime.model_copy(update={"precision": precision})})
        peers = {name: SEPARATE[name] for name in options.peers}
        return cls(same, engine, held_mib(device) - before, frames, peers, options.rounds, device, options.data)


def pipeline_of(options: argparse.Namespace) -> sb.Pipeline:
    """The shipped pipeline for the device, with a small input for a quick run on a CPU."""
    if options.device == "cuda":
        return sb.load(PIPELINE, ["runtime.device=cuda", f"runtime.precision={options.precision}"])
    size = [f"input.size={SMALL}"] if options.quick else []
    return sb.load(PIPELINE, ["runtime.device=cpu", "runtime.backend=eager", "runtime.precision=f32", *size])


def one_camera(setup: Setup) -> Fields:
    """A picture at a time, beside what the device reaches at most."""
    cameras = Cameras.started(setup.engine, setup.frames[:1], setup.engine_mib)
    found = against_peers(setup, cameras, "one camera")
    limits = limits_of(setup.device, cameras.dtype)
    macs = sum(stage.facts.macs for stage in setup.engine.program.stages)
    least = macs / limits["multiply-adds"].value / 1e9
    own = found["timings"][f"one camera: {ENGINE}"].median_ms
    found["details"]["one camera"]["notes"] += [
        f"one camera: the network's {macs / 1e9:.2f} G multiply-adds would take {least:.3f} ms at the rate of a large "
        f"matrix product; the engine takes {own:.3f} ms, hand-merged {_median(found, MERGED)}"
    ]
    return found | {"limits": limits}


def eight_cameras(setup: Setup) -> Fields:
    """A picture of each of eight cameras: the engine stream by stream, the peers as a batch; how busy the GPU is."""
    cameras = Cameras.started(setup.engine, setup.frames[:8], setup.engine_mib)
    found = against_peers(setup, cameras, "eight cameras")
    count, passes = len(cameras.states), max(3, setup.rounds // 4)
    walls = interleaved({"step": cameras.step}, passes).seconds["step"]
    wall_ms = case_of(walls).median_ms / count
    gpu_ms = found["timings"][f"eight cameras: {ENGINE}"].median_ms / count
    spent = cameras.spent(passes)
    share = busy_share(traced(partial(cameras.step, passes), setup.device))
    busy = Number(measured=None if share is None else round(100 * share, 1), goal=BUSY_GOAL, unit="%")
    host = ", ".join(f"{part} {spent[part]:.2f}" for part in PARTS)
    found["numbers"] |= {
        "eight cameras: GPU busy": missed(
            busy,
            f"a frame is finished before the next begins: of {wall_ms:.2f} ms a frame the networks take the GPU "
            f"{gpu_ms:.2f}; the host's parts in ms: {host}; the way: launch the next camera's frame before this one's "
            "answers are read, and wait once a frame for all of them",
        ),
        "eight cameras: frames a second": Number(measured=round(1e3 / wall_ms, 1), unit="1/s"),
    }
    found["spent"]["eight cameras: a frame"] = spent
    found["details"]["eight cameras"]["busy_by_events"] = round(gpu_ms / wall_ms, 4)
    return found


def _median(found: Fields, case: str) -> str:
    timing = found["timings"].get(f"one camera: {case}")
    return "could not run" if timing is None else f"{timing.median_ms:.3f} ms"


def reuse(setup: Setup) -> Fields:
    """Every mode of reuse, frames to results."""
    timings, numbers, details = gpu_reuse.compared(setup.engine, setup.pipeline, 2 * setup.rounds, setup.data)
    return {
        "timings": {f"reuse: {name}": case for name, case in timings.items()},
        "numbers": {f"reuse: {name}": number for name, number in numbers.items()},
        "details": {"reuse": {**details, "notes": []}},
    }


def against_peers(setup: Setup, cameras: Cameras, name: str) -> Fields:
    """The engine's streams against the peers on a batch of the same pictures."""
    rivals = Rivals.of(cameras, setup.pipeline, setup.peers)
    apart = {f"four networks, {key}": call for key, call in rivals.separate.items()}
    rounds = event_rounds({ENGINE: cameras.networks(), **rivals.merged, **apart}, setup.rounds, setup.device)
    show(f"street, four heads, {name}, {setup.engine.program.device.precision}", rounds.timings, ENGINE)

    whole_way: dict[str, Callable[[], Any]] = {f"{ENGINE}, {RESULTS_TOO}": cameras.step}
    if GRAPHS in rivals.separate:
        through = cameras.through(rivals.separate[GRAPHS], rivals.modules, rivals.pictures)
        whole_way[f"four networks, {GRAPHS}, {RESULTS_TOO}"] = through
    walls = interleaved(whole_way, max(3, setup.rounds // 2))

    numbers = ratios(rounds) | ratios(walls, f"{ENGINE}, {RESULTS_TOO}", goal=None)
    memory = {ENGINE: cameras.mib, f"four networks, {GRAPHS}": rivals.graphs_mib}
    for key, mib in memory.items() if setup.device.type == "cuda" else ():
        numbers[f"GPU memory, {key}"] = Number(measured=round(mib, 1), better="lower", unit="MiB")
    details = {
        "pictures": len(rivals.pictures),
        "surface_agreement": rivals.agreement(cameras, setup.pipeline),
        "sources": {key: SEPARATE[key].source for key in rivals.separate},
        "notes": [],
    }
    return {
        "timings": {f"{name}: {key}": case for key, case in (rounds.timings | walls.timings).items()},
        "numbers": {f"{name}: {key}": number for key, number in numbers.items()},
        "absent": {f"{name}: {key}": why for key, why in rivals.absent.items()},
        "spent": {},
        "details": {name: details},
    }


def ratios(rounds: Rounds, engine: str = ENGINE, goal: float | None = GOAL) -> dict[str, Number]:
    """How many times as fast as every kind of separate networks the engine is, and as the hand-merged one."""
    numbers = {}
    limit = rounds.ratio(MERGED, engine) if MERGED in rounds.seconds else None
    for name in rounds.seconds:
        if name in (engine, MERGED):
            continue
        number = rounds.ratio(name, engine, goal=goal)
        if limit is not None:
            possible = rounds.ratio(name, MERGED).measured
            number = missed(
                number,
                f"merged by hand as one CUDA graph, on the same pictures, it is {possible:g} times as fast; that takes "
                f"{limit.measured:g} of the engine's time",
            )
        numbers[f"{name} over engine"] = number
    if limit is not None:
        numbers["engine over hand-merged"] = rounds.ratio(engine, MERGED, better="lower")
    return numbers


def missed(number: Number, why: str) -> Number:
    """The number, with the reason where it misses its goal."""
    return number.model_copy(update={"why": why}) if number.is_met is False else number


def joined(kept: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What was kept, with what a section found in place of what it had found before, by field; the notes of all."""
    (section,) = found["details"]
    fields: dict[str, Any] = {}
    for name in KEPT:
        others = {key: value for key, value in kept.get(name, {}).items() if key.partition(": ")[0] != section}
        fields[name] = others | found.get(name, {})
    fields["notes"] = [note for one in fields["details"].values() for note in one.get("notes", ())]
    return fields


SECTIONS: Mapping[str, Callable[[Setup], Fields]] = {
    "one-camera": one_camera,
    "eight-cameras": eight_cameras,
    "reuse": reuse,
}


def parser() -> Parser:
    """The suite's options."""
    made = Parser(__doc__, rounds=100)
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="a CPU only to try the suite out")
    made.add_argument(
        "--precision", choices=("bf16", "f16", "auto"), default="bf16", help="of the engine and the peers"
    )
    made.add_argument("--data", type=Path, help="folder with clips/ (default: generated clips)")
    for name, known in (("only", SECTIONS), ("peers", SEPARATE)):
        made.add_argument(f"--{name}", type=chosen(known), default=list(known), help=f"some of: {', '.join(known)}")
    return made


def main() -> None:
    """Measure and keep ``results/gpu.json``."""
    options = parser().options()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu: torch sees no CUDA device here, so nothing was measured and nothing was written")
        return
    if options.device == "cpu" and options.out == RESULTS:
        options.out = None
    measurement = Measurement("gpu", __doc__, options)
    before = None if options.out is None else Suite.read("gpu", options.out)
    kept: dict[str, Any] = {} if before is None else before.model_dump(include=set(KEPT))
    setup = Setup.of(options)
    for name in options.only:
        kept = joined(kept, SECTIONS[name](setup))
        measurement.keep(**kept)


if __name__ == "__main__":
    main()
