"""Running a recipe: its steps in order, judged after each, held above the floors, resumed where it was killed.

A step that shrinks and the trainings directly behind it are a *stage*: floors are held at its end. Every network goes
through its artifact before it is used, so that a resumed run sees exactly what an unbroken one saw.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sharedbb.compress.floors import Bisection, Floor, Quality, broken, floors_of
from sharedbb.compress.record import Fate, Row, Run, Speed, State, write
from sharedbb.compress.steps import CHECKPOINT, Bench, Watch, check_names, take
from sharedbb.errors import CompressionError, DataError
from sharedbb.learn.batches import shares_of
from sharedbb.learn.data import Data, open_data
from sharedbb.learn.journal import Journal
from sharedbb.learn.judge import LOWEST_SCORE, headline, judge
from sharedbb.learn.labels import asked
from sharedbb.learn.network import Network
from sharedbb.spec import Pipeline, load
from sharedbb.spec.parts import names_file
from sharedbb.spec.recipe import HEADLINE, Recipe, RecipeData
from sharedbb.spec.steps import AnyStep, Shrinking

FASTER = 1.02
"""A step that claims speed must bring at least this factor: less is within the noise."""

NO_SHARES = ("relative_error", "tolerance_px")
"""Metrics that are not better when higher, so that no floor can be put under them."""

FILES = ("sensitivity", "teacher")
"""Fields of steps that name files: what is in them decides what a step does."""

Take = Callable[[AnyStep, Network, Bench], Network]
Judge = Callable[[Network, Network, Data], Quality]
Measure = Callable[[Path, Path], Sequence[Speed]]
"""Two pipeline files, before and after, to their speeds, the deciding target first."""


def silent(doing: str, share: float | None) -> None:
    """Watch nothing."""


def judged(network: Network, original: Network, data: Data) -> Quality:
    """Every head's metrics on ``data`` that are better when higher, 0 to 1, its headline among them.

    Heads without labels are judged by their agreement with the original network. Raises DataError.
    """
    heads = network.pipeline.heads
    unlabelled = any(asked(head, data.classes, depth=data.depth) is None for head in heads.values())
    ours, theirs = (one.predictor(lowest_score=LOWEST_SCORE) for one in (network, original))
    told = judge(ours, data, heads, theirs if unlabelled else None)
    numbers = headline(told)
    if silent_ones := sorted(heads.keys() - numbers.keys()):
        raise DataError(f"{data.name}: its labels do not say how good {', '.join(silent_ones)} is; take more pictures")
    return {
        head: {HEADLINE: numbers[head]}
        | {name: value for name, value in metrics.items() if isinstance(value, float) and name not in NO_SHARES}
        for head, metrics in told.items()
    }


def stages(steps: Sequence[AnyStep]) -> list[tuple[AnyStep, ...]]:
    """The steps in stages: each that shrinks with the trainings directly behind it."""
    found: list[tuple[AnyStep, ...]] = []
    for step in steps:
        if found and not isinstance(step, Shrinking):
            found[-1] = (*found[-1], step)
        else:
            found.append((step,))
    return found


def run(
    recipe: Recipe,
    work: str | Path,
    *,
    measure: Measure | None = None,
    watch: Watch = silent,
    take: Take = take,
    judged: Judge = judged,
) -> Run:
    """Take the steps of a recipe; ``work`` is the folder where everything is kept to resume from.

    ``measure`` gives speeds; without it nothing is measured, and nothing refused for not being faster. ``watch`` is
    told how far it is. ``take`` takes a step, ``judged`` judges a network.

    A stage that breaks a floor is tried again by bisection, as often as its first step allows, and the strongest try
    that holds is kept. A step that claims speed and is not measured faster is refused before any training. Killed at
    any moment and run again with the same folder, the result is that of an unbroken run, bit by bit, where trainings
    are counted in steps.

    Raises CompressionError, DataError and whatever else a step raises.
    """
    return _Running(recipe, Journal(work), measure, watch, take, judged).run()


class _Pictures:
    """The sets of a recipe, opened when they are first asked for; ``size``: height and width of rendered pictures."""

    def __init__(self, data: RecipeData, size: tuple[int, int]) -> None:
        self._data, self._size = data, size

    @cached_property
    def train(self) -> Data:
        """To learn from."""
        return open_data(self._data.train, self._size).of("train")

    @cached_property
    def footage(self) -> list[tuple[Data, float]]:
        """To learn from by a teacher alone, and the shares of a batch."""
        asked = self._data.footage
        opened = [open_data(one.set, self._size) for one in asked]
        sets = [data.of("train") if data.classes else data for data in opened]
        shares = [one.share for one in asked]
        return shares_of([(self.train, None), *zip(sets, shares, strict=True)])[1:]

    @cached_property
    def calibrate(self) -> Data:
        """To calibrate with."""
        return self.train.spread(self._data.calibrate)

    def judge(self, part: str) -> Data:
        """To judge on: ``val``, as many as are asked for, or ``test``."""
        found = open_data(getattr(self._data, part) or self._data.train, self._size).of(part)
        return found.spread(self._data.judge) if part == "val" and self._data.judge else found


@dataclass
class _Running:
    """A recipe while it runs."""

    recipe: Recipe
    journal: Journal
    measure: Measure | None
    watch: Watch
    take: Take
    judged: Judge
    floors: tuple[Floor, ...] = ()

    def run(self) -> Run:
        """All of it."""
        check_names(self.recipe.steps, self.original)
        before = self._quality(self.start, "val")
        self.floors = floors_of(self.recipe.floors, before)
        rows, state = [Row(None, self.start, before)], self.start
        for number, stage in enumerate(stages(self.recipe.steps), 1):
            state, tried = self._stage(state, stage)
            rows += (replace(row, stage=number) for row in tried)
        test = self._quality(self.start, "test"), self._quality(state, "test")
        speeds = self._speeds(self.start, state)
        return Run(self.recipe, self.pipeline.name, self.floors, rows, state, test, speeds)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The pipeline to compress."""
        return load(self.recipe.pipeline)

    @cached_property
    def pictures(self) -> _Pictures:
        """What to learn from and to judge on."""
        return _Pictures(self.recipe.data, self.pipeline.input.size)

    @cached_property
    def original(self) -> Network:
        """The untouched network."""
        return self.start.network()

    @cached_property
    def start(self) -> State:
        """The untouched network on disk."""
        weights = self.pipeline.backbone.weights
        content = _sha256(weights) if weights and names_file(weights) else None

        def make(folder: Path) -> dict[str, Any]:
            return {**write(folder, Network.of(self.pipeline)), "seconds": 0.0}

        self.watch("reading the network", None)
        return State(
            self.journal.entry("start", {"pipeline": self.pipeline.model_dump(mode="json"), "weights": content}, make)
        )

    def _stage(self, base: State, stage: Sequence[AnyStep]) -> tuple[State, list[Row]]:
        """The network after a stage, the one before it where the stage is refused, and all that was tried."""
        first, *trainings = stage
        search, attempts, best = Bisection(), list[list[Row]](), base
        for _ in range(first.tries if isinstance(first, Shrinking) else 1):
            step = first.at(search.strength) if isinstance(first, Shrinking) and search.strength < 1 else first
            if any(step == attempt[0].step for attempt in attempts):
                break
            attempt = self._attempt(base, (step, *trainings), search.strength)
            fate = attempt[-1].fate
            if fate == "kept":
                best = attempt[-1].state
                attempts = [_marked(earlier, "replaced") for earlier in attempts]
            attempts.append(attempt)
            search.note(fate == "kept")
            if search.done or fate == "slower":
                break
        return best, [row for attempt in attempts for row in attempt]

    def _attempt(self, base: State, steps: Sequence[AnyStep], strength: float) -> list[Row]:
        """The steps of a stage, until one of them is not faster; all bear the fate of the last."""
        rows: list[Row] = []
        state = base
        for step in steps:
            before, state = state, self._taken(state, step)
            speeds = self._speeds(before, state) if isinstance(step, Shrinking) and must_be_faster(step) else ()
            why = slower(speeds)
            rows.append(
                Row(
                    step,
                    state,
                    self._quality(state, "val"),
                    strength=strength,
                    speeds=speeds,
                    before=before,
                    said=(*why, *state.reports[-1].said),
                )
            )
            if why:
                return _marked(rows, "slower")
        if why := broken(self.floors, rows[-1].quality):
            rows[-1] = replace(rows[-1], said=(*why, *rows[-1].said))
            return _marked(rows, "broken")
        return rows

    def _taken(self, base: State, step: AnyStep) -> State:
        """The network after a step."""
        decided_by = {
            "from": base.digest,
            "step": step.model_dump(mode="json", exclude={"tries", "faster"}),
            "original": self.start.digest,
            "train": self.recipe.data.train,
            **({"footage": footage} if (footage := self.recipe.data.model_dump()["footage"]) else {}),
            "calibrate": self.recipe.data.calibrate,
            "seed": self.recipe.seed,
            "files": {name: _sha256(path) for name, path in files_of(step).items()},
        }

        def make(folder: Path) -> dict[str, Any]:
            self.watch(step.type, None)
            pictures, began = self.pictures, time.monotonic()
            teacher, seed = self.original, self.recipe.seed
            bench = Bench(pictures.train, pictures.footage, pictures.calibrate, teacher, folder, seed, self.watch)
            network = self.take(step, base.network(), bench)
            facts = {"seconds": round(time.monotonic() - began, 1), **write(folder, network)}
            for checkpoint in folder.glob(f"*{CHECKPOINT}"):
                checkpoint.unlink()
            return facts

        return State(self.journal.entry(step.type, decided_by, make))

    def _quality(self, state: State, part: str) -> Quality:
        """Every head's quality on a part of the data."""
        data = self.recipe.data
        decided_by = {
            "network": state.digest,
            "original": self.start.digest,
            "data": getattr(data, part) or data.train,
            "part": part,
            "pictures": data.judge if part == "val" else None,
        }

        def make(folder: Path) -> Quality:
            self.watch(f"judging on {part}", None)
            return self.judged(state.network(), self.original, self.pictures.judge(part))

        return self.journal.entry("quality", decided_by, make).facts

    def _speeds(self, before: State, after: State) -> tuple[Speed, ...]:
        """How fast both are, on everything that the recipe names; nothing where nothing is measured or changed."""
        measure, targets = self.measure, self.recipe.measure
        if measure is None or not targets or before.digest == after.digest:
            return ()
        decided_by = {
            "before": before.digest,
            "after": after.digest,
            "targets": [target.model_dump(mode="json") for target in targets],
        }

        def make(folder: Path) -> dict[str, Any]:
            self.watch("measuring", None)
            return {"speeds": [asdict(speed) for speed in measure(before.pipeline, after.pipeline)]}

        facts = self.journal.entry("speed", decided_by, make).facts
        return tuple(Speed(**speed) for speed in facts["speeds"])


def must_be_faster(step: Shrinking) -> bool:
    """Whether a step is refused where it is not faster."""
    return step.claims_speed if step.faster is None else step.faster


def slower(speeds: Sequence[Speed]) -> tuple[str, ...]:
    """A sentence, where the deciding target is not faster than before."""
    if not speeds or speeds[0].ratio >= FASTER:
        return ()
    speed = speeds[0]
    return (
        f"not faster on {speed.target}: {speed.after_ms:.2f} ms after, {speed.before_ms:.2f} ms before "
        f"({speed.ratio:.2f}×; at least {FASTER:.2f}× is needed)",
    )


def _marked(rows: Sequence[Row], fate: Fate) -> list[Row]:
    """The rows with another fate, save those that were refused before."""
    return [replace(row, fate=fate) if row.fate == "kept" else row for row in rows]


def files_of(step: AnyStep) -> dict[str, str]:
    """The files that a step reads, by what they are to it. Raises SpecError for a teacher that is no pipeline file."""
    found = {name: path for name in FILES if (path := getattr(step, name, None))}
    if teacher := getattr(step, "teacher", None):
        found["teacher's weights"] = load(teacher).backbone.weights
    if student := getattr(step, "student", None):
        found["student's weights"] = student.weights
    return {name: path for name, path in found.items() if path and (name in FILES or names_file(path))}


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CompressionError(f"{path}: cannot be read: {error.strerror or error}") from error
