"""Everything that one stream remembers, in one class."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sharedbb.program import Program, Session, Stage
from sharedbb.runtime.schedule import Moment
from sharedbb.types import Frame, Freshness, Geometry, Output

PACE_STEP = 0.1  # how far one frame moves the pace


class StreamState:
    """One stream's buffers and memory; nothing in it is shared with another stream.

    ``sessions`` are its own uses of the stages, ``features`` holds every stage's latest results by name, ``outputs``
    every head's latest answer, ``last_run`` the (frame count, timestamp) at which each head last ran, ``frames`` how
    many frames the stream has seen, ``pace`` how much longer stages take than when they were compiled, ``begun`` when
    the stages of the frame at hand began, None where that tells nothing about the pace.
    """

    def __init__(self, program: Program, name: str) -> None:
        self.name = name
        self.picture = program.device.picture(program.size)
        self.intake = program.intake(self.picture.array)
        self.sessions: dict[Stage, Session] = {}
        self._intake_of = program.intake
        self.reset()

    def reset(self) -> None:
        """Forget everything seen so far; the next frame is treated as the first. Buffers stay allocated."""
        self.frames = 0
        self.features: dict[str, Any] = {"input": self.picture.feature}
        self.outputs: dict[str, Output] = {}
        self.last_run: dict[str, tuple[int, float]] = {}
        self.pace = 1.0
        self.begun: float | None = None
        self.intake = self._intake_of(self.picture.array)
        self._geometry: Geometry | None = None

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
        """Bring a frame into the input buffer. Answers to frames of another size are forgotten: they do not fit."""
        geometry = self.intake(frame)
        if geometry != self._geometry:
            self.outputs.clear()
            self.last_run.clear()
            self._geometry = geometry

    def moment(self, timestamp: float) -> Moment:
        """What the plan of the frame at hand depends on."""
        return Moment(self.frames, timestamp, self.last_run, self.pace)

    def keep_pace(self, predicted_ms: float, taken_ms: float) -> None:
        """Learn from a frame how much longer stages take than predicted."""
        if predicted_ms > 0:
            self.pace += PACE_STEP * (taken_ms / predicted_ms - self.pace)

    def freshness(self, head: str, timestamp: float, dropped: Collection[str]) -> Freshness:
        """How old a head's answer is at the frame that is being finished, on which ``dropped`` heads had no time."""
        count, then = self.last_run[head]
        age = self.frames - count
        why = "full" if age == 0 else "dropped" if head in dropped else "reused"
        return Freshness(age == 0, age, (timestamp - then) * 1e3, why)
