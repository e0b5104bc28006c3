"""A pinhole camera, and flat textured surfaces seen through it: where each pixel lies, how far, and where it goes.

World axes: x to the right, y down, z along the street; metres. The ground is y = 0, the camera above it (y < 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sharedbb.types import Size

Array = NDArray[np.float64]
Point = tuple[float, float, float]

SMALLEST = 4  # pixels; a surface with a smaller window is not worth painting
NEAR = 0.4  # metres; what is closer to the camera's plane is not seen


@dataclass(frozen=True)
class Camera:
    """Position, heading and lens. ``yaw`` turns right, ``pitch`` turns down (radians); ``focal`` in pixels."""

    size: Size
    focal: float
    position: Point
    yaw: float = 0.0
    pitch: float = 0.0

    @cached_property
    def matrix(self) -> Array:
        """3×4: world points (homogeneous) to (x·depth, y·depth, depth) in pixels, centres at half-integers."""
        cos_yaw, sin_yaw = np.cos(self.yaw), np.sin(self.yaw)
        cos_pitch, sin_pitch = np.cos(self.pitch), np.sin(self.pitch)
        turn = np.array([[cos_yaw, 0, -sin_yaw], [0, 1, 0], [sin_yaw, 0, cos_yaw]])
        tilt = np.array([[1, 0, 0], [0, cos_pitch, -sin_pitch], [0, sin_pitch, cos_pitch]])
        rotation = tilt @ turn
        lens = np.array([[self.focal, 0, self.size.width / 2], [0, self.focal, self.size.height / 2], [0, 0, 1.0]])
        shift = -rotation @ np.asarray(self.position)
        projection: Array = lens @ np.column_stack([rotation, shift])
        return projection


@dataclass(frozen=True)
class Plane:
    """A rectangle in the world: corner ``origin``, sides ``across`` (u from 0 to 1) and ``down`` (v from 0 to 1)."""

    origin: Point
    across: Point
    down: Point

    def seen_by(self, camera: Camera) -> Array:
        """3×3: (u, v, 1) to (x·depth, y·depth, depth) in pixels."""
        points = np.array([(*self.across, 0.0), (*self.down, 0.0), (*self.origin, 1.0)]).T
        projected: Array = camera.matrix @ points
        return projected


@dataclass(frozen=True)
class View:
    """A plane's pixels in a window of the picture: where in (u, v), how deep, and which lie on it.

    ``top`` and ``left`` place the window; the arrays have its height and width. ``depth`` in metres along the axis.
    """

    top: int
    left: int
    u: NDArray[np.float32]
    v: NDArray[np.float32]
    depth: NDArray[np.float32]
    inside: NDArray[np.bool_]

    @property
    def window(self) -> tuple[slice, slice]:
        """The window as an index into the picture."""
        height, width = self.u.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def view(plane: Plane, camera: Camera) -> View | None:
    """What the camera sees of a plane; None when nothing."""
    projected = plane.seen_by(camera)
    bounds = _bounds(projected, camera.size)
    if bounds is None or abs(np.linalg.det(projected)) < 1e-9:
        return None
    top, left, bottom, right = bounds
    back = np.linalg.inv(projected).astype(np.float32)
    x = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5)
    # (u, v, 1) / depth is linear in the pixel.
    inverse = back[2, 0] * x + back[2, 1] * y + back[2, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = 1 / inverse
        u = (back[0, 0] * x + back[0, 1] * y + back[0, 2]) * depth
        v = (back[1, 0] * x + back[1, 1] * y + back[1, 2]) * depth
    inside = (inverse > 0) & (depth > NEAR) & (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
    return View(top, left, u, v, depth, inside) if inside.any() else None


def moved(plane: Plane, camera: Camera, seen: View) -> NDArray[np.float32]:
    """Where the seen points of a plane lie when the plane is here and the camera there: pixels, [h, w, 2]."""
    to = plane.seen_by(camera).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = to[2, 0] * seen.u + to[2, 1] * seen.v + to[2, 2]
        x = (to[0, 0] * seen.u + to[0, 1] * seen.v + to[0, 2]) / depth
        y = (to[1, 0] * seen.u + to[1, 1] * seen.v + to[1, 2]) / depth
    return np.stack([x, y], -1)


def _bounds(projected: Array, size: Size) -> tuple[int, int, int, int] | None:
    """Rows and columns that hold the rectangle, its part behind the camera cut off."""
    corners = np.array([(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1.0)]) @ projected.T
    kept = []
    for one, other in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if one[2] > NEAR:
            kept.append(one)
        if (one[2] > NEAR) != (other[2] > NEAR):
            share = (NEAR - one[2]) / (other[2] - one[2])
            kept.append(one + share * (other - one))
    if len(kept) < 3:
        return None
    points = np.array(kept)
    pixels = points[:, :2] / points[:, 2:]
    left, top = np.floor(pixels.min(0)).astype(int)
    right, bottom = np.ceil(pixels.max(0)).astype(int)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, size.width), min(bottom, size.height)
    return (top, left, bottom, right) if (right - left) * (bottom - top) >= SMALLEST else None
