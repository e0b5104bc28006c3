"""Named points of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sharedbb.outputs.raw import Raw, part, plain, share_of, sigmoid
from sharedbb.outputs.sampling import axes
from sharedbb.types import Geometry

LEAST_SCORE = 0.3
"""A point of this score or more is there at all: it is drawn, and one that falls below it has disappeared."""


@dataclass(frozen=True, slots=True, eq=False)
class Keypoints:
    """One place a name: ``points`` float32 [K, 2] as x, y in source pixels, ``scores`` float32 [K] in 0–1.

    ``cell`` is the width and height of a heat map's cell in source pixels: how finely a point can be placed.
    """

    points: NDArray[np.float32]
    scores: NDArray[np.float32]
    names: tuple[str, ...]
    cell: tuple[float, float] = (1.0, 1.0)

    @property
    def present(self) -> NDArray[np.bool_]:
        """bool [K]: which points are there at all, at a score of 0.3 or more."""
        there: NDArray[np.bool_] = self.scores >= LEAST_SCORE
        return there

    def moved(self, dense: Keypoints) -> NDArray[np.bool_]:
        """bool [K]: which points lie more than one cell from those of ``dense`` along x or y, or (dis)appeared."""
        far = (np.abs(self.points - dense.points) > np.array(dense.cell) * (1 + 1e-5)).any(axis=1)
        apart: NDArray[np.bool_] = (self.present != dense.present) | (dense.present & far)
        return apart

    def changed(self, dense: Keypoints) -> float:
        """The share (0–1) of points that moved by more than one cell or (dis)appeared.

        ``dense`` is the answer computed in full.
        """
        return share_of(self.moved(dense))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Keypoints(points {self.points.shape}, scores {self.scores.shape}, {', '.join(self.names)})"

    def to_dict(self) -> dict[str, Any]:
        """Every point with its name and score."""
        rows = zip(self.names, plain(self.points, 2), plain(self.scores, 4), strict=True)
        return {"type": "keypoints", "points": [{"name": name, "x": x, "y": y, "score": s} for name, (x, y), s in rows]}


class KeypointsSpec(Protocol):
    """The field that decoding needs."""

    points: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeypointsDecoder:
    """``heatmaps`` [1, h, w, K] logits to Keypoints: each map's peak, moved a quarter cell towards its higher side.

    The quarter offset makes up for half of what rounding a point to a cell loses (Newell et al., Stacked Hourglass
    Networks, 2016). Cells outside the picture (letterbox bars) and NaN are never peaks; a map of nothing else scores 0.
    """

    names: tuple[str, ...]

    def __call__(self, raw: Raw, geometry: Geometry) -> Keypoints:
        """Raises GraphError when there is not one heat map a name."""
        heat = part(raw, "heatmaps", None, None, len(self.names))
        height, width, count = heat.shape
        rows, columns = axes(geometry, height, width)
        seen = heat[rows.cells, columns.cells]
        seen = np.where(np.isnan(seen), -np.inf, seen)
        y, x = np.divmod(seen.reshape(-1, count).argmax(0), seen.shape[1])
        lean_x = _lean(seen.transpose(2, 0, 1)[np.arange(count), y], x)
        lean_y = _lean(seen.transpose(2, 1, 0)[np.arange(count), x], y)
        cell = np.array([geometry.network.width / width, geometry.network.height / height], np.float32)
        places = np.stack([x + columns.cells.start + 0.25 * lean_x, y + rows.cells.start + 0.25 * lean_y], axis=1)
        points = geometry.to_source((places.astype(np.float32) + np.float32(0.5)) * cell)
        across, down = float(cell[0]) / geometry.scale_x, float(cell[1]) / geometry.scale_y
        return Keypoints(points, sigmoid(seen[y, x, np.arange(count)]), self.names, (across, down))


def _lean(lines: NDArray[np.float32], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """On which side of ``at`` [K] each line [K, n] is higher: −1, 0 or 1; 0 at the ends, where one side is missing."""
    each, last = np.arange(len(at)), lines.shape[1] - 1
    before, after = lines[each, np.maximum(at - 1, 0)], lines[each, np.minimum(at + 1, last)]
    inside = (at > 0) & (at < last)
    side: NDArray[np.float64] = inside * ((after > before).astype(np.float64) - (after < before))
    return side


def keypoints_decoder(spec: KeypointsSpec) -> KeypointsDecoder:
    """The decoder of a keypoints head."""
    return KeypointsDecoder(tuple(spec.points))
