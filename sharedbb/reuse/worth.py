"""Whether it is worth looking for what changed, judged by what frames have cost so far."""

from __future__ import annotations

from sharedbb.reuse.policy import How

GAIN = 0.95  # of a dense frame's time that frames in parts may take on average
COST_MEMORY, ENOUGH = 0.1, 8  # of the costs; frames to judge them by
CROWDS, LONGEST_PAUSE = 3, 30  # crowded frames in a row after which some are not looked at, and at most how many
MOST_PATIENCE = 960  # frames off at most, twice as many each time that parts cost too much


class Worth:
    """What frames in parts cost against whole ones, and how often nearly all has changed; pauses where looking is vain.

    A pause is a number of frames that are computed in full without being looked at. After a few crowded frames in a row
    it is as long as that row, up to LONGEST_PAUSE; when parts turn out as dear as the whole it doubles each time.
    """

    def __init__(self) -> None:
        self._costs = {"dense": 0.0, "partial": 0.0}
        self._seen = {"dense": 0, "partial": 0}
        self._pause = self._crowds = 0
        self._patience = LONGEST_PAUSE
        self._begins = False

    @property
    def is_paused(self) -> bool:
        """Whether the frame at hand is not to be looked at."""
        return self._pause > 0

    def tick(self) -> None:
        """A new frame has come."""
        self._pause = max(0, self._pause - 1)

    def begin(self) -> None:
        """The frame at hand makes buffers ready: its time says nothing."""
        self._begins = True

    def judge(self, how: How, milliseconds: float, *, crowded: bool) -> bool:
        """Learn from a frame that was computed in some way; returns whether a row of crowded frames began a pause.

        ``crowded``: it was looked at, and changed nearly everywhere.
        """
        paused = self._count(how, crowded)
        kind = "dense" if how == "key" else how
        if kind not in self._costs or self._begins:
            self._begins = False
            return paused
        self._seen[kind] += 1
        step = max(COST_MEMORY, 1 / self._seen[kind])
        self._costs[kind] += step * (milliseconds - self._costs[kind])
        if self._seen["partial"] >= ENOUGH and self._seen["dense"]:
            self._compare()
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

    def _compare(self) -> None:
        """Pause, longer each time, where parts cost about as much as everything."""
        if self._costs["partial"] > GAIN * self._costs["dense"]:
            self._pause, self._seen["partial"] = self._patience, 0
            self._patience = min(MOST_PATIENCE, 2 * self._patience)
        else:
            self._patience = LONGEST_PAUSE
