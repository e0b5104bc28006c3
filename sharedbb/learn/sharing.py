"""How deep specialists can share a trunk: grafted at several depths, trained, judged, priced, and the cheapest chosen.

What a specialist's heads reach at a depth does not depend on the others: the stem is frozen, and what lies behind it is
their own. So each is trained once for each depth, alone, and every combination of depths is known from these.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from sharedbb import artifact
from sharedbb.errors import DataError
from sharedbb.learn.data import Data
from sharedbb.learn.grafting import Depth, Graft, Prices, Specialist, freeze, graft, joined, stem, still
from sharedbb.learn.journal import Journal
from sharedbb.learn.judge import LOWEST_SCORE, headline, judge
from sharedbb.learn.losses import questions_of
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport
from sharedbb.learn.sharing_record import PIPELINE, Question, Row, Sharing, named, write
from sharedbb.learn.trainer import Trainer
from sharedbb.learn.training import CHECKPOINT, Training, Watch, silent
from sharedbb.spec import Reuse, Runtime, Schedule

Quality = Mapping[str, Mapping[str, Any]]

Measure = Callable[[Sequence[Path]], Sequence[float]]
"""Pipeline files to the milliseconds that a frame takes with each, measured in turns."""


def share(
    question: Question,
    pictures: tuple[Data, Data],
    journal: Journal,
    *,
    measure: Measure | None = None,
    watch: Watch = silent,
) -> Sharing:
    """Answer the question with ``pictures`` to learn from and to judge by; ``measure`` gives speeds.

    Each specialist is grafted at each depth, trained there from labels and its own answers, and judged; heads without
    labels by their agreement with the specialist. Chosen is the combination of depths that breaks no floor with the
    fewest multiply-adds; of equal ones, that whose worst head keeps most. Nothing shared breaks no floor.

    Killed at any moment and run again with the same journal, the result is that of an unbroken run, bit by bit, where
    trainings are counted in steps. Raises CompressionError and DataError.
    """
    return _Sharing(question, *pictures, journal, measure, watch).run()


@dataclass(frozen=True, slots=True)
class _Known:
    """A graft, what it is told by, and how good its heads are."""

    graft: Graft
    digest: str
    quality: Quality


@dataclass
class _Sharing:
    """A question while it is being answered; ``known`` has what is known, by specialist and depth."""

    question: Question
    train: Data
    val: Data
    journal: Journal
    measure: Measure | None
    watch: Watch
    known: dict[tuple[str, Depth], _Known] = field(default_factory=dict)

    def run(self) -> Sharing:
        """All of it."""
        depths = (0, *self.question.depths)
        for one in self.question.specialists:
            self.known[one.name, 0] = self._as_it_is(one)
            for after in self.question.depths:
                self.known[one.name, after] = self._grafted(one, after)
        chosen = self._choice()
        combinations = [dict.fromkeys(chosen, after) for after in depths]
        rows = self._timed(
            [self._row(one) for one in (*combinations, *([chosen] if chosen not in combinations else []))]
        )
        found = next(row for row in rows if row.depths == chosen)
        return Sharing(self.question, self.val.name, tuple(rows), found)

    @cached_property
    def _decides_all(self) -> dict[str, Any]:
        """What decides everything."""
        sets = [[data.name, len(data), data.classes, data.depth, data.digest] for data in (self.train, self.val)]
        return {"trunk": digest(self.question.trunk), "data": sets}

    def _as_it_is(self, one: Specialist) -> _Known:
        """The specialist at depth 0: nothing shared, untrained."""
        self.watch(f"{one.name}: judging", None)
        made = graft(self.question.trunk, one, 0)
        told = digest(made.network)
        decides = {**self._decides_all, "specialist": told}
        entry = self.journal.entry("specialist", decides, partial(self._judge_alone, made.network))
        return _Known(made, told, entry.facts["quality"])

    def _grafted(self, one: Specialist, after: Depth) -> _Known:
        """The specialist at a depth, trained there and judged."""
        self.watch(f"{one.name}, sharing {named(after)}", None)
        alone, course = self.known[one.name, 0], self.question.course.to_dict()
        decides = {**self._decides_all, "specialist": alone.digest, "after": after, "course": course}
        entry = self.journal.entry("graft", decides, partial(self._graft, one, after, alone.graft.network))
        made = Graft(one.name, after, Network.of(entry.folder / PIPELINE))
        return _Known(made, entry.facts["digest"], entry.facts["quality"])

    def _judge_alone(self, network: Network, folder: Path) -> dict[str, Any]:
        return {"quality": self._quality(network, network)}

    def _graft(self, one: Specialist, after: Depth, reference: Network, folder: Path) -> dict[str, Any]:
        """Train at a depth and judge what the artifact gives back."""
        trained = self._trained(graft(self.question.trunk, one, after), reference, folder)
        facts = write(folder, trained)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return facts | {"quality": self._quality(Network.of(folder / PIPELINE), reference)}

    def _trained(self, one: Graft, reference: Network, folder: Path) -> Network:
        """The graft's network, trained behind its stem."""
        course, network = self.question.course, one.network
        if course.steps == 0:
            return network
        module, paths = network.copy(), stem(self.question.trunk, one.after)
        freeze(module, paths)
        frozen = partial(still, paths=paths)
        trainer = Trainer(module, course, self.train, network.pipeline, reference.module, around=frozen)

        def watch(doing: str, share: float | None) -> None:
            self.watch(f"{one.name}, sharing {named(one.after)}: {doing}", share)

        return Training(network, trainer, folder, watch=watch).run()

    def _quality(self, network: Network, reference: Network) -> dict[str, dict[str, Any]]:
        """Every head's metrics, with ``headline``. Raises DataError where the pictures do not say how good one is."""
        heads = network.pipeline.heads
        labelled = questions_of(network.pipeline, self.val).keys() == heads.keys()
        for one in (network, reference):
            one.module.to("cuda" if torch.cuda.is_available() else "cpu")
        ours, theirs = (one.predictor(lowest_score=LOWEST_SCORE) for one in (network, reference))
        told = judge(ours, self.val, heads, None if labelled else theirs)
        for one in (network, reference):
            one.module.to("cpu")
        numbers = headline(told)
        if dumb := [name for name in heads if name not in numbers]:
            raise DataError(f"{self.val.name}: its labels do not say how good {dumb[0]} is; take more pictures")
        return {name: {"headline": numbers[name], **metrics} for name, metrics in told.items()}

    def _share(self, one: Specialist, head: str, after: Depth) -> float:
        """What the head keeps of its specialist's headline at a depth."""
        now, before = (self.known[one.name, depth].quality[head]["headline"] for depth in (after, 0))
        return now / before if before else 1.0

    def _worst(self, one: Specialist, after: Depth) -> float:
        return min(self._share(one, head, after) for head in one.heads)

    def _holds(self, one: Specialist, after: Depth) -> bool:
        return all(self._share(one, head, after) >= self.question.floor(head) for head in one.heads)

    @cached_property
    def _prices(self) -> Prices:
        return Prices.of(self.question.trunk, self.question.specialists)

    def _choice(self) -> dict[str, Depth]:
        """The depths of all specialists that cost least, every floor held."""
        specialists = self.question.specialists
        allowed = [[0, *(after for after in self.question.depths if self._holds(one, after))] for one in specialists]

        def rank(depths: tuple[Depth, ...]) -> tuple[int, float]:
            cost = self._prices.together({one.name: after for one, after in zip(specialists, depths, strict=True)})
            return cost, -min(self._worst(one, after) for one, after in zip(specialists, depths, strict=True))

        best = min(itertools.product(*allowed), key=rank)
        return {one.name: after for one, after in zip(specialists, best, strict=True)}

    def _row(self, depths: Mapping[str, Depth]) -> Row:
        """The network of a combination, put together and written down."""
        self.watch("putting networks together", None)
        trunk, parts = self.question.trunk, [self.known[name, after] for name, after in depths.items()]

        def make(folder: Path) -> dict[str, Any]:
            made = joined(trunk, [one.graft for one in parts])
            made = made.then(StepReport("share_depth", {"depths": dict(depths)}))
            return {"macs": self._prices.together(depths), "parameters": made.parameters, **write(folder, made)}

        decides = {**self._decides_all, "grafts": [[*depths.items()], [one.digest for one in parts]]}
        running = trunk.pipeline.model_dump(mode="json", include={*_RUNNING})
        entry = self.journal.entry("network", decides | {"running": running}, make)
        quality = {**self._untouched}
        for one, known in zip(self.question.specialists, parts, strict=True):
            after = depths[one.name]
            quality |= {head: {**known.quality[head], "share": self._share(one, head, after)} for head in one.heads}
        in_order = {head: quality[head] for head in trunk.pipeline.heads}
        holds = all(self._holds(one, depths[one.name]) for one in self.question.specialists)
        return Row(depths, entry.folder, entry.facts, in_order, holds)

    @cached_property
    def _untouched(self) -> dict[str, dict[str, Any]]:
        """The quality of the heads that no specialist has."""
        trunk = self.question.trunk
        taken = {name for one in self.question.specialists for name in one.heads}
        heads = {name: head for name, head in trunk.pipeline.heads.items() if name not in taken}
        if not heads:
            return {}
        kept = replace(trunk, pipeline=trunk.pipeline.model_copy(update={"heads": heads}))
        decides = {**self._decides_all, "heads": [*heads]}
        entry = self.journal.entry("untouched", decides, partial(self._judge_alone, kept))
        return {head: {**told, "share": 1.0} for head, told in entry.facts["quality"].items()}

    def _timed(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with what a frame takes, where that is measured."""
        measure = self.measure
        if measure is None:
            return list(rows)
        self.watch("measuring", None)
        decides = {"networks": [row.facts["digest"] for row in rows]}
        entry = self.journal.entry("times", decides, lambda folder: {"ms": [*measure([row.pipeline for row in rows])]})
        return [replace(row, ms=taken) for row, taken in zip(rows, entry.facts["ms"], strict=True)]


_RUNNING = {"reuse": Reuse(), "schedule": Schedule(), "runtime": Runtime()}
"""Parts of a pipeline that say how a network is run, not what it is, with their defaults."""


def digest(network: Network) -> str:
    """What tells a network from others, however it is run: the digest of its artifact."""
    plain = network.pipeline.model_copy(update=_RUNNING)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{artifact.SUFFIX}"
        replace(network, pipeline=plain).save(path)
        return artifact.digest(path)
