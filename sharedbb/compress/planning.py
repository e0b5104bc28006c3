"""What each way of getting faster would give, alone and together, and at what loss: asked before the work is done.

Times come from the cost model; where the network itself was measured in a way, only ratios to that are predicted.
Losses are not predicted but assumed: what networks of a kind usually lose after fine-tuning (``EXPECTED``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from sharedbb.compress.costs import CostModel, Estimate, precision_of
from sharedbb.compress.operators import Operator, macs, narrowed, resized
from sharedbb.errors import CompressionError
from sharedbb.types import Size

PRUNINGS = (0.0, 0.25, 0.5, 0.75)
"""Shares of the multiply-adds that pruning takes."""

SIDES = (1.0, 5 / 6, 2 / 3, 1 / 2)
"""Sides of the picture, of what they are."""

RECOMPUTED = (1.0, 0.5, 0.25)
"""Shares of the picture that are computed anew on a frame; 1: no reuse."""

TILE = 64
"""Pixels of a side of the tiles in which reuse computes; each is computed with the margin that its reach asks for."""

WORTH = 0.8
"""Share of a segment's time below which tiles are worth it."""

OBSERVING = 0.5
"""Milliseconds for looking at what changed."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Shares of its headline metric that a head of a type is assumed to lose.

    ``pruning`` and ``resolution`` map how much is taken (multiply-adds; pixels of a side) to the loss after
    fine-tuning, linear in between; ``int8`` is that of static quantization, ``reuse`` that of bounded reuse.
    """

    pruning: Mapping[float, float]
    resolution: Mapping[float, float]
    int8: float
    reuse: float

    def of(self, choice: Choice, now: Choice) -> float:
        """The loss of a choice against how the network runs now, as if its parts were independent; never below 0."""
        return max(0.0, 1 - self._kept(choice) / self._kept(now))

    def _kept(self, choice: Choice) -> float:
        """Of the quality in floats."""
        kept = 1 - (self.int8 if precision_of(choice.way) == "int8" else 0.0)
        kept *= 1 - _between(self.pruning, choice.pruning)
        kept *= 1 - _between(self.resolution, 1 - choice.side)
        return kept * (1 - (self.reuse if choice.recomputed < 1 else 0.0))


def _between(curve: Mapping[float, float], at: float) -> float:
    """The value at ``at`` of a curve through zero, straight between and beyond its points."""
    points = [(0.0, 0.0), *sorted(curve.items())]
    (a, low), (b, high) = next((pair for pair in itertools.pairwise(points) if at <= pair[1][0]), points[-2:])
    return low + (high - low) * (at - a) / (b - a)


def _scaled(pruning: float, resolution: float, int8: float, reuse: float) -> Expected:
    """The curves of a segmentation, times a factor each."""
    return Expected(
        {0.25: 0.005 * pruning, 0.5: 0.02 * pruning, 0.75: 0.07 * pruning},
        {1 / 6: 0.02 * resolution, 1 / 3: 0.05 * resolution, 1 / 2: 0.12 * resolution},
        int8,
        reuse,
    )


EXPECTED = {
    "segmentation": _scaled(1.0, 1.0, 0.005, 0.01),
    "detection": _scaled(1.5, 1.5, 0.01, 0.01),
    "keypoints": _scaled(1.5, 1.5, 0.01, 0.01),
    "depth": _scaled(1.0, 0.7, 0.01, 0.01),
    "embedding": _scaled(1.0, 0.7, 0.005, 0.01),
    "tags": _scaled(0.7, 0.3, 0.005, 0.005),
}
"""By head type: rough figures of the literature, to rank choices by before anything is tried; what a network really
loses, its recipe measures. A type of one's own is taken for a detection, which loses most."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment: its operators, the heads that need it, and the margin that its reach adds to a tile.

    ``margin``: pixels of the picture on both sides together; None where it looks at the whole picture.
    """

    name: str
    heads: frozenset[str]
    operators: tuple[Operator, ...]
    margin: float | None


@dataclass(frozen=True)
class Subject:
    """The network to plan for: picture size, heads with their types, pieces, and what was measured by way (ms)."""

    name: str
    size: Size
    heads: Mapping[str, str]
    pieces: tuple[Piece, ...]
    measured: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def operators(self) -> tuple[Operator, ...]:
        """Of the whole network."""
        return _all(self.pieces)

    def alone(self, head: str) -> tuple[Operator, ...]:
        """Of the network that a head would need for itself."""
        return _all(piece for piece in self.pieces if head in piece.heads)


@dataclass(frozen=True, slots=True)
class Choice:
    """One setting of everything: how it runs, what pruning takes, the picture's sides, what reuse computes anew."""

    way: str
    pruning: float = 0.0
    side: float = 1.0
    recomputed: float = 1.0

    @property
    def untouched(self) -> bool:
        """Whether the network is the one that was given."""
        return (self.pruning, self.side, self.recomputed) == (0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a choice would give: the time, whether that was measured, multiply-adds, and the assumed loss by head."""

    choice: Choice
    size: Size
    time: Estimate
    measured: bool
    macs: int
    losses: Mapping[str, float]

    @property
    def worst(self) -> float:
        """The largest loss of a head."""
        return max(self.losses.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **asdict(self.choice),
            "size": [self.size.height, self.size.width],
            "milliseconds": self.time.milliseconds,
            "interval": [self.time.low, self.time.high],
            "measured": self.measured,
            "macs": self.macs,
            "expected_loss": dict(self.losses),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The network as it is, its heads as networks apart, what each change gives alone, and all changes together.

    ``together`` has what keeps the floors, and reaches the target where there is one, least loss first. ``fastest`` is
    the fastest that keeps the floors, None where nothing does.
    """

    target_ms: float | None
    floors: Mapping[str, float]
    now: Outlook
    apart: Estimate
    alone: tuple[Outlook, ...]
    together: tuple[Outlook, ...]
    fastest: Outlook | None

    @property
    def best(self) -> Outlook | None:
        """What reaches the target with the smallest expected loss."""
        return self.together[0] if self.together else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "target_ms": self.target_ms,
            "floors": dict(self.floors),
            "now": self.now.to_dict(),
            "apart": asdict(self.apart),
            "alone": [one.to_dict() for one in self.alone],
            "together": [one.to_dict() for one in self.together],
            "fastest": self.fastest and self.fastest.to_dict(),
        }


def plan(
    model: CostModel,
    subject: Subject,
    ways: Sequence[str],
    *,
    target_ms: float | None = None,
    floors: Mapping[str, float] | None = None,
    recomputed: Sequence[float] = RECOMPUTED,
) -> Plan:
    """Look at every combination of ways, prunings, sizes and reuse; the first of ``ways`` is how it runs now.

    ``floors``: the least share of its quality that a head must be expected to keep. Raises CompressionError for floors
    of heads that there are not and for ways that the model does not know.
    """
    floors = dict(floors or {})
    check_floors(floors, subject.heads)
    now = Choice(ways[0])
    outlooks = {
        choice: _outlook(model, subject, choice, now, pieces)
        for pruning, side in itertools.product(PRUNINGS, _sides(subject.size))
        for pieces in [_changed(subject, pruning, side)]
        for choice in [Choice(way, pruning, side, share) for way in ways for share in recomputed]
    }
    kept = [one for one in outlooks.values() if all(1 - one.losses[head] >= floor for head, floor in floors.items())]
    reaching = [one for one in kept if target_ms is None or one.time.milliseconds <= target_ms]
    return Plan(
        target_ms,
        floors,
        outlooks[now],
        _apart(model, subject, ways[0]),
        tuple(one for choice, one in outlooks.items() if _changes(choice, now) == 1),
        tuple(sorted(reaching, key=lambda one: (one.worst, sum(one.losses.values()), one.time.milliseconds))),
        min(kept, key=lambda one: one.time.milliseconds, default=None),
    )


def check_floors(floors: Iterable[str], heads: Iterable[str]) -> None:
    """Raise CompressionError for a floor of a head that there is not."""
    known = list(heads)
    for head in floors:
        if head not in known:
            raise CompressionError(f"there is no head {head!r} to hold a floor; the heads are {', '.join(known)}")


def _changes(choice: Choice, now: Choice) -> int:
    """In how many respects a choice differs."""
    return sum(asdict(choice)[name] != value for name, value in asdict(now).items())


def _sides(size: Size) -> tuple[float, ...]:
    """Shares of the sides that give sizes of their own."""
    return tuple({smaller(size, side): side for side in reversed(SIDES)}.values())[::-1]


def smaller(size: Size, side: float) -> Size:
    """The size nearest to ``side`` times as large, in multiples of 32."""
    height, width = (max(32, round(extent * side / 32) * 32) for extent in (size.height, size.width))
    return size if side == 1 else Size(height, width)


def _outlook(model: CostModel, subject: Subject, choice: Choice, now: Choice, pieces: Sequence[Piece]) -> Outlook:
    """What a choice would give whose network consists of ``pieces``."""
    measured = subject.measured.get(choice.way) if choice.untouched else None
    time = _time(model, subject, choice, pieces) if measured is None else Estimate.around(measured, 1.0)
    losses = {head: EXPECTED.get(kind, EXPECTED["detection"]).of(choice, now) for head, kind in subject.heads.items()}
    return Outlook(choice, smaller(subject.size, choice.side), time, measured is not None, macs(_all(pieces)), losses)


def _changed(subject: Subject, pruning: float, side: float) -> tuple[Piece, ...]:
    """The pieces of the network pruned, and at another size."""
    size = smaller(subject.size, side)
    share = size.height * size.width / (subject.size.height * subject.size.width)
    made = iter(resized(narrowed(subject.operators, pruning), share))
    return tuple(
        replace(piece, operators=tuple(itertools.islice(made, len(piece.operators)))) for piece in subject.pieces
    )


def _time(model: CostModel, subject: Subject, choice: Choice, pieces: Sequence[Piece]) -> Estimate:
    """How long a frame takes: in one run, or with reuse as the pieces whose tiles are worth it."""
    dense = model.predict(_all(pieces), choice.way, anchor=_anchor(subject, choice.way))
    if choice.recomputed == 1:
        return dense
    law, precision = model.law(choice.way), precision_of(choice.way)
    whole = [law(piece.operators, precision) for piece in pieces]
    parts = [
        _in_tiles(piece, took, choice.recomputed, model, choice.way) for piece, took in zip(pieces, whole, strict=True)
    ]
    return dense.scaled(sum(parts) / sum(whole), plus=OBSERVING)


def _in_tiles(piece: Piece, whole: float, recomputed: float, model: CostModel, way: str) -> float:
    """Milliseconds of the share of a piece that is computed anew; of all of it where tiles are not worth it."""
    if piece.margin is None:
        return whole
    share = recomputed * ((TILE + piece.margin) / TILE) ** 2
    if share >= 1:
        return whole
    tiles = model.law(way)(resized(piece.operators, share), precision_of(way))
    return tiles if tiles <= WORTH * whole else whole


def _apart(model: CostModel, subject: Subject, way: str) -> Estimate:
    """The heads as networks of their own, one after another."""
    anchor = _anchor(subject, way)
    each = [model.predict(subject.alone(head), way, anchor=anchor) for head in subject.heads]
    return Estimate(sum(one.milliseconds for one in each), sum(one.low for one in each), sum(one.high for one in each))


def _anchor(subject: Subject, way: str) -> tuple[Sequence[Operator], float] | None:
    return (subject.operators, subject.measured[way]) if way in subject.measured else None


def _all(pieces: Iterable[Piece]) -> tuple[Operator, ...]:
    return tuple(operator for piece in pieces for operator in piece.operators)
