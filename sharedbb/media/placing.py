"""Pictures put into frames of other sizes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.types import Geometry, Size


def padded(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The picture at the upper left of (height, width, 3), its last row and column repeated to fill the rest."""
    below, right = height - picture.shape[0], width - picture.shape[1]
    if below == right == 0:
        return picture
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_REPLICATE).view(np.uint8)


def letterboxed(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The whole picture, scaled into (height, width, 3) with black bars."""
    placed = Geometry.fit(Size(*picture.shape[:2]), Size(height, width)).placed
    left, top, inner_width, inner_height = placed
    framed = np.zeros((height, width, 3), np.uint8)
    shrinks = inner_width < picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    framed[top : top + inner_height, left : left + inner_width] = cv2.resize(
        picture, (inner_width, inner_height), interpolation=how
    )
    return framed
