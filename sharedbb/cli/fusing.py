"""A fusion on this machine: the separate networks and the fused one timed in turns, and their answers as pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedbb import media
from sharedbb.cli.sinks import jpeg
from sharedbb.compiler import compile_pipeline
from sharedbb.compiler.measure import Call, interleaved
from sharedbb.learn.agreeing import AGREEMENT
from sharedbb.learn.data import Data, Rgb, Sample
from sharedbb.learn.fusion import Fusion
from sharedbb.learn.network import pipeline_of
from sharedbb.learn.teachers import open_teacher
from sharedbb.spec import Pipeline
from sharedbb.spec.fuse import FuseTeacher
from sharedbb.spec.recipe import Target
from sharedbb.types import Frame, FrameResult, Freshness, Geometry, Output

if TYPE_CHECKING:
    from sharedbb.runtime import Engine

ROUNDS = 5
"""How often all are timed, each time the other way round; the median of the ratios counts."""

FRAMES = 15
"""Different frames that are timed, one after another."""

APART = 4
"""Of a video, every so many frames one is timed."""

WIDTH = 640
"""Pixels of a picture in the report; wider ones are made smaller."""


@dataclass(frozen=True, slots=True)
class FusedSpeed:
    """Milliseconds of a frame, from picture to decoded answers: each teacher by itself, and the fused network.

    ``ran``: by teacher, what ran it, in which precision; ``fused_ran``: the same of the fused network.
    """

    target: str
    teachers_ms: dict[str, float]
    fused_ms: float
    ran: dict[str, str]
    fused_ran: str
    frames: str

    @property
    def separate_ms(self) -> float:
        """All teachers, one after another."""
        return sum(self.teachers_ms.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``ratio`` is how many times as fast the fused network is."""
        return {**asdict(self), "separate_ms": self.separate_ms, "ratio": self.separate_ms / self.fused_ms}


def speeds(fusion: Fusion, *, use_cache: bool | None = None) -> list[dict[str, Any]]:
    """Speeds on every target of the fuse file, on frames of the first set that was held out, dense.

    Raises BackendError where a network does not run there.
    """
    targets = fusion.fuse.measure
    frames = list(_frames(fusion.sets["test"][0])) if targets else []
    return [_speed(fusion, target, frames, use_cache).to_dict() for target in targets]


def _speed(fusion: Fusion, target: Target, frames: Sequence[Rgb], use_cache: bool | None) -> FusedSpeed:
    specs = fusion.fuse.teachers
    on_cpu = any(spec.onnx for spec in specs.values())
    compiled = partial(_engine, target=target, on_cpu=on_cpu, use_cache=use_cache)
    fused = compiled(_with_weights(fusion.pipeline, str(fusion.file)))
    precision: Any = fused.program.device.precision
    ran, calls = dict[str, str](), dict[str | None, Call]({None: _stepping(fused, frames)})
    for name, spec in specs.items():
        if spec.artifact is not None:
            engine = compiled(_alone(spec))
            ran[name], calls[name] = _ran(engine), _stepping(engine, frames)
        else:
            teacher = open_teacher(name, spec, precision)
            ran[name], calls[name] = f"openvino {precision}" if spec.onnx else "torch f32", _asking(teacher, frames)
    orders = [dict(calls), dict(reversed(calls.items()))]
    rounds = [interleaved(orders[number % 2], fused.program.device.device) for number in range(ROUNDS)]
    middle = sorted(rounds, key=lambda taken: sum(taken.values()) / taken[None])[ROUNDS // 2]
    alone = {name: middle[name] for name in specs}
    return FusedSpeed(str(target), alone, middle[None], ran, _ran(fused), fusion.sets["test"][0].name)


def _engine(pipeline: Pipeline, target: Target, on_cpu: bool, use_cache: bool | None) -> Engine:
    """The engine of a pipeline, dense: every head on every frame. ONNX files run on the CPU, and then all does."""
    runtime = {"backend": target.backend, "precision": target.precision, **({"device": "cpu"} if on_cpu else {})}
    changes = {
        "heads": {name: head.model_copy(update={"every": 1}) for name, head in pipeline.heads.items()},
        "reuse": pipeline.reuse.model_copy(update={"mode": "off"}),
        "runtime": pipeline.runtime.model_copy(update=runtime),
    }
    return compile_pipeline(pipeline.model_copy(update=changes), use_cache=use_cache)


def _ran(engine: Engine) -> str:
    return f"{engine.program.device.name} {engine.program.device.precision}"


def _alone(spec: FuseTeacher) -> Pipeline:
    """The pipeline of a teacher that is an artifact, with the heads that it teaches alone."""
    file = spec.artifact or ""
    pipeline = pipeline_of(file)
    heads = {name: head for name, head in pipeline.heads.items() if name in spec.heads}
    return pipeline.model_copy(update={"heads": heads})


def _with_weights(pipeline: Pipeline, file: str) -> Pipeline:
    return pipeline.model_copy(update={"backbone": pipeline.backbone.model_copy(update={"weights": file})})


def _stepping(engine: Engine, frames: Sequence[Rgb]) -> Call:
    """A call for one frame after another, from picture to answers."""
    endless = cycle([Frame.of(rgb, order="rgb") for rgb in frames])
    return lambda: engine.step(next(endless))


def _asking(teacher: Callable[[Rgb], object], frames: Sequence[Rgb]) -> Call:
    endless = cycle(frames)
    return lambda: teacher(next(endless))


def _frames(data: Data) -> Iterator[Rgb]:
    """Frames of a set as its file has them, where it is one, else as it was read."""
    if not Path(data.name).is_file():
        yield from (sample.rgb for sample in data.spread(FRAMES))
        return
    with media.open_source(data.name) as source:
        for frame in islice(source, 0, FRAMES * APART, APART):
            yield frame.rgb()


def pictures(fusion: Fusion) -> list[tuple[str, bytes]]:
    """Two pictures of each set that was held out, as captions and JPEGs: what the teachers say, then the student.

    The middle one, and the one on which the head that agrees least is off most.
    """
    student = fusion.network.predictor()
    drawn: list[tuple[str, bytes]] = []
    for data in fusion.sets["test"]:
        for place, why in _chosen(data, fusion.test["sets"][data.name]).items():
            sample = data[place]
            theirs = {head: answer for one in fusion.teachers.values() for head, answer in one(sample.rgb).items()}
            ours = {head: answer for head, answer in student(sample.rgb).items() if head in theirs}
            for who, outputs in (("teachers", theirs), ("student", ours)):
                drawn.append((f"{sample.name}, {who}{why}", _drawn(sample, outputs)))
    return drawn


def _chosen(data: Data, heads: dict[str, Any]) -> dict[int, str]:
    """Positions in a set, with what is special about each."""
    chosen = {len(data) // 2: ""}
    taught = {head: told for head, told in heads.items() if AGREEMENT in told}
    if taught:
        head, told = min(taught.items(), key=lambda item: item[1][AGREEMENT])
        chosen.setdefault(told["worst_frame"], f" (worst of {head})")
    return chosen


def _drawn(sample: Sample, outputs: dict[str, Output]) -> bytes:
    """The answers on their picture, as JPEG."""
    frame = Frame.of(sample.rgb, order="rgb")
    fresh = {head: Freshness(True, 0, 0.0, "full") for head in outputs}
    result = FrameResult(frame, Geometry.fit(frame.size, frame.size), dict(outputs), fresh)
    return jpeg(media.draw(result), WIDTH)
