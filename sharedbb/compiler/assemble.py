"""Pipeline in, engine out: look in the cache, or build, capture, cut and lower; then assemble."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedbb.compiler import cache, compiled
from sharedbb.compiler.choose import Candidate, candidates, machine
from sharedbb.compiler.compiled import Compiled
from sharedbb.compiler.form import Given
from sharedbb.errors import Problem, SpecError
from sharedbb.outputs.raw import owning
from sharedbb.profiling import NullProfiler, Profiler
from sharedbb.program import HeadPlan, Program
from sharedbb.registry import BACKBONES, BACKENDS, HEADS, Lazy, resolve
from sharedbb.reuse.policy import Bargain, by_parts
from sharedbb.spec import Head, Input, Pipeline, Reuse, Schedule
from sharedbb.spec.transforms import LowResolutionTransform, RgbTransform

if TYPE_CHECKING:
    from sharedbb.graph.ir import Graph
    from sharedbb.graph.quantization import Scheme
    from sharedbb.runtime import Engine, Ladder, OpenSource

ARTIFACT = ".sbb"


def compile_pipeline(
    pipeline: Pipeline, *, source: Any = None, use_cache: bool | None = None, profile: bool = True
) -> Engine:
    """Compile a pipeline for this machine and return the engine that runs it.

    What ``auto`` leaves open (device, backend, precision) is measured and chosen now. The result is stored on disk
    (``$SHAREDBB_CACHE``, by default the user's cache folder) under a digest of everything that decides it, so that the
    next start takes a fraction of a second; ``use_cache=False`` neither reads nor writes it (default: the pipeline's
    ``runtime.cache``). ``profile=False`` leaves out time-keeping.

    ``source``: what the engine will run on, as ``open_source`` takes it. The first frame of a file tells the transforms
    ``auto`` and ``yuv420`` in which form and colours frames come; without one, ``auto`` takes them for RGB pictures.

    Raises SharedBBError: weights that are missing or do not fit, taps that do not exist, nothing that can run it.
    """
    if not isinstance(pipeline, Pipeline):
        raise SpecError([Problem("", f"compile takes what sharedbb.load(path) gives, got a {type(pipeline).__name__}")])
    if isinstance(pipeline.transform, LowResolutionTransform):
        return _ladder(pipeline, pipeline.transform, use_cache, profile)
    return engine_of(_program(pipeline, source, use_cache), profile)


def _program(pipeline: Pipeline, source: Any, use_cache: bool | None) -> Program:
    """The pipeline at its input's size, from the cache or compiled."""
    ways, given = candidates(pipeline.runtime), Given.of(source, pipeline.transform)
    # Whether code that is not ours would build the same network again, only the network itself can tell.
    graph = None if _is_built_in(pipeline) else _graph(pipeline)
    name = cache.key(_deciding_facts(pipeline, ways, graph, given))
    cached = pipeline.runtime.cache if use_cache is None else use_cache
    found = compiled.load(name, pipeline.runtime.threads, pipeline.reuse.mode) if cached else None
    if found is None:
        found = _build(pipeline, ways, graph or _graph(pipeline), given)
        if cached:
            compiled.store(name, found)
    heads = {head: _head_plan(head, spec) for head, spec in pipeline.heads.items()}
    certify = getattr(pipeline.transform, "certify", False)
    program = assemble(pipeline.name, pipeline.input, pipeline.schedule, found, heads, certify=certify)
    return replace(program, bargain=bargain_of(pipeline.reuse))


def _ladder(pipeline: Pipeline, transform: LowResolutionTransform, use_cache: bool | None, profile: bool) -> Ladder:
    """The pipeline at all sizes; device, backend and precision are chosen at the first."""
    from sharedbb.runtime import Ladder, Rules

    first = _program(_sized(pipeline, transform.sizes[0]), None, use_cache)
    way = {"device": first.device.device, "backend": first.device.name, "precision": first.device.precision}
    alike = pipeline.model_copy(update={"runtime": pipeline.runtime.model_copy(update=way)})
    smaller = [_program(_sized(alike, size), None, use_cache) for size in transform.sizes[1:]]
    rules = Rules(transform.budget, transform.hold, transform.audit, pipeline.schedule.deadline_ms)
    return Ladder([first, *smaller], rules, *_surroundings(first, profile))


def _sized(pipeline: Pipeline, size: tuple[int, int]) -> Pipeline:
    """The same network for another input, in plain RGB."""
    picture = pipeline.input.model_copy(update={"size": size})
    return pipeline.model_copy(update={"input": picture, "transform": RgbTransform()})


def taken_apart(reuse: Reuse) -> dict[str, Any]:
    """How far ``lower`` takes the network apart for this reuse; what it compiles depends on no more of it."""
    fresh = reuse.fresh if reuse.mode == "keyframe" else 0
    return {"reuse": reuse.mode != "off", "tiles": by_parts(reuse.mode), "fresh": fresh}


def bargain_of(reuse: Reuse) -> Bargain | None:
    """What may be reused between frames; None for nothing."""
    return None if reuse.mode == "off" else Bargain(**reuse.model_dump())


def _head_plan(name: str, spec: Head) -> HeadPlan:
    decoder = owning(resolve(HEADS[spec.type].decoder)(spec))
    return HeadPlan(name, {}, decoder, spec.every, spec.max_age_ms, spec.priority)


def assemble(
    name: str,
    picture: Input,
    schedule: Schedule,
    found: Compiled,
    heads: Mapping[str, HeadPlan],
    *,
    certify: bool = False,
) -> Program:
    """The frozen program of what was compiled; the plans' ``answers`` are filled in here."""
    parts: dict[str, dict[str, str]] = {head: {} for head in heads}
    for answer, feature in found.answers.items():
        head, _, part = answer.partition(".")
        parts[head][part or "output"] = feature
    return Program(
        name=name,
        size=picture.network_size,
        stages=found.stages,
        fused=found.fused,
        whole=found.whole,
        fresh=found.fresh,
        heads={head: replace(plan, answers=parts[head]) for head, plan in heads.items()},
        device=found.backend,
        planes=found.form.planes,
        intake=found.form.intake(picture),
        stems=found.form.stems,
        certificates=found.form.certificates if certify else (),
        queue=schedule.queue,
        when_late=schedule.when_late,
        deadline_ms=schedule.deadline_ms,
        choices=found.choices,
        operators=found.operators,
        separate=found.separate,
    )


def engine_of(program: Program, profile: bool) -> Engine:
    """The engine of a program, its profiler told what it measures."""
    from sharedbb.runtime import Engine

    return Engine(program, *_surroundings(program, profile))


def _surroundings(program: Program, profile: bool) -> tuple[OpenSource, Profiler]:
    """How an engine opens sources, and what it measures with."""
    from sharedbb import media

    by_codec = program.bargain is not None and program.bargain.by_codec
    open_source = partial(media.open_source, motion=by_codec)
    if not profile:
        return open_source, NullProfiler()
    device = program.device
    profiler = Profiler(clock="cuda" if device.device == "cuda" else "host")
    profiler.describe(pipeline=program.name, device=device.device, backend=device.name, precision=device.precision)
    return open_source, profiler


def _is_built_in(pipeline: Pipeline) -> bool:
    """Whether backbone and heads are the package's own, whose source is part of the cache's key."""
    builders = [BACKBONES[pipeline.backbone.arch].build, *(HEADS[spec.type].build for spec in pipeline.heads.values())]
    return all(isinstance(build, Lazy) and build.target.startswith("sharedbb.") for build in builders)


def _deciding_facts(pipeline: Pipeline, ways: Sequence[Candidate], graph: Graph | None, given: Given) -> dict[str, Any]:
    """Everything outside the package's own source that decides the compiled result."""
    described = pipeline.model_dump(mode="json")
    weights = pipeline.backbone.weights
    return {
        "network": {room: described[room] for room in ("input", "transform", "backbone", "neck", "heads", "branches")},
        "graph": graph and graph.digest,
        "reuse": taken_apart(pipeline.reuse),
        "source": given.decides,
        "weights": _digest(Path(weights)) if weights and Path(weights).is_file() else weights,
        "ways": [str(way) for way in ways],
        "versions": {way.backend: resolve(BACKENDS[way.backend]).version() for way in ways},
        "threads": pipeline.runtime.threads,
        "machine": machine(),
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _graph(pipeline: Pipeline) -> Graph:
    """Build the network and capture it."""
    import torch

    from sharedbb.graph.capture import capture
    from sharedbb.graph.quantization import quantized

    size = pipeline.input.network_size
    network, scheme = _network(pipeline)
    graph = capture(network, torch.zeros(1, 3, size.height, size.width), "")
    return graph if scheme is None else quantized(graph, scheme)


def _build(pipeline: Pipeline, ways: Sequence[Candidate], graph: Graph, given: Given) -> Compiled:
    """Bring the network into the form in which it reads the picture, cut it and compile its segments."""
    from sharedbb.compiler.formed import formed
    from sharedbb.compiler.lower import lower

    every = {head: spec.every for head, spec in pipeline.heads.items()}
    threads = pipeline.runtime.threads
    graph, form, said = formed(graph, pipeline.transform, pipeline.input, ways, threads, given)
    found = lower(
        graph,
        form.planes,
        ways,
        threads,
        every,
        **taken_apart(pipeline.reuse),
    )
    return replace(found, form=form, choices=(*said, *found.choices))


def build_network(pipeline: Pipeline) -> Any:
    """The pipeline's network (``sharedbb.nets.MultiHead``) in eval mode, its weights loaded, without quantization."""
    return _network(pipeline)[0]


def _network(pipeline: Pipeline) -> tuple[Any, Scheme | None]:
    from sharedbb import artifact, nets

    weights = pipeline.backbone.weights
    if weights is None or not weights.endswith(ARTIFACT):
        return nets.build(pipeline).eval(), None
    loaded = artifact.load(weights)
    bare = pipeline.backbone.model_copy(update={"weights": None})
    network = nets.build(pipeline.model_copy(update={"backbone": bare}))
    artifact.load_weights(network, loaded, pipeline.heads)
    return network.eval(), loaded.scheme_for(pipeline.heads)
