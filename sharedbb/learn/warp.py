"""Where a picture lies in a training crop, and what is known of it there."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """From the pixels of a picture to those of a crop.

    ``matrix`` float32 [2, 3] takes pixel (x, y) of the picture, counted from the centre of the first, to the crop's.
    ``source`` and ``size`` are height and width of picture and crop; ``zoom`` says how much larger things are than
    the network usually sees them.
    """

    matrix: Affine
    source: tuple[int, int]
    size: tuple[int, int]
    zoom: float = 1.0

    @property
    def mirrored(self) -> bool:
        """Whether left and right change places."""
        return float(self.matrix[0, 0]) < 0

    @property
    def visible(self) -> float:
        """Share of the picture that lies in the crop, 0–1."""
        ((left, top, right, bottom),) = self.boxes(np.array([[0, 0, self.source[1], self.source[0]]], np.float32))
        inside = max(0.0, min(right, self.size[1]) - max(left, 0.0)) * max(
            0.0, min(bottom, self.size[0]) - max(top, 0.0)
        )
        return float(inside / ((right - left) * (bottom - top)))

    def classes(self, values: NDArray[np.uint8], outside: int) -> NDArray[np.uint8]:
        """A map HW uint8, without mixing values; ``outside`` where the picture ends."""
        size = self.size[1], self.size[0]
        return cv2.warpAffine(values, self.matrix, size, flags=cv2.INTER_NEAREST, borderValue=outside).view(np.uint8)

    def distances(self, metres: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map HW of metres: things that are seen larger are nearer; NaN where the picture ends."""
        size, nearer = (self.size[1], self.size[0]), metres * np.float32(1 / self.zoom)
        return cv2.warpAffine(nearer, self.matrix, size, flags=cv2.INTER_NEAREST, borderValue=np.nan).view(np.float32)

    def points(self, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points [N, 2] in continuous coordinates, in which a pixel's centre lies at one half."""
        return ((xy - 0.5) @ self.matrix[:, :2].T + self.matrix[:, 2] + 0.5).astype(np.float32)

    def boxes(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes [N, 4] as left, top, right, bottom; what lies outside the crop is not cut off."""
        first, second = self.points(xyxy[:, :2]), self.points(xyxy[:, 2:])
        return np.concatenate((np.minimum(first, second), np.maximum(first, second)), axis=1)
