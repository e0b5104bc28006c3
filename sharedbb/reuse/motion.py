"""Motion since the key frame: measured by optical flow, applied to maps and boxes, checked cell by cell."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.reuse.regions import CELL
from sharedbb.types import Geometry, Size

SCALE = 4  # flow is measured at a quarter of the network's resolution
FINEST = 1  # halvings of that at which patches find their place: the last step costs three times all others together
PATCH = 6  # pixels of a patch's side
MOST_CHANNELS = 128  # that OpenCV moves at once
DESCENTS = 40  # steps of each patch towards its place
ROUNDS = 2  # of looking up the motion at the place where a box has gone to
MOST_GROWTH = 1.5  # of a box from the key frame on, either way
LEAST_SIZE = 16  # network pixels that a box must be high and wide for its growth to be believed
SAMPLES = 8  # places along each side of a box at which the motion is looked up
NOTICED = 4  # grey levels from which on a pixel of a small picture counts as changed
GLANCE = (64, 40)  # width and height of the pictures that scene cuts are looked for in
CUT_SHARE = 0.3  # of the pixels change at a cut, at least
CUT_DIFFERENCE = 40.0  # grey levels that those change by on average, at least
CUT_LIKENESS = 0.4  # correlation that they have left, at most

Flow = NDArray[np.float32]
Grey = NDArray[np.uint8]


class OpticalFlow:
    """Dense motion from the current picture back to the key picture, at a quarter of the resolution.

    By DIS (Kroeger et al., Fast Optical Flow using Dense Inverse Search, 2016).

    ``flow``: float32 [H/4, W/4, 2], dx and dy in network pixels: what is at (x, y) now was at (x + dx, y + dy). It is
    measured from the key frame itself, never added up.
    """

    def __init__(self, size: Size) -> None:
        self._shape = (size.height // SCALE, size.width // SCALE)
        self._key = np.zeros(self._shape, np.uint8)
        self._now = np.zeros(self._shape, np.uint8)
        self._dis: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._places = np.indices(self._shape, np.float32)
        self._dis.setFinestScale(FINEST)
        self._dis.setPatchSize(PATCH)
        self._dis.setGradientDescentIterations(DESCENTS)
        self._last: Flow | None = None
        self.flow: Flow = np.zeros((*self._shape, 2), np.float32)

    def remember(self, small: NDArray[np.uint8]) -> None:
        """Take a picture uint8 [H/2, W/2, 3] RGB, or grey [H/2, W/2], as the key."""
        self._key = self._quarter(small)
        self._last = None

    def accept(self, small: NDArray[np.uint8], flow: Flow) -> None:
        """Take a flow that somebody else measured from a picture uint8 [H/2, W/2, 3] back to the key."""
        self._now, self.flow, self._last = self._quarter(small), flow, flow * np.float32(1 / SCALE)

    def measure(self, small: NDArray[np.uint8]) -> Flow:
        """The motion from a picture uint8 [H/2, W/2, 3] back to the key; the last one helps to find it."""
        self._now = self._quarter(small)
        if np.array_equal(self._now, self._key):
            self.flow = np.zeros((*self._shape, 2), np.float32)
            return self.flow
        guess = None if self._last is None else self._last.copy()
        self._last = self._dis.calc(self._now, self._key, guess).view(np.float32)
        self.flow = self._last * SCALE
        return self.flow

    def _quarter(self, small: NDArray[np.uint8]) -> Grey:
        height, width = self._shape
        return _grey(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA).view(np.uint8))

    def residual(self) -> NDArray[np.float32]:
        """Grey levels by which the moved key picture misses the current one: float32 means by 16×16 network pixels."""
        rows, columns = self._places
        flow = self.flow / SCALE
        moved = cv2.remap(
            self._key, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        missed = cv2.absdiff(moved, self._now)
        height, width = self._shape
        cells = (width * SCALE // CELL, height * SCALE // CELL)
        return cv2.resize(missed, cells, interpolation=cv2.INTER_AREA).astype(np.float32)


class Warp:
    """A flow as places to read maps at, made once for each size of map."""

    def __init__(self, flow: Flow) -> None:
        """``flow``: float32 [H/4, W/4, 2], dx and dy in network pixels, over the whole picture."""
        self.flow = flow
        self._places: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map [h, w, C] of the key frame as it lies now: bilinear, its border continued outwards."""
        height, width = values.shape[:2]
        columns, rows = self._read_at(height, width)
        moved = np.empty(values.shape, np.float32)
        for first in range(0, values.shape[2], MOST_CHANNELS):
            some = np.ascontiguousarray(values[..., first : first + MOST_CHANNELS])
            found = cv2.remap(some, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            moved[..., first : first + MOST_CHANNELS] = found.reshape(some.shape)
        return moved

    def _read_at(self, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        found = self._places.get((height, width))
        if found is None:
            stride_y, stride_x = self.flow.shape[0] * SCALE / height, self.flow.shape[1] * SCALE / width
            coarse = cv2.resize(self.flow, (width, height), interpolation=cv2.INTER_AREA)
            rows, columns = np.indices((height, width), np.float32)
            found = columns + coarse[..., 0] / np.float32(stride_x), rows + coarse[..., 1] / np.float32(stride_y)
            self._places[height, width] = found
        return found


def follow_boxes(boxes: NDArray[np.float32], flow: Flow, geometry: Geometry) -> NDArray[np.float32]:
    """Boxes [N, 4] of the key frame, in source pixels, where they are now: moved and grown like what is inside them.

    ``flow`` points back from now to the key frame (see ``OpticalFlow``); a box is shifted by the median of the motion
    in it, looked up again where it has gone, and grows as its sides move apart. Without motion the boxes stay the same.
    """
    if len(boxes) == 0 or not flow.any():
        return boxes
    at = geometry.to_network(boxes)
    now = at
    for _ in range(ROUNDS):
        inside = _sampled(now, flow)
        x, y = inside[..., 0], inside[..., 1]
        shift = -np.stack([_median(x), _median(y)], axis=1)
        apart_x = _median(x[:, :, : SAMPLES // 2]) - _median(x[:, :, SAMPLES // 2 :])
        apart_y = _median(y[:, : SAMPLES // 2]) - _median(y[:, SAMPLES // 2 :])
        size = now[:, 2:] - now[:, :2]
        # Flow points back: what grew by g has 1/g of its size in the key frame.
        shrunk = 1 - (apart_x / np.maximum(size[:, 0], 1) + apart_y / np.maximum(size[:, 1], 1))
        growth = np.clip(1 / np.maximum(shrunk, 1e-3), 1 / MOST_GROWTH, MOST_GROWTH)
        growth[(size < LEAST_SIZE).any(1)] = 1.0
        centre = (at[:, :2] + at[:, 2:]) / 2 + shift
        half = (at[:, 2:] - at[:, :2]) / 2 * growth[:, None]
        now = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
    return geometry.to_source(now)


def _sampled(boxes: NDArray[np.float32], flow: Flow) -> Flow:
    """The flow at SAMPLES × SAMPLES even places in each box [N, 4] of network pixels: [N, SAMPLES, SAMPLES, 2]."""
    steps = (np.arange(SAMPLES, dtype=np.float32) + 0.5) / SAMPLES
    x = boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * steps
    y = boxes[:, 1:2] + (boxes[:, 3:4] - boxes[:, 1:2]) * steps
    column = np.clip(x / SCALE, 0, flow.shape[1] - 1).astype(np.intp)
    row = np.clip(y / SCALE, 0, flow.shape[0] - 1).astype(np.intp)
    return flow[row[:, :, None], column[:, None, :]]


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The median of each of N even sets of numbers: [N, ...] to [N]. Sorting few numbers is faster than np.median."""
    ordered = np.sort(values.reshape(len(values), -1), axis=1)
    middle = ordered.shape[1] // 2
    found: NDArray[np.float32] = (ordered[:, middle - 1] + ordered[:, middle]) / np.float32(2)
    return found


def glance(picture: NDArray[np.uint8]) -> Grey:
    """What ``is_cut`` compares: a picture uint8 [h, w, 3] RGB, or grey [h, w], as a small grey one."""
    return _grey(cv2.resize(picture, GLANCE, interpolation=cv2.INTER_AREA).view(np.uint8))


def _grey(picture: NDArray[np.uint8]) -> Grey:
    return picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).view(np.uint8)


def is_cut(now: Grey, before: Grey) -> bool:
    """Whether a new scene began between two small grey pictures uint8 [h, w].

    At a cut a good part of the picture changes, much, and what changed does not correlate: a flash or a fade keeps the
    correlation, noise is small, and of a pan most stays alike in so coarse a picture.
    """
    difference = cv2.absdiff(now, before)
    changed = difference > NOTICED
    if changed.mean() < CUT_SHARE or float(difference[changed].mean()) < CUT_DIFFERENCE:
        return False
    one, other = (_standardised(picture[changed]) for picture in (now, before))
    return bool((one * other).mean() < CUT_LIKENESS)


def _standardised(values: Grey) -> NDArray[np.float32]:
    """With mean 0 and deviation 1, all 0 where the values hardly differ."""
    centred: NDArray[np.float32] = values.astype(np.float32)
    centred -= centred.mean()
    return centred / max(float(centred.std()), 1.0)
