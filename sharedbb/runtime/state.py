"""Everything that one stream remembers, in one class."""

from __future__ import annotations

from typing import Any

from sharedbb.program import Program, Session, Stage
from sharedbb.types import Freshness, Output


class StreamState:
    """One stream's buffers and memory; nothing in it is shared with another stream.

    ``sessions`` are its own uses of the stages, ``features`` holds every stage's latest results by name, ``outputs``
    every head's latest answer, ``last_run`` the (frame count, timestamp) at which each head last ran, ``frames`` how
    many frames the stream has seen.
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
        self.intake = self._intake_of(self.picture.array)

    def session(self, stage: Stage) -> Session:
        """This stream's session of a stage, made when the stage first runs."""
        found = self.sessions.get(stage)
        if found is None:
            found = self.sessions[stage] = stage.executable.session()
        return found

    def freshness(self, head: str, timestamp: float) -> Freshness:
        """How old a head's answer is at the frame that is being finished."""
        count, then = self.last_run[head]
        age = self.frames - count
        return Freshness(age == 0, age, (timestamp - then) * 1e3, "full" if age == 0 else "reused")
