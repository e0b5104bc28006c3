"""The picture of the frame at hand: brought into the network's input when somebody asks for it, and only then."""

from __future__ import annotations

import numpy as np

from sharedbb.profiling import NullProfiler, Profiler
from sharedbb.program import Program
from sharedbb.reuse.change import Picture
from sharedbb.types import Frame, Geometry, Size


class Reading:
    """One stream's input buffers, and the frame that is read into them.

    ``picture`` are the buffers; between ``take`` and ``read`` they hold an earlier frame. ``intake`` fills them.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.picture = program.device.picture(program.size, program.planes)
        self.intake = program.intake(self.picture.planes)
        half = Size(program.size.height // 2, program.size.width // 2)
        self._half = {plane.name: np.empty(plane.shape(half), np.uint8) for plane in program.planes}
        self._glance = program.intake(self._half)
        self._frame: Frame | None = None
        self._is_read = False

    def reset(self) -> None:
        """Forget how the last frame lay in the input. Buffers stay allocated."""
        self.intake, self._glance = (self._program.intake(planes) for planes in (self.picture.planes, self._half))
        self._frame, self._is_read = None, False

    def take(self, frame: Frame) -> Geometry:
        """The next frame, of which nothing is read yet; returns how it lies in the input. Raises FrameError."""
        self._frame, self._is_read = frame, False
        return self.intake.place(frame.size)

    def read(self, profiler: Profiler | NullProfiler) -> None:
        """Bring the frame into the input, unless it is there. Raises FrameError if it cannot be read."""
        if self._is_read:
            return
        assert self._frame is not None, "no frame was taken in yet"
        with profiler.span("transform") as span:
            self.intake(self._frame)
            if self.intake.reasons:
                span.why = "; ".join(self.intake.reasons)
            self._program.device.upload(self.picture)
        self._is_read = True

    def glance(self, profiler: Profiler | NullProfiler) -> Picture:
        """The frame's planes, to look for changes in: at half resolution where that spares reading the frame."""
        assert self._frame is not None, "no frame was taken in yet"
        if not self._is_read:
            self._glance(self._frame)
        planes = self.picture.planes if self._is_read else self._half
        return tuple(array[0] for array in planes.values())
