"""Segments to stages: compiled by every candidate, timed against each other, described. Imports torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.compiler.choose import Candidate
from sharedbb.compiler.compiled import Compiled
from sharedbb.compiler.form import Form
from sharedbb.compiler.measure import Call, features_of, in_turn, interleaved, segment_calls
from sharedbb.compiler.tiles import divided
from sharedbb.errors import BackendError
from sharedbb.graph.cost import cost
from sharedbb.graph.cut import Cut, Segment, cut, fold_constants, head_of, heads_of_nodes, whole
from sharedbb.graph.ir import Graph
from sharedbb.graph.merge import ancestors, fold_batch_norms
from sharedbb.graph.quantization import is_rounding
from sharedbb.graph.reach import Reach, reach
from sharedbb.program import Stage, StageFacts
from sharedbb.types import Plane

LONGEST_PERIOD = 240  # frames over which clocks are looked at for heads that fall due together
MOST_FUSED = 4  # sets of heads that may get a fused stage

FUSED_ERROR = 0.1
"""How far a quantized network's fused stage may answer from its segments: steps of rounding that flip make 1 to 5 %."""


def lower(
    graph: Graph,
    planes: Sequence[Plane],
    ways: Sequence[Candidate],
    threads: int | None,
    every: Mapping[str, int],
    separate: int | None = None,
    *,
    reuse: bool = False,
    tiles: bool = True,
    fresh: int = 0,
) -> Compiled:
    """Cut the graph and compile its segments with each candidate; keep the fastest.

    With ``reuse``, heads of one clock share their segments, and all of it is compiled as one stage as well that gives
    every answer, and every feature where they serve again: for ``tiles``, batches of which segments are compiled for,
    and for ``fresh``, the stride up to which another stage computes features anew for the heads that answer with maps,
    0 for none.

    A narrower precision is kept only when it is faster. Heads that fall due together (``every``: their clocks, 1 where
    not given) get one fused stage where that is faster than their segments one by one. ``separate`` counts the
    operators of the networks one by one. Raises BackendError when no candidate can compile it.
    """
    graph = fold_constants(fold_batch_norms(graph))
    parts = cut(graph, alike(graph, every) if reuse else ())
    built, failures = _build(parts, planes, ways, threads)
    best, segment_ms, said = _fastest(built, parts)
    fused, fused_said = _fuse(best, parts, planes, due_together(_heads(graph), every))
    stages = tuple(
        Stage(replace(describe(segment, _heads(graph)), measured_ms=round(ms, 4)), executable)
        for segment, executable, ms in zip(parts.segments, best.executables, segment_ms, strict=True)
    )
    whole_stage = fresh_stage = None
    if reuse:
        stages, tiles_said = divided(stages, parts, planes, best.backend) if tiles else (stages, ())
        features = tiles or fresh > 0
        everything = whole(parts, frozenset(_heads(graph)), features=features)
        whole_stage = _one(best, parts, everything, planes)
        held = "all features" if features else "all answers"
        said = [*said, f"{everything.name} with {held}: {whole_stage.facts.measured_ms:.2f} ms", *tiles_said]
        shallow = _shallow(parts, fresh)
        if shallow is not None:
            fresh_stage = _one(best, parts, shallow, planes)
            said.append(f"up to stride {fresh} and {shallow.name}: {fresh_stage.facts.measured_ms:.2f} ms")
    return Compiled(
        backend=best.backend,
        stages=stages,
        whole=whole_stage,
        fresh=fresh_stage,
        fused=fused,
        answers=parts.answers,
        choices=(*said, *failures, *fused_said),
        operators=graph.operators,
        separate=separate if separate is not None else _separate(graph),
        form=Form(tuple(planes)),
    )


@dataclass(frozen=True, slots=True)
class _Built:
    """All segments compiled one way; each of ``calls`` runs one of them."""

    way: Candidate
    backend: Any
    executables: Sequence[Any]
    calls: Sequence[Call]


def _build(
    parts: Cut, planes: Sequence[Plane], ways: Sequence[Candidate], threads: int | None
) -> tuple[list[_Built], list[str]]:
    """Every candidate that can compile and run the segments, and why others cannot."""
    built, failures = [], []
    for way in ways:
        try:
            backend = way.make(threads)
            executables = backend.compile(parts, planes)
            built.append(_Built(way, backend, executables, segment_calls(backend, executables, parts, planes)))
        except BackendError as error:
            failures.append(str(error))
        except RuntimeError as error:  # an operator that this precision or device does not have
            reason = str(error).strip() or type(error).__name__
            failures.append(f"{way} cannot run the network: {reason.splitlines()[0]}")
    if not built:
        raise BackendError("; ".join(dict.fromkeys(failures)))
    return built, failures


def _fastest(built: Sequence[_Built], parts: Cut) -> tuple[_Built, list[float], list[str]]:
    """The fastest candidate, the milliseconds of its segments, and what was measured in words."""
    cases = {(one.way, position): call for one in built for position, call in enumerate(one.calls)}
    times = interleaved(cases, built[0].way.device)
    by_way = {one.way: [times[one.way, position] for position in range(len(parts.segments))] for one in built}
    best = min(built, key=lambda one: sum(by_way[one.way]))
    said = [
        f"{way}: {sum(milliseconds):.2f} ms{' (chosen)' if way == best.way else ''}"
        for way, milliseconds in by_way.items()
    ]
    return best, by_way[best.way], said


def due_together(heads: Sequence[str], every: Mapping[str, int]) -> tuple[frozenset[str], ...]:
    """The sets of heads that their clocks make due on the same frames, the most frequent first."""
    period = min(math.lcm(*(every.get(head, 1) for head in heads)), LONGEST_PERIOD)
    due = (frozenset(head for head in heads if frame % every.get(head, 1) == 0) for frame in range(period))
    found = Counter(together for together in due if together)
    return tuple(together for together, _ in found.most_common(MOST_FUSED))


def _fuse(
    best: _Built, parts: Cut, planes: Sequence[Plane], sets: Sequence[frozenset[str]]
) -> tuple[dict[frozenset[str], Stage], list[str]]:
    """One stage for each set of heads, kept where it is faster than the segments that it replaces."""
    together = replace(parts, segments=tuple(whole(parts, heads) for heads in sets))
    try:
        executables = best.backend.compile(together, planes)
    except BackendError as error:
        return {}, [f"nothing is fused: {error}"]
    kept, said = {}, []
    calls = segment_calls(best.backend, executables, together, planes)
    apart = features_of(best.backend, best.executables, parts, planes, noise=True) if _rounds(parts.graph) else None
    for heads, segment, executable, call in zip(sets, together.segments, executables, calls, strict=True):
        needed = [best.calls[at] for at, part in enumerate(parts.segments) if part.heads & heads]
        times = interleaved({"fused": call, "segments": in_turn(needed)}, best.way.device)
        chosen = min(times, key=lambda case: times[case])
        if chosen == "fused" and apart is not None:
            joined = replace(together, segments=(segment,))
            found = features_of(best.backend, [executable], joined, planes, noise=True)
            off = max(_difference(*map(best.backend.answer, (found[name], apart[name]))) for name in segment.outputs)
            if off > FUSED_ERROR:
                said.append(f"{segment.name}: not fused, in integers it would answer otherwise ({off:.0%} off)")
                continue
        said.append(f"{segment.name}: {times['segments']:.2f} ms by segments, {times['fused']:.2f} ms fused ({chosen})")
        if chosen == "fused":
            facts = replace(describe(segment, _heads(parts.graph)), measured_ms=round(times["fused"], 4))
            kept[heads] = Stage(facts, executable)
    return kept, said


def _rounds(graph: Graph) -> bool:
    return any(is_rounding(node) for node in graph.nodes)


def _difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Mean absolute difference, relative to the second's mean size."""
    return float(np.abs(one - other).mean() / max(float(np.abs(other).mean()), 1e-9))


def _one(best: _Built, parts: Cut, segment: Segment, planes: Sequence[Plane]) -> Stage:
    """Several segments' work as one stage."""
    (executable,) = best.backend.compile(replace(parts, segments=(segment,)), planes)
    features = features_of(best.backend, best.executables, parts, planes)
    session, inputs = executable.session(), [features[name] for name in segment.inputs]
    taken = interleaved({"it": lambda: session(inputs)}, best.way.device)["it"]
    return Stage(replace(describe(segment, _heads(parts.graph)), measured_ms=round(taken, 4)), executable)


def _shallow(parts: Cut, fresh: int) -> Segment | None:
    """The heads that answer with maps, from the picture and the trunk's features beyond a stride; None without any."""
    maps = frozenset().union(*(heads for heads, local in _by_locality(parts.graph).items() if local))
    trunk = frozenset(_heads(parts.graph))
    given = [
        name
        for segment in parts.segments
        for name in segment.outputs
        if segment.heads == trunk and segment.stride and segment.stride > fresh
    ]
    if not fresh or not given or not maps:
        return None
    found = whole(parts, maps, given=given)
    return replace(found, name=f"{found.name} on moved features")


def _by_locality(graph: Graph) -> dict[frozenset[str], bool]:
    """Every head alone, and whether its answers are maps."""
    reached = reach(graph, graph.inputs[0])
    return {
        frozenset([head]): all(
            isinstance(reached.get(name), Reach) and len(graph.by_name[name].shape) == 4
            for answer, name in graph.outputs.items()
            if head_of(answer) == head
        )
        for head in _heads(graph)
    }


def alike(graph: Graph, every: Mapping[str, int]) -> tuple[frozenset[str], ...]:
    """Sets of heads that always run together: of one clock, and all with maps for answers or all without."""
    found: dict[tuple[int, bool], set[str]] = {}
    for heads, local in _by_locality(graph).items():
        for head in heads:
            found.setdefault((every.get(head, 1), local), set()).add(head)
    return tuple(frozenset(heads) for heads in found.values())


def describe(segment: Segment, heads: Sequence[str]) -> StageFacts:
    """What is known of a segment before it runs; ``heads`` gives the order in which heads are named."""
    outputs = [segment.graph.by_name[name] for name in segment.outputs]
    reached = {name: reach(segment.graph, name)[segment.outputs[-1]] for name in _read_by_last(segment)}
    return StageFacts(
        name=segment.name,
        inputs=segment.inputs,
        outputs=segment.outputs,
        heads=tuple(head for head in heads if head in segment.heads),
        stride=segment.stride,
        shapes=tuple(node.shape[1:] for node in outputs),
        reach=tuple(f"{name}: {found}" for name, found in reached.items()),
        local=all(isinstance(found, Reach) for found in reached.values()),
        operators=segment.graph.operators,
        macs=sum(item.macs for item in cost(segment.graph).values()),
        parameters=sum(tensor.numel() for tensor in segment.graph.weights.values()),
    )


def _read_by_last(segment: Segment) -> list[str]:
    """The inputs that the segment's last output depends on."""
    needed = ancestors(segment.graph, [segment.outputs[-1]])
    return [name for name in segment.inputs if name in needed]


def _heads(graph: Graph) -> tuple[str, ...]:
    return tuple(dict.fromkeys(head_of(answer) for answer in graph.outputs))


def _separate(graph: Graph) -> int:
    """Operators that the heads would take if each had the network to itself."""
    needs = heads_of_nodes(graph)
    return sum(len(needs[node.name]) for node in graph.nodes if node.op not in ("input", "getitem"))
