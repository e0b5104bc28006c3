"""Surfaces with a look, a class and perhaps a motion, painted into a frame one over another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.media.synthetic.camera import Camera, Plane, View, moved, view
from sharedbb.media.synthetic.textures import Picture, rgb
from sharedbb.types import Size

FINEST_ALPHA = 0.5  # a pixel belongs to a cut-out when at least this much of it is covered


@dataclass(frozen=True)
class Motion:
    """A steady run along the street, again and again: from ``span`` metres ahead of the camera to behind it, or back.

    ``speed`` in metres a second along z, ``drift`` along x.
    """

    start: float
    speed: float
    span: float = 150.0
    behind: float = 8.0
    drift: float = 0.0

    def lap(self, time: float, camera_z: float) -> int:
        """How often it has been put back to the other end by then."""
        return int(np.floor((self.start + self.speed * time - camera_z + self.behind) / self.span))

    def offset(self, time: float, lap: int) -> tuple[float, float]:
        """x and z at a time, in a lap."""
        return self.drift * time, self.start + self.speed * time - lap * self.span


@dataclass(frozen=True, eq=False)
class Surface:
    """A textured rectangle.

    ``picture`` (float32 RGB) fills the plane; ``alpha`` cuts it out; ``classes`` gives a class a texel where the
    surface is not all of one ``class_id``. ``repeat`` (texture rows: offset, span) lets the texture run on periodically
    along v. ``shade`` darkens what lies under it instead of covering it. ``instance`` 0 is no object. ``smaller`` keeps
    the textures reduced so far; surfaces of the same texture share it.
    """

    plane: Plane
    picture: Picture
    class_id: int
    alpha: Picture | None = None
    classes: NDArray[np.uint8] | None = None
    instance: int = 0
    motion: Motion | None = None
    repeat: tuple[float, float] | None = None
    shade: bool = False
    smaller: dict[tuple[int, int], tuple[Picture, Picture | None]] = field(default_factory=dict, repr=False)

    def at(self, time: float, lap: int) -> Plane:
        """Where the plane is at a time, in its motion's lap."""
        if self.motion is None:
            return self.plane
        x, z = self.motion.offset(time, lap)
        origin = self.plane.origin
        return replace(self.plane, origin=(origin[0] + x, origin[1], origin[2] + z))

    def reduced(self, across: int, down: int) -> Surface:
        """The same surface with a texture smaller by whole factors, averaged: what it looks like from afar."""
        height, width = self.picture.shape[:2]
        across, down = min(across, width), min(down, height)
        if across <= 1 and down <= 1:
            return self
        if (across, down) not in self.smaller:
            extent = (max(1, width // across), max(1, height // down))
            alpha = None if self.alpha is None else cv2.resize(self.alpha, extent, interpolation=cv2.INTER_AREA)
            self.smaller[across, down] = (cv2.resize(self.picture, extent, interpolation=cv2.INTER_AREA), alpha)
        picture, alpha = self.smaller[across, down]
        share = picture.shape[0] / height
        repeat = (self.repeat[0] * share, self.repeat[1] * share) if self.repeat else None
        return replace(self, picture=picture, alpha=alpha, repeat=repeat)

    @cached_property
    def centre(self) -> tuple[float, float, float]:
        """Middle of the plane."""
        plane = self.plane
        parts = zip(plane.origin, plane.across, plane.down, strict=True)
        x, y, z = (corner + 0.5 * (across + down) for corner, across, down in parts)
        return x, y, z


class Canvas:
    """A frame being painted: colours, and when labels are wanted class, instance, depth and flow of every pixel."""

    def __init__(self, size: Size, *, labels: bool, haze: tuple[float, float, float], visibility: float) -> None:
        shape = (size.height, size.width)
        self.colors = np.zeros((*shape, 3), np.float32)
        self.labels = labels
        self.classes = np.zeros(shape, np.uint8)
        self.instances = np.zeros(shape, np.int32)
        self.depth = np.zeros(shape, np.float32)
        self.flow = np.zeros((*shape, 2), np.float32)
        self._haze = rgb(haze)
        self._visibility = visibility

    def paint(self, surface: Surface, now: tuple[Camera, float], then: tuple[Camera, float]) -> None:
        """Paint a surface as it is ``now`` (camera, time); its flow leads to where it is ``then``."""
        camera, time = now
        lap = surface.motion.lap(time, camera.position[2]) if surface.motion else 0
        plane = surface.at(time, lap)
        seen = view(plane, camera)
        if seen is None:
            return
        look = surface.reduced(*_reduction(surface, plane, seen))
        alpha = self._paint_colors(look, seen)
        if not self.labels or surface.shade:
            return
        own = alpha >= FINEST_ALPHA
        window = seen.window
        self.classes[window][own] = _classes(surface, seen)[own] if surface.classes is not None else surface.class_id
        self.instances[window][own] = surface.instance
        self.depth[window][own] = seen.depth[own]
        self.flow[window][own] = self._flow(surface, seen, now, then, lap)[own] if moves(surface, now, then) else 0.0

    def _flow(
        self, surface: Surface, seen: View, now: tuple[Camera, float], then: tuple[Camera, float], lap: int
    ) -> NDArray[np.float32]:
        """How far each of the window's pixels moves, x and y."""
        height, width = seen.u.shape
        flow = moved(surface.at(then[1], lap), then[0], seen)
        flow[..., 0] -= np.arange(seen.left, seen.left + width, dtype=np.float32) + 0.5
        flow[..., 1] -= np.arange(seen.top, seen.top + height, dtype=np.float32)[:, None] + 0.5
        return flow

    def _paint_colors(self, look: Surface, seen: View) -> Picture:
        """Blend the texture in; returns how much of each pixel of the window it covers."""
        x, y = _texels(look, seen)
        border = cv2.BORDER_WRAP if look.repeat else cv2.BORDER_REPLICATE
        alpha = seen.inside.astype(np.float32)
        if look.alpha is not None:
            alpha *= cv2.remap(look.alpha, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        target = self.colors[seen.window]
        if look.shade:
            target *= 1 - 0.55 * alpha[..., None]
            return alpha
        colors: Picture = cv2.remap(look.picture, x, y, cv2.INTER_LINEAR, borderMode=border)
        clear = self._clearness(seen)
        colors -= self._haze
        colors *= clear
        colors += self._haze
        if look.alpha is None:
            np.copyto(target, colors, where=seen.inside[..., None])
        else:
            colors -= target
            colors *= alpha[..., None]
            target += colors
        return alpha

    def _clearness(self, seen: View) -> Picture:
        """How much of a surface's own colour comes through the haze: one number where all of it is equally far."""
        depth = seen.depth[seen.inside]
        nearest, farthest = float(depth.min()), float(depth.max())
        if farthest - nearest < 0.01 * self._visibility:
            return np.exp(rgb([-0.5 * (nearest + farthest) / self._visibility]))
        found: Picture = np.exp(np.clip(seen.depth, 0, farthest) * np.float32(-1 / self._visibility))[..., None]
        return found


def moves(surface: Surface, now: tuple[Camera, float], then: tuple[Camera, float]) -> bool:
    """Whether a surface is seen elsewhere then than now."""
    return now[0] != then[0] or (surface.motion is not None and now[1] != then[1])


def _texels(look: Surface, seen: View) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Texture coordinates of the window's pixels, as ``cv2.remap`` takes them."""
    height, width = look.picture.shape[:2]
    u, v = np.clip(seen.u, -1, 2), np.clip(seen.v, -1, 2)
    x = u * np.float32(width) - np.float32(0.5)
    if look.repeat is None:
        return x, v * np.float32(height) - np.float32(0.5)
    offset, span = look.repeat
    return x, np.mod(v * np.float32(span) + np.float32(offset), np.float32(height)) - np.float32(0.5)


def _classes(surface: Surface, seen: View) -> NDArray[np.uint8]:
    assert surface.classes is not None
    height, width = surface.classes.shape
    column = np.clip(seen.u * width, 0, width - 1).astype(np.int32)
    row = np.clip(seen.v * height, 0, height - 1).astype(np.int32)
    found: NDArray[np.uint8] = surface.classes[row, column]
    return found


def _reduction(surface: Surface, plane: Plane, seen: View) -> tuple[int, int]:
    """By which powers of two a texture should shrink along u and v for about a texel a pixel."""
    rows, columns = np.nonzero(seen.inside)
    middle = len(rows) // 2
    row, column = int(rows[middle]), int(columns[middle])
    height, width = surface.picture.shape[:2]
    span = surface.repeat[1] if surface.repeat else height
    return _power(_slope(seen.u, row, column) * width), _power(_slope(seen.v, row, column) * span)


def _slope(values: NDArray[np.float32], row: int, column: int) -> float:
    """Largest change of a coordinate from this pixel to a neighbour."""
    down = min(row + 1, values.shape[0] - 1) if row + 1 < values.shape[0] else row - 1
    right = column + 1 if column + 1 < values.shape[1] else column - 1
    here = values[row, column]
    vertical = abs(float(values[down, column] - here)) if down >= 0 else 0.0
    horizontal = abs(float(values[row, right] - here)) if right >= 0 else 0.0
    return max(vertical, horizontal)


def _power(texels: float) -> int:
    return 1 << max(0, min(8, round(float(np.log2(max(texels, 1e-6))))))


def paint_all(
    canvas: Canvas, surfaces: Sequence[Surface], now: tuple[Camera, float], then: tuple[Camera, float]
) -> None:
    """Paint surfaces in the given order, the farthest first."""
    for surface in surfaces:
        canvas.paint(surface, now, then)
