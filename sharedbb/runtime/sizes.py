"""Which of its sizes a network runs at: a pure function of predicted times, audits, and how long a size was kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

MARGIN = 0.8  # of the deadline that a larger size may take, by prediction, to be tried again
ENOUGH = 3  # audits that must have gone well on average before a smaller size serves
LATEST = 0.5  # weight of the latest audit in the average
RELAPSE = 2  # holds within which a change that is undone counts as a mistake
LONGEST_HOLD = 32  # times the hold that is asked for: what mistakes can make of it


@dataclass(frozen=True, slots=True)
class Rules:
    """What a ladder of sizes goes by.

    ``budget``: largest tolerated share of a head's answers that differ from those at the first, largest size. ``hold``:
    frames for which a size is kept at least. ``audit``: share of frames that are also computed at the first size.
    ``deadline_ms``: time that the network may take on a frame, None for no limit. ``seed`` of the audit's dice.
    """

    budget: float = 0.02
    hold: int = 30
    audit: float = 0.02
    deadline_ms: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """The size in use, 0 the largest, for how many frames it was used, and for how many it is to be kept.

    ``tried``: whether nothing forced the change to it, so that having to take it back would be a mistake.
    """

    at: int
    age: int
    hold: int
    tried: bool = False


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the choice for a frame depends on besides.

    ``loads``: by size, the milliseconds that the heads take whose turn it is, as predicted; ``peaks``, what all heads
    together take, no less than that. Without a deadline nobody asks for them, but there is one of each per size.
    ``breaks``: whether audits since the size in use was taken up found it beyond the budget. ``agrees``: whether they
    found the next smaller one within it.
    """

    loads: tuple[float, ...]
    peaks: tuple[float, ...]
    breaks: bool = False
    agrees: bool = False


def choose(rules: Rules, standing: Standing, outlook: Outlook) -> int:
    """The size for a frame, 0 the largest.

    Under a deadline: the largest that is predicted to keep it, at once where that is a smaller one; a larger one only
    when it fits with a margin and the size in use was held, or turned out to break the budget. Without one: the next
    smaller size when it agrees and the one in use was held; the largest at once when the budget is broken.
    """
    at, held = standing.at, standing.age >= standing.hold
    if rules.deadline_ms is None:
        if outlook.breaks:
            return 0
        return at + 1 if outlook.agrees and held and at + 1 < len(outlook.loads) else at
    deadline, last = rules.deadline_ms, len(outlook.loads) - 1
    fits = next((size for size, load in enumerate(outlook.loads) if load <= deadline), last)
    if fits > at:
        return fits
    if not (held or outlook.breaks):
        return at
    return next((size for size in range(at) if outlook.peaks[size] <= MARGIN * deadline), at)


def after(rules: Rules, standing: Standing, size: int) -> Standing:
    """The standing once a frame was computed at ``size``.

    A change that had to be taken back soon doubles the hold, one that lasted brings it back to what was asked for.
    """
    if size == standing.at:
        return replace(standing, age=standing.age + 1)
    forced, hold = (size > standing.at) == (rules.deadline_ms is not None), standing.hold
    if forced and standing.tried:
        mistaken = standing.age < RELAPSE * hold
        hold = min(LONGEST_HOLD * rules.hold, 2 * hold) if mistaken else rules.hold
    return Standing(size, 1, hold, tried=not forced)


@dataclass(slots=True)
class Evidence:
    """What audits found out about one size: by head, the average share of answers that differ from the first size's."""

    error: dict[str, float] = field(default_factory=dict)
    audits: int = 0

    def learn(self, errors: Mapping[str, float]) -> None:
        """Take in one audit's shares by head."""
        self.audits += 1
        for head, share in errors.items():
            known = self.error.get(head, share)
            self.error[head] = known + LATEST * (share - known)

    def breaks(self, budget: float) -> bool:
        """Whether the head that is worst off is beyond the budget."""
        return max(self.error.values(), default=0.0) > budget

    def agrees(self, budget: float) -> bool:
        """Whether all heads were seen within the budget, often enough."""
        return self.audits >= ENOUGH and bool(self.error) and not self.breaks(budget)
