"""Motion since the key frame: measured by optical flow, applied to maps and boxes, checked cell by cell."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.reuse.regions import CELL, Mask
from sharedbb.types import Geometry, Size

SCALE = 4  # flow is measured at a quarter of the network's resolution
FINEST = 1  # halvings of that at which patches find their place: the last step costs three times all others together
PATCH = 6  # pixels of a patch's side
AROUND = 2  # cells around what changed in which motion is looked for, too
LEAST_SIDE = 12  # cells of the part of a picture in which motion is looked for: a smaller one hides fast motion
SIDE_STEP = 4  # cells by which such parts differ in size: each size has its own buffers
MOST_CHANNELS = 128  # that OpenCV moves at once
DESCENTS = 50  # steps of each patch towards its place
ROUNDS = 2  # of looking up the motion at the place where a box has gone to
MOST_GROWTH = 1.5  # of a box from the key frame on, either way
LEAST_SIZE = 16  # network pixels that a box must be high and wide for its growth to be believed
SAMPLES = 8  # places along each side of a box at which the motion is looked up
STEPS = (np.arange(SAMPLES, dtype=np.float32) + np.float32(0.5)) / np.float32(SAMPLES)  # and where, from 0 to 1
NOTICED = 4  # grey levels from which on a pixel of a small picture counts as changed
GLANCE = (64, 40)  # width and height of the pictures that scene cuts are looked for in
CUT_SHARE = 0.3  # of the pixels change at a cut, at least
CUT_DIFFERENCE = 40.0  # grey levels that those change by on average, at least
CUT_LIKENESS = 0.4  # correlation that they have left, at most

Flow = NDArray[np.float32]
Grey = NDArray[np.uint8]
Area = tuple[slice, slice]
"""Rows and columns of cells; outside of them nothing moved."""

EVERYWHERE: Area = (slice(None), slice(None))


class OpticalFlow:
    """Dense motion from the current picture back to the key picture, at a quarter of the resolution.

    By DIS (Kroeger et al., Fast Optical Flow using Dense Inverse Search, 2016), where the picture changed.

    ``flow``: float32 [H/4, W/4, 2], dx and dy in network pixels: what is at (x, y) now was at (x + dx, y + dy). It is
    measured from the key frame itself, never added up.
    """

    def __init__(self, size: Size) -> None:
        self._shape = (size.height // SCALE, size.width // SCALE)
        self._key = np.zeros(self._shape, np.uint8)
        self._now = np.zeros(self._shape, np.uint8)
        self._searches: dict[tuple[int, ...], Any] = {}
        self._last: Flow | None = None
        self.flow: Flow = np.zeros((*self._shape, 2), np.float32)

    def remember(self, small: NDArray[np.uint8]) -> None:
        """Take a picture uint8 [H/2, W/2, 3] RGB, or grey [H/2, W/2], as the key."""
        self._key = self._quarter(small)
        self._last = None

    def accept(self, small: NDArray[np.uint8], flow: Flow) -> None:
        """Take a flow that somebody else measured from a picture uint8 [H/2, W/2, 3] back to the key."""
        self._now, self.flow, self._last = self._quarter(small), flow, flow * np.float32(1 / SCALE)

    def measure(self, small: NDArray[np.uint8], area: Area = EVERYWHERE) -> Flow:
        """The motion from a picture uint8 [H/2, W/2, 3] back to the key; the last one helps to find it."""
        self._now = self._quarter(small)
        now, key = (np.ascontiguousarray(one[_scaled(area)]) for one in (self._now, self._key))
        self.flow = np.zeros((*self._shape, 2), np.float32)
        if not np.array_equal(now, key):
            guess = None if self._last is None else np.ascontiguousarray(self._last[_scaled(area)])
            self._last = np.zeros((*self._shape, 2), np.float32)
            self._last[_scaled(area)] = self._search(now.shape).calc(now, key, guess)
            np.multiply(self._last, SCALE, out=self.flow)
        return self.flow

    def _search(self, shape: tuple[int, ...]) -> Any:
        """What looks for motion in pictures of this shape.

        Each shape has its own: where the shape changed on a search without a guess, OpenCV makes no new buffers for the
        next guess, and writes beyond the end of the old ones.
        """
        found = self._searches.get(shape)
        if found is None:
            found = self._searches[shape] = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
            found.setFinestScale(FINEST)
            found.setPatchSize(PATCH)
            found.setGradientDescentIterations(DESCENTS)
        return found

    def _quarter(self, small: NDArray[np.uint8]) -> Grey:
        height, width = self._shape
        return _grey(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA).view(np.uint8))

    def residual(self, area: Area = EVERYWHERE) -> NDArray[np.float32]:
        """Grey levels by which the moved key picture misses the current one, in an area: float32 means by cell."""
        inside = _scaled(area)
        flow, (rows, columns) = self.flow[inside] / SCALE, _indices(*self._shape)[:, *inside]
        moved = cv2.remap(
            self._key, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        missed = cv2.absdiff(moved, np.ascontiguousarray(self._now[inside]))
        cells = (missed.shape[1] * SCALE // CELL, missed.shape[0] * SCALE // CELL)
        return cv2.resize(missed, cells, interpolation=cv2.INTER_AREA).astype(np.float32)


def around(changed: Mask) -> Area:
    """The rectangle of cells in which motion is looked for, given those that changed: with what lies around them."""
    rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
    if not len(rows):
        return EVERYWHERE
    return _grown(rows, changed.shape[0]), _grown(columns, changed.shape[1])


def _grown(places: NDArray[np.intp], count: int) -> slice:
    """From the first to the last of some places, with some around them, and not too few, in steps."""
    begin, end = int(places[0]) - AROUND, int(places[-1]) + 1 + AROUND
    short = max(LEAST_SIDE, -((begin - end) // SIDE_STEP) * SIDE_STEP) - (end - begin)
    begin, end = begin - short // 2, end + (short + 1) // 2
    return slice(max(0, begin - max(0, end - count)), min(count, end + max(0, -begin)))


def _scaled(area: Area, by: float = CELL / SCALE) -> Area:
    """Rows and columns of a map with so many of its own to a cell; what is only touched counts."""
    rows, columns = (
        one if one == slice(None) else slice(int(one.start * by), -int(-one.stop * by // 1)) for one in area
    )
    return rows, columns


class Warp:
    """A flow as places to read maps at, made once for each size of map."""

    def __init__(self, flow: Flow, area: Area = EVERYWHERE) -> None:
        """``flow``: float32 [H/4, W/4, 2], dx and dy in network pixels; outside of ``area`` it counts as none."""
        self.flow = flow
        self._area = area
        self._places: dict[tuple[int, int], tuple[Area, NDArray[np.float32], NDArray[np.float32]]] = {}

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map [h, w, C] of the key frame as it lies now: bilinear, its border continued outwards."""
        inside, columns, rows = self._read_at(*values.shape[:2])
        moved = np.empty(values.shape, np.float32) if columns.shape == values.shape[:2] else values.copy()
        for first in range(0, values.shape[2], MOST_CHANNELS):
            some = np.ascontiguousarray(values[..., first : first + MOST_CHANNELS])
            found = cv2.remap(some, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            moved[(*inside, slice(first, first + MOST_CHANNELS))] = found.reshape(*found.shape[:2], some.shape[2])
        return moved

    def _read_at(self, height: int, width: int) -> tuple[Area, NDArray[np.float32], NDArray[np.float32]]:
        found = self._places.get((height, width))
        if found is None:
            stride_y, stride_x = self.flow.shape[0] * SCALE / height, self.flow.shape[1] * SCALE / width
            inside = _scaled(self._area, CELL / stride_x)
            coarse = cv2.resize(self.flow, (width, height), interpolation=cv2.INTER_AREA)[inside]
            rows, columns = _indices(height, width)[:, *inside]
            to_x, to_y = coarse[..., 0] / np.float32(stride_x), coarse[..., 1] / np.float32(stride_y)
            found = self._places[height, width] = inside, columns + to_x, rows + to_y
        return found


@lru_cache(maxsize=16)
def _indices(height: int, width: int) -> NDArray[np.float32]:
    """Row and column of every place: float32 [2, height, width]."""
    return np.indices((height, width), np.float32)


def follow_boxes(boxes: NDArray[np.float32], flow: Flow, geometry: Geometry) -> NDArray[np.float32]:
    """Boxes [N, 4] of the key frame, in source pixels, where they are now: moved and grown like what is inside them.

    ``flow`` points back from now to the key frame (see ``OpticalFlow``); a box is shifted by the median of the motion
    in it, looked up again where it has gone, and grows as its sides move apart. Without motion the boxes stay the same.
    """
    if len(boxes) == 0 or not flow.any():
        return boxes
    at = geometry.to_network(boxes)
    centre, size = (at[:, :2] + at[:, 2:]) / 2, at[:, 2:] - at[:, :2]
    now = at
    for _ in range(ROUNDS):
        shift, apart = _moved_by(now, flow)
        # Flow points back: what grew by g has 1/g of its size in the key frame.
        reached = now[:, 2:] - now[:, :2]
        shrunk = 1 - (apart / np.maximum(reached, 1)).sum(1)
        growth = np.minimum(np.maximum(1 / np.maximum(shrunk, 1e-3), 1 / MOST_GROWTH), MOST_GROWTH)
        growth[(reached < LEAST_SIZE).any(1)] = 1.0
        half = size / 2 * growth[:, None]
        now = np.concatenate([centre - shift - half, centre - shift + half], axis=1).astype(np.float32)
    return geometry.to_source(now)


def _moved_by(boxes: NDArray[np.float32], flow: Flow) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The median of the flow in each box, and what it is more in its left than its right half, upper than lower.

    Looked up at SAMPLES × SAMPLES even places of each box [N, 4] of network pixels; both [N, 2], x and y.
    """
    corner, side = boxes[:, :2, None], boxes[:, 2:, None] - boxes[:, :2, None]
    places = (corner + side * STEPS) / SCALE
    last = np.array([[flow.shape[1] - 1], [flow.shape[0] - 1]], np.float32)
    column, row = np.minimum(np.maximum(places, 0), last).astype(np.intp).swapaxes(0, 1)
    inside = flow[row[:, :, None], column[:, None, :]]
    # The halves of dx lie in order once its rows are columns; those of dy do as they are.
    ordered = np.stack([inside[..., 0].swapaxes(1, 2), inside[..., 1]], axis=1).reshape(len(boxes), 2, -1)
    halves = _median(ordered.reshape(len(boxes), 2, 2, -1))
    return _median(ordered), halves[..., 0] - halves[..., 1]


def _median(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The median over the last axis, which is even. Sorting few numbers is faster than np.median."""
    ordered = np.sort(values)
    middle = ordered.shape[-1] // 2
    found: NDArray[np.float32] = (ordered[..., middle - 1] + ordered[..., middle]) / np.float32(2)
    return found


def glance(picture: NDArray[np.uint8]) -> Grey:
    """What ``is_cut`` compares: a picture uint8 [h, w, 3] RGB, or grey [h, w], as a small grey one."""
    # Halving first costs a third: OpenCV is quick at that, and slow at sizes that do not go into one another.
    height, width = picture.shape[:2]
    half = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA).view(np.uint8)
    return cv2.resize(_grey(half), GLANCE, interpolation=cv2.INTER_AREA).view(np.uint8)


def _grey(picture: NDArray[np.uint8]) -> Grey:
    return picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).view(np.uint8)


def is_cut(now: Grey, before: Grey, least: float = CUT_DIFFERENCE) -> bool:
    """Whether a new scene began between two small grey pictures uint8 [h, w].

    ``least``: grey levels by which what changed differs on average. At a cut a good part of the picture changes, much,
    and what changed does not correlate: a flash or a fade keeps the correlation, noise is small, and of a pan most
    stays alike in so coarse a picture.
    """
    difference = cv2.absdiff(now, before)
    changed = difference > NOTICED
    if changed.mean() < CUT_SHARE or float(difference[changed].mean()) < least:
        return False
    one, other = (_standardised(picture[changed]) for picture in (now, before))
    return bool((one * other).mean() < CUT_LIKENESS)


def _standardised(values: Grey) -> NDArray[np.float32]:
    """With mean 0 and deviation 1, all 0 where the values hardly differ."""
    centred: NDArray[np.float32] = values.astype(np.float32)
    centred -= centred.mean()
    return centred / max(float(centred.std()), 1.0)
