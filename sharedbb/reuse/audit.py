"""Keeping reuse honest: which frames are computed in full to be compared, and what follows from the comparison."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sharedbb.reuse.regions import Mask

FIRST_AUDITS = (3, 12, 48)  # frames of a kind: the thresholds are only guesses there
TIGHTER, LOOSER = 0.6, 1.4  # what a broken and a kept budget do to the thresholds
TIGHTEST, LOOSEST = 0.3, 2.5  # what was looked at while nothing happened says little about what comes
SHORTEST_CLOCK, LONGEST_CLOCK = 1, 8
COMFORT = 0.6  # of the budget: below it, more may be tolerated
FIRST_PAUSE, LONGEST_PAUSE = 50, 800  # frames without reuse after the tightest thresholds broke the budget
FLOORS = 3  # frames of which noise's own effect is measured
LATEST = 0.2  # weight of the latest audit in the average
DRIFT = 10  # frames after one in full from which on an error is put down to what has added up since
FIRST_HORIZON, SHORTEST_HORIZON, LONGEST_HORIZON = 40, 8, 400  # frames from one in full to the next
WITHIN, FARTHER = 0.8, 1.5  # of the frames that kept the budget; and what a kept one does to the horizon
GROSS = 5.0  # times the tolerated error: one audit is enough then
ROUNDING = 1e-6  # of a band: what a share that is no exact number may be off by


class Canary:
    """Says on which frames to look: a share of all, by dice of its own, and some of the first of every kind."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._dice = random.Random(seed)
        self._seen: dict[str, int] = {}

    def turn(self, kind: str) -> bool:
        """Whether the frame at hand is one, computed in one ``kind`` of way; called once a frame."""
        self._seen[kind] = self._seen.get(kind, 0) + 1
        chosen = self._dice.random() < self._share
        return self._share > 0 and (chosen or self._seen[kind] in FIRST_AUDITS)


@dataclass(slots=True)
class Trust:
    """How much is tolerated, learnt from audits.

    ``scale`` multiplies all thresholds; ``clock`` is how many frames a change may wait whose stage is computed whole,
    and how many a key frame may serve. ``pause`` counts the frames for which nothing is reused, since the tightest
    thresholds did not keep the budget; it doubles each time, and so do the frames in full after which, at a clock of 1,
    one of 2 is tried again; it ``probes`` until an audit has told what comes of it. ``longest`` and ``shortest`` bound
    the clock.

    ``horizon``: frames after which one in full is due again, however little each of them changed: what stays below the
    thresholds adds up.

    ``floor``: by head, the share of answers that one grey level of noise changes by itself: reuse is judged by what it
    adds to that. ``error``: by head, the share of answers that differed from a dense run, over the latest audits.
    """

    budget: float
    longest: int = LONGEST_CLOCK
    shortest: int = SHORTEST_CLOCK
    scale: float = 1.0
    clock: int = 2
    audits: int = 0
    broken: int = 0
    pause: int = 0
    is_paused: bool = False
    probes: bool = False
    horizon: int = FIRST_HORIZON
    floor: dict[str, float] = field(default_factory=dict)
    error: dict[str, float] = field(default_factory=dict)
    _floors: dict[str, int] = field(default_factory=dict)
    _judged: dict[str, float] = field(default_factory=dict)
    _next_pause: int = FIRST_PAUSE
    _unseen: int = 0  # frames in full since the last audit

    def allow(self, floor: Mapping[str, float | None]) -> None:
        """Take in what noise alone changed of a frame's answers; None of answers that cannot tell."""
        for head, share in floor.items():
            self._floors[head] = self._floors.get(head, 0) + 1
            if share is not None:
                known = self.floor.get(head, 0.0)
                self.floor[head] = known + (share - known) / self._floors[head]

    @property
    def has_looked(self) -> bool:
        """Whether a frame was looked at for what noise does."""
        return bool(self._floors)

    def knows_floor(self, head: str) -> bool:
        """Whether enough frames were looked at to know what noise does to a head's answers."""
        return self._floors.get(head, 0) >= FLOORS

    def learn(self, errors: Mapping[str, float], *, waited: bool = True, age: int = 0) -> bool:
        """Take in an audit's measured shares by head; returns whether the budget was kept.

        ``waited``: whether changes were waiting for their turn, so that the audit says something about the clock; at
        the shortest one nothing ever waits. ``age``: frames since the last one in full. Without errors there is nothing
        to learn.
        """
        if not errors:
            return True
        self.audits += 1
        self._unseen, self.probes = 0, False
        for head, share in errors.items():
            reported, judged = self.error.get(head, share), self._judged.get(head, 0.0)
            self.error[head] = reported + (share - reported) * LATEST
            self._judged[head] = judged + (share - judged) * LATEST
        largest = max((self._excess(head, errors[head]) for head in errors), default=0.0)
        if largest > 1:
            self.broken += 1
            if age > DRIFT and self.horizon > SHORTEST_HORIZON:
                self.horizon = max(SHORTEST_HORIZON, int(WITHIN * age / largest))
            else:
                self._tighten()
            return False
        if largest < COMFORT:
            if age >= self.horizon:
                self.horizon = min(LONGEST_HORIZON, int(FARTHER * self.horizon))
            self.scale = min(LOOSEST, self.scale * LOOSER)
            self.clock = min(self.longest, self.clock + (waited or self.clock == self.shortest))
            self._next_pause = FIRST_PAUSE
        return True

    def recover(self) -> None:
        """Come back towards what is usual, since thresholds so tight that nothing is reused are never audited."""
        self.scale = max(self.scale, min(1.0, self.scale * LOOSER))

    def _excess(self, head: str, share: float) -> float:
        """A head's error as a multiple of what is tolerated: on average, or at once where it is far above that.

        The average grows with the evidence, from nothing, and says nothing against an audit that went well.
        """
        tolerated = self.budget + self.floor.get(head, 0.0)
        return max(min(self._judged[head], share), share / GROSS) / tolerated

    def _tighten(self) -> None:
        if self.scale == TIGHTEST and self.clock == self.shortest:
            self.pause = self._next_pause
            self._double()
        self.scale = max(TIGHTEST, self.scale * TIGHTER)
        self.clock = max(self.shortest, self.clock - 1)

    def _double(self) -> None:
        """Have the next try come twice as late."""
        self._next_pause = min(LONGEST_PAUSE, self._next_pause * 2)

    def tick(self) -> None:
        """A new frame has come."""
        self.is_paused = self.pause > 0
        self.pause = max(0, self.pause - 1)

    def spared_nothing(self) -> None:
        """A frame was computed in full. Where nothing may wait that is nearly all of them: waiting is tried again."""
        self._unseen += not self.is_paused
        if self.clock == 1 < self.longest and self._unseen >= self._next_pause:
            self.clock, self._unseen, self.probes = 2, 0, True
            self._double()


class Walk:
    """Goes over the picture in bands, so that every cell is taken anew within ``1 / share`` frames."""

    BANDS = 4

    def __init__(self, share: float, rows: int, columns: int) -> None:
        self._shape = rows, columns
        self._share = share
        self._frame = 0
        self._taken = 0  # bands, from the beginning

    def turn(self) -> Mask | None:
        """The cells whose turn it is on this frame; None most of the time."""
        self._frame += 1
        due = int(self._frame * self._share * self.BANDS + ROUNDING)
        if due == self._taken:
            return None
        rows = self._shape[0]
        mask = np.zeros(self._shape, np.bool_)
        for band in range(max(self._taken, due - self.BANDS), due):
            at = band % self.BANDS
            mask[rows * at // self.BANDS : rows * (at + 1) // self.BANDS] = True
        self._taken = due
        return mask
