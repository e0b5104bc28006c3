"""What running a fusion leaves behind: the student, how it did while it learnt and at the end, as a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharedbb import artifact
from sharedbb.learn.agreeing import scores
from sharedbb.learn.course import Clock
from sharedbb.learn.data import Data
from sharedbb.learn.network import Network
from sharedbb.learn.selection import Selection
from sharedbb.learn.teachers import Teacher
from sharedbb.spec import Pipeline
from sharedbb.spec.fuse import Fuse


@dataclass(frozen=True, slots=True)
class Fusion:
    """A student that has learnt, and how it does on the sets that were held out.

    ``network``: as it was read back from ``file``. ``sets``: by role, the pictures that were used. ``selection``: its
    validations, ``clock``: how long it learnt, ``log``: the folder of the training's logbook. ``test``: what
    ``agreeing.compared`` says of ``sets["test"]``. ``new_heads``: those that had no weights to begin with.
    """

    fuse: Fuse
    pipeline: Pipeline
    network: Network
    file: Path
    teachers: Mapping[str, Teacher]
    sets: Mapping[str, Sequence[Data]]
    selection: Selection
    clock: Clock
    log: Path
    test: Mapping[str, Any]
    new_heads: Sequence[str]

    @property
    def scores(self) -> dict[str, float]:
        """By head, 0–1: its agreement on what was held out, or its quality by labels where it has no teacher."""
        return scores(self.test, list(self.pipeline.heads))

    @property
    def missed(self) -> tuple[str, ...]:
        """The heads that stay under their floor."""
        reached = self.scores
        return tuple(head for head, floor in self.fuse.floors.items() if reached.get(head, 0.0) < floor)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        reached = self.scores
        said = [f"{one.name}: {sentence}" for sets in self.sets.values() for one in sets for sentence in one.said]
        return {
            "student": self.pipeline.name,
            "fuse": self.fuse.model_dump(mode="json"),
            "heads": {name: self._head(name, reached.get(name)) for name in self.pipeline.heads},
            "teachers": {name: teacher.describe() for name, teacher in self.teachers.items()},
            "pictures": {role: {one.name: len(one) for one in sets} for role, sets in self.sets.items()},
            "said": list(dict.fromkeys(said)),
            "training": {"steps": self.clock.step, "seconds": self.clock.seconds, "loss": self.clock.loss},
            "validations": [{"step": one.step, "scores": dict(one.headlines)} for one in self.selection.validations],
            "best_step": self.selection.step,
            "test": dict(self.test),
            "missed": list(self.missed),
            "macs": self.network.macs,
            "parameters": self.network.parameters,
            "bytes": self.file.stat().st_size,
            "digest": artifact.digest(self.file),
        }

    def _head(self, name: str, score: float | None) -> dict[str, Any]:
        teacher, _ = self.fuse.taught.get(name, (None, None))
        told = {"type": self.pipeline.heads[name].type, "teacher": teacher, "score": score}
        return told | {"floor": self.fuse.floors.get(name), "new": name in self.new_heads}
