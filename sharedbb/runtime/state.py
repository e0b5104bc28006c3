"""Everything that one stream remembers, in one class."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from sharedbb.program import Program, Session, Stage
from sharedbb.runtime.memory import Memory
from sharedbb.runtime.reading import Reading
from sharedbb.runtime.schedule import Moment
from sharedbb.types import Frame, Freshness, Geometry, Output

RAN = ("full", "partial", "warped")  # of an answer that was computed, somehow, on the frame itself
PACE_STEP = 0.1  # how far one frame moves the pace


class StreamState:
    """One stream's buffers and memory; nothing in it is shared with another stream.

    ``reading`` has its input buffers, ``sessions`` are its own uses of the stages, ``features`` holds every stage's
    latest results by name, ``outputs`` every head's latest answer, ``last_run`` the (frame count, timestamp) at which
    each head last had its turn, ``current`` the one up to which its answer knows of all changes, ``known`` the one up
    to which its features do, where anything is reused, ``frames`` how many frames the stream has seen, ``pace`` how
    much longer stages take than when they were compiled, ``begun`` when the stages of the frame at hand began, None
    where that tells nothing about the pace.
    """

    features: dict[str, Any]

    def __init__(self, program: Program, name: str) -> None:
        self.name = name
        self.reading = Reading(program)
        self.sessions: dict[Stage, Session] = {}
        self.memory = Memory(program, program.bargain, self.reading) if program.bargain is not None else None
        self.reset()

    def reset(self) -> None:
        """Forget everything seen so far; the next frame is treated as the first. Buffers stay allocated."""
        self.frames = 0
        if self.memory is not None:
            self.memory.reset()
        self.features = dict(self.reading.picture.features) if self.memory is None else self.memory.features
        self.outputs: dict[str, Output] = {}
        self.last_run: dict[str, tuple[int, float]] = {}
        self.current: dict[str, tuple[int, float]] = {}
        self.known: dict[str, tuple[int, float]] = {}
        self.pace = 1.0
        self.begun: float | None = None
        self.reading.reset()
        self._geometry: Geometry | None = None
        self._latest = -math.inf  # timestamp

    def session(self, stage: Stage) -> Session:
        """This stream's session of a stage, made when the stage first runs."""
        found = self.sessions.get(stage)
        if found is None:
            found = self.sessions[stage] = stage.executable.session()
        return found

    @property
    def geometry(self) -> Geometry:
        """How the latest frame lies in the network's input."""
        assert self._geometry is not None, "no frame was taken in yet"
        return self._geometry

    def take_in(self, frame: Frame) -> None:
        """The next frame, of which nothing is read yet. Answers to frames of another size are forgotten."""
        geometry = self.reading.take(frame)
        if geometry != self._geometry:
            self.outputs.clear()
            self.last_run.clear()
            self.current.clear()
            if self.memory is not None:
                self.memory.forget()
            self._geometry = geometry
        self._keep_time(frame.timestamp)

    def take_over(self, before: StreamState) -> None:
        """Go on from what another state of the same stream knew before the frame at hand, which was taken in."""
        self.frames, self.pace = before.frames, before.pace
        fits = before.frames > 0 and before.geometry.source == self.geometry.source
        self.outputs = dict(before.outputs) if fits else {}
        self.last_run = dict(before.last_run) if fits else {}
        self.current = dict(before.current) if fits else {}
        timestamp, self._latest = self._latest, before._latest
        self._keep_time(timestamp)

    def _keep_time(self, timestamp: float) -> None:
        """Where the clock was set back, times that are remembered are set back as far: ages go on from there."""
        back, self._latest = self._latest - timestamp, timestamp
        if back > 0:
            for times in (self.last_run, self.current, self.known):
                times.update({head: (count, then - back) for head, (count, then) in times.items()})
            if self.memory is not None:
                self.memory.set_back(back)

    def moment(self, timestamp: float) -> Moment:
        """What the plan of the frame at hand depends on."""
        return Moment(self.frames, timestamp, self.last_run, self.pace, self.current)

    def keep_pace(self, predicted_ms: float, taken_ms: float) -> None:
        """Learn from a frame how much longer stages take than predicted."""
        if predicted_ms > 0:
            self.pace += PACE_STEP * (taken_ms / predicted_ms - self.pace)

    def freshness(
        self, head: str, timestamp: float, dropped: Collection[str], reasons: Mapping[str, str] | None = None
    ) -> Freshness:
        """How old a head's answer is at the frame that is being finished, on which ``dropped`` heads had no time.

        ``reasons`` say of heads whose turn it was what became of them; without them, they ran in full.
        """
        count, then = self.current.get(head, (0, timestamp))
        age = self.frames - count
        why = "dropped" if head in dropped else (reasons or {}).get(head, "full" if age == 0 else "reused")
        error = self.memory.error.get(head) if self.memory is not None else None
        return Freshness(why in RAN, age, (timestamp - then) * 1e3, why, error)
