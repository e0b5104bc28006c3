"""What stands in the street: ground, houses, trees, signs, parked and moving traffic, people; block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from sharedbb.media.synthetic import actors, textures
from sharedbb.media.synthetic.camera import Camera, Plane
from sharedbb.media.synthetic.surfaces import Motion, Surface
from sharedbb.media.synthetic.textures import GROUND_METRES, GROUND_WIDTH, PAVEMENT_HALF, ROAD_HALF, Picture, Random

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "vehicle", "pedestrian", "cyclist"
)  # fmt: skip
ID = {name: position for position, name in enumerate(CLASSES)}
VOID = 11

BLOCK = 24.0  # metres of street that are laid out at a time
SEEN_BLOCKS = 7
CLEAR_HALF = 1.4  # metres to either side of the camera that its clear zone takes
LANE = 1.4  # metres from the middle of the street to that of a lane
LANE_SPEED = 7.0  # metres a second of all traffic, so that nothing in a lane catches up with anything
# Where the ground is cut into bands, metres ahead: each is painted from a texture reduced for its distance.
BANDS = (-2.0, 5.0, 9.0, 16.0, 30.0, 60.0, 120.0, 3000.0)


@dataclass(frozen=True)
class Scene:
    """A street of its own: its seed decides everything in it. ``begin`` is where along it the camera starts."""

    seed: tuple[int, ...]
    begin: float = 0.0

    def surfaces(self, camera: Camera, time: float, clear: float = 0.0) -> list[Surface]:
        """What may be seen from the camera, in painting order: sky, ground, shadows, houses, things by distance.

        Nothing that stands is closer before the camera than ``clear`` metres.
        """
        x, _, z = camera.position
        near = int(np.floor((z - 4.0) / BLOCK))
        standing = [
            surface for block in range(near, near + SEEN_BLOCKS) for surface in _block(self.seed, block, _stamp(block))
        ]
        standing = [surface for surface in standing if not _in_the_way(surface, camera, clear)]
        placed = [
            (surface, _depth_of(surface, camera, time)) for surface in (*standing, *_traffic(self.seed, self.begin))
        ]
        order = {ID["building"]: 1}
        by_distance = sorted(
            placed, key=lambda item: (order.get(item[0].class_id, 2) if not item[0].shade else 0, -item[1])
        )
        return [self._sky(x, camera), *self._ground(z), *(surface for surface, _ in by_distance)]

    def _sky(self, x: float, camera: Camera) -> Surface:
        far, wide, high = 3500.0, 14000.0, 3600.0
        origin = (x - wide / 2, camera.position[1] - high, camera.position[2] + far)
        plane = Plane(origin, (wide, 0, 0), (0, 2 * high, 0))
        return Surface(plane, _look(self.seed).sky, ID["sky"])

    def _ground(self, z: float) -> Iterator[Surface]:
        look = _look(self.seed)
        rows = look.ground.shape[0]
        for start, end in reversed(list(pairwise(BANDS))):
            plane = Plane((-GROUND_WIDTH / 2, 0.0, z + start), (GROUND_WIDTH, 0, 0), (0, 0, end - start))
            offset = (z + start) % GROUND_METRES / GROUND_METRES * rows
            repeat = (offset, (end - start) / GROUND_METRES * rows)
            yield Surface(
                plane, look.ground, ID["road"], classes=look.ground_classes, repeat=repeat, smaller=look.smaller
            )

    @property
    def haze(self) -> tuple[float, float, float]:
        """The colour of distance."""
        return _look(self.seed).haze

    @property
    def visibility(self) -> float:
        """Metres after which a third of a thing's own colour is left."""
        return _look(self.seed).visibility


@dataclass(frozen=True)
class _Look:
    sky: Picture
    ground: Picture
    ground_classes: np.ndarray
    smaller: dict[tuple[int, int], tuple[Picture, Picture | None]]
    haze: tuple[float, float, float]
    visibility: float


@lru_cache(maxsize=4)
def _look(seed: tuple[int, ...]) -> _Look:
    random = np.random.default_rng([*seed, 1])
    ground, pavement = textures.ground(random)
    classes = np.where(pavement[:1], ID["pavement"], ID["road"]).astype(np.uint8)
    grey = random.uniform(195, 228)
    return _Look(textures.sky(random), ground, classes, {}, (grey * 0.97, grey, grey * 1.04), random.uniform(220, 900))


def _in_the_way(surface: Surface, camera: Camera, clear: float) -> bool:
    """Whether something that stands on the ground is right before the camera."""
    x, _, z = surface.centre
    near = -1.0 < z - camera.position[2] < clear and abs(x - camera.position[0]) < CLEAR_HALF
    return near and surface.class_id not in (ID["building"], ID["vehicle"])


def _depth_of(surface: Surface, camera: Camera, time: float) -> float:
    """Distance along the camera's axis of what decides which surface covers which."""
    x, y, z = surface.centre
    if surface.motion is not None:
        lap = surface.motion.lap(time, camera.position[2])
        moved_x, moved_z = surface.motion.offset(time, lap)
        x, z = x + moved_x, z + moved_z
    row = camera.matrix[2]
    return float(row[0] * x + row[1] * y + row[2] * z + row[3])


def _stamp(block: int) -> int:
    """First instance number of a block; 0 is no instance, moving things have the numbers below 1000."""
    return 1000 + (block % 4096) * 64


@lru_cache(maxsize=64)
def _block(seed: tuple[int, ...], block: int, stamp: int) -> tuple[Surface, ...]:
    random = np.random.default_rng([*seed, 2, block & 0xFFFFFFFF])
    made = _Block(random, block * BLOCK, stamp)
    for side in (-1, 1):
        made.houses(side)
        made.greenery(side)
        made.posts(side)
        made.parked(side)
        made.people(side)
    return tuple(made.surfaces)


class _Block:
    """Lays out one block of street."""

    def __init__(self, random: Random, start: float, stamp: int) -> None:
        self.random = random
        self.start = start
        self.surfaces: list[Surface] = []
        self._next = stamp

    def instance(self) -> int:
        """A new instance number."""
        self._next += 1
        return self._next

    def houses(self, side: int) -> None:
        """Fronts side by side; now and then a gap with trees."""
        z, end = self.start, self.start + BLOCK
        while z < end - 3:
            wide = min(float(self.random.uniform(7, 14)), end - z)
            if end - z - wide < 3:
                wide = end - z
            if self.random.random() < 0.12:
                for _ in range(4):
                    self._tree(side * (PAVEMENT_HALF + self.random.uniform(0.5, 4)), z + self.random.uniform(0, wide))
            else:
                high = float(self.random.uniform(6, 17))
                picture = textures.facade(self.random, wide, high)
                x = side * (PAVEMENT_HALF + float(self.random.uniform(0, 0.6)))
                self._put(Plane((x, -high, z), (0, 0, wide), (0, high, 0)), (picture, None), "building")
                self._end_wall(side, x, z, high)
            z += wide

    def _end_wall(self, side: int, x: float, z: float, high: float) -> None:
        """The wall across the street's direction, seen where the next house stands back or is lower."""
        shade = float(self.random.uniform(70, 150))
        wall = np.full((8, 8, 3), shade, np.float32)
        left = x if side > 0 else x - 12
        self._put(Plane((left, -high, z), (12, 0, 0), (0, high, 0)), (wall, None), "building")

    def greenery(self, side: int) -> None:
        """Street trees, and fences along the kerb."""
        if self.random.random() < 0.55:
            for z in np.arange(self.start + 3, self.start + BLOCK, self.random.uniform(7, 12)):
                if self.random.random() < 0.75:
                    self._tree(side * (ROAD_HALF + self.random.uniform(0.7, 1.3)), float(z))
        if self.random.random() < 0.3:
            x, z = side * (PAVEMENT_HALF - 0.4), self.start + self.random.uniform(0, 8)
            plane = Plane((x, -1.1, z), (0, 0, self.random.uniform(8, 15)), (0, 1.1, 0))
            self._put(plane, actors.fence(self.random), "fence")

    def _tree(self, x: float, z: float) -> None:
        high = float(self.random.uniform(4, 8.5))
        self._stand(x, z, high * 0.77, high, actors.tree(self.random), "tree")

    def posts(self, side: int) -> None:
        """Lamp posts, and signs on posts."""
        x = side * (ROAD_HALF + 0.5)
        if self.random.random() < 0.8:
            self._stand(x, self.start + self.random.uniform(2, 20), 0.16, 6.5, actors.pole(self.random), "pole")
        for _ in range(int(self.random.integers(0, 3))):
            z, high = self.start + float(self.random.uniform(1, BLOCK - 1)), float(self.random.uniform(2.4, 3.2))
            self._stand(x, z, 0.09, high, actors.pole(self.random), "pole")
            side_length = float(self.random.uniform(0.65, 1.0))
            plane = Plane(
                (x - side_length / 2, -high - side_length / 2, z - 0.06), (side_length, 0, 0), (0, side_length, 0)
            )
            self._put(plane, actors.board(self.random), "sign", self.instance())

    def parked(self, side: int) -> None:
        """Cars along the kerb."""
        z = self.start + float(self.random.uniform(0, 5))
        while z < self.start + BLOCK - 5:
            if self.random.random() < 0.4:
                x = side * (ROAD_HALF - 0.6)
                self.surfaces.extend(car(self.random, x, z, self.instance(), None, oncoming=side < 0))
            z += float(self.random.uniform(5.5, 8))

    def people(self, side: int) -> None:
        """People who stand about on the pavement."""
        for _ in range(int(self.random.poisson(0.8))):
            x = side * float(self.random.uniform(ROAD_HALF + 1.2, PAVEMENT_HALF - 0.6))
            high = float(self.random.uniform(1.5, 1.9))
            z = self.start + float(self.random.uniform(0, BLOCK))
            self._stand(x, z, high / 2, high, actors.pedestrian(self.random), "pedestrian", self.instance())

    def _stand(
        self, x: float, z: float, wide: float, high: float, look: actors.Cutout, name: str, instance: int = 0
    ) -> None:
        self.surfaces.extend(standing(x, z, (wide, high), look, name, instance, None))

    def _put(self, plane: Plane, look: tuple[Picture, np.ndarray | None], name: str, instance: int = 0) -> None:
        self.surfaces.append(_surface(plane, look, name, instance, None))


def _surface(
    plane: Plane, look: tuple[Picture, np.ndarray | None], name: str, instance: int, motion: Motion | None
) -> Surface:
    picture, mask = look
    alpha = mask.astype(np.float32) if mask is not None else None
    return Surface(plane, picture, ID[name], alpha, instance=instance, motion=motion)


def standing(
    x: float,
    z: float,
    extent: tuple[float, float],
    look: actors.Cutout,
    name: str,
    instance: int,
    motion: Motion | None,
) -> list[Surface]:
    """A cut-out that faces along the street, with its shadow; ``extent`` is width and height in metres."""
    wide, high = extent
    upright = Plane((x - wide / 2, -high, z), (wide, 0, 0), (0, high, 0))
    return [shadow(x, z, wide * 0.9, wide * 0.6, motion), _surface(upright, look, name, instance, motion)]


def shadow(x: float, z: float, wide: float, long: float, motion: Motion | None) -> Surface:
    """A soft dark patch on the ground."""
    y, across = np.mgrid[-1:1:32j, -1:1:32j]
    soft = np.clip(1.15 - np.hypot(y, across), 0, 1).astype(np.float32)
    plane = Plane((x - wide / 2, -0.01, z - long / 2), (wide, 0, 0), (0, 0, long))
    black = np.zeros((32, 32, 3), np.float32)
    return Surface(plane, black, ID["road"], soft, motion=motion, shade=True)


def car(random: Random, x: float, z: float, instance: int, motion: Motion | None, *, oncoming: bool) -> list[Surface]:
    """A car as a box: the end that faces the camera, the side towards the middle, a shadow."""
    tall = bool(random.random() < 0.22)
    wide, long, high = (
        (2.0, 4.9, 2.1) if tall else (1.78, float(random.uniform(3.9, 4.6)), float(random.uniform(1.4, 1.6)))
    )
    paint = actors.pick(random, actors.PAINTS)
    end = actors.car_end(random, paint, front=oncoming)
    picture, mask = actors.car_side(random, paint, tall=tall)
    if oncoming:
        picture, mask = picture[:, ::-1], mask[:, ::-1]
    inner = x - wide / 2 if x > 0 else x + wide / 2
    outside = Plane((inner, -high, z), (0, 0, long), (0, high, 0))
    back = Plane((x - wide / 2, -high, z), (wide, 0, 0), (0, high, 0))
    return [
        shadow(x, z + long / 2, wide * 1.25, long * 1.1, motion),
        _surface(outside, (np.ascontiguousarray(picture), mask), "vehicle", instance, motion),
        _surface(back, end, "vehicle", instance, motion),
    ]


@lru_cache(maxsize=4)
def _traffic(seed: tuple[int, ...], begin: float) -> tuple[Surface, ...]:
    """Everything that moves; nothing of it begins where the camera does."""
    random = np.random.default_rng([*seed, 3])
    moving: list[Surface] = []
    numbers = iter(range(1, 1000))
    for lane, direction in ((LANE, 1), (-LANE, -1)):
        for start in np.arange(12, 138, random.uniform(22, 45)):
            motion = Motion(begin + float(start), direction * LANE_SPEED)
            moving += car(random, lane, 0.0, next(numbers), motion, oncoming=direction < 0)
    for _ in range(int(random.integers(4, 10))):
        side = int(random.choice([-1, 1]))
        x = side * float(random.uniform(ROAD_HALF + 1.4, PAVEMENT_HALF - 0.7))
        motion = Motion(
            begin + float(random.uniform(5, 90)), float(random.choice([-1, 1]) * random.uniform(0.8, 1.6)), 90.0
        )
        high = float(random.uniform(1.5, 1.9))
        moving += standing(x, 0.0, (high / 2, high), actors.pedestrian(random), "pedestrian", next(numbers), motion)
    for _ in range(int(random.integers(1, 4))):
        side = int(random.choice([-1, 1]))
        motion = Motion(begin + float(random.uniform(8, 100)), side * float(random.uniform(3, 5.5)), 110.0)
        x = side * (ROAD_HALF - 1.7)
        moving += standing(x, 0.0, (1.75, 1.75), actors.cyclist(random), "cyclist", next(numbers), motion)
    return tuple(moving)
