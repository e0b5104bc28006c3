"""A whole training in a folder: steps, validations, logs and checkpoints, to the end or until nothing gets better."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sharedbb.errors import ArtifactError, CompressionError
from sharedbb.learn.judge import Quality, headline
from sharedbb.learn.logbook import Logbook
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport
from sharedbb.learn.trainer import NotFiniteError, Trainer

CHECKPOINT = "training.safetensors"
LAST_GOOD = "last-good.sbb"

SAVED_EVERY_S = 30.0
"""Seconds between checkpoints."""

Watch = Callable[[str, float | None], None]
"""Is told what is being done, and which share of the training is done."""


def silent(doing: str, share: float | None) -> None:
    """Watch nothing."""


class Training:
    """A network in training, in the folder ``work``, where it is taken up again.

    ``trainer`` trains a copy of the network's module. ``judged`` gives the quality of a network; with it, there is a
    validation every ``every`` steps and at the end, and the averaged weights that were best are kept (``Selection``).
    ``patience``: after so many validations without a new best the training ends; None for never. ``learnt``: whether
    the network begins with weights that were trained; these are validated, too, and kept where nothing gets better.

    In the folder are CHECKPOINT and what a ``Logbook`` writes: ``loss/HEAD``, ``val/HEAD``, ``weight/HEAD``, ``rate``.
    """

    def __init__(
        self,
        network: Network,
        trainer: Trainer,
        work: Path,
        *,
        judged: Callable[[Network], Quality] | None = None,
        every: int = 500,
        patience: int | None = None,
        learnt: bool = False,
        watch: Watch = silent,
    ) -> None:
        self.network, self.trainer, self.work = network, trainer, work
        self.judged, self.every, self.patience, self.watch = judged, every, patience, watch
        self.learnt = learnt

    def run(self) -> Network:
        """Train to the end, from the checkpoint if there is one; returns the network with the weights to keep.

        Raises CompressionError for a checkpoint of another training, a folder that cannot be written, and a loss that
        is not finite: then the last good weights are in LAST_GOOD.
        """
        checkpoint = self.work / CHECKPOINT
        if checkpoint.is_file():
            self.trainer.resume(checkpoint)
        with Logbook(self.work, self.trainer.clock.step) as log:
            try:
                self._steps(log, checkpoint)
            except NotFiniteError as error:
                self.trainer.save(checkpoint)
                raise CompressionError(f"{error}{self._last_good()}") from error
        return self.network_of(self.trainer.selection.weights or self.trainer.averaged())

    def _steps(self, log: Logbook, checkpoint: Path) -> None:
        trainer, saved = self.trainer, time.monotonic()
        if self.learnt and not trainer.clock.step:
            self._validate(log)
        trainer.stopped = self._stale()
        for line in trainer.run():
            step = line["step"]
            log.add(step, self._scalars(line))
            self.watch(f"training, step {step}, loss {trainer.clock.loss:.3f}", line["progress"])
            due = step % self.every == 0
            if due:
                self._validate(log)
                trainer.stopped = trainer.stopped or self._stale()
            if due or time.monotonic() - saved > SAVED_EVERY_S:
                log.flush()
                trainer.save(checkpoint)
                saved = time.monotonic()
        self._validate(log)
        trainer.save(checkpoint)

    def _stale(self) -> bool:
        return self.patience is not None and self.trainer.selection.since_best >= self.patience

    def _validate(self, log: Logbook) -> None:
        """Judge the averaged weights, unless that was done after this step."""
        trainer, step = self.trainer, self.trainer.clock.step
        if self.judged is None or any(one.step == step for one in trainer.selection.validations):
            return
        self.watch(f"validating after step {step}", trainer.clock.progress(trainer.course))
        weights = trainer.averaged()
        headlines = headline(self.judged(self.network_of(weights)))
        trainer.selection.add(step, headlines, weights)
        log.add(step, {f"val/{head}": value for head, value in headlines.items()})

    def _scalars(self, line: Mapping[str, Any]) -> dict[str, float]:
        """What is logged of a step; heads of which nothing was known in its batch are left out."""
        scalars = {"loss/total": line["loss"], "rate": self.trainer.optimizer.param_groups[0]["lr"]}
        scalars |= {f"loss/{name}": loss for name, loss in line["losses"].items() if loss}
        if self.trainer.course.balance != "fixed":
            scalars |= {f"weight/{head}": round(weight, 6) for head, weight in self.trainer.balance.current().items()}
        return scalars

    def network_of(self, weights: Mapping[str, Any]) -> Network:
        """The network with these weights, and a report of how far its training was."""
        module = self.network.copy()
        module.load_state_dict(weights)
        trainer = self.trainer
        settings = {name: value for name, value in trainer.course.to_dict().items() if value is not None}
        facts = {
            "steps": trainer.clock.step,
            "best_step": trainer.selection.step,
            "loss": round(trainer.clock.loss, 4),
            "weights": {head: round(weight, 4) for head, weight in trainer.balance.current().items()},
            "data": {data.name: {"pictures": len(data), "share": share} for data, share in trainer.sets},
            "heads_from_labels": [head for head in trainer.pipeline.heads if head in trainer.tasks],
        }
        return self.network.then(StepReport("train", settings, facts), module=module)

    def _last_good(self) -> str:
        """Write the averaged weights as an artifact; what there is to say of it."""
        step = self.trainer.clock.step
        if not step:
            return ""
        path = self.work / LAST_GOOD
        try:
            self.network_of(self.trainer.averaged()).save(path)
        except ArtifactError as error:
            return f"; the weights after {step} steps are not kept ({error})"
        return f"; the weights after {step} steps are in {path}, to begin with (--start)"
