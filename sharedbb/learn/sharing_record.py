"""What is asked when specialists are to share a trunk, and what was found: networks on disk, their cost and quality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharedbb import artifact
from sharedbb.errors import CompressionError
from sharedbb.learn.grafting import ALL, Depth, Specialist, stem
from sharedbb.learn.network import Network
from sharedbb.learn.trainer import Course

ARTIFACT, PIPELINE = "network.sbb", "pipeline.yaml"

LEAST = 0.98
"""What a head keeps of its specialist's quality, where no floor says otherwise."""


@dataclass(frozen=True, slots=True)
class Question:
    """How deep these specialists can share the trunk.

    ``depths``: where to try, from shallow to deep (see ``grafting``); that nothing is shared is always tried.
    ``course``: of each training; with no steps there is none. ``floors``: by head, the least share of its specialist's
    quality, 0–1; LEAST for those left out.

    Raises CompressionError for specialists of one name or one head, floors of no head, and depths that are no
    different places of the trunk.
    """

    trunk: Network
    specialists: tuple[Specialist, ...]
    depths: tuple[Depth, ...]
    course: Course
    floors: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.specialists:
            raise CompressionError("sharing needs specialists: networks that were trained for some of the heads")
        owner: dict[str, str] = {}
        for one in self.specialists:
            for head in one.heads:
                if head in owner:
                    whose = (
                        f"both {owner[head]} and {one.name} are" if owner[head] != one.name else f"{one.name} is twice"
                    )
                    raise CompressionError(f"{whose} there for the head {head!r}; say which heads each one is for")
                owner[head] = one.name
        names = [one.name for one in self.specialists]
        if twice := [name for name in names if names.count(name) > 1]:
            raise CompressionError(f"two specialists are called {twice[0]}; give one, with all its heads")
        for head, floor in self.floors.items():
            if head not in owner or not 0 <= floor <= 1:
                raise CompressionError(
                    f"the floor {head}={floor:g} must be from 0 to 1, of one of the heads {', '.join(owner)}"
                )
        lengths = [len(stem(self.trunk, after)) for after in (0, *self.depths)]
        if lengths != sorted(set(lengths)):
            raise CompressionError(
                f"depths go from shallow to deep, behind the picture and without repeats, got {self.depths}"
            )

    def floor(self, head: str) -> float:
        """The least share of its specialist's quality that the head must keep."""
        return self.floors.get(head, LEAST)


@dataclass(frozen=True, slots=True)
class Row:
    """The network that has its specialists at these ``depths``, by name.

    ``folder`` has its artifact and its pipeline file. ``facts``: ``macs`` for one picture, ``parameters``, ``bytes``,
    ``digest``. ``quality``: by head its metrics on the validation set, with ``headline`` (0–1, higher is better) and
    ``share``, what that is of its specialist's (1 for heads that nobody touched). ``holds``: whether every floor does.
    ``ms``: milliseconds of a frame, None where not measured.
    """

    depths: Mapping[str, Depth]
    folder: Path
    facts: Mapping[str, Any]
    quality: Mapping[str, Mapping[str, Any]]
    holds: bool
    ms: float | None = None

    @property
    def pipeline(self) -> Path:
        """A pipeline file with the network's weights."""
        return self.folder / PIPELINE

    @property
    def depth(self) -> Depth | None:
        """The depth of all specialists, None where they differ."""
        several = {*self.depths.values()}
        return several.pop() if len(several) == 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = {"depth": self.depth, "depths": dict(self.depths), "holds": self.holds, "ms": self.ms}
        return {**told, **self.facts, "quality": {head: dict(metrics) for head, metrics in self.quality.items()}}


@dataclass(frozen=True, slots=True)
class Sharing:
    """The answer: a row for each depth, nothing shared first, and the ``chosen`` one, which may be a mixed one behind.

    ``data``: the name of the set.
    """

    question: Question
    data: str
    rows: tuple[Row, ...]
    chosen: Row

    def save(self, path: Path) -> None:
        """Write the chosen network as an artifact, and its pipeline file beside it. Raises ArtifactError."""
        network = Network.of(self.chosen.pipeline)
        told = {head: dict(metrics) for head, metrics in self.chosen.quality.items()}
        network.save(path, report={"data": self.data, "val": told})
        path.with_suffix(".yaml").write_text(network.pipeline_text(path.name), encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``chosen`` is the row's number."""
        asked = self.question
        return {
            "pipeline": asked.trunk.pipeline.name,
            "data": self.data,
            "specialists": {one.name: list(one.heads) for one in asked.specialists},
            "floors": {head: asked.floor(head) for one in asked.specialists for head in one.heads},
            "course": asked.course.to_dict(),
            "rows": [row.to_dict() for row in self.rows],
            "chosen": self.rows.index(self.chosen),
        }


def write(folder: Path, network: Network) -> dict[str, Any]:
    """Write a network's artifact and pipeline file; returns what the artifact is: its ``bytes`` and ``digest``."""
    network.save(folder / ARTIFACT)
    (folder / PIPELINE).write_text(network.pipeline_text(ARTIFACT), encoding="utf-8")
    return {"bytes": (folder / ARTIFACT).stat().st_size, "digest": artifact.digest(folder / ARTIFACT)}


def named(after: Depth) -> str:
    """A depth in words: ``nothing``, ``up to 8``, ``up to features.5``, ``all but heads``."""
    return {0: "nothing", ALL: "all but heads"}.get(after, f"up to {after}")
