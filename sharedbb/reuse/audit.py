"""Keeping reuse honest: which frames are computed in full to be compared, and what follows from the comparison."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sharedbb.reuse.regions import Mask

FIRST_AUDITS = (3, 8, 16, 32)  # frames after a beginning: the thresholds are only guesses there
TIGHTER, LOOSER = 0.6, 1.15  # what a broken and a kept budget do to the thresholds
TIGHTEST, LOOSEST = 0.3, 4.0
SHORTEST_CLOCK, LONGEST_CLOCK = 1, 8
COMFORT = 0.6  # of the budget: below it, more may be tolerated
FIRST_PAUSE, LONGEST_PAUSE = 50, 800  # frames without reuse after the tightest thresholds broke the budget


class Canary:
    """Says on which frames to look: a share of all, by dice of its own, and some of the first."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._dice = random.Random(seed)
        self._frame = 0

    def turn(self) -> bool:
        """Whether the frame at hand is one; called once a frame."""
        self._frame += 1
        if self._share <= 0:
            return False
        return self._frame in FIRST_AUDITS or self._dice.random() < self._share

    @property
    def expected_delay(self) -> float:
        """Frames that pass on average until an error is seen."""
        return 1 / self._share if self._share > 0 else float("inf")


@dataclass(slots=True)
class Trust:
    """How much is tolerated, learnt from audits.

    ``scale`` multiplies all thresholds; ``clock`` is how many frames a change may wait whose stage is computed whole, and
    how many a key frame may serve. ``pause`` counts the frames for which nothing is reused, since the tightest
    thresholds did not keep the budget; it doubles each time.
    """

    budget: float
    longest: int = LONGEST_CLOCK
    scale: float = 1.0
    clock: int = 2
    audits: int = 0
    broken: int = 0
    pause: int = 0
    _next_pause: int = FIRST_PAUSE

    def learn(self, errors: Mapping[str, float]) -> bool:
        """Take in an audit's measured shares by head; returns whether the budget was kept."""
        self.audits += 1
        largest = max(errors.values(), default=0.0)
        if largest > self.budget:
            self.broken += 1
            self._tighten()
            return False
        if largest < self.budget * COMFORT:
            self.scale = min(LOOSEST, self.scale * LOOSER)
            self.clock = min(self.longest, self.clock + 1)
            self._next_pause = FIRST_PAUSE
        return True

    def _tighten(self) -> None:
        if self.scale == TIGHTEST and self.clock == SHORTEST_CLOCK:
            self.pause = self._next_pause
            self._next_pause = min(LONGEST_PAUSE, self._next_pause * 2)
        self.scale = max(TIGHTEST, self.scale * TIGHTER)
        self.clock = max(SHORTEST_CLOCK, self.clock - 1)

    @property
    def is_paused(self) -> bool:
        """Whether nothing may be reused on the frame at hand; called once a frame."""
        self.pause = max(0, self.pause - 1)
        return self.pause > 0


class Walk:
    """Goes over the picture in bands, so that every cell is taken anew within ``1 / share`` frames."""

    BANDS = 4

    def __init__(self, share: float, rows: int, columns: int) -> None:
        self._shape = rows, columns
        self._share = share
        self._owed = 0.0
        self._band = 0

    def turn(self) -> Mask | None:
        """The cells whose turn it is on this frame; None most of the time."""
        self._owed += self._share * self.BANDS
        if self._owed < 1:
            return None
        self._owed -= 1
        rows = self._shape[0]
        mask = np.zeros(self._shape, np.bool_)
        mask[rows * self._band // self.BANDS : rows * (self._band + 1) // self.BANDS] = True
        self._band = (self._band + 1) % self.BANDS
        return mask
