"""Temporal reuse judged by labels: milliseconds a frame, and the quality of every answer that is served.

CamVid's ``val`` is one drive with labels at 15 Hz. An engine sees it as a video, and each answer counts as it is
served: computed, moved along or held, boxes from the pipeline's own score threshold up. The street pipeline runs under
every mode of reuse; beside it stand the plain way to save time, all heads on every n-th frame, and further networks
computed in full, as they are and in 8 bits.

``python -m benchmarks.quality --data FOLDER`` takes the folder that holds ``camvid``. It measures, prints a table and
keeps ``results/quality.json`` and its picture, ``results/quality.svg``. A stopped run goes on where it was; a
finished one begins anew.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sharedbb as sb
from benchmarks.machine import Watch, pin
from benchmarks.networks import PIPELINE
from benchmarks.quality_picture import picture
from benchmarks.quality_rows import HALF, compared, numbers, show
from benchmarks.reuse_keyframe import BUDGETS, KEY_EVERY, UNBOUND
from benchmarks.reuse_runs import Settled
from benchmarks.sections import MEASURED
from benchmarks.timing import Measurement, Parser
from sharedbb.cli.compare import WARM_UP
from sharedbb.compiler import cache
from sharedbb.compiler.choose import machine
from sharedbb.compress import Network, quantize
from sharedbb.learn import HEADLINE, Data, headline, judge, open_data
from sharedbb.learn.journal import Journal
from sharedbb.spec.parts import Reuse
from sharedbb.types import Frame, Output

SUITE = "quality"
CAPTURED_HZ = 30
"""CamVid's videos have so many pictures a second, and its files are numbered by them."""

LONGEST_GAP_S = 1.0
WAY = ("runtime.backend=openvino", "runtime.precision=bf16")
CALIBRATION = 128
OTHERS = (PIPELINE.with_name("street-small.yaml"), PIPELINE.with_name(f"{HALF}.yaml"))


@dataclass(frozen=True, slots=True)
class Setting:
    """A way to run a pipeline along a drive: its family, what sets it apart in there, and the fields of ``reuse``.

    ``every``: on how many-th frame the heads run; in between their answers are held.
    """

    family: str
    label: str = ""
    reuse: Mapping[str, Any] = field(default_factory=dict)
    every: int = 1

    def of(self, pipeline: sb.Pipeline) -> sb.Pipeline:
        """The pipeline set to run in this way."""
        heads = {
            name: head.model_copy(update={"every": head.every * self.every}) for name, head in pipeline.heads.items()
        }
        return pipeline.model_copy(update={"reuse": Reuse(**self.reuse), "heads": heads})


OFF = Setting("off")
BY_BUDGET = (0.01, *BUDGETS, 0.1)
SETTINGS = (
    OFF,
    *(Setting("every", f"{count}", every=count) for count in KEY_EVERY),
    Setting("exact", reuse={"mode": "exact"}),
    *(Setting("bounded", f"{budget:g}", {"mode": "bounded", "budget": budget}) for budget in BY_BUDGET),
    *(Setting("keyframe", f"{count}", {"mode": "keyframe", "key_every": count, **UNBOUND}) for count in KEY_EVERY),
    *(
        Setting("keyframe, fresh 8", f"{count}", {"mode": "keyframe", "key_every": count, "fresh": 8, **UNBOUND})
        for count in KEY_EVERY
    ),
    *(Setting("keyframe, audited", f"{budget:g}", {"mode": "keyframe", "budget": budget}) for budget in BY_BUDGET),
    *(Setting("auto", f"{budget:g}", {"mode": "auto", "budget": budget}) for budget in BY_BUDGET),
)
"""``keyframe`` with audits shortens the way to the next key frame where they find its budget broken; without, the way
is that of its label."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture lies in its drive: seconds since the drive began, and whether it is the first."""

    seconds: float
    begins: bool


def places(names: Sequence[str]) -> list[Place]:
    """The place of every picture, by names such as ``0016E5_07959``: recording and number in it.

    A drive ends where the recording does, and before a gap of more than LONGEST_GAP_S. Raises ValueError for a name
    without a number.
    """
    found: list[Place] = []
    recording, start, last = "", 0, 0
    for name in names:
        parts = re.fullmatch(r"(.*?)(\d+)", name)
        if parts is None:
            raise ValueError(f"{name}: a picture of a drive is numbered, as in 0016E5_07959")
        number = int(parts[2])
        begins = not found or parts[1] != recording or not 0 < number - last <= LONGEST_GAP_S * CAPTURED_HZ
        recording, start, last = parts[1], number if begins else start, number
        found.append(Place((number - start) / CAPTURED_HZ, begins))
    return found


class Ride:
    """An engine along a drive, as often as one likes: what it answers to each picture, and how long that took.

    Judging lies between two frames, so that the network finds caches about as a video program would leave them.
    """

    def __init__(self, pipeline: sb.Pipeline, drive: Data) -> None:
        self.side = Settled(sb.compile(pipeline, profile=False))
        self._heads, self._drive = pipeline.heads, drive
        self._places = places([sample.name for sample in drive])
        self._index = 0
        self.side.rehearse([self._frame(sample.rgb) for sample in drive[:WARM_UP]])

    def judged(self) -> dict[str, dict[str, Any]]:
        """Ride once, with nothing remembered at the start; the metrics of every head."""
        self._index = 0
        return judge(self._answer, self._drive, self._heads)

    def per_pass(self) -> NDArray[np.float64]:
        """Mean milliseconds of a frame, float64 [rides]."""
        means: NDArray[np.float64] = np.array(self.side.times_ms).reshape(-1, len(self._drive)).mean(axis=1)
        return means

    def _answer(self, rgb: Any) -> Mapping[str, Output]:
        if self._places[self._index].begins:
            self.side.engine.reset()
        ((result, took_ms),) = self.side.run([self._frame(rgb)])
        self.side.note(result, took_ms)
        self._index += 1
        return result.outputs

    def _frame(self, rgb: Any) -> Frame:
        return Frame.of(rgb, index=self._index, timestamp=self._places[self._index].seconds, order="rgb")


def measured(ours: Ride, reference: Ride, passes: int) -> dict[str, Any]:
    """Ours and the reference along the drive in turns: times, modes, and the quality of every head.

    ``speedup``: the reference's mean time of a frame over ours, in the same pass. ``quality``: headline metrics; modes
    that measure what frames take do not decide alike in every pass.
    """
    watch, passed = Watch(pin()), []
    for _ in range(passes):
        passed.append(ours.judged())
        reference.judged()
    qualities = [headline(quality) for quality in passed]
    told, dense = ours.side.to_dict(), reference.per_pass()[-passes:]
    return {
        "reference_ms": float(np.median(dense)),
        "speedup": spread(dense / ours.per_pass()),
        "p50_ms": round(told["p50_ms"], 3),
        "p95_ms": round(told["p95_ms"], 3),
        "modes": {mode: round(share, 4) for mode, share in told["modes"].items()},
        "quality": {head: spread(np.array([quality[head] for quality in qualities])) for head in qualities[0]},
        "metrics": {head: next(key for key in HEADLINE.values() if key in found) for head, found in passed[0].items()},
        "measured": watch.conditions().model_dump(include=MEASURED),
    }


def spread(values: NDArray[np.float64]) -> dict[str, float]:
    """Median, least and most over the passes."""
    return {
        "median": round(float(np.median(values)), 5),
        "low": round(float(values.min()), 5),
        "high": round(float(values.max()), 5),
    }


@dataclass(frozen=True)
class Bench:
    """What every case is measured with: the main pipeline, the drive, and where finished cases are found again."""

    main: sb.Pipeline
    drive: Data
    train: Data
    passes: int
    journal: Journal

    @cached_property
    def reference(self) -> Ride:
        """The main pipeline computed in full, beside which everything runs."""
        return Ride(OFF.of(self.main), self.drive)

    def cases(self, others: Sequence[sb.Pipeline], settings: Sequence[Setting]) -> dict[str, Any]:
        """The main pipeline under all settings; the others, and each one in 8 bits that is not already, in full."""
        floats = [pipeline for pipeline in (self.main, *others) if Network.of(pipeline).scheme is None]
        asked = [(self.main, setting) for setting in settings]
        asked += [(pipeline, OFF) for pipeline in (*others, *map(self._in_8_bits, floats))]
        found = {}
        for pipeline, setting in asked:
            name = named(pipeline.name, setting)
            found[name] = self._case(pipeline, setting)
            print(f"{name}: {found[name]['speedup']['median']:.2f} times as fast", flush=True)
        return found

    def _case(self, pipeline: sb.Pipeline, setting: Setting) -> Mapping[str, Any]:
        def make(_: Path) -> dict[str, Any]:
            own = {"network": pipeline.name, "family": setting.family, "label": setting.label}
            return own | measured(Ride(setting.of(pipeline), self.drive), self.reference, self.passes)

        networks = [digest(pipeline), digest(self.main)]
        facts = [*networks, asdict(setting), [sample.name for sample in self.drive], self.passes, machine()]
        return self.journal.entry("case", {"key": cache.key({"facts": facts})}, make).facts

    def _in_8_bits(self, pipeline: sb.Pipeline) -> sb.Pipeline:
        def make(folder: Path) -> dict[str, Any]:
            network, _ = quantize(Network.of(pipeline), self.train, pictures=CALIBRATION)
            network.save(folder / "network.sbb")
            return {}

        entry = self.journal.entry("int8", {"network": digest(pipeline), "pictures": CALIBRATION}, make)
        backbone = pipeline.backbone.model_copy(update={"weights": str(entry.folder / "network.sbb")})
        return pipeline.model_copy(update={"name": f"{pipeline.name}, int8", "backbone": backbone})


def named(network: str, setting: Setting) -> str:
    """Of a case: ``street, keyframe 4``."""
    return f"{network}, {setting.family} {setting.label}".rstrip()


def digest(pipeline: sb.Pipeline) -> str:
    """Of a pipeline with the content of its weights, wherever they lie."""
    weights = pipeline.backbone.weights
    stored = Path(weights).read_bytes() if weights and Path(weights).is_file() else str(weights).encode()
    bare = pipeline.model_copy(update={"backbone": pipeline.backbone.model_copy(update={"weights": None})})
    return hashlib.sha256(bare.model_dump_json().encode() + stored).hexdigest()


def main() -> None:
    """Measure, keep ``results/quality.json``, draw it."""
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("SHAREDBB_DATA", "data"), help="holds camvid/")
    parser.add_argument("--pipeline", type=Path, default=PIPELINE, help="runs under every setting")
    parser.add_argument(
        "--also", type=Path, action="append", default=[], metavar="FILE", help="a further pipeline, dense; repeatable"
    )
    parser.add_argument("--passes", type=int, default=3, help="how often each case rides along the drive")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="finished cases, until all are")
    options = parser.options()
    measurement = Measurement(SUITE, __doc__, options)

    pipeline, *others = pipelines = [sb.load(file, WAY) for file in (options.pipeline, *OTHERS, *options.also)]
    if len({one.name for one in pipelines}) < len(pipelines):
        parser.error(f"each pipeline needs a name of its own, got {', '.join(one.name for one in pipelines)}")

    camvid = open_data(f"camvid:{options.data / 'camvid'}")
    drive = camvid.of("val")[:15] if options.quick else camvid.of("val")
    settings = list({setting.family: setting for setting in SETTINGS}.values()) if options.quick else SETTINGS
    bench = Bench(pipeline, drive, camvid.of("train"), options.passes, Journal(options.work))
    cases = bench.cases(others, settings)
    data = f"CamVid val, {len(drive)} pictures at {CAPTURED_HZ // 2} Hz"
    told = {"data": data, "passes": options.passes, **compared(cases, named(pipeline.name, OFF))}
    show(told)
    drawn = (options.out or options.work) / f"{SUITE}.svg"
    drawn.parent.mkdir(parents=True, exist_ok=True)
    drawn.write_text(picture(told))
    print(f"drawn in {drawn}")
    measurement.keep(numbers=numbers(told), details=told)
    if not options.quick:
        for finished in options.work.glob("case-*"):
            shutil.rmtree(finished)


if __name__ == "__main__":
    main()
