"""What surfaces look like: noise, ground, facades, sky; all from a seeded generator, RGB float 0–255."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Random = np.random.Generator
Picture = NDArray[Any]  # float32

GROUND_METRES = 48.0  # the ground repeats after so many metres along the street
GROUND_WIDTH = 40.0
ROAD_HALF, PAVEMENT_HALF = 4.2, 8.5  # metres from the middle of the street to kerb and to the facades
PIXELS_PER_METRE = 28


def rgb(values: Sequence[float] | NDArray[Any]) -> Picture:
    """A colour as a float32 array."""
    return np.asarray(values, np.float32)


def noise(random: Random, height: int, width: int, octaves: int = 5, *, first: int = 4) -> Picture:
    """Smooth noise of several scales, about −1 to 1, [height, width]."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = first * 2**octave
        if cells > max(height, width):
            break
        grid = random.normal(size=(min(cells, height), min(cells, width))).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return total / 2


def tinted(level: Picture, color: Sequence[float] | NDArray[Any]) -> Picture:
    """A grey picture of levels around 0 as variations of a colour."""
    return rgb(np.clip(rgb(color) * (1 + level[..., None]), 0, 255))


def ground(random: Random) -> tuple[Picture, NDArray[np.uint8]]:
    """Road with markings, kerbs and pavements: colours [z, x, 3] and whether it is pavement [z, x]."""
    height, width = int(GROUND_METRES * PIXELS_PER_METRE), int(GROUND_WIDTH * PIXELS_PER_METRE)
    shade = random.uniform(70, 120)
    x = (np.arange(width) + 0.5) / PIXELS_PER_METRE - GROUND_WIDTH / 2
    pavement = np.broadcast_to(np.abs(x) > ROAD_HALF, (height, width))
    fine = random.normal(scale=0.07, size=(height, width)).astype(np.float32)
    patches = noise(random, height, width, 4) * 0.09
    picture = tinted(fine + _periodic(patches), (shade, shade, shade * random.uniform(0.96, 1.08)))
    slabs = tinted(fine * 0.7 + _slabs(random, height, width), (shade * 1.45, shade * 1.4, shade * 1.32))
    picture[pavement] = slabs[pavement]
    for side in (-1, 1):
        _stripe(picture, side * ROAD_HALF, 0.16, 0, 1, 175)  # kerb
        _stripe(picture, side * (ROAD_HALF - 0.35), 0.1, 0, 1, 190)
    for start in np.arange(0, GROUND_METRES, 6):
        _stripe(picture, 0.0, 0.13, start / GROUND_METRES, (start + 3) / GROUND_METRES, 225)
    for _ in range(random.integers(3, 8)):
        centre = (int(random.uniform(0.4, 0.6) * width), int(random.uniform(0, 1) * height))
        axes = (int(random.uniform(5, 18)), int(random.uniform(8, 40)))
        cv2.ellipse(picture, centre, axes, 0, 0, 360, (shade * 0.72,) * 3, cv2.FILLED, cv2.LINE_AA)
    if random.random() < 0.5:
        _crossing(picture, random.uniform(4, GROUND_METRES - 8))
    return picture, pavement.astype(np.uint8)


def _periodic(level: Picture) -> Picture:
    """Faded at both ends along z, so that the repeat shows no seam."""
    height = level.shape[0]
    fade = np.clip(np.minimum(np.arange(height), height - np.arange(height)) / (height / 8), 0, 1)
    return rgb(level * fade[:, None])


def _slabs(random: Random, height: int, width: int) -> Picture:
    side = int(0.8 * PIXELS_PER_METRE)
    tones = random.normal(scale=0.05, size=(height // side + 1, width // side + 1)).astype(np.float32)
    level = tones.repeat(side, 0).repeat(side, 1)[:height, :width]
    level[::side] -= 0.22
    level[:, ::side] -= 0.22
    return level


def _stripe(picture: Picture, x: float, width: float, start: float, end: float, level: float) -> None:
    rows = slice(int(start * picture.shape[0]), int(end * picture.shape[0]))
    left, right = (int((x + half + GROUND_WIDTH / 2) * PIXELS_PER_METRE) for half in (-width / 2, width / 2))
    picture[rows, left : right + 1] = 0.25 * picture[rows, left : right + 1] + 0.75 * level


def _crossing(picture: Picture, z: float) -> None:
    start, end = z / GROUND_METRES, (z + 3) / GROUND_METRES
    for x in np.arange(-ROAD_HALF + 0.7, ROAD_HALF - 0.3, 1.0):
        _stripe(picture, float(x), 0.5, start, end, 220)


def facade(random: Random, metres_wide: float, metres_high: float) -> Picture:
    """A house's front: wall, rows of windows, a ground floor with door or shop."""
    scale = 18
    height, width = int(metres_high * scale), int(metres_wide * scale)
    base = rgb(random.choice(WALLS)) * random.uniform(0.75, 1.1)
    level = noise(random, height, width, 5) * 0.07 + random.normal(scale=0.03, size=(height, width))
    picture = tinted(level.astype(np.float32), base)
    if random.random() < 0.5:
        picture[:: random.integers(5, 9)] *= 0.9
    storey = int(random.uniform(2.8, 3.4) * scale)
    column = int(random.uniform(1.9, 3.2) * scale)
    glass = rgb([random.uniform(35, 95), random.uniform(50, 110), random.uniform(70, 135)])
    frame = rgb(random.choice([(235, 235, 230), (90, 70, 55), (60, 62, 66)]))
    wide, tall = int(column * random.uniform(0.38, 0.6)), int(storey * random.uniform(0.45, 0.62))
    for top in range(height - 2 * storey, int(0.4 * scale), -storey):
        for left in range((width % column) // 2 + (column - wide) // 2, width - wide, column):
            _window(random, picture[top : top + tall, left : left + wide], glass, frame)
    _ground_floor(random, picture[height - storey :], glass)
    picture[: max(2, int(0.35 * scale))] *= random.uniform(0.6, 1.25)
    return np.clip(picture, 0, 255)


WALLS = (
    (190, 165, 140),
    (150, 88, 70),
    (205, 200, 190),
    (120, 115, 110),
    (165, 140, 105),
    (175, 185, 190),
    (98, 84, 78),
)


def _window(random: Random, pane: Picture, glass: Picture, frame: Picture) -> None:
    if pane.shape[0] < 6 or pane.shape[1] < 6:
        return
    pane[...] = frame
    sky = np.linspace(1.5, 0.8, pane.shape[0] - 4, dtype=np.float32)[:, None, None]
    pane[2:-2, 2:-2] = np.clip(glass * sky * random.uniform(0.7, 1.35), 0, 255)
    pane[:, pane.shape[1] // 2] = frame
    if random.random() < 0.3:
        pane[2 : int(pane.shape[0] * random.uniform(0.3, 0.8)), 2:-2] = (215, 205, 190)


def _ground_floor(random: Random, picture: Picture, glass: Picture) -> None:
    height, width = picture.shape[:2]
    if random.random() < 0.45:  # a shop with an awning
        picture[int(height * 0.35) : int(height * 0.95), int(width * 0.06) : int(width * 0.94)] = glass * 0.9
        picture[int(height * 0.15) : int(height * 0.36)] = random.uniform(40, 220, 3)
        return
    door = int(random.uniform(0.1, 0.7) * width)
    picture[int(height * 0.25) :, door : door + max(6, int(0.09 * width))] = random.uniform(25, 110, 3)


def sky(random: Random) -> Picture:
    """From the zenith (top) down past the horizon (middle): gradient and clouds."""
    height, width = 256, 1024
    zenith = rgb([random.uniform(80, 150), random.uniform(130, 180), random.uniform(190, 240)])
    horizon = rgb([225, 230, 236]) * random.uniform(0.88, 1.05)
    down = np.clip(np.linspace(0, 2, height, dtype=np.float32), 0, 1)[:, None, None] ** 0.7
    picture = np.broadcast_to(zenith + (horizon - zenith) * down, (height, width, 3)).astype(np.float32)
    cover = np.clip(noise(random, height, width, 6, first=3) * 1.4 + random.uniform(-0.3, 0.6), 0, 1)[..., None]
    white = rgb([244, 245, 248]) * random.uniform(0.85, 1.02)
    return np.clip(picture + (white - picture) * cover * 0.85, 0, 255)
