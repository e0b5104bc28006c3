"""The synthetic street as a source of frames, with everything known about every pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import TracebackType
from typing import Literal, Self, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import SourceError
from sharedbb.media.synthetic.camera import Camera
from sharedbb.media.synthetic.scene import CLASSES, ID, LANE_SPEED, Scene
from sharedbb.media.synthetic.surfaces import Canvas, paint_all
from sharedbb.types import Frame, Size

Movement = Literal["drive", "static", "pan"]
Lighting = Literal["steady", "changing"]

SIZE = Size(384, 640)
OBJECTS = ("vehicle", "pedestrian", "cyclist", "sign")
LEAST_FPS, MOST_FPS = 0.01, 1000.0
SPEED = LANE_SPEED  # of a driving camera, which keeps its place in the traffic
EYE = 1.5  # metres of the camera over the road
SMALLEST_BOX = 12  # pixels of an object that must be seen for it to count


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """A frame and the truth about it.

    ``classes`` uint8 [H, W]: positions in ``CLASSES``. ``instances`` int32 [H, W]: 0 where there is no object, else the
    object's number, the same in every frame. ``boxes`` float32 [N, 4] xyxy around what is seen of every vehicle,
    pedestrian, cyclist and sign of at least 12 pixels, ``box_classes`` int64 [N] in ``CLASSES``, ``box_instances``
    int32 [N]. ``depth`` float32 [H, W]: metres along the camera's axis. ``flow`` float32 [H, W, 2]: where the point in
    this pixel is in the next frame, x and y in pixels from here. ``tags``: the classes that are seen.
    """

    frame: Frame
    classes: NDArray[np.uint8]
    instances: NDArray[np.int32]
    boxes: NDArray[np.float32]
    box_classes: NDArray[np.int64]
    box_instances: NDArray[np.int32]
    depth: NDArray[np.float32]
    flow: NDArray[np.float32]
    tags: frozenset[str]


class StreetVideo:
    """A procedural street, seen by a driving, panning or static camera; a source of frames.

    The same arguments give the same bytes, frame by frame in any order. ``noise`` is the standard deviation of the
    sensor's noise in grey levels, ``cuts`` the number of scene changes, spread evenly; ``lighting="changing"`` lets
    the brightness swing by a quarter.

    Raises SourceError for sizes under 32×32, no frames, more cuts than frames, and numbers out of range.
    """

    live = False
    skipped = 0

    def __init__(
        self,
        size: Size = SIZE,
        frames: int = 300,
        motion: Movement = "drive",
        seed: int = 0,
        fps: float = 25.0,
        cuts: int = 0,
        noise: float = 1.5,
        lighting: Lighting = "steady",
    ) -> None:
        counts = frames >= 1 and 0 <= cuts < frames and seed >= 0
        if min(size.height, size.width) < 32 or not (counts and LEAST_FPS <= fps <= MOST_FPS and 0 <= noise <= 255):
            raise SourceError(
                f"no street of {size}, {frames} frames, {cuts} cuts, {fps} fps, noise {noise}, seed {seed}: sizes "
                f"start at 32x32, frames at 1, cuts are fewer than frames, fps lies in {LEAST_FPS:g}–{MOST_FPS:g}, "
                "noise in 0–255, and no seed is below 0"
            )
        if motion not in get_args(Movement) or lighting not in get_args(Lighting):
            raise SourceError(f"motion must be one of {get_args(Movement)}, lighting one of {get_args(Lighting)}")
        self.size: Size | None = size
        self.fps: float | None = fps
        self.frames: int | None = frames
        self.name = f"synthetic street ({motion}, seed {seed})"
        self._size, self._count, self._rate = size, frames, fps
        self._motion, self._seed, self._cuts, self._noise = motion, seed, cuts, noise
        self._lighting = lighting

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self._count):
            yield self._frame(index, self._painted(index, labels=False))

    def labelled(self) -> Iterator[LabelledFrame]:
        """Every frame with its labels, in order."""
        for index in range(self._count):
            yield self.render(index)

    def render(self, index: int) -> LabelledFrame:
        """One frame with its labels. Raises IndexError outside of the video."""
        if not 0 <= index < self._count:
            raise IndexError(f"frame {index} of {self._count}")
        canvas = self._painted(index, labels=True)
        boxes, classes, instances = _boxes(canvas)
        present = np.flatnonzero(np.bincount(canvas.classes.ravel(), minlength=len(CLASSES)))
        return LabelledFrame(
            frame=self._frame(index, canvas),
            classes=canvas.classes,
            instances=canvas.instances,
            boxes=boxes,
            box_classes=classes,
            box_instances=instances,
            depth=canvas.depth,
            flow=canvas.flow,
            tags=frozenset(CLASSES[position] for position in present),
        )

    def scene_of(self, index: int) -> int:
        """Which scene a frame belongs to; it changes at a cut."""
        return index * (self._cuts + 1) // self._count

    def camera_at(self, index: int, scene: int | None = None) -> Camera:
        """Where the camera is and looks at a frame, as if it were one of ``scene`` if that is given."""
        scene = self.scene_of(index) if scene is None else scene
        random = np.random.default_rng([self._seed, scene, 0])
        x, sway = float(random.uniform(1.1, 1.6)), float(random.uniform(0, 6.28))
        time = index / self._rate
        focal = self._size.width * float(random.uniform(0.78, 1.05))
        yaw, pitch = float(random.uniform(-0.05, 0.05)), float(random.uniform(-0.02, 0.06))
        z = self._begin(scene)
        if self._motion == "drive":
            z += SPEED * time
            yaw += 0.02 * math.sin(0.5 * time + sway)
            x += 0.25 * math.sin(0.35 * time + sway)
        else:
            x = float(random.choice([-1, 1])) * (KERB_EYE + 0.2 * x)
            yaw = -math.copysign(0.16, x)
            if self._motion == "pan":
                yaw += 0.35 * math.sin(0.45 * time + sway)
        return Camera(self._size, focal, (x, -EYE if self._motion == "drive" else -EYE * 1.5, z), yaw, pitch)

    def _begin(self, scene: int) -> float:
        """Where along the street the camera is at time 0 of a scene's clock."""
        return float(np.random.default_rng([self._seed, scene, 5]).uniform(0, 400))

    def _painted(self, index: int, *, labels: bool) -> Canvas:
        scene = Scene((self._seed, self.scene_of(index)), self._begin(self.scene_of(index)))
        time = index / self._rate
        # At a scene's last frame the camera that would follow without the cut.
        camera, following = self.camera_at(index), self.camera_at(index + 1, self.scene_of(index))
        canvas = Canvas(self._size, labels=labels, haze=scene.haze, visibility=scene.visibility)
        surfaces = scene.surfaces(camera, time, 0.0 if self._motion == "drive" else CLEAR)
        paint_all(canvas, surfaces, (camera, time), (following, time + 1 / self._rate))
        return canvas

    def _frame(self, index: int, canvas: Canvas) -> Frame:
        colors = canvas.colors
        if self._lighting == "changing":
            colors = colors * np.float32(1 + 0.25 * math.sin(index / self._rate * 1.3))
        if self._noise > 0:
            height, width = colors.shape[:2]
            top, left = np.random.default_rng([self._seed, 7, index]).integers(0, NOISE_MARGIN, 2)
            grain = _grain(self._size, self._seed)[top : top + height, left : left + width]
            colors = colors + grain * np.float32(self._noise)
        pixels = cv2.convertScaleAbs(np.clip(colors, 0, 255)).view(np.uint8)
        return Frame(index, index / self._rate, pixels=pixels, order="rgb")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return CLASSES


KERB_EYE = 4.5  # metres from the middle of the street at which a static or panning camera stands
CLEAR = 7.0  # metres before such a camera in which nothing stands
NOISE_MARGIN = 97


@lru_cache(maxsize=4)
def _grain(size: Size, seed: int) -> NDArray[np.float32]:
    """Noise of unit deviation, larger than the picture: every frame takes another part of it."""
    shape = (size.height + NOISE_MARGIN, size.width + NOISE_MARGIN, 3)
    return np.random.default_rng([seed, 6]).normal(size=shape).astype(np.float32)


def _boxes(canvas: Canvas) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int32]]:
    """Tight boxes around what is seen of every object."""
    counted = np.unique(canvas.instances[canvas.instances > 0], return_counts=True)
    boxes, classes, instances = [], [], []
    for instance, pixels in zip(*counted, strict=True):
        if pixels < SMALLEST_BOX:
            continue
        left, top, width, height = cv2.boundingRect((canvas.instances == instance).view(np.uint8))
        boxes.append((left, top, left + width, top + height))
        mask = canvas.instances[top : top + height, left : left + width] == instance
        classes.append(int(canvas.classes[top : top + height, left : left + width][mask][0]))
        instances.append(int(instance))
    return (
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(instances, np.int32),
    )


def object_ids() -> tuple[int, ...]:
    """Class numbers of what has boxes, in the order of ``OBJECTS``."""
    return tuple(ID[name] for name in OBJECTS)
