"""What running a recipe leaves behind: networks on disk, and every step as it was taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sharedbb import artifact
from sharedbb.compress.floors import Floor, Quality
from sharedbb.learn.journal import Entry
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport
from sharedbb.spec.recipe import HEADLINE, Recipe
from sharedbb.spec.steps import AnyStep, Shrinking

ARTIFACT, PIPELINE = "network.sbb", "pipeline.yaml"

Fate = Literal["kept", "broken", "slower", "replaced"]
"""What became of a step: kept; refused, as a floor broke or as it was not faster; held, but a stronger one did, too."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Milliseconds of a frame before and after a step, measured in turns, on one backend in one precision."""

    target: str
    before_ms: float
    after_ms: float

    @property
    def ratio(self) -> float:
        """How many times as fast it is now."""
        return self.before_ms / self.after_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "ratio": self.ratio}


@dataclass(frozen=True, slots=True)
class State:
    """A network on disk, in an entry of the journal."""

    entry: Entry

    @property
    def pipeline(self) -> Path:
        """A pipeline file with this network's weights."""
        return self.entry.folder / PIPELINE

    @property
    def digest(self) -> str:
        """The digest of its artifact."""
        return str(self.entry.facts["digest"])

    @property
    def reports(self) -> tuple[StepReport, ...]:
        """What the steps so far said, in order."""
        return tuple(
            StepReport(told["step"], told["settings"], told["facts"], tuple(told["said"]))
            for told in self.entry.facts["reports"]
        )

    def network(self) -> Network:
        """The network, read from its artifact."""
        return replace(Network.of(self.pipeline), steps=self.reports)


def write(folder: Path, network: Network) -> dict[str, Any]:
    """Write a network as a State finds it, artifact and pipeline file; returns what is known of it.

    ``bytes`` are those of the artifact's file, ``macs`` are for one picture.
    """
    network.save(folder / ARTIFACT)
    (folder / PIPELINE).write_text(network.pipeline_text(ARTIFACT), encoding="utf-8")
    return {
        "digest": artifact.digest(folder / ARTIFACT),
        "bytes": (folder / ARTIFACT).stat().st_size,
        "macs": network.macs,
        "parameters": network.parameters,
        "reports": [report.to_dict() for report in network.steps],
    }


@dataclass(frozen=True, slots=True)
class Row:
    """A step as it was taken: the network after it, every head's quality, and what became of it.

    ``step``: None for the untouched network. ``stage``: which one it is of, from 1. ``strength``: of what the recipe
    asks, 0 to 1. ``speeds``: against the network ``before`` the step, where the step claims to be faster. ``said``: why
    it was refused, and what the step says.
    """

    step: AnyStep | None
    state: State
    quality: Quality
    stage: int = 0
    strength: float = 1.0
    speeds: tuple[Speed, ...] = ()
    before: State | None = None
    fate: Fate = "kept"
    said: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The step's type, ``start`` for the untouched network."""
        return self.step.type if self.step else "start"

    @property
    def ratio(self) -> float | None:
        """How many times as fast the step made the network, on the deciding target; None where nobody measured it."""
        if self.speeds:
            return self.speeds[0].ratio
        changes = self.step.claims_speed if isinstance(self.step, Shrinking) else getattr(self.step, "student", None)
        return None if changes else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        facts = self.state.entry.facts
        return {
            "step": self.name,
            "settings": self.step.model_dump(mode="json") if self.step else {},
            "stage": self.stage,
            "strength": self.strength,
            "fate": self.fate,
            "said": list(self.said),
            **{name: facts[name] for name in ("bytes", "macs", "parameters", "seconds", "digest")},
            "facts": dict(self.state.reports[-1].facts) if self.step and self.state.reports else {},
            "quality": {head: dict(metrics) for head, metrics in self.quality.items()},
            "speed": [speed.to_dict() for speed in self.speeds],
        }


@dataclass(frozen=True, slots=True)
class Run:
    """What running a recipe gave: every step as it was taken, and the last network that held.

    ``rows``: the untouched network first. ``test``: quality before and after, on the pictures kept for the end.
    ``speeds``: of the result against the untouched network.
    """

    recipe: Recipe
    name: str
    floors: tuple[Floor, ...]
    rows: Sequence[Row]
    result: State
    test: tuple[Quality, Quality]
    speeds: tuple[Speed, ...]

    @property
    def start(self) -> State:
        """The untouched network."""
        return self.rows[0].state

    @property
    def speedups(self) -> tuple[float | None, ...]:
        """How many times as fast as the untouched network each row's is, on the deciding target.

        None behind a step that changes how fast the network is and was not measured.
        """
        found, kept, base, stage = list[float | None](), None, None, -1
        for row in self.rows:
            if row.stage != stage:
                stage, base = row.stage, kept
            begins = isinstance(row.step, Shrinking) or not found or self.rows[len(found) - 1].stage != row.stage
            before = (base if begins else found[-1]) if row.step else 1.0
            found.append(None if before is None or row.ratio is None else before * row.ratio)
            if row.fate == "kept":
                kept = found[-1]
        return tuple(found)

    def relative(self, quality: Quality) -> dict[str, float]:
        """Each head's headline as a share of that of the untouched network; 1 where that was 0."""
        before = self.rows[0].quality
        return {
            head: metrics[HEADLINE] / before[head][HEADLINE] if before[head][HEADLINE] else 1.0
            for head, metrics in quality.items()
        }

    def save(self, path: Path) -> None:
        """Write the result as an artifact, and its pipeline file beside it.

        The artifact's report has each head's quality on the test set, before and after. Raises ArtifactError.
        """
        before, after = self.test
        network = self.result.network()
        network.save(path, report={"data": self.recipe.data.model_dump(), "before": before, "test": after})
        path.with_suffix(".yaml").write_text(network.pipeline_text(path.name), encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; each row with its ``speedup`` and each head's ``relative`` quality as well."""
        rows = [
            {**row.to_dict(), "speedup": speedup, "relative": self.relative(row.quality)}
            for row, speedup in zip(self.rows, self.speedups, strict=True)
        ]
        return {
            "pipeline": self.name,
            "recipe": self.recipe.model_dump(mode="json"),
            "floors": [asdict(floor) for floor in self.floors],
            "rows": rows,
            "digest": self.result.digest,
            "test": {"before": self.test[0], "after": self.test[1]},
            "speed": [speed.to_dict() for speed in self.speeds],
        }
