"""Timing what was compiled, so that choices are made by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any, TypeVar

import numpy as np

from sharedbb.graph.cut import Cut
from sharedbb.types import Plane, Size

ROUNDS = 15  # timed runs of each case, after two to warm up

Call = Callable[[], Any]
Key = TypeVar("Key")


def size_of(parts: Cut, planes: Sequence[Plane]) -> Size:
    """The size of the picture that a graph reads as these planes."""
    first = planes[0]
    _, _, height, width = parts.graph.by_name[first.name].shape
    return Size(height * first.stride, width * first.stride)


def features_of(
    backend: Any, executables: Any, parts: Cut, planes: Sequence[Plane], *, noise: bool = False
) -> dict[str, Any]:
    """The features that the segments make from a black picture, or one of noise, by name."""
    picture = backend.picture(size_of(parts, planes), planes)
    if noise:
        random = np.random.default_rng(0)
        for plane in picture.planes.values():
            plane[...] = random.integers(0, 256, plane.shape, np.uint8)
        backend.upload(picture)
    features: dict[str, Any] = dict(picture.features)
    for segment, executable in zip(parts.segments, executables, strict=True):
        results = executable.session()([features[name] for name in segment.inputs])
        features.update(zip(segment.outputs, results, strict=True))
    return features


def segment_calls(backend: Any, executables: Any, parts: Cut, planes: Sequence[Plane]) -> list[Call]:
    """One call a segment, on features that the segments before it made from a black picture."""
    features: dict[str, Any] = dict(backend.picture(size_of(parts, planes), planes).features)
    calls: list[Call] = []
    for segment, executable in zip(parts.segments, executables, strict=True):
        session, inputs = executable.session(), [features[name] for name in segment.inputs]
        features.update(zip(segment.outputs, session(inputs), strict=True))
        calls.append(partial(session, inputs))
    return calls


def interleaved(cases: Mapping[Key, Call], device: str) -> dict[Key, float]:
    """Median milliseconds of every case, their runs interleaved, so that what disturbs one disturbs all."""
    synchronize = _synchronizer(device)
    taken: dict[Key, list[float]] = {key: [] for key in cases}
    for round_ in range(ROUNDS + 2):
        for key, call in cases.items():
            start = time.perf_counter()
            call()
            synchronize()
            if round_ >= 2:
                taken[key].append(time.perf_counter() - start)
    return {key: median(seconds) * 1e3 for key, seconds in taken.items()}


def in_turn(calls: list[Call]) -> Call:
    """All calls, one after another, as one."""

    def run() -> None:
        for call in calls:
            call()

    return run


def _synchronizer(device: str) -> Call:
    if device == "cuda":
        import torch

        return torch.cuda.synchronize
    return lambda: None
