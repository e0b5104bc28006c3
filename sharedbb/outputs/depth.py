"""Distance in metres for every pixel."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.outputs.raw import Raw, part, plain, share_of
from sharedbb.outputs.sampling import axes, read_at_cells, resample
from sharedbb.types import Geometry

TOLERANCE = 0.05
"""Two distances are the same answer when they differ by at most this share of the one that was computed in full."""


@dataclass(frozen=True, eq=False)
class DepthMap:
    """Metres for every source pixel, upsampled when first asked for.

    ``cells``: float32 [h, w], metres at the network's own resolution; ``geometry`` places them.
    """

    cells: NDArray[np.float32] = field(repr=False)
    geometry: Geometry

    @cached_property
    def metres(self) -> NDArray[np.float32]:
        """float32 [H, W] at source size, bilinear between cells."""
        return resample(self.cells, self.geometry)

    def changed(self, dense: DepthMap) -> float:
        """The share (0–1) of cells that are off by more than 5 % from ``dense``, the answer computed in full.

        Only cells that show the picture count. A map of another resolution is read at the centres of dense's cells.
        """
        rows, columns = axes(dense.geometry, *dense.cells.shape)
        seen = rows.cells, columns.cells
        same = self.geometry == dense.geometry and self.cells.shape == dense.cells.shape
        ours = self.cells[seen] if same else self._at_cells(dense)
        return share_of(~np.isclose(ours, dense.cells[seen], rtol=TOLERANCE, atol=0, equal_nan=True))

    def _at_cells(self, other: DepthMap) -> NDArray[np.float32]:
        height, width = other.cells.shape
        return read_at_cells(self.cells, self.geometry, other.geometry, (height, width))

    def __repr__(self) -> str:
        height, width = self.cells.shape
        return f"DepthMap({self.geometry.source} from {width}x{height} cells)"

    def to_dict(self) -> dict[str, Any]:
        """Size, and nearest, median and farthest of the cells that show the picture, in metres."""
        rows, columns = axes(self.geometry, *self.cells.shape)
        seen = self.cells[rows.cells, columns.cells]
        size = self.geometry.source
        return {
            "type": "depth",
            "width": size.width,
            "height": size.height,
            "nearest_m": plain(seen.min(), 3),
            "median_m": plain(np.median(seen), 3),
            "farthest_m": plain(seen.max(), 3),
        }


@dataclass(frozen=True, slots=True)
class DepthDecoder:
    """``depth`` [1, h, w, 1] in metres to a DepthMap; nothing is upsampled yet."""

    def __call__(self, raw: Raw, geometry: Geometry) -> DepthMap:
        """Copy the map."""
        return DepthMap(part(raw, "depth", None, None, 1)[..., 0].copy(), geometry)


def depth_decoder(spec: Any) -> DepthDecoder:
    """The decoder of a depth head; the network has applied ``min_m`` and ``max_m`` already."""
    return DepthDecoder()
