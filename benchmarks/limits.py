"""What this machine could do at best, and how near the network comes: its roofline, its kernels, the decoder alone."""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

import sharedbb as sb
from benchmarks import networks
from benchmarks.peers.base import clip_of
from benchmarks.roofline import ARRANGING, MIB, Operator, Roofline
from benchmarks.schema import Case, Limit, Number
from benchmarks.timing import Measurement, Parser, case_of, interleaved
from sharedbb.compiler.compiled import Stored
from sharedbb.media.video import VideoSource
from sharedbb.program import Program, Stage

if TYPE_CHECKING:
    import openvino as ov

RUNS = 40  # of a network while its operators are timed
FRAMES = 300  # of a clip that are decoded
NETWORKS = ("street", "street-small")  # of those shipped
WORST = 12  # operators that are listed by how much of their time the roofline does not explain

KINDS = {
    **dict.fromkeys(("Concat", "Convert", "Reorder", "Reshape", "Split", "Transpose"), ARRANGING),
    **dict.fromkeys(("FullyConnected", "MatMul"), "products"),
    "Convolution": "convolutions",
    "Deconvolution": "convolutions",
}
"""Where the time of OpenVINO's layer types counts; ``others`` for the rest."""

SIZES = {"f32": 4, "i32": 4, "bf16": 2, "f16": 2, "i8": 1, "u8": 1}
"""Bytes of a weight by the precision in which an operator computes; 4 for any other."""


def operators(model: ov.CompiledModel) -> list[Operator]:
    """What OpenVINO runs of a model, by its execution graph; with times where it was compiled to count them."""
    found, constant = [], set[str]()
    for node in model.get_runtime_model().get_ordered_ops():
        sources = [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()]
        layer = _told(node, "layerType")
        if layer == "Const" or (sources and constant.issuperset(sources)):
            constant.add(node.get_friendly_name())
        elif layer not in ("", "Input", "Output"):
            found.append(_operator(node, layer, [source in constant for source in sources]))
    return found


def _operator(node: Any, layer: str, is_constant: Sequence[bool]) -> Operator:
    """One node of an execution graph; ``is_constant`` tells of each input whether it is a weight."""
    precision, inputs = _told(node, "runtimePrecision"), list(zip(node.inputs(), is_constant, strict=True))
    weights = [tuple(port.get_shape()) for port, constant in inputs if constant]
    maps = [port for port, constant in inputs if not constant] + list(node.outputs())
    moved = sum(prod(port.get_shape()) * port.get_element_type().size for port in maps)
    moved += sum(prod(shape) for shape in weights) * SIZES.get(precision, 4)
    given, result = tuple(node.input(0).get_shape()), tuple(node.output(0).get_shape())
    other = tuple(node.input(1).get_shape()) if len(inputs) > 1 else ()
    kind = KINDS.get(layer, "others")
    if kind == "convolutions" and len(other) > len(given) and other[1:3] == (1, 1):
        kind = "depthwise convolutions"
    taken = _told(node, "execTimeMcs")
    ms = float(taken) / 1e3 if taken.isdigit() else 0.0
    return Operator(node.get_friendly_name(), kind, precision, macs(layer, given, other, result), moved, ms)


def _told(node: Any, key: str) -> str:
    told = node.get_rt_info()
    return str(told[key].value) if key in told else ""


def macs(layer: str, given: tuple[int, ...], weight: tuple[int, ...], result: tuple[int, ...]) -> int:
    """Multiply-adds of a layer type of OpenVINO, from the shapes of its first two inputs and its result.

    A convolution's weight is (out, in, …) or (groups, out, in, …), a transposed one's (in, out, …) or
    (groups, in, out, …), where out and in are those of one group.
    """
    if layer in ("FullyConnected", "MatMul"):
        return prod(result) * given[-1]
    if layer not in ("Convolution", "Deconvolution"):
        return 0
    lead = 2 if len(weight) > len(given) else 1  # dimensions that together are all channels of one side
    return prod(result if layer == "Convolution" else given) * prod(weight[lead:])


@dataclass(frozen=True)
class Counted:
    """A network compiled to count the times of its operators: to be called as often as it is to run.

    Called in turns with others, it meets the caches and the sleeping threads that they leave, as they do.
    """

    call: Callable[[], Any]
    models: Sequence[ov.CompiledModel]

    def __call__(self) -> None:
        self.call()

    def operators(self) -> list[Operator]:
        """What has run, with its average times."""
        return [operator for model in self.models for operator in operators(model)]

    @classmethod
    def of_program(cls, program: Program) -> Counted:
        """What runs for all heads of a program.

        Raises ValueError for a program of another backend than OpenVINO, and for one that came from the cache, which
        OpenVINO cannot export again (``sb.compile(…, use_cache=False)``).
        """
        device = program.device
        if device.name != "openvino":
            raise ValueError(f"operators can be timed in OpenVINO only, and this program runs on {device.name}")
        picture = device.picture(program.size, program.planes)
        for plane in picture.planes.values():
            plane[...] = np.random.default_rng(0).integers(0, 256, plane.shape, np.uint8)
        features, calls, models = dict(picture.features), [], []
        for stage in program.stages_for(frozenset(program.heads)):
            executable = _counted(stage, device)
            session, inputs = executable.session(), [features[name] for name in stage.facts.inputs]
            features.update(zip(stage.facts.outputs, session(inputs), strict=True))
            calls.append(partial(session, inputs))
            models.append(executable.model)
        return cls(lambda: [call() for call in calls], models)

    @classmethod
    def of_models(cls, models: Iterable[ov.Model], precision: ov.Type, picture: np.ndarray) -> Counted:
        """Whole models, one after another."""
        compiled = [networks.openvino_compiled(model, precision, counted=True) for model in models]
        calls = [networks.openvino_run(model, picture) for model in compiled]
        return cls(lambda: [call() for call in calls], compiled)


def _counted(stage: Stage, device: Any) -> Any:
    """The same executable once more, compiled to count the times of its operators."""
    from sharedbb.backends.openvino import OpenVINOExecutable, core

    try:
        options = {**device._options, "PERF_COUNT": True}
        stored = device.save(_ready(stage))
        return OpenVINOExecutable(core().import_model(io.BytesIO(stored), "CPU", options))
    except RuntimeError as error:
        raise ValueError(f"stage {stage.facts.name} came from the cache; compile with use_cache=False") from error


def _ready(stage: Stage) -> Any:
    """The backend's own executable of a stage, taken up from the cache now if that has not happened yet."""
    return stage.executable.ready() if isinstance(stage.executable, Stored) else stage.executable


def roofline_ms(program: Program, roofline: Roofline | None = None) -> float:
    """What these operators take at least on this machine, milliseconds; works for a program from the cache too."""
    stages = program.stages_for(frozenset(program.heads))
    return (roofline or Roofline.of_machine()).total_ms(
        operator for stage in stages for operator in operators(_ready(stage).model)
    )


def spent(timed: Sequence[Operator], whole_ms: float) -> dict[str, float]:
    """Where the milliseconds of a run go, by kind of operator, and what is left for calls and for threads to wake up.

    ``timed`` come from other runs than ``whole_ms``; where they took longer than the whole (averages have outliers that
    medians have not, and counting costs a little), their shares are kept and nothing is left.
    """
    kinds: Counter[str] = Counter()
    for operator in timed:
        kinds[operator.kind] += operator.ms
    total = sum(kinds.values())
    scale = min(1.0, whole_ms / total) if total else 1.0
    parts = {kind: round(ms * scale, 3) for kind, ms in kinds.most_common() if ms}
    return parts | {"between operators": round(max(0.0, whole_ms - total), 3)}


def account(case: str, whole_ms: float, timed: Sequence[Operator], roofline: Roofline) -> str:
    """A sentence: how far a run is from its roofline, and where the rest goes."""
    parts, least = spent(timed, whole_ms), roofline.total_ms(timed)
    between = parts.pop("between operators")
    named = ", ".join(f"{kind} {ms:.2f}" for kind, ms in parts.items())
    counted = sum(one.ms for one in timed)
    rest = (
        f"{between:.2f} between them"
        if between
        else f"nothing between them (counted one by one they took {counted:.2f}; scaled to the whole)"
    )
    return (
        f"{case}: {whole_ms:.2f} ms, of it operators {sum(parts.values()):.2f} ({named}) and {rest}; "
        f"the roofline of these operators is {least:.2f} ms, {least / whole_ms:.0%} of the time."
    )


def decode(path: Path, frames: int = FRAMES) -> int:
    """Decode the first frames of a clip as the engine's source does, and nothing else; returns how many there were."""
    with VideoSource.file(str(path)) as source:
        return sum(1 for _ in islice(source, frames))


def decode_ms(path: Path, frames: int = FRAMES) -> float:
    """Milliseconds a frame of decoding alone, once through the clip, opening it included."""
    start = time.perf_counter()
    count = decode(path, frames)
    return (time.perf_counter() - start) * 1e3 / count


@dataclass(frozen=True)
class Decoding:
    """The clips decoded in turns: seconds a frame that passed, and that all cores together worked."""

    passed: Mapping[str, list[float]]
    worked: Mapping[str, list[float]]

    @classmethod
    def of(cls, paths: Sequence[Path], rounds: int, frames: int) -> Decoding:
        """Measured over some rounds, after one that brings the files into memory."""
        passed: dict[str, list[float]] = {path.name: [] for path in paths}
        worked: dict[str, list[float]] = {path.name: [] for path in paths}
        for round_ in range(rounds + 1):
            for path in paths:
                start, cpu = time.perf_counter(), time.process_time()
                count = decode(path, frames)
                if round_:
                    passed[path.name].append((time.perf_counter() - start) / count)
                    worked[path.name].append((time.process_time() - cpu) / count)
        return cls(passed, worked)

    def timings(self) -> dict[str, Case]:
        """Milliseconds a frame by clip."""
        return {f"decode only, {clip}": case_of(taken) for clip, taken in self.passed.items()}

    def limits(self) -> dict[str, Limit]:
        """The rate of every clip."""
        how = "frames of the clip, decoded by PyAV as the engine's source opens it, and nothing else; {:.2f} ms of work"
        return {
            f"decode only, {clip}": Limit(
                value=round(1 / median(taken), 1),
                unit="frames/s",
                how=how.format(median(self.worked[clip]) * 1e3),
            )
            for clip, taken in self.passed.items()
        }


def furthest(timed: Sequence[Operator], roofline: Roofline) -> list[dict[str, Any]]:
    """The operators that take the most time beyond their roofline: where a faster kernel would pay."""
    by_excess = sorted(timed, key=lambda operator: roofline.ms(operator) - operator.ms)
    return [
        {
            "operator": operator.name,
            "kind": operator.kind,
            "macs": operator.macs,
            "moved": operator.moved,
            "ms": round(operator.ms, 3),
            "roofline_ms": round(roofline.ms(operator), 3),
        }
        for operator in by_excess[:WORST]
    ]


def main() -> None:
    """Measure and keep ``results/limits.json``."""
    parser = Parser(__doc__, rounds=40)
    parser.add_argument("--data", type=Path, default=os.environ.get("SHAREDBB_DATA"), help="folder that holds clips/")
    options = parser.options()
    measurement = Measurement("limits", __doc__, options)
    roofline = Roofline.of_machine(cached=False)
    timings: dict[str, Case] = {}
    parts, notes, numbers, worst = {}, [], {}, {}
    for name in NETWORKS:
        pipeline = sb.load(networks.PIPELINE.with_name(f"{name}.yaml"))
        engine = sb.compile(pipeline, profile=False, use_cache=False)
        call = networks.engine_call(engine, networks.picture_of(engine.program.size))
        case, counted = f"{name}, four heads, network alone", Counted.of_program(engine.program)
        timings[case] = interleaved({case: call, "counted": counted}, options.rounds).timings[case]
        timed, whole_ms = counted.operators(), timings[case].median_ms
        parts[case], worst[case] = spent(timed, whole_ms), furthest(timed, roofline)
        notes.append(account(case, whole_ms, timed, roofline))
        numbers[f"{name}, over its roofline"] = Number(
            measured=round(whole_ms / roofline.total_ms(timed), 2), better="lower"
        )
    with tempfile.TemporaryDirectory() as folder:
        decoding = Decoding.of(clips(options.data, Path(folder)), max(1, options.rounds // 8), FRAMES)
    measurement.keep(
        timings=timings | decoding.timings(),
        numbers=numbers,
        limits=roofline.limits() | decoding.limits(),
        spent=parts,
        notes=notes,
        details={
            "roofline": roofline.to_dict(),
            "furthest": worst,
            "series": {"working set in MiB": _series(roofline)},
        },
    )


def clips(data: Path | None, folder: Path) -> list[Path]:
    """The clips of the data; without it, a generated one, written to ``folder``."""
    found = [] if data is None else (data / "clips").glob("*.*")
    return sorted(path for path in found if path.suffix in (".avi", ".mp4")) or [clip_of(None, folder)]


def _series(roofline: Roofline) -> dict[str, Any]:
    """Bandwidth by working set, for a chart."""
    sizes = sorted(roofline.bandwidth)
    rates = [round(roofline.bandwidth[size] / 1e9, 1) for size in sizes]
    return {"x": [str(size // MIB) for size in sizes], "lines": {"all cores": rates}, "unit": "GB/s"}


if __name__ == "__main__":
    main()
