"""Motion that comes free with the decoder: the vectors of H.264 and MPEG blocks, added up since the key frame."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from av import VideoFrame
from av.sidedata.sidedata import SideDataContainer
from numpy.typing import NDArray

from sharedbb.reuse.motion import SCALE, Flow
from sharedbb.reuse.regions import CELL, Mask, grid
from sharedbb.types import Frame, Geometry, Size

BLOCK = 8  # source pixels; the smallest block that a decoder reports a vector for
STEP = 8  # network pixels from one vector that is followed to the next
NEARBY = 5  # such steps, high and wide, over which what is unknown is guessed
SURE = 0.5  # share that must be known of what a vector is interpolated from, and of a mask's cell
INTRA, PREDICTED, BIDIRECTIONAL = 1, 2, 3  # FFmpeg's AVPictureType


class CodecMotion:
    """Dense motion back to the key frame, from the vectors of every frame since.

    Give it every frame, once: ``remember`` makes it the key, also after it was measured. A frame that is not predicted
    from the one before breaks the chain, until the next key: an I-frame, a B-frame and what comes after one, a frame
    left out, a frame of another size. Then there is no flow, and ``reason`` says why.

    A decoder does not say which of several reference frames a vector points to, and the search behind a vector is after
    few bits, not true motion: check the flow against the pictures.
    """

    def __init__(self, size: Size) -> None:
        """``size``: of the network's input."""
        self.reason = "there is no key frame yet"
        self._size = size
        self._shape = (-(-size.height // STEP), -(-size.width // STEP))
        rows, columns = np.indices(self._shape, np.float32)
        self._centres = (np.stack([columns, rows], axis=-1) + np.float32(0.5)) * np.float32(STEP)
        # dx, dy back to the key and 1 where that is known, at each centre.
        self._since: NDArray[np.float32] = np.zeros((*self._shape, 3), np.float32)
        self._source: Size | None = None
        self._index = 0
        self._kind = 0

    @property
    def unknown(self) -> Mask:
        """Where most of the last flow is a guess: coded without prediction, or come in from outside the picture.

        On the grid of masks, bool [rows, columns].
        """
        rows, columns = grid(self._size)
        each = CELL // STEP
        missing = (0, rows * each - self._shape[0], 0, columns * each - self._shape[1])
        known = cv2.copyMakeBorder(self._since[..., 2], *missing, cv2.BORDER_REPLICATE)
        return np.asarray(cv2.resize(known, (columns, rows), interpolation=cv2.INTER_AREA) < SURE)

    def remember(self, frame: Frame) -> None:
        """Make this frame the key."""
        self._since[...] = (0, 0, 1)
        self._follow(frame)
        self.reason = ""

    def measure(self, frame: Frame, geometry: Geometry) -> Flow | None:
        """The motion from this frame back to the key, float32 [H/4, W/4, 2] in network pixels; None if it is unknown.

        ``geometry`` says how the frame lies in the network's input; letterbox bars do not move.
        """
        self.reason = self.reason or self._fault(frame)
        vectors = None if self.reason else _vectors(frame)
        self._follow(frame)
        if vectors is None or not len(vectors):
            self.reason = self.reason or f"frame {frame.index} comes without motion vectors"
            return None
        if (vectors["source"] > 0).any():
            self.reason = f"frame {frame.index} points to a later frame"
            return None
        self._add(_step(vectors, geometry, self._shape), geometry)
        return self._flow()

    def _follow(self, frame: Frame) -> None:
        self._index, self._kind, self._source = frame.index, _kind(frame), frame.size

    def _fault(self, frame: Frame) -> str:
        """Why this frame's vectors do not lead to the frame before."""
        if frame.index != self._index + 1:
            return f"frame {frame.index} does not follow frame {self._index}"
        if frame.size != self._source:
            return f"frame {frame.index} is {frame.size}, not {self._source}"
        kind = _kind(frame)
        if kind == INTRA:
            return f"frame {frame.index} is an I-frame"
        if kind == BIDIRECTIONAL:
            return f"frame {frame.index} is a B-frame"
        if kind != PREDICTED:
            return f"frame {frame.index} is no P-frame"
        return f"frame {frame.index} comes after a B-frame" if self._kind == BIDIRECTIONAL else ""

    def _add(self, step: NDArray[np.float32], geometry: Geometry) -> None:
        """What lies at x was at x + step(x) in the frame before, and from there on at what is known of that place."""
        was = self._centres + step[..., :2]
        columns, rows = cv2.split(was * np.float32(1 / STEP) - np.float32(0.5))
        earlier = cv2.remap(self._since, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        moved = self._since[..., :2]
        np.add(earlier[..., :2], step[..., :2], out=moved)
        x, y = cv2.split(self._centres + moved)
        left, top, width, height = geometry.placed
        inside = (x >= max(left, 0)) & (x <= min(left + width, self._size.width))
        inside &= (y >= max(top, 0)) & (y <= min(top + height, self._size.height))
        inside |= ~moved.any(axis=-1)
        self._since[..., 2] = (earlier[..., 2] >= SURE) & (step[..., 2] > 0) & inside

    def _flow(self) -> Flow:
        """What is known since the key, as a flow."""
        rows, columns = self._shape
        finer = STEP // SCALE
        flow = cv2.resize(self._since[..., :2], (columns * finer, rows * finer), interpolation=cv2.INTER_LINEAR)
        covered = flow[: self._size.height // SCALE, : self._size.width // SCALE]
        return np.ascontiguousarray(covered, np.float32)


def _kind(frame: Frame) -> int:
    return int(getattr(frame.video, "pict_type", 0) or 0)


def _vectors(frame: Frame) -> NDArray[Any] | None:
    """The decoder's vectors of a frame, one structured array; None where there are none."""
    if frame.video is None:
        return None
    # PyAV's own property ties the frame and what it holds into a cycle: hundreds of frames would wait for the garbage
    # collector, which comes rarely.
    is_av = isinstance(frame.video, VideoFrame)
    container = SideDataContainer(frame.video) if is_av else frame.video.side_data  # type: ignore[call-arg]
    found = container.get("MOTION_VECTORS")
    vectors: NDArray[Any] | None = None if found is None else found.to_ndarray()
    return vectors


def _step(vectors: NDArray[Any], geometry: Geometry, shape: tuple[int, int]) -> NDArray[np.float32]:
    """One frame's vectors in network pixels, every ``STEP`` of them: float32 [rows, columns, 3]; 1 where known."""
    scale = np.array([geometry.scale_x, geometry.scale_y])
    offset = np.array([geometry.offset_x, geometry.offset_y])
    to_blocks = np.zeros((2, 3))  # from a position in the result to one among the blocks of the source
    to_blocks[:, :2] = np.diag(STEP / scale / BLOCK)
    to_blocks[:, 2] = (STEP / 2 - offset) / scale / BLOCK - 0.5
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    blocks = _blocks(vectors, geometry.source)
    placed = cv2.warpAffine(blocks, to_blocks, (shape[1], shape[0]), flags=how, borderMode=cv2.BORDER_REPLICATE)
    around = cv2.blur(placed, (NEARBY, NEARBY), borderType=cv2.BORDER_REPLICATE)
    known = placed[..., 2] >= SURE
    step: NDArray[np.float32] = np.where(known[..., None], placed, around)
    step[..., :2] *= scale.astype(np.float32) / np.maximum(step[..., 2:], np.float32(1e-3))
    step[..., 2] = known
    left, top, width, height = (round(edge / STEP) for edge in geometry.placed)
    bars = np.ones(shape, bool)
    bars[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = False
    step[bars] = (0, 0, 1)
    return step


def _blocks(vectors: NDArray[Any], source: Size) -> NDArray[np.float32]:
    """dx, dy back to the frame before in source pixels, and 1, for each 8×8 block that has a vector; else 0."""
    rows, columns = -(-source.height // BLOCK), -(-source.width // BLOCK)
    blocks = np.zeros((rows, columns, 3), np.float32)
    moved = np.ones((len(vectors), 3), np.float32)
    per_pixel = np.maximum(vectors["motion_scale"], 1).astype(np.float32)
    moved[:, 0], moved[:, 1] = vectors["motion_x"] / per_pixel, vectors["motion_y"] / per_pixel
    width, height = vectors["w"].astype(np.int32), vectors["h"].astype(np.int32)
    left, top = vectors["dst_x"] - width // 2, vectors["dst_y"] - height // 2
    for down in (0, BLOCK):  # blocks are 8 or 16 pixels high and wide
        for right in (0, BLOCK):
            row, column = (top + down) // BLOCK, (left + right) // BLOCK
            covers = (height > down) & (width > right) & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
            blocks[row[covers], column[covers]] = moved[covers]
    return blocks
