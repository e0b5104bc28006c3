"""Answers moved along from a key frame: warped maps, boxes that follow, deep features under fresh shallow ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.program import HeadPlan, Patches, Program
from sharedbb.reuse.change import Array
from sharedbb.reuse.codec import CodecMotion
from sharedbb.reuse.motion import Area, OpticalFlow, Warp, around, follow_boxes
from sharedbb.reuse.regions import Mask
from sharedbb.types import Frame, Geometry, Output

DOUBTFUL = 0.05  # of the picture that the decoder's vectors do not account for: optical flow is tried then
MISSED = 12.0  # grey levels of a cell that the moved key picture misses, beyond the noise: it is not explained then


class KeyFrame:
    """The last frame computed in full, and how the picture has moved since.

    ``features`` and ``patches`` are the stream's: they stay the key frame's own while frames are moved along.
    ``outputs`` are the answers to the key frame, of those heads whose turn it was.
    ``by_codec``: whether the last motion was the decoder's.
    """

    def __init__(
        self, program: Program, features: Mapping[str, Any], patches: Mapping[str, Patches], *, codec: bool = False
    ) -> None:
        """``codec``: whether to look for motion in what the decoder says."""
        self._program = program
        self._features = features
        self._patches = patches
        self._flow = OpticalFlow(program.size)
        self._codec = CodecMotion(program.size) if codec else None
        self.by_codec = False
        self._warp = Warp(self._flow.flow)
        self._planes = {plane.name for plane in program.planes}
        self._fresh: dict[str, Any] = {}
        self._given: dict[str, Any] = {}
        self.outputs: dict[str, Output] = {}
        if program.fresh is not None:
            self._session = program.fresh.executable.session()
            for name in program.fresh.facts.inputs:
                if name not in self._planes:
                    self._given[name] = self._like(features[name])
            self._moved = {name: program.device.patches(buffer) for name, buffer in self._given.items()}

    def _like(self, feature: Any) -> Any:
        height, width = self._program.device.answer(feature).shape[1:3]
        return self._program.device.batch(feature, 1, height, width)

    def remember(self, small: Array) -> None:
        """The frame at hand, seen at half resolution, is the key frame."""
        self._flow.remember(small)

    def begin(self, frame: Frame) -> None:
        """This frame is the key frame: vectors are added up from here, and its answers are still to come."""
        self.outputs = {}
        if self._codec is not None:
            self._codec.remember(frame)

    def measure(self, small: Array, changed: Mask, noise: float, frame: Frame, geometry: Geometry) -> float:
        """Find out how the picture has moved where it changed; returns the share that motion does not account for.

        The decoder's vectors, if they are wanted, serve where they lead back to the key frame and explain the picture.
        """
        self._fresh = {}
        area = around(changed)
        coded = None if self._codec is None else self._codec.measure(frame, geometry)
        if coded is not None:
            self._flow.accept(small, coded)
            missed = self._missed(area, noise, changed.size)
            if missed < DOUBTFUL:
                self.by_codec = True
                self._warp = Warp(coded, area)
                return missed
        self.by_codec = False
        self._warp = Warp(self._flow.measure(small, area), area)
        return self._missed(area, noise, changed.size)

    def _missed(self, area: Area, noise: float, cells: int) -> float:
        return float((self._flow.residual(area) > MISSED + noise).sum()) / cells

    def compute_fresh(self, picture: Mapping[str, Any]) -> int:
        """Run shallow features and maps on a picture, over deep ones moved along; returns its multiply-adds."""
        stage = self._program.fresh
        if stage is None:
            return 0
        for name, moved in self._moved.items():
            self._patches[name].move(self._warp, moved)
        inputs = [picture[name] if name in self._planes else self._given[name] for name in stage.facts.inputs]
        self._fresh = dict(zip(stage.facts.outputs, self._session(inputs), strict=True))
        return stage.facts.macs

    def answer(self, head: HeadPlan, geometry: Geometry) -> tuple[Output | None, str]:
        """A head's answer to the frame at hand, and why it is what it is; None to keep what it last said."""
        if all(name in self._fresh for name in head.answers.values()):
            raw = {part: self._program.device.answer(self._fresh[name]) for part, name in head.answers.items()}
            return head.decoder(raw, geometry), "partial"
        if all(name in self._patches for name in head.answers.values()):
            raw = {part: self._moved_map(name) for part, name in head.answers.items()}
            return head.decoder(raw, geometry), "warped"
        carried = getattr(self.outputs.get(head.name), "carried", None)
        if carried is None:
            return None, "reused"
        return carried(lambda boxes: follow_boxes(boxes, self._flow.flow, geometry)), "warped"

    def _moved_map(self, name: str) -> NDArray[np.float32]:
        return self._warp(self._program.device.answer(self._features[name])[0])[None]
