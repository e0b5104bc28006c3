"""One stream on a ladder of sizes: which one is in use, what audits said of the others, and the memory of each."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np

from sharedbb.program import Picture
from sharedbb.reuse.motion import Grey, glance, is_cut
from sharedbb.runtime.memory import Memory
from sharedbb.runtime.sizes import Evidence, Outlook, Rules, Standing, after
from sharedbb.runtime.state import StreamState

SOON = (3, 12, 27)  # frames of a size or scene, counted from 1, that are audited whatever the dice say
CUTS_APART = 12  # frames from a change of size or scene to a scene cut that is audited at once
SEEN_ROWS = 48  # of a picture, about: what scene cuts are looked for in


class Place:
    """One stream's place on a ladder: where it stands, what audits said of every size, and a state for each.

    ``states`` are made when a size first runs; ``dense`` are those of audits, which reuse nothing: the same ones where
    the programs have no bargain.
    """

    def __init__(self, name: str, rules: Rules, sizes: int, *, reuses: bool) -> None:
        self.name = name
        self._rules = rules
        self._sizes = sizes
        self.states: dict[int, StreamState] = {}
        self.dense: dict[int, StreamState] = {} if reuses else self.states
        self.reset()

    def reset(self) -> None:
        """Forget everything seen so far. Buffers stay allocated."""
        for state in (*self.states.values(), *self.dense.values()):
            state.reset()
        self.standing = Standing(0, 0, self._rules.hold)
        self.evidence = [Evidence() for _ in range(self._sizes)]
        self._dice = random.Random(self._rules.seed)
        self._since = 0
        self._is_audited_here = False
        self._seen: Grey | None = None

    @property
    def state(self) -> StreamState:
        """The state of the size in use."""
        return self.states[self.standing.at]

    def outlook(self, loads: tuple[float, ...], peaks: tuple[float, ...]) -> Outlook:
        """What is to be said of the sizes before the next frame."""
        at, budget = self.standing.at, self._rules.budget
        breaks = self._is_audited_here and self.evidence[at].breaks(budget)
        agrees = any(evidence.agrees(budget) for evidence in self.evidence[at + 1 : at + 2])
        return Outlook(loads, peaks, breaks, agrees)

    def take(self, size: int) -> None:
        """The frame at hand is computed at this size."""
        if size != self.standing.at:
            self._since, self._is_audited_here = 0, False
        self._since += 1
        self.standing = after(self._rules, self.standing, size)

    def is_audited(self, picture: Picture) -> bool:
        """Whether the frame at hand is compared with other sizes; called once a frame.

        Under a deadline that is up to the dice alone, and only at smaller sizes. Without one, it is also done soon
        after the size changed, and at once when a new scene begins, of which earlier audits say nothing.
        """
        if self._rules.audit == 0:
            return False
        chosen = self._dice.random() < self._rules.audit
        if self._rules.deadline_ms is not None:
            return chosen and self.standing.at > 0
        if self._is_new_scene(picture) and self._since > CUTS_APART:
            self.evidence = [Evidence() for _ in self.evidence]
            self._since, chosen = 1, True
        return chosen or self._since in SOON

    def _is_new_scene(self, picture: Picture) -> bool:
        before, self._seen = self._seen, _glance(picture)
        return before is not None and is_cut(self._seen, before)

    def learn(self, size: int, errors: Mapping[str, float]) -> None:
        """Take in what share of a size's answers to a frame differs from those of the largest, by head."""
        self.evidence[size].learn(errors)
        self._is_audited_here = True


def hand_over(before: StreamState, now: StreamState) -> None:
    """Tell a size's state what the stream knows, once the frame at hand was taken in.

    Answers are in source pixels: they serve on as long as frames keep their size. What is reused between frames begins
    anew, except what was learnt of its thresholds.
    """
    now.take_over(before)
    if now.memory is not None:
        _begin_anew(now.memory)


def _begin_anew(memory: Memory) -> None:
    """Its last frame was long ago: its motion, noise and cuts would be those of the time between."""
    learnt = memory.trust, memory.motion_trust
    memory.reset()
    memory.trust, memory.motion_trust = learnt


def _glance(picture: Picture) -> Grey:
    """A picture as scene cuts are looked for in it, from about as many of its rows at every size."""
    plane = next(iter(picture.planes.values()))[0]
    step = max(1, plane.shape[0] // SEEN_ROWS)
    sampled = np.ascontiguousarray(plane[::step, ::step])
    return glance(sampled if sampled.shape[-1] == 3 else sampled[..., 0])
