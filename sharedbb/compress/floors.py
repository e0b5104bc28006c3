"""Floors under heads: what each must still reach, and how a step that breaks one is weakened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sharedbb.errors import CompressionError
from sharedbb.spec.recipe import HEADLINE, RELATIVE

Quality = Mapping[str, Mapping[str, float]]
"""Head to metric to value, 0 to 1, higher is better; every head has its ``headline``."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What a head must reach in a metric: at least ``least``; ``bound`` is how the recipe says it."""

    head: str
    metric: str
    bound: str | float
    least: float

    def broken_by(self, quality: Quality) -> str | None:
        """A sentence, where the floor is broken."""
        got = quality[self.head].get(self.metric)
        if got is not None and got >= self.least:
            return None
        reached = "has no value" if got is None else f"is {got:.4f}"
        origin = f" ({self.bound})" if isinstance(self.bound, str) else ""
        return f"{self.head}: {self.metric} {reached}, the floor is {self.least:.4f}{origin}"


def floors_of(bounds: Mapping[str, Mapping[str, str | float]], before: Quality) -> tuple[Floor, ...]:
    """The floors of a recipe, given what the untouched network reaches.

    Raises CompressionError for a head or a metric that is not there, and for a floor that is broken from the start.
    """
    floors = []
    for head, metrics in bounds.items():
        if head not in before:
            raise CompressionError(f"floors: there is no head {head!r}; the heads are {', '.join(before)}")
        for metric, bound in metrics.items():
            if metric not in before[head]:
                known = ", ".join(name for name in before[head] if name != HEADLINE)
                raise CompressionError(f"floors: {head} is not judged by {metric!r} on this data, only by {known}")
            floors.append(Floor(head, metric, bound, _least(bound, before[head][metric])))
    for floor in floors:
        if broken := floor.broken_by(before):
            raise CompressionError(f"floors: broken before the first step: {broken}; lower it")
    return tuple(floors)


def _least(bound: str | float, before: float) -> float:
    share = RELATIVE.fullmatch(bound) if isinstance(bound, str) else None
    return float(share[1]) * before if share else float(bound)


def broken(floors: tuple[Floor, ...], quality: Quality) -> tuple[str, ...]:
    """A sentence for each floor that ``quality`` breaks."""
    return tuple(sentence for floor in floors if (sentence := floor.broken_by(quality)))


@dataclass(slots=True)
class Bisection:
    """How strong a step may be, from 0 (nothing) to 1 (as asked): all of it first, then halving what is unknown.

    ``strength`` is what to try next; ``held`` the strongest known to be good, ``failed`` the weakest known to be bad.
    """

    strength: float = 1.0
    held: float = 0.0
    failed: float | None = None

    def note(self, good: bool) -> None:
        """Take down how ``strength`` did, and go on to the next."""
        if good:
            self.held = self.strength
        else:
            self.failed = self.strength
        if self.failed is not None:
            self.strength = (self.held + self.failed) / 2

    @property
    def done(self) -> bool:
        """Whether all that was asked is good."""
        return self.held == 1.0
