"""Compression on this machine: networks compiled and timed in turns, times predicted, and answers as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sharedbb import media
from sharedbb.cli.costing import predicted, way_of
from sharedbb.cli.sinks import jpeg
from sharedbb.compiler import compile_pipeline
from sharedbb.compiler.measure import interleaved
from sharedbb.compress.costs import CostModel
from sharedbb.compress.record import Row, Run, Speed
from sharedbb.learn.data import Data, open_data
from sharedbb.spec import load
from sharedbb.spec.recipe import Target
from sharedbb.types import Frame

if TYPE_CHECKING:
    from sharedbb.runtime import Engine

ROUNDS = 5
"""How often both are timed, each time the other way round; the median of the ratios counts."""

SHOWN = 3
"""Pictures of the report."""


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Times two pipelines against each other: the whole engine without decoding, dense, on grey noise."""

    targets: Sequence[Target]
    use_cache: bool | None = None

    def __call__(self, before: Path, after: Path) -> tuple[Speed, ...]:
        """Their speeds on every target. Raises BackendError where one does not run there."""
        return tuple(self._speed(target, before, after) for target in self.targets)

    def _speed(self, target: Target, before: Path, after: Path) -> Speed:
        engines = {name: self._engine(path, target) for name, path in (("before", before), ("after", after))}
        size = engines["before"].program.size
        noise = np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8)
        calls = {name: partial(engine.step, noise) for name, engine in engines.items()}
        device = engines["before"].program.device.device
        orders = [dict(calls), dict(reversed(calls.items()))]
        rounds = [interleaved(orders[number % 2], device) for number in range(ROUNDS)]
        middle = sorted(rounds, key=lambda taken: taken["before"] / taken["after"])[ROUNDS // 2]
        ran = engines["after"].program.device
        return Speed(f"{ran.name} {ran.precision}", middle["before"], middle["after"])

    def _engine(self, path: Path, target: Target) -> Engine:
        settings = (f"runtime.backend={target.backend}", f"runtime.precision={target.precision}", "reuse.mode=off")
        return compile_pipeline(load(path, settings), use_cache=self.use_cache)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the machine's cost model makes of a step, given the milliseconds of the network before it.

    ``error``: by how much that is off what was measured after the step, relative to it.
    """

    target: str
    way: str
    milliseconds: float
    low: float
    high: float
    error: float


def predictions(run: Run, model: CostModel) -> list[list[Prediction]]:
    """By row of the run, a prediction for every speed that was measured and whose way the model knows."""
    return [[one for speed in row.speeds if (one := _prediction(row, speed, model))] for row in run.rows]


def _prediction(row: Row, speed: Speed, model: CostModel) -> Prediction | None:
    assert row.before is not None
    before, after = row.before.network(), row.state.network()
    was, way = (way_of(network, *speed.target.split()) for network in (before, after))
    if way not in model.laws:
        return None
    found = predicted(model, after, way, anchor=(before, speed.before_ms) if was == way else None)
    error = found.milliseconds / speed.after_ms - 1
    return Prediction(speed.target, way, found.milliseconds, found.low, found.high, error)


def pictures(run: Run, use_cache: bool | None = None) -> list[tuple[str, bytes]]:
    """A few pictures of the test set with the answers before and after, as captions and JPEGs, in turns."""
    engines = {
        name: compile_pipeline(load(state.pipeline, ("reuse.mode=off",)), use_cache=use_cache)
        for name, state in (("before", run.start), ("after", run.result))
    }
    return [
        (f"{sample.name}, {name}", jpeg(media.draw(engine.step(Frame.of(sample.rgb, order="rgb"))), most=640))
        for sample in _test_set(run).spread(SHOWN)
        for name, engine in engines.items()
    ]


def _test_set(run: Run) -> Data:
    data = run.recipe.data
    return open_data(data.test or data.train, load(run.start.pipeline).input.size).of("test")
