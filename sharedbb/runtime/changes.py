"""What a stream's picture shows that its reference does not: the cells to take anew, and since when they wait."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharedbb.profiling import NullProfiler, Profiler
from sharedbb.program import Program
from sharedbb.reuse.audit import Walk
from sharedbb.reuse.change import Array, ExactChange, NoisyChange, Picture, paste
from sharedbb.reuse.motion import CUT_DIFFERENCE, glance, is_cut
from sharedbb.reuse.policy import Bargain
from sharedbb.reuse.regions import Mask, grid
from sharedbb.runtime.reading import Reading

FAINT = 2.0  # times the threshold: where nothing changed by more, changes wait for the clock
LEAST_CHANGE, NOISE_FACTOR = 6.0, 2.0  # grey levels that count as change: at least, and in levels of noise
DARK_CUT = 12.0  # grey levels by which scenes may differ, at least: no noise does so over large parts
PERHAPS_CUT = 0.3  # of the cells differ from the reference at a scene cut, at least


class Changes:
    """Compares each frame with the reference picture, which lets go of what is taken anew.

    ``dirty`` are the cells to take anew, None when there is none, ``since`` the time at which the first of them was
    seen. ``faint``: none of them changed by much. ``refreshes``: some are due though nothing changed there, which are
    ``refreshed`` of the picture.
    """

    def __init__(self, program: Program, bargain: Bargain, reading: Reading, reference: Any) -> None:
        """``reference``: a ``sharedbb.program.Picture``; where nothing is computed in parts, that of ``reading``."""
        self._size, self._device, self._bargain = program.size, program.device, bargain
        self._reading, self._reference = reading, reference
        self.reset()

    def reset(self) -> None:
        """Forget all pictures; buffers stay."""
        self._exact = ExactChange(self._size) if self._bargain.mode == "exact" else None
        self._noisy = NoisyChange(self._size)
        self._walk = Walk(self._bargain.refresh, *grid(self._size))
        self.dirty: Mask | None = None
        self.since: float | None = None
        self.faint = self.refreshes = False
        self.refreshed = 0.0

    @property
    def share(self) -> float:
        """Dirty cells by all cells."""
        return 0.0 if self.dirty is None else float(self.dirty.mean())

    @property
    def noise(self) -> float:
        """Grey levels by which still cells differ from frame to frame: the camera's and the codec's doing."""
        return self._noisy.noise

    def threshold(self, scale: float) -> float:
        """Grey levels above which a cell counts as changed, where errors allow ``scale`` times the usual."""
        return max(LEAST_CHANGE, NOISE_FACTOR * self.noise) * scale

    def look(self, timestamp: float, known: bool, scale: float, profiler: Profiler | NullProfiler) -> None:
        """Compare the frame at hand, of ``timestamp`` (seconds), with the reference, if one is ``known``."""
        mask = self._exactly(known, profiler) if self._exact is not None else self._above_noise(scale, profiler)
        self.dirty = mask if known and mask is not None and mask.any() else None
        if self.dirty is None:
            self.faint, self.since = False, None
        elif self.since is None:
            self.since = timestamp

    def _exactly(self, known: bool, profiler: Profiler | NullProfiler) -> Mask | None:
        assert self._exact is not None
        self._reading.read(profiler)
        return self._exact.look(_arrays(self._reading.picture), _arrays(self._reference)) if known else None

    def _above_noise(self, scale: float, profiler: Profiler | NullProfiler) -> Mask:
        if not self._bargain.glances:
            self._reading.read(profiler)
        levels = self._noisy.look(self._reading.glance(profiler))
        if not (self._noisy.rises and self._is_another_scene(DARK_CUT)):
            self._noisy.believe()
        threshold = self.threshold(scale)
        mask: Mask = levels > threshold
        self.faint = not (levels > FAINT * threshold).any()
        due = self._walk.turn() if self._bargain.mode != "keyframe" else None
        self.refreshes = due is not None
        self.refreshed = 0.0 if due is None else float((due & ~mask).mean())
        return mask if due is None else mask | due

    def skip(self) -> None:
        """The frame at hand is not looked at, or it lies in the input in another way than the one before."""
        self.refreshed = 0.0
        self._noisy.forget_last()

    def take_all(self, looked: bool) -> None:
        """The frame at hand is the reference; ``looked`` says whether it was compared with the one before."""
        latest = self._reading.picture
        if self._reference is not latest:
            for name, array in latest.planes.items():
                self._reference.planes[name][...] = array
            self._device.upload(self._reference)
        if looked:
            self._noisy.adopt()
        self.dirty = self.since = None

    def take_dirty(self, timestamp: float) -> tuple[Mask, float] | None:
        """Make the dirty cells the reference's; returns them and since when they waited, None when there were none."""
        if self.dirty is None:
            return None
        taken = self.dirty, timestamp if self.since is None else self.since
        paste(_arrays(self._reading.picture), _arrays(self._reference), self.dirty)
        self._device.upload(self._reference)
        self._noisy.adopt(self.dirty)
        self.dirty = self.since = None
        return taken

    def is_cut(self) -> bool:
        """Whether the frame at hand shows another scene than the one before."""
        return self.share >= PERHAPS_CUT and self._exact is None and self._is_another_scene(CUT_DIFFERENCE)

    def _is_another_scene(self, least: float) -> bool:
        """Whether it does, its pictures that far apart in grey levels."""
        before = self._noisy.before
        return before is not None and is_cut(glance(self.now), glance(_moving(before, self._reference)), least)

    @property
    def now(self) -> Array:
        """The frame at hand as motion is looked for in it, at half resolution: RGB, or of other planes the luma."""
        return _moving(self._noisy.small, self._reference)

    @property
    def then(self) -> Array:
        """The reference, as ``now``."""
        return _moving(self._noisy.reference, self._reference)


def _moving(small: Array, picture: Any) -> Array:
    return small if len(picture.planes) == 1 else np.ascontiguousarray(small[..., 0])


def _arrays(picture: Any) -> Picture:
    """A picture's planes, without the axis of batches."""
    return tuple(array[0] for array in picture.planes.values())
