"""Memory of whole programs, from H.264 file to answers: ours, separate networks, streams, reuse, and growth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.machine import environment
from benchmarks.peers.base import clip_of
from benchmarks.schema import Number
from benchmarks.timing import Measurement, Parser

ROOT = Path(__file__).resolve().parent.parent
FRAMES, LONG, PREPARING = 200, 5000, 3
STREAMS = (1, 2, 4, 8)
MODES = ("exact", "bounded", "keyframe", "auto")
GROWTH_GOAL = 10.0  # MiB over ``LONG`` frames

NOTHING, OURS, FIRST = "decoder alone", "sharedbb", "sharedbb, first start, compiling"
MERGED, SEPARATE, CACHED = "hand-merged OpenVINO network", "four OpenVINO networks", ", from their cache"


@dataclass(frozen=True)
class Held:
    """What a process held, in MiB: resident by frame, at most (None where the system does not tell), and shared with no
    other process."""

    resident: Mapping[int, float]
    peak: float | None
    own: float

    @classmethod
    def of(cls, said: str) -> Held:
        """What ``memory_case`` printed."""
        told = json.loads(said.splitlines()[-1])
        return cls({int(frame): mib for frame, mib in told["resident"].items()}, told["peak"], told["own"])

    @property
    def steady(self) -> float:
        """Resident at the end."""
        return self.resident[max(self.resident)]

    @property
    def growth(self) -> float:
        """By how much more is resident at the end than after the first tenth of the frames."""
        return round(self.steady - self.resident[min(self.resident)], 1)

    def row(self) -> dict[str, float | None]:
        """For a table."""
        return {"resident MiB": self.steady, "peak MiB": self.peak, "own MiB": self.own}


@dataclass(frozen=True)
class Programs:
    """The cases that run as processes of their own: on a clip, with model files and a cache in a folder."""

    clip: Path
    folder: Path
    precision: str
    frames: int

    def run(self, case: Mapping[str, Any], *, cache: str = "engine") -> Held:
        """A fresh process; raises RuntimeError with its last line where it fails."""
        whole = {"clip": str(self.clip), "frames": self.frames, **case}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory_case", json.dumps(whole)],
            env=environment(SHAREDBB_CACHE=str(self.folder / cache)),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{whole['kind']} failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
        return Held.of(done.stdout)

    def engine(self, *, streams: int = 1, mode: str = "off") -> dict[str, Any]:
        """The street pipeline in one engine."""
        from benchmarks.networks import PIPELINE

        return {
            "kind": "engine",
            "pipeline": str(PIPELINE),
            "changes": [f"runtime.precision={self.precision}", f"reuse.mode={mode}"],
            "streams": streams,
        }

    def openvino(self, models: Sequence[Path], cache: str = "") -> dict[str, Any]:
        """Model files, one after another."""
        kept = str(self.folder / cache) if cache else ""
        return {
            "kind": "openvino",
            "models": [str(path) for path in models],
            "precision": self.precision,
            "cache": kept,
        }

    def save(self) -> dict[str, list[Path]]:
        """The street networks as files of OpenVINO, weights in 16 bits, as ``save_model`` has them unless told."""
        import openvino as ov

        from benchmarks import networks

        pipeline = networks.street()
        size = pipeline.input.network_size
        shape = (1, 3, size.height, size.width)
        found = {MERGED: {"all": networks.build_network(pipeline)}, SEPARATE: networks.separate(pipeline)}
        files: dict[str, list[Path]] = {}
        for case, parts in found.items():
            files[case] = [self.folder / f"{case} {name}.xml" for name in parts]
            for path, network in zip(files[case], parts.values(), strict=True):
                ov.save_model(networks.openvino_model(network, pipeline.input.normalization, shape), path)
        return files


def programs(
    found: Programs, files: Mapping[str, Sequence[Path]], streams: Sequence[int]
) -> Iterator[tuple[str, Held]]:
    """Every case in turn; what starts from a cache has filled it in a process before."""
    yield NOTHING, found.run({"kind": "nothing"})
    yield FIRST, found.run(found.engine(), cache="first")
    short = replace(found, frames=PREPARING)
    for mode in ("off", *MODES):
        short.run(found.engine(mode=mode))
    for count in streams:
        yield stream_case(count), found.run(found.engine(streams=count))
    for mode in MODES:
        yield f"{OURS}, reuse {mode}", found.run(found.engine(mode=mode))
    for case, models in files.items():
        yield case, found.run(found.openvino(models))
        short.run(found.openvino(models, cache=case))
        yield case + CACHED, found.run(found.openvino(models, cache=case))


def stream_case(count: int) -> str:
    """What an engine with so many streams is called."""
    return OURS if count == 1 else f"{OURS}, {count} streams"


def numbers_of(held: Mapping[str, Held], long: Mapping[str, Held], streams: Sequence[int]) -> dict[str, Number]:
    """What a reader decides by."""
    ours, most = held[OURS].steady, streams[-1]

    def mib(measured: float | None, **more: Any) -> Number:
        rounded = None if measured is None else round(measured, 1)
        return Number(measured=rounded, better="lower", unit="MiB", **more)

    numbers = {
        f"{OURS}, resident": mib(ours),
        f"{OURS}, peak": mib(held[OURS].peak),
        f"{FIRST}, peak": mib(held[FIRST].peak),
    }
    for case in (SEPARATE, SEPARATE + CACHED, MERGED, MERGED + CACHED):
        numbers[f"{case} over {OURS}, resident"] = Number(measured=round(held[case].steady / ours, 2))
    numbers["one stream more"] = mib((held[stream_case(most)].steady - ours) / (most - 1))
    for mode in MODES:
        numbers[f"reuse {mode} over off"] = mib(held[f"{OURS}, reuse {mode}"].steady - ours)
    for mode, one in long.items():
        goal = {"goal": GROWTH_GOAL} if mode == "off" else {}
        numbers[f"growth over {max(one.resident):,} frames, reuse {mode}"] = mib(one.growth, **goal)
    return numbers


def note(held: Mapping[str, Held], files: Mapping[str, int]) -> str:
    """What is in the memory that is not the networks' own."""
    return (
        f"Of the {held[OURS].steady:.0f} MiB resident, {held[NOTHING].steady:.0f} are the interpreter and the decoder; "
        f"the model's file has {files['sharedbb, artifact']:.1f} MiB, the four networks' files {files[SEPARATE]:.1f}."
    )


def sizes(files: Mapping[str, Sequence[Path]], folder: Path) -> dict[str, float]:
    """MiB of the model files on disk."""
    from benchmarks.networks import street

    artifact = Path(street().backbone.weights or "")
    found = {"sharedbb, artifact": [artifact], "sharedbb, compiled": [*(folder / "first").rglob("*.*")]}
    for case, models in files.items():
        found[case] = [part for path in models for part in (path, path.with_suffix(".bin"))]
    return {
        case: round(sum(path.stat().st_size for path in paths if path.is_file()) / 2**20, 2)
        for case, paths in found.items()
    }


def main() -> None:
    """Measure and keep ``results/memory.json``."""
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("SHAREDBB_DATA"), help="folder that holds clips/")
    options = parser.options()
    measurement = Measurement("memory", __doc__, options)
    from sharedbb.backends.openvino import OpenVINOBackend

    less = 10 if options.quick else 1
    streams = (STREAMS[0], STREAMS[-1]) if options.quick else STREAMS
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        found = Programs(clip_of(options.data, folder), folder, OpenVINOBackend.precisions("cpu")[0], FRAMES // less)
        files = found.save()
        held = {}
        for case, one in programs(found, files, streams):
            held[case] = one
            print(f"{case}: {one.steady:.0f} MiB resident, {one.peak or 0:.0f} at most")
        long = {mode: replace(found, frames=LONG // less).run(found.engine(mode=mode)) for mode in ("off", "auto")}
        on_disk = sizes(files, folder)
    first = long["off"].resident
    measurement.keep(
        numbers=numbers_of(held, long, streams),
        notes=[note(held, on_disk)],
        details={
            "memory": {case: one.row() for case, one in held.items()},
            "files": {case: {"MiB": mib} for case, mib in on_disk.items()},
            "series": {
                "streams": {
                    "x": list(streams),
                    "lines": {OURS: [held[stream_case(count)].steady for count in streams]},
                    "unit": "MiB",
                },
                "frames": {
                    "x": list(first),
                    "lines": {f"{OURS}, reuse {mode}": list(one.resident.values()) for mode, one in long.items()},
                    "unit": "MiB",
                },
            },
        },
    )


if __name__ == "__main__":
    main()
