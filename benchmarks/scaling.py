"""What more costs: heads on one trunk, larger pictures, further streams, fewer threads; beside separate networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import openvino as ov

import sharedbb as sb
from benchmarks import networks
from benchmarks.limits import Counted, account, roofline_ms, spent
from benchmarks.machine import pin
from benchmarks.roofline import Roofline
from benchmarks.schema import Case, Number
from benchmarks.timing import Measurement, Parser, Rounds, interleaved
from sharedbb.backends.openvino import OpenVINOBackend
from sharedbb.types import Size

OURS, SEPARATE, ROOFLINE = "sharedbb", "separate OpenVINO networks", "roofline"
STEPS = "sharedbb, whole steps"
EACH = "sharedbb, an engine of one thread for each core"
COUNTED = "operators counted"
SEPARATE_AT_ONCE = "separate OpenVINO networks, throughput hint"
MERGED_AT_ONCE = "hand-merged OpenVINO network, throughput hint"

MORE_HEADS: Mapping[str, Mapping[str, Any]] = {
    "depth": {"type": "depth", "taps": [4]},
    "lanes": {"type": "segmentation", "taps": [4], "classes": ["none", "line", "kerb"], "channels": 32},
    "lights": {"type": "detection", "taps": [8, 16, 32], "classes": ["red", "green"]},
    "place": {"type": "embedding", "taps": [32]},
}
"""After the four of the street pipeline, in this order; untrained, which is all the same for time."""

HEADS, STREAMS = (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 4, 8)
SIZES = ((256, 448), (384, 640), (512, 896), (736, 1280))  # sides are multiples of 32, which 720 is not
STREET = "synthetic:street?frames=1&size=640x384"

Call = Callable[[], Any]


@dataclass(frozen=True)
class Sweep:
    """One thing varied: by who does it, what to run at every place of ``x``.

    ``frames``: how many frames a run is of at every place; their rate is what the series then shows, otherwise
    milliseconds. ``known``: lines that need not be run. ``largest``: the network at the last place, to account for.
    """

    name: str
    x: Sequence[int | str]
    lines: Mapping[str, Sequence[Call]]
    frames: Sequence[int] = ()
    known: Mapping[str, Sequence[float]] = field(default_factory=dict)
    largest: Counted | None = None

    def measured(self, rounds: int) -> Measured:
        """Every line at every place, interleaved."""
        cases = {self.case(line, at): call for line, calls in self.lines.items() for at, call in enumerate(calls)}
        counted = {} if self.largest is None else {COUNTED: self.largest}
        return Measured(self, interleaved({**cases, **counted}, rounds, warm=3))

    def case(self, line: str, at: int) -> str:
        """What a line's place is called among the timings; from the end where ``at`` is negative."""
        return f"{self.name} {self.x[at]}: {line}"


@dataclass(frozen=True)
class Measured:
    """A sweep and its times."""

    sweep: Sweep
    rounds: Rounds

    @property
    def timings(self) -> dict[str, Case]:
        """Of a run, by case."""
        return {case: one for case, one in self.rounds.timings.items() if case != COUNTED}

    def ms(self, line: str, at: int) -> float:
        """A run's median."""
        return self.timings[self.sweep.case(line, at)].median_ms

    def series(self) -> dict[str, Any]:
        """For a chart: places ``x``, and by line a median a place."""
        sweep = self.sweep
        unit = "frames/s" if sweep.frames else "ms"
        lines = {line: [self.ms(line, at) for at in range(len(sweep.x))] for line in sweep.lines} | dict(sweep.known)
        if sweep.frames:
            lines = {
                line: [1e3 * count / ms for count, ms in zip(sweep.frames, times, strict=True)]
                for line, times in lines.items()
            }
        rounded = {line: [round(value, 3) for value in values] for line, values in lines.items()}
        return {"x": list(sweep.x), "lines": rounded, "unit": unit}

    def ratio(self, slow: tuple[str, int], fast: tuple[str, int]) -> Number:
        """How many times as long one line takes at one place as another, a frame where runs are of several."""
        of_frame = []
        for line, at in (slow, fast):
            frames = self.sweep.frames[at] if self.sweep.frames else 1
            of_frame.append([seconds / frames for seconds in self.rounds.seconds[self.sweep.case(line, at)]])
        return Rounds({"slow": of_frame[0], "fast": of_frame[1]}).ratio("slow", "fast")

    def step(self, line: str) -> Number:
        """Milliseconds that one more of what is varied costs, between the ends."""
        more = float(self.sweep.x[-1]) - float(self.sweep.x[0])
        return Number(
            measured=round((self.ms(line, -1) - self.ms(line, 0)) / more, 3) if more else None,
            better="lower",
            unit="ms",
        )


@dataclass(frozen=True)
class Setup:
    """What all sweeps are made of: the precision that all networks run in, the machine's roofline, how much to do."""

    precision: str
    roofline: Roofline
    quick: bool
    converted: dict[tuple[str, Size], ov.Model] = field(default_factory=dict, repr=False)

    @property
    def type(self) -> ov.Type:
        """OpenVINO's name of the precision."""
        return networks.TYPES[self.precision]

    def some(self, places: Sequence[Any]) -> list[Any]:
        """The places of a sweep; in a quick run its ends only."""
        return list(dict.fromkeys((places[0], places[-1]))) if self.quick else list(places)

    def pipeline(
        self, *, heads: int = 4, size: tuple[int, int] = (384, 640), threads: int | None = None
    ) -> sb.Pipeline:
        """The street pipeline, untrained, with so many heads, for another size or fewer threads."""
        described = networks.street().model_dump(mode="json")
        described["heads"] = dict(list({**described["heads"], **MORE_HEADS}.items())[:heads])
        described["backbone"]["weights"] = None
        described["input"]["size"] = size
        described["runtime"] = {"device": "cpu", "backend": "openvino", "precision": self.precision, "threads": threads}
        return sb.Pipeline.model_validate(described)

    def models(self, pipeline: sb.Pipeline) -> list[ov.Model]:
        """A pipeline's heads, each as a network of its own; every network is converted once."""
        size = pipeline.input.network_size
        for name, head in pipeline.heads.items():
            if (name, size) not in self.converted:
                network = networks.build_network(pipeline.model_copy(update={"heads": {name: head}}))
                self.converted[name, size] = networks.openvino_model(
                    network, pipeline.input.normalization, (1, 3, size.height, size.width)
                )
        return [self.converted[name, size] for name in pipeline.heads]

    def calls(self, pipeline: sb.Pipeline) -> list[Call]:
        """These networks, ready to run with the latency hint."""
        picture, threads = networks.picture_of(pipeline.input.network_size), pipeline.runtime.threads
        return [networks.openvino_call(model, self.type, picture, threads) for model in self.models(pipeline)]

    def engine(self, pipeline: sb.Pipeline) -> sb.Engine:
        """Compiled anew, so that its kernels can be timed and nothing that a user keeps in the cache has to go."""
        return sb.compile(pipeline, use_cache=False, profile=False)


def heads(setup: Setup) -> Sweep:
    """More heads on one trunk; against as many networks, one after another."""
    counts = setup.some(HEADS)
    calls = setup.calls(setup.pipeline(heads=counts[-1]))
    return _beside(setup, "heads", counts, [setup.pipeline(heads=n) for n in counts], [calls[:n] for n in counts])


def resolution(setup: Setup) -> Sweep:
    """Four heads on larger pictures."""
    pipelines = [setup.pipeline(size=size) for size in setup.some(SIZES)]
    sizes = [str(pipeline.input.network_size) for pipeline in pipelines]
    return _beside(setup, "resolution", sizes, pipelines, [setup.calls(pipeline) for pipeline in pipelines])


def threads(setup: Setup) -> Sweep:
    """Four heads on fewer threads than there are cores."""
    counts = setup.some(range(1, len(pin()) + 1))
    pipelines = [setup.pipeline(threads=count) for count in counts]
    return _beside(setup, "threads", counts, pipelines, [setup.calls(pipeline) for pipeline in pipelines])


def _beside(
    setup: Setup, name: str, x: Sequence[Any], pipelines: Sequence[sb.Pipeline], apart: Sequence[Sequence[Call]]
) -> Sweep:
    """An engine at every place, beside separate networks one after another."""
    engines = [setup.engine(pipeline) for pipeline in pipelines]
    lines = {OURS: [_alone(engine) for engine in engines], SEPARATE: [partial(_in_turn, calls) for calls in apart]}
    if name == "threads":  # the roofline is that of all cores
        return Sweep(name, x, lines)
    least = [roofline_ms(engine.program, setup.roofline) for engine in engines]
    return Sweep(name, x, lines, known={ROOFLINE: least}, largest=Counted.of_program(engines[-1].program))


def streams(setup: Setup) -> Sweep:
    """Four heads on a frame of each of several streams: one engine, its streams by name; networks alone, but ``STEPS``,
    which takes pictures in and decodes the answers too. ``EACH`` deals the streams out to engines side by side."""
    counts, pipeline = setup.some(STREAMS), setup.pipeline()
    engine, size = setup.engine(pipeline), pipeline.input.network_size
    picture, shape = networks.picture_of(size), (1, 3, size.height, size.width)
    with sb.open_source(STREET) as street:
        frame = next(iter(street))
    names = [f"camera {number}" for number in range(counts[-1])]
    ours = [networks.engine_call(engine, picture, name) for name in names]
    steps = [partial(engine.step, frame, stream=f"{name}, whole") for name in names]
    cores = range(len(pin()))
    small, pool = [setup.engine(setup.pipeline(threads=1)) for _ in cores], ThreadPoolExecutor(len(cores))
    dealt = [networks.engine_call(small[at % len(small)], picture, name) for at, name in enumerate(names)]
    shares = [[dealt[:count][core :: len(small)] for core in cores] for count in counts]
    alone = setup.calls(pipeline)
    merged = networks.openvino_model(networks.build_network(pipeline), pipeline.input.normalization, shape)
    at_once = networks.openvino_throughput([merged], setup.type, picture, counts[-1])
    separate_at_once = networks.openvino_throughput(setup.models(pipeline), setup.type, picture, counts[-1])
    return Sweep(
        "streams",
        counts,
        {
            OURS: [partial(_in_turn, ours[:count]) for count in counts],
            STEPS: [partial(_in_turn, steps[:count]) for count in counts],
            EACH: [partial(_side_by_side, pool, share) for share in shares],
            SEPARATE: [partial(_in_turn, alone * count) for count in counts],
            MERGED_AT_ONCE: [partial(at_once, count) for count in counts],
            SEPARATE_AT_ONCE: [partial(separate_at_once, count) for count in counts],
        },
        frames=counts,
    )


def _alone(engine: sb.Engine) -> Call:
    return networks.engine_call(engine, networks.picture_of(engine.program.size))


def _in_turn(calls: Sequence[Call]) -> None:
    for call in calls:
        call()


def _side_by_side(pool: ThreadPoolExecutor, dealt: Sequence[Sequence[Call]]) -> None:
    """What every one of some threads has to do, all of them together."""
    for done in [pool.submit(_in_turn, calls) for calls in dealt]:
        done.result()


SWEEPS: Mapping[str, Callable[[Setup], Sweep]] = {
    "heads": heads,
    "resolution": resolution,
    "streams": streams,
    "threads": threads,
}


def numbers_of(found: Mapping[str, Measured]) -> dict[str, Number]:
    """What a reader decides by, of all sweeps, at their ends."""
    numbers = {}
    for name, measured in found.items():
        for at, x in ((0, measured.sweep.x[0]), (-1, measured.sweep.x[-1])):
            numbers[f"{name} {x}: separate over sharedbb"] = measured.ratio((SEPARATE, at), (OURS, at))
    for line in (OURS, SEPARATE):
        numbers[f"one head more, {line}"] = found["heads"].step(line)
        numbers[f"all threads over one, {line}"] = found["threads"].ratio((line, 0), (line, -1))
    of_streams = found["streams"]
    last = of_streams.sweep.x[-1]
    numbers[f"streams {last} over 1, frames/s, sharedbb"] = of_streams.ratio((OURS, 0), (OURS, -1))
    numbers[f"streams {last}: {EACH}, over one of all, frames/s"] = of_streams.ratio((OURS, -1), (EACH, -1))
    for line in (SEPARATE_AT_ONCE, MERGED_AT_ONCE):
        numbers[f"streams {last}: {line} over sharedbb"] = of_streams.ratio((line, -1), (OURS, -1))
    return numbers


def main() -> None:
    """Measure and keep ``results/scaling.json``."""
    options = Parser(__doc__, rounds=20).options()
    measurement = Measurement("scaling", __doc__, options)
    setup = Setup(OpenVINOBackend.precisions("cpu")[0], Roofline.of_machine(), options.quick)
    found, parts, notes = {}, {}, []
    for name, sweep_of in SWEEPS.items():
        sweep = sweep_of(setup)
        measured = found[name] = sweep.measured(options.rounds)
        if sweep.largest is not None:
            case, timed, ms = sweep.case(OURS, -1), sweep.largest.operators(), measured.ms(OURS, -1)
            parts[case] = spent(timed, ms)
            notes.append(account(case, ms, timed, setup.roofline))
    numbers = numbers_of(found)
    notes.append(_of_streams(found["streams"]))
    measurement.keep(
        timings={case: one for measured in found.values() for case, one in measured.timings.items()},
        numbers=numbers,
        spent=parts,
        notes=notes,
        details={
            "precision": setup.precision,
            "series": {name: measured.series() for name, measured in found.items()},
        },
    )


def _of_streams(measured: Measured) -> str:
    """What several streams gain in one engine."""
    lines = measured.series()["lines"]
    rates = ", ".join(f"{line} {values[-1]:.0f}" for line, values in lines.items())
    return (
        "Frames of several streams run one after another in an engine, each on all cores; they are not batched. "
        "An engine of one thread for each core runs as many frames at once: "
        f"{lines[OURS][0]:.0f} frames/s with one stream, {lines[OURS][-1]:.0f} with {measured.sweep.x[-1]}. "
        f"With these, frames/s: {rates}."
    )


if __name__ == "__main__":
    main()
