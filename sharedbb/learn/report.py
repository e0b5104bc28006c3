"""What one step of compression did, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step: its name, what was asked, what came out, and sentences for people.

    ``settings`` and ``facts`` are plain JSON values. ``said`` tells what was refused and why, and surprises.
    """

    step: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    said: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self) | {"said": list(self.said)}

    @classmethod
    def all_of(cls, recipe: Mapping[str, Any]) -> tuple[StepReport, ...]:
        """The steps that an artifact's recipe tells of, in order; none where it tells of something else."""
        told = recipe.get("steps")
        if not isinstance(told, list) or not all(isinstance(one, Mapping) and one.keys() == _FIELDS for one in told):
            return ()
        if not all(isinstance(one["said"], list) for one in told):
            return ()
        return tuple(cls(**{**one, "said": tuple(map(str, one["said"]))}) for one in told)


_FIELDS = {"step", "settings", "facts", "said"}
