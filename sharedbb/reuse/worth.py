"""Which ways of not computing a frame in full are worth it, judged by what frames have cost so far."""

from __future__ import annotations

from typing import Literal, get_args

from sharedbb.reuse.policy import How

GAIN = 0.95  # of a dense frame's time that other frames may take on average
COST_MEMORY, ENOUGH = 0.1, 8  # of the costs; frames to judge them by
CROWDS, LONGEST_PAUSE = 3, 30  # crowded frames in a row after which some are not looked at, and at most how many
MOST_PATIENCE = 960  # frames that a way is not taken for at most, twice as many each time that it cost too much

Way = Literal["partial", "warped"]
"""Of not computing a frame in full: what changed alone, or nothing, the last answers moved along."""

WAYS: tuple[Way, ...] = get_args(Way)


class Worth:
    """What frames cost that are not computed in full, against those that are, and how often nearly all has changed.

    After a few crowded frames in a row as many, up to LONGEST_PAUSE, are not looked at but computed in full. A way that
    turns out as dear as the whole is not taken for a number of frames, which doubles each time.
    """

    def __init__(self) -> None:
        self._costs = dict.fromkeys(("dense", *WAYS), 0.0)
        self._seen = dict.fromkeys(self._costs, 0)
        self._pauses = dict.fromkeys(WAYS, 0)
        self._patience = dict.fromkeys(WAYS, LONGEST_PAUSE)
        self._pause = self._crowds = 0
        self._begins = False

    @property
    def is_crowded(self) -> bool:
        """Whether the frame at hand is not to be looked at, since nearly all changed in those before."""
        return self._pause > 0

    def pays(self, way: Way) -> bool:
        """Whether this way of not computing a frame in full is worth trying."""
        return self._pauses[way] == 0

    def tick(self) -> None:
        """A new frame has come."""
        self._pause = max(0, self._pause - 1)
        self._pauses = {way: max(0, left - 1) for way, left in self._pauses.items()}

    def begin(self) -> None:
        """The frame at hand makes buffers ready: its time says nothing."""
        self._begins = True

    def judge(self, how: How, milliseconds: float, *, crowded: bool, cycle: int = 0) -> bool:
        """Learn from a frame that was computed in some way; returns whether a row of crowded frames began a pause.

        ``crowded``: it was looked at, and changed nearly everywhere. ``cycle``: frames from one key frame to the next,
        where answers may be moved along instead.
        """
        paused = self._count(how, crowded)
        kind = "dense" if how == "key" else how
        if kind not in self._costs or self._begins:
            self._begins = False
            return paused
        self._seen[kind] += 1
        step = max(COST_MEMORY, 1 / self._seen[kind])
        self._costs[kind] += step * (milliseconds - self._costs[kind])
        if self._seen["dense"]:
            for way in WAYS:
                if self._seen[way] >= ENOUGH:
                    self._compare(way, cycle if way == "partial" else 0)
        return paused

    def _count(self, how: How, crowded: bool) -> bool:
        if how != "dense":
            self._crowds = 0
        elif crowded:
            self._crowds += 1
            if self._crowds >= CROWDS:
                self._pause = min(LONGEST_PAUSE, self._crowds)
                return True
        return False

    def _compare(self, way: Way, cycle: int) -> None:
        """Pause, longer each time, where a way costs about as much as everything, or as moving along would."""
        limit = self._costs["dense"]
        if cycle and self._seen["warped"] >= ENOUGH:
            limit = min(limit, (self._costs["dense"] + (cycle - 1) * self._costs["warped"]) / cycle)
        if self._costs[way] > GAIN * limit:
            self._pauses[way], self._seen[way] = self._patience[way], 0
            self._patience[way] = min(MOST_PATIENCE, 2 * self._patience[way])
        else:
            self._patience[way] = LONGEST_PAUSE
