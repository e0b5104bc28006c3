"""Segments to stages: compiled by every candidate, timed against each other, described. Imports torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

from sharedbb.compiler.choose import Candidate
from sharedbb.compiler.compiled import Compiled
from sharedbb.errors import BackendError
from sharedbb.graph.cost import cost
from sharedbb.graph.cut import Cut, Segment, cut, fold_constants, head_of, heads_of_nodes
from sharedbb.graph.ir import Graph
from sharedbb.graph.merge import ancestors, fold_batch_norms
from sharedbb.graph.reach import Reach, reach
from sharedbb.program import Stage, StageFacts
from sharedbb.types import Normalization, Size

ROUNDS = 15  # timed runs of each candidate, interleaved, after two to warm up


def lower(
    graph: Graph,
    normalization: Normalization,
    ways: Sequence[Candidate],
    threads: int | None,
    separate: int | None = None,
) -> Compiled:
    """Cut the graph and compile its segments with each candidate; keep the fastest.

    A narrower precision is kept only when it is faster. ``separate`` counts the operators of the networks one by one.
    Raises BackendError when no candidate can compile it.
    """
    parts = cut(fold_constants(fold_batch_norms(graph)))
    built, failures = [], []
    for way in ways:
        try:
            built.append(_Built(way, way.make(threads), parts, normalization))
        except BackendError as error:
            failures.append(str(error))
    if not built:
        raise BackendError("; ".join(failures))
    times = _measure(built, parts)
    best = min(built, key=lambda candidate: sum(times[candidate.way]))
    heads = tuple(dict.fromkeys(head_of(answer) for answer in graph.outputs))
    stages = tuple(
        Stage(replace(describe(segment, heads), measured_ms=round(ms, 4)), executable)
        for segment, executable, ms in zip(parts.segments, best.executables, times[best.way], strict=True)
    )
    reasons = _reasons(built, times, best, failures)
    apart = separate if separate is not None else _separate(graph)
    return Compiled(best.backend, stages, parts.answers, reasons, graph.operators, apart)


def _separate(graph: Graph) -> int:
    """Operators that the heads would take if each had the network to itself."""
    return sum(len(heads) for name, heads in heads_of_nodes(graph).items() if _is_call(graph.by_name[name].op))


def _is_call(op: str) -> bool:
    return op not in ("input", "getitem")


class _Built:
    """All segments compiled one way."""

    def __init__(self, way: Candidate, backend: Any, parts: Cut, normalization: Normalization) -> None:
        self.way = way
        self.backend = backend
        self.executables = backend.compile(parts, normalization)

    def calls(self, parts: Cut) -> list[Callable[[], Any]]:
        """One call a segment, on features that the segments before it made."""
        _, _, height, width = next(iter(parts.segments)).graph.by_name["input"].shape
        features = {"input": self.backend.picture(Size(height, width)).feature}
        calls: list[Callable[[], Any]] = []
        for segment, executable in zip(parts.segments, self.executables, strict=True):
            session, inputs = executable.session(), [features[name] for name in segment.inputs]
            features.update(zip(segment.outputs, session(inputs), strict=True))
            calls.append(partial(session, inputs))
        return calls


def _measure(built: Sequence[_Built], parts: Cut) -> dict[Candidate, list[float]]:
    """Median milliseconds of every segment for every candidate, their runs interleaved."""
    runs = {candidate.way: candidate.calls(parts) for candidate in built}
    taken: dict[Candidate, list[list[float]]] = {way: [[] for _ in calls] for way, calls in runs.items()}
    synchronize = _synchronizer(built)
    for round_ in range(ROUNDS + 2):
        for way, calls in runs.items():
            for times, call in zip(taken[way], calls, strict=True):
                start = time.perf_counter()
                call()
                synchronize()
                if round_ >= 2:
                    times.append(time.perf_counter() - start)
    return {way: [median(times) * 1e3 for times in segments] for way, segments in taken.items()}


def _synchronizer(built: Sequence[_Built]) -> Callable[[], None]:
    if any(candidate.way.device == "cuda" for candidate in built):
        import torch

        return torch.cuda.synchronize
    return lambda: None


def _reasons(
    built: Sequence[_Built], times: Mapping[Candidate, Sequence[float]], best: _Built, failures: Sequence[str]
) -> tuple[str, ...]:
    lines = [
        f"{candidate.way}: {sum(times[candidate.way]):.2f} ms{' (chosen)' if candidate is best else ''}"
        for candidate in built
    ]
    return (*lines, *failures)


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
