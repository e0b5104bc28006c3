"""The cost model of this machine: probes measured, fitted and kept in the cache folder; networks measured beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sharedbb.cli.probes import PROBES, Probe
from sharedbb.compiler import cache
from sharedbb.compiler.choose import Candidate, candidates, machine
from sharedbb.compiler.form import Given
from sharedbb.compiler.formed import formed
from sharedbb.compiler.measure import interleaved, segment_calls
from sharedbb.compress.calibration import stems
from sharedbb.compress.costs import FEATURES, CostModel, Estimate, Observation, fit
from sharedbb.compress.operators import Operator, of_nodes, operators
from sharedbb.compress.planning import Piece, Subject
from sharedbb.errors import BackendError, CompressionError
from sharedbb.graph.axis import Global
from sharedbb.graph.cut import Cut, Segment, cut, fold_constants, head_of, stride_of, whole
from sharedbb.graph.ir import Graph, Weight
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.graph.quantization import Grid, Scheme, edges, quantized
from sharedbb.graph.reach import reach
from sharedbb.learn.network import Network
from sharedbb.profiling.files import write_text
from sharedbb.registry import BACKENDS, resolve
from sharedbb.spec import Runtime
from sharedbb.spec.transforms import AnyTransform, LowResolutionTransform, RgbTransform
from sharedbb.types import Plane

INTEGERS = ("openvino",)
"""Backends that compute on integers where a graph rounds to them."""

NETWORK = "network"
"""What a whole network is called among its segments."""

Tell = Callable[[str, int, int], None]
"""Is told what is measured, which one that is, and of how many."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a network: on a backend in a precision, and whether convolutions and products are in int8."""

    candidate: Candidate
    integers: bool = False

    def __str__(self) -> str:
        return f"{self.candidate.backend} {'int8' if self.integers else self.candidate.precision}"


def ways(runtime: Runtime) -> tuple[Way, ...]:
    """What fits a pipeline's ``runtime``, floats first; int8 where the backend computes in it.

    Raises BackendError when nothing does.
    """
    found = candidates(runtime)
    first = found[0]
    return (*map(Way, found), *([Way(first, integers=True)] if first.backend in INTEGERS else []))


def cost_model(
    asked: Sequence[Way], threads: int | None, *, probes: Sequence[Probe] = PROBES, anew: bool = False, tell: Tell
) -> CostModel:
    """This machine's cost model for some ways, from the cache folder, or measured and fitted (a few minutes).

    Raises CompressionError where too little could be measured.
    """
    fingerprint = _fingerprint(asked, threads, probes)
    path = _place(fingerprint)
    if not anew and (known := _read(path)) is not None:
        return known
    observations: list[Observation] = []
    for at, probe in enumerate(probes):
        tell(str(probe), at, len(probes))
        observations += observe(str(probe), probe.arch, Prepared.of(probe.network(), asked), threads)
    model = fit(observations, fingerprint)
    write_text(path, json.dumps(model.to_dict(), indent=1) + "\n")
    return model


def fitted(runtime: Runtime, *, probes: Sequence[Probe] = PROBES) -> CostModel | None:
    """This machine's cost model for what fits a pipeline's ``runtime``, where it is in the cache folder already."""
    try:
        return _read(_place(_fingerprint(ways(runtime), runtime.threads, probes)))
    except BackendError:
        return None


def _place(fingerprint: str) -> Path:
    return cache.folder() / f"costs-{fingerprint}.json"


def _fingerprint(asked: Sequence[Way], threads: int | None, probes: Sequence[Probe]) -> str:
    """A digest of the machine, the backends and what is measured."""
    versions = {way.candidate.backend: resolve(BACKENDS[way.candidate.backend]).version() for way in asked}
    facts = [machine(), versions, threads, list(map(str, asked)), list(map(repr, probes)), FEATURES]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _read(path: Path) -> CostModel | None:
    try:
        return CostModel.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, CompressionError):
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A network as one way runs it: cut, with the planes of its picture."""

    way: Way
    parts: Cut
    planes: Sequence[Plane]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A network's forms by way, and its segments as floats."""

    forms: tuple[Form, ...]

    @classmethod
    def of(cls, network: Network, asked: Sequence[Way]) -> Prepared:
        """Bring a network into the form of every way; its own quantization is used where it has one."""
        floating = replace(network, scheme=None).graph()
        rounded = network.graph() if network.scheme else None
        transform: AnyTransform = network.pipeline.transform
        picture = network.pipeline.input
        if isinstance(transform, LowResolutionTransform):  # its largest size is the input's
            transform = RgbTransform()
        given, threads, made = Given.of(None, transform), network.pipeline.runtime.threads, []
        for way in asked:
            graph = (rounded or _rounded(floating)) if way.integers else floating
            graph, form, _ = formed(graph, transform, picture, [way.candidate], threads, given)
            made.append(Form(way, cut(fold_constants(fold_batch_norms(graph))), form.planes))
        return cls(tuple(made))


def _rounded(graph: Graph) -> Graph:
    """The graph with convolutions and linear layers in int8, on grids that say nothing: only its speed counts.

    What reads the picture stays in floats, as in every quantized network: transforms rewrite it.
    """
    graph = fold_batch_norms(graph)
    grids: dict[str, Grid] = {}
    alone = stems(graph)
    for edge, node, place, operand in edges(graph):
        if node.kind not in ("conv2d", "linear") or place > 1 or node.name in alone:
            continue
        if isinstance(operand, Weight):
            weight = graph.weights[operand.digest]
            scale = weight.abs().flatten(1).amax(1).clamp_min(1e-6).float() / 127
            grids[edge] = Grid(scale, torch.zeros(len(scale), dtype=torch.int32), -127, 127, 0)
        else:
            grids[edge] = Grid(torch.tensor(0.05), torch.tensor(128, dtype=torch.int32), 0, 255)
    return quantized(graph, Scheme(grids))


def measured(prepared: Prepared, threads: int | None) -> dict[str, dict[str, float]]:
    """Milliseconds by way, of every segment and of the whole ``network``; ways that cannot run it are left out."""
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for form in prepared.forms:
        everything = whole(form.parts, frozenset(map(head_of, form.parts.answers)))
        together = replace(form.parts, segments=(replace(everything, name=NETWORK),))
        try:
            for parts in (form.parts, together):
                backend = form.way.candidate.make(threads)
                executables = backend.compile(parts, form.planes)
                for segment, call in zip(
                    parts.segments, segment_calls(backend, executables, parts, form.planes), strict=True
                ):
                    calls[str(form.way), segment.name] = call
        except (BackendError, RuntimeError):
            calls = {key: call for key, call in calls.items() if key[0] != str(form.way)}
    found: dict[str, dict[str, float]] = {}
    for (way, name), milliseconds in interleaved(calls, prepared.forms[0].way.candidate.device).items():
        found.setdefault(way, {})[name] = milliseconds
    return found


def observe(network: str, family: str, prepared: Prepared, threads: int | None) -> list[Observation]:
    """A network measured in every way, whole and by segments, as the model is fitted to."""
    found = []
    times = measured(prepared, threads)
    for form in prepared.forms:
        known = operators(form.parts.graph)
        for name, milliseconds in times.get(str(form.way), {}).items():
            nodes = next((_nodes(one) for one in form.parts.segments if one.name == name), list(known))
            found.append(
                Observation(network, family, str(form.way), of_nodes(known, nodes), milliseconds, whole=name == NETWORK)
            )
    return found


def _nodes(segment: Segment) -> Iterable[str]:
    return [node.name for node in segment.graph.nodes]


def subject(network: Network, asked: Sequence[Way]) -> Subject:
    """A network as it can be planned for, measured here in every way."""
    pipeline = network.pipeline
    prepared = Prepared.of(network, asked)
    parts, known = prepared.forms[0].parts, operators(prepared.forms[0].parts.graph)
    pieces = tuple(
        Piece(segment.name, segment.heads, of_nodes(known, _nodes(segment)), _margin(parts.graph, segment))
        for segment in parts.segments
    )
    times = measured(prepared, pipeline.runtime.threads)
    heads = {name: spec.type for name, spec in pipeline.heads.items()}
    dense = {way: found[NETWORK] for way, found in times.items()}
    return Subject(pipeline.name, pipeline.input.network_size, heads, pieces, dense)


def predicted(model: CostModel, network: Network, way: str, *, anchor: tuple[Network, float] | None = None) -> Estimate:
    """How long a network takes by the model, whole and dense.

    ``anchor``: another network of its family and the milliseconds that it was measured to take in the same way. Raises
    CompressionError for a way that the model does not know.
    """
    measured = (_operators(anchor[0]), anchor[1]) if anchor else None
    return model.predict(_operators(network), way, anchor=measured)


def way_of(network: Network, backend: str, precision: str) -> str:
    """The way in which a backend runs a network: on integers where it is quantized and the backend computes on them."""
    integers = network.scheme is not None and backend in INTEGERS
    return f"{backend} {'int8' if integers else precision}"


def _operators(network: Network) -> tuple[Operator, ...]:
    """The operators of a network as an engine runs them, in floats."""
    graph = fold_constants(fold_batch_norms(replace(network, scheme=None).graph()))
    return tuple(operators(graph).values())


def _margin(graph: Graph, segment: Segment) -> float | None:
    """Pixels of the picture that a tile of a segment needs beyond itself, both sides together; None for all of it."""
    picture = graph.by_name[graph.inputs[0]].shape
    margins = [0.0]
    for name in segment.inputs:
        found = reach(segment.graph, name).get(segment.outputs[-1])
        if found is None:
            continue
        if isinstance(found, Global):
            return None
        stride = stride_of(picture, segment.graph.by_name[name].shape) or 1
        margins.append(float((found.y.left + found.y.right) * stride))
    return max(margins)
