"""What ``sharedbb share-depth`` is told, as the question that ``learn.sharing`` answers, and frames timed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from sharedbb.compiler import compile_pipeline
from sharedbb.compiler.measure import interleaved
from sharedbb.learn.course import Course
from sharedbb.learn.data import Data, open_data
from sharedbb.learn.grafting import ALL, Depth, specialist
from sharedbb.learn.network import Network
from sharedbb.learn.sharing_record import Question
from sharedbb.learn.survey import usable
from sharedbb.learn.training import Watch
from sharedbb.registry import BACKBONES
from sharedbb.spec import Pipeline, load

if TYPE_CHECKING:
    from sharedbb.runtime import Engine

ROUNDS = 5
"""How often all networks are timed, each time the other way round; the median counts."""

Given = tuple[str, tuple[str, ...]]
"""A specialist's file, and the heads that it is for; none for all that it has."""


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Times pipelines in turns: a frame through the engine, dense, from grey noise to decoded answers."""

    use_cache: bool | None = None

    def __call__(self, pipelines: Sequence[Path]) -> list[float]:
        """Median milliseconds of each. Raises BackendError where one cannot be run here."""
        engines = [self._engine(path) for path in pipelines]
        size = engines[0].program.size
        noise = np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)
        calls = {place: partial(engine.step, noise) for place, engine in enumerate(engines)}
        orders = [dict(calls), dict(reversed(calls.items()))]
        device = engines[0].program.device.device
        rounds = [interleaved(orders[number % 2], device) for number in range(ROUNDS)]
        return [median(taken[place] for taken in rounds) for place in calls]

    def _engine(self, path: Path) -> Engine:
        return compile_pipeline(load(path, ("reuse.mode=off",)), use_cache=self.use_cache)


def specialists_of(texts: Sequence[str]) -> tuple[Given, ...]:
    """Files and heads from ``FILE`` or ``HEAD,HEAD=FILE``."""
    found: list[Given] = []
    for text in texts:
        heads, equals, path = text.partition("=")
        named = bool(equals) and not Path(text).exists()
        found.append((path, tuple(heads.split(","))) if named else (text, ()))
    return tuple(found)


def depths_of(text: str | None, pipeline: Pipeline) -> tuple[Depth, ...]:
    """Depths from ``4,8,features.5,all``; without any, the backbone's strides, and ``all`` where there is a neck."""
    if text is None:
        strides = BACKBONES[pipeline.backbone.arch].strides
        return (*strides, ALL) if pipeline.neck else strides
    words = [word.strip() for word in text.split(",")]
    return tuple(int(word) if word.isdecimal() else word for word in words)


def question_of(
    pipeline: Pipeline, given: Sequence[Given], depths: str | None, course: Course, floors: Mapping[str, float]
) -> Question:
    """The question, its networks read. A specialist is called by its file's name, all of it where two are alike.

    Raises CompressionError where they do not fit together, and what reading one raises.
    """
    trunk = Network.of(pipeline)
    stems = [Path(path).stem for path, _ in given]
    specialists = tuple(
        specialist(trunk, stem if stems.count(stem) == 1 else path, Network.of(path), heads)
        for stem, (path, heads) in zip(stems, given, strict=True)
    )
    return Question(trunk, specialists, depths_of(depths, pipeline), course, floors)


def pictures_of(text: str, size: tuple[int, int], judged: int | None, watch: Watch) -> tuple[Data, Data]:
    """What to learn from and what to judge by, at most ``judged`` pictures; those that cannot be used are left out.

    ``size``: height and width of the network's input. Raises DataError.
    """
    data = open_data(text, size)
    watch(f"reading {data.name}", None)
    train, val = (usable(data.of(part), partial(watch, f"reading {data.name}")) for part in ("train", "val"))
    return train, val if judged is None else val.spread(judged)
