"""One class a pixel: the map, and making it at source size without interpolating where every answer is the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import Problem, SpecError
from sharedbb.outputs.raw import Raw, part, plain, share_of
from sharedbb.outputs.sampling import Axis, axes, read_at_cells, resample
from sharedbb.types import Geometry

MOST_CLASSES = 256
"""Classes are stored as uint8."""

_MARKS = np.arange(MOST_CLASSES - 1, -1, -1, dtype=np.uint8)[:, None]
"""Of classes by index: the largest of several is the first one's."""

_CHUNK = 1 << 17
"""Pixels interpolated at a time: what fits a core's cache."""


@dataclass(frozen=True, eq=False)
class SegmentationMap:
    """A class for every source pixel, computed when it is first asked for.

    ``logits``: float32 [h, w, C] at the network's own resolution; ``geometry`` places it; ``names`` has C entries.
    """

    logits: NDArray[np.float32] = field(repr=False)
    geometry: Geometry
    names: tuple[str, ...]

    @cached_property
    def classes(self) -> NDArray[np.uint8]:
        """uint8 [H, W] at source size: the index of the largest of the bilinearly upsampled logits."""
        return largest_upsampled(self.logits, self.geometry)

    @cached_property
    def cells(self) -> NDArray[np.uint8]:
        """uint8 [h, w]: the index of each cell's largest logit; ties go to the first class."""
        return _largest(self.logits)

    def changed(self, dense: SegmentationMap) -> float:
        """The share (0–1) of cells whose largest class is not that of ``dense``, the answer computed in full.

        Only cells that show the picture count. A map of another resolution is read at the centres of dense's cells.
        """
        shape = dense.logits.shape[:2]
        rows, columns = axes(dense.geometry, *shape)
        seen = rows.cells, columns.cells
        if self.geometry == dense.geometry and self.logits.shape[:2] == shape:
            return share_of(self.cells[seen] != dense.cells[seen])
        return share_of(_largest(read_at_cells(self.logits, self.geometry, dense.geometry, shape)) != dense.cells[seen])

    def mask(self, name: str) -> NDArray[np.bool_]:
        """bool [H, W] at source size: where the class is ``name``. Raises KeyError for an unknown name."""
        found: NDArray[np.bool_] = self.classes == self._index(name)
        return found

    def probability(self, name: str) -> NDArray[np.float32]:
        """float32 [H, W] in 0–1 at source size: softmax of the upsampled logits. KeyError for an unknown name."""
        own = self._index(name)
        total = np.ones((self.geometry.source.height, self.geometry.source.width), np.float32)
        for other in range(len(self.names)):
            if other != own:
                ahead = resample(self.logits[..., other] - self.logits[..., own], self.geometry)
                total += np.exp(np.minimum(ahead, 80, out=ahead), out=ahead)
        return np.divide(1, total, out=total)

    @cached_property
    def share(self) -> dict[str, float]:
        """For every class, the share of source pixels that it covers; they add up to 1."""
        counts = cv2.calcHist([self.classes], [0], None, [MOST_CLASSES], [0, MOST_CLASSES]).ravel()
        return {name: float(counts[index]) / self.classes.size for index, name in enumerate(self.names)}

    def __repr__(self) -> str:
        height, width, classes = self.logits.shape
        return f"SegmentationMap({self.geometry.source}, {classes} classes from {width}x{height} cells)"

    def to_dict(self, *, runs: bool = False) -> dict[str, Any]:
        """Size and share of every class; with ``runs``, the whole map as run lengths.

        ``runs.classes`` and ``runs.lengths`` go through the rows one after another:
        ``np.repeat(classes, lengths).reshape(height, width)`` is the map again.
        """
        size = self.geometry.source
        answer: dict[str, Any] = {
            "type": "segmentation",
            "width": size.width,
            "height": size.height,
            "share": {name: plain(share, 4) for name, share in self.share.items()},
        }
        if runs:
            answer["runs"] = _run_lengths(self.classes)
        return answer

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise KeyError(f"no class {name!r}; this map has {', '.join(self.names)}")
        return self.names.index(name)


class SegmentationSpec(Protocol):
    """The field that decoding needs."""

    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SegmentationDecoder:
    """``logits`` [1, h, w, C] to a SegmentationMap; nothing is upsampled yet."""

    names: tuple[str, ...]

    def __call__(self, raw: Raw, geometry: Geometry) -> SegmentationMap:
        """Copy the logits. Raises GraphError when they do not have one channel a class."""
        return SegmentationMap(part(raw, "logits", None, None, len(self.names)).copy(), geometry, self.names)


def segmentation_decoder(spec: SegmentationSpec) -> SegmentationDecoder:
    """The decoder of a segmentation head. Raises SpecError for more classes than uint8 can hold."""
    if len(spec.classes) > MOST_CLASSES:
        message = f"{len(spec.classes)} classes are too many, a segmentation has at most {MOST_CLASSES}"
        raise SpecError([Problem("classes", message)])
    return SegmentationDecoder(tuple(spec.classes))


def largest_upsampled(logits: NDArray[np.float32], geometry: Geometry) -> NDArray[np.uint8]:
    """Argmax over [h, w, C] logits read bilinearly at every source pixel: uint8 [H, W]; ties go to the first class.

    Between four cells with the same largest class every interpolated pixel has that class too, since the weights are
    not negative. So a nearest-neighbour picture is right there, and only the pixels between cells that differ are
    interpolated, and only for the classes that no other one beats in all four corners.
    """
    height, width, _ = logits.shape
    rows, columns = axes(geometry, height, width)
    best = _largest(logits)
    classes: NDArray[np.uint8] = best[:, columns.low][rows.low]
    row_spans, column_spans = _Spans.of(rows, height), _Spans.of(columns, width)
    at_row, at_column = np.nonzero(_mixed(best) & (row_spans.counts > 0)[:, None] & (column_spans.counts > 0))
    size = max(1, _CHUNK // (row_spans.longest * column_spans.longest))
    for start in range(0, len(at_row), size):
        r, c = at_row[start : start + size], at_column[start : start + size]
        below, right = np.minimum(r + 1, height - 1), np.minimum(c + 1, width - 1)
        corners = np.stack([logits[r, c], logits[r, right], logits[below, c], logits[below, right]])
        y, fraction_y = row_spans.pixels(r, rows)
        x, fraction_x = column_spans.pixels(c, columns)
        classes[y[:, :, None], x[:, None, :]] = _largest_in_cells(corners, fraction_y, fraction_x)
    return classes


def _largest(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Argmax over [h, w, C]: uint8 [h, w]; ties go to the first. In well under half the time of NumPy's own."""
    height, width, classes = logits.shape
    planes = cv2.transpose(np.ascontiguousarray(logits).reshape(-1, classes))
    marks = (planes == planes.max(0)).view(np.uint8)
    np.bitwise_and(np.negative(marks, out=marks), _MARKS[:classes], out=marks)
    found: NDArray[np.uint8] = MOST_CLASSES - 1 - marks.max(0).reshape(height, width)
    np.minimum(found, classes - 1, out=found)  # where a logit is NaN none is the largest
    return found


def _mixed(best: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """bool [h, w]: whether a cell differs from its neighbours to the right, below, or both."""
    padded = np.pad(best, ((0, 1), (0, 1)), mode="edge")
    mixed: NDArray[np.bool_] = best != padded[1:, 1:]
    mixed |= best != padded[1:, :-1]
    mixed |= best != padded[:-1, 1:]
    return mixed


@dataclass(frozen=True, slots=True, eq=False)
class _Spans:
    """The run of source pixels that start from each cell along one axis: the first, and how many."""

    first: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, axis: Axis, cells: int) -> _Spans:
        counts = np.bincount(axis.low, minlength=cells)
        return cls(np.cumsum(counts) - counts, counts)

    @property
    def longest(self) -> int:
        return int(self.counts.max())

    def pixels(self, cells: NDArray[np.int64], axis: Axis) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Pixel indices [n, longest] of ``cells`` and their fractions; shorter runs repeat their last pixel."""
        steps = np.minimum(np.arange(self.longest), self.counts[cells, None] - 1)
        pixels = self.first[cells, None] + steps
        return pixels, axis.fraction[pixels]


def _largest_in_cells(
    corners: NDArray[np.float32], fraction_y: NDArray[np.float32], fraction_x: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Largest class at points between corners [4, n, C], at fractions [n, p] and [n, q]: uint8 [n, p, q]."""
    candidates, counts = _candidates(corners)
    order = np.argsort(-counts, kind="stable")
    candidates, counts = candidates[order], counts[order]
    x, y = fraction_x[order], fraction_y[order, :, None]
    largest = np.full((len(order), y.shape[1], x.shape[1]), -np.inf, np.float32)
    found = np.zeros(largest.shape, np.uint8)
    for rank in range(int(counts[0])):
        cells = int(np.count_nonzero(counts > rank))
        classes = candidates[:cells, rank]
        left_top, right_top, left_low, right_low = (corners[k, order[:cells], classes, None] for k in range(4))
        top = left_top + (right_top - left_top) * x[:cells]
        values = (left_low + (right_low - left_low) * x[:cells] - top)[:, None, :] * y[:cells]
        values += top[:, None, :]
        np.copyto(found[:cells], classes[:, None, None], where=values > largest[:cells])
        np.maximum(largest[:cells], values, out=largest[:cells])
    unsorted = np.empty_like(found)
    unsorted[order] = found
    return unsorted


def _candidates(corners: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Which classes may be largest somewhere in each cell: [n, C], those first and ascending; and how many: [n].

    A class cannot be when one of the corners' winners is above it in all four.
    """
    each = np.arange(corners.shape[1])
    beaten = np.zeros(corners.shape[1:], np.bool_)
    for winner in corners.argmax(2):
        rival = corners[:, each, winner, None]
        beaten |= (rival[0] > corners[0]) & (rival[1] > corners[1]) & (rival[2] > corners[2]) & (rival[3] > corners[3])
    return np.argsort(beaten, axis=1, kind="stable").astype(np.uint8), np.count_nonzero(~beaten, axis=1)


def _run_lengths(classes: NDArray[np.uint8]) -> dict[str, list[int]]:
    flat = classes.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, flat.size))
    return {"classes": flat[starts].tolist(), "lengths": lengths.tolist()}
