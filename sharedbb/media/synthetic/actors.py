"""Cut-out pictures of what stands and moves in a street: RGB float 0–255 and where they are not transparent."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.media.synthetic.textures import Picture, Random, noise, rgb, tinted

Cutout = tuple[Picture, NDArray[np.bool_]]
Color = tuple[float, float, float]

PAINTS: tuple[Color, ...] = (
    (30, 32, 36),
    (205, 208, 212),
    (235, 236, 238),
    (120, 124, 130),
    (140, 25, 28),
    (28, 50, 110),
    (35, 75, 60),
    (190, 160, 40),
)
CLOTHES: tuple[Color, ...] = (
    (35, 38, 48),
    (60, 78, 120),
    (140, 40, 45),
    (210, 205, 195),
    (45, 90, 60),
    (190, 150, 60),
    (90, 60, 110),
    (230, 120, 40),
)
SKIN: tuple[Color, ...] = ((235, 200, 175), (200, 155, 120), (140, 95, 70), (90, 60, 45))


def _blank(height: int, width: int) -> tuple[Picture, NDArray[np.uint8]]:
    return np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.uint8)


def _shape(picture: Picture, mask: NDArray[np.uint8], points: list[tuple[float, float]], color: Color) -> None:
    """A filled polygon; points are shares of width and height."""
    height, width = mask.shape
    corners = np.array([(x * width, y * height) for x, y in points], np.int32)
    cv2.fillPoly(picture, [corners], color)
    cv2.fillPoly(mask, [corners], 1)


def _disc(
    picture: Picture, mask: NDArray[np.uint8], x: float, y: float, size: tuple[float, float], color: Color
) -> None:
    height, width = mask.shape
    centre, axes = (int(x * width), int(y * height)), (int(size[0] * width), int(size[1] * height))
    cv2.ellipse(picture, centre, axes, 0, 0, 360, color, cv2.FILLED)
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 1, cv2.FILLED)


def _limb(
    picture: Picture,
    mask: NDArray[np.uint8],
    start: tuple[float, float],
    end: tuple[float, float],
    wide: float,
    color: Color,
) -> None:
    height, width = mask.shape
    one, other = ((int(x * width), int(y * height)) for x, y in (start, end))
    thickness = max(2, int(wide * width))
    cv2.line(picture, one, other, color, thickness)
    cv2.line(mask, one, other, 1, thickness)


def _worn(random: Random, picture: Picture, mask: NDArray[np.uint8], strength: float = 0.06) -> Cutout:
    """Light from above and a little unevenness, so that no surface is of one colour."""
    height, width = mask.shape
    light = np.linspace(1.12, 0.86, height, dtype=np.float32)[:, None]
    level = light * (1 + strength * noise(random, height, width, 4))
    return np.clip(picture * level[..., None], 0, 255).astype(np.float32), mask.astype(bool)


def pick(random: Random, colors: tuple[Color, ...]) -> Color:
    """One of the colours, a little lighter or darker."""
    red, green, blue = np.clip(rgb(colors[random.integers(len(colors))]) * random.uniform(0.85, 1.15), 0, 255).tolist()
    return red, green, blue


def car_end(random: Random, paint: Color, *, front: bool) -> Cutout:
    """A car seen from the front or back."""
    picture, mask = _blank(150, 180)
    dark = (28.0, 30.0, 34.0)
    _shape(picture, mask, [(0.03, 0.45), (0.16, 0.4), (0.84, 0.4), (0.97, 0.45), (0.98, 0.85), (0.02, 0.85)], paint)
    _shape(picture, mask, [(0.16, 0.42), (0.25, 0.06), (0.75, 0.06), (0.84, 0.42)], paint)
    glass = (70.0, 88.0, 104.0) if front else (45.0, 56.0, 68.0)
    _shape(picture, mask, [(0.2, 0.4), (0.28, 0.11), (0.72, 0.11), (0.8, 0.4)], glass)
    for side in (0.05, 0.8):
        _shape(picture, mask, [(side, 0.8), (side + 0.15, 0.8), (side + 0.15, 1.0), (side, 1.0)], dark)
    lamp = (248.0, 246.0, 225.0) if front else (205.0, 32.0, 30.0)
    for side in (0.07, 0.8):
        _shape(picture, mask, [(side, 0.5), (side + 0.14, 0.5), (side + 0.14, 0.6), (side, 0.6)], lamp)
    _shape(picture, mask, [(0.36, 0.66), (0.64, 0.66), (0.64, 0.74), (0.36, 0.74)], (225.0, 225.0, 218.0))
    _shape(picture, mask, [(0.02, 0.8), (0.98, 0.8), (0.96, 0.88), (0.04, 0.88)], dark)
    return _worn(random, picture, mask)


def car_side(random: Random, paint: Color, *, tall: bool) -> Cutout:
    """A car or van seen from the side, its nose to the right."""
    picture, mask = _blank(150, 430)
    dark = (26.0, 27.0, 30.0)
    roof = 0.02 if tall else 0.08
    back = 0.03 if tall else 0.2
    _shape(picture, mask, [(0.0, 0.45), (1.0, 0.5), (1.0, 0.84), (0.0, 0.84)], paint)
    _shape(picture, mask, [(back - 0.02, 0.48), (back + 0.03, roof), (0.62, roof), (0.78, 0.48)], paint)
    glass = (58.0, 72.0, 86.0)
    windows = [(0.5, 0.6)] if tall else [(back + 0.05, 0.4), (0.43, 0.6)]
    for left, right in windows:
        slant = 0.12 if right == 0.6 else 0.0
        _shape(
            picture,
            mask,
            [(left, 0.44), (left + 0.02, roof + 0.07), (right, roof + 0.07), (right + slant, 0.44)],
            glass,
        )
    for x in (0.19, 0.8):
        _disc(picture, mask, x, 0.82, (0.078, 0.18), dark)
        _disc(picture, mask, x, 0.82, (0.045, 0.1), (150.0, 152.0, 156.0))
    _shape(picture, mask, [(0.97, 0.55), (1.0, 0.55), (1.0, 0.62), (0.97, 0.62)], (245.0, 240.0, 215.0))
    _shape(picture, mask, [(0.0, 0.53), (0.02, 0.53), (0.02, 0.63), (0.0, 0.63)], (200.0, 30.0, 30.0))
    return _worn(random, picture, mask)


def pedestrian(random: Random) -> Cutout:
    """Somebody on foot, mid-step."""
    picture, mask = _blank(180, 90)
    coat, trousers, skin = pick(random, CLOTHES), pick(random, CLOTHES), pick(random, SKIN)
    step = random.uniform(0.06, 0.24)
    _limb(picture, mask, (0.46, 0.5), (0.5 - step, 0.96), 0.15, trousers)
    _limb(picture, mask, (0.54, 0.5), (0.5 + step, 0.96), 0.15, trousers)
    _shape(picture, mask, [(0.32, 0.2), (0.68, 0.2), (0.66, 0.56), (0.34, 0.56)], coat)
    swing = random.uniform(0.05, 0.16)
    _limb(picture, mask, (0.33, 0.24), (0.3 - swing, 0.5), 0.11, coat)
    _limb(picture, mask, (0.67, 0.24), (0.7 + swing, 0.5), 0.11, coat)
    _disc(picture, mask, 0.5, 0.1, (0.13, 0.082), skin)
    hair = pick(random, ((40, 30, 25), (90, 65, 40), (170, 150, 110), (120, 120, 122)))
    _shape(picture, mask, [(0.37, 0.1), (0.38, 0.035), (0.5, 0.01), (0.62, 0.035), (0.63, 0.1), (0.5, 0.06)], hair)
    if random.random() < 0.4:
        _shape(picture, mask, [(0.66, 0.42), (0.9, 0.42), (0.88, 0.58), (0.68, 0.58)], pick(random, CLOTHES))
    return _worn(random, picture, mask)


def cyclist(random: Random) -> Cutout:
    """Somebody on a bicycle, from the side, riding to the right."""
    picture, mask = _blank(180, 180)
    coat, trousers, skin, frame = (
        pick(random, CLOTHES),
        pick(random, CLOTHES),
        pick(random, SKIN),
        pick(random, PAINTS),
    )
    for x in (0.22, 0.78):
        cv2.ellipse(picture, (int(x * 180), 143), (34, 34), 0, 0, 360, (30, 30, 32), 5)
        cv2.ellipse(mask, (int(x * 180), 143), (34, 34), 0, 0, 360, 1, 5)
    for start, end in (
        ((0.22, 0.8), (0.42, 0.5)),
        ((0.42, 0.5), (0.72, 0.48)),
        ((0.72, 0.48), (0.78, 0.8)),
        ((0.47, 0.8), (0.72, 0.48)),
    ):
        _limb(picture, mask, start, end, 0.028, frame)
    _limb(picture, mask, (0.4, 0.48), (0.56, 0.62), 0.075, trousers)
    _limb(picture, mask, (0.56, 0.62), (0.48, 0.84), 0.065, trousers)
    _shape(picture, mask, [(0.34, 0.46), (0.44, 0.5), (0.66, 0.24), (0.54, 0.17)], coat)
    _limb(picture, mask, (0.6, 0.25), (0.74, 0.44), 0.055, coat)
    _disc(picture, mask, 0.63, 0.1, (0.062, 0.075), skin)
    _shape(picture, mask, [(0.56, 0.08), (0.6, 0.02), (0.68, 0.02), (0.71, 0.08)], pick(random, CLOTHES))
    return _worn(random, picture, mask)


def tree(random: Random) -> Cutout:
    """Trunk and crown; the crown's outline is noise."""
    height, width = 220, 170
    picture, mask = _blank(height, width)
    _shape(picture, mask, [(0.47, 0.5), (0.53, 0.5), (0.55, 1.0), (0.45, 1.0)], (82.0, 66.0, 52.0))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    round_ = ((x / width - 0.5) / 0.46) ** 2 + ((y / height - 0.34) / 0.34) ** 2
    rough = noise(random, height, width, 6, first=5)
    crown = round_ + 0.55 * rough < 0.85
    leaves = rgb([random.uniform(45, 95), random.uniform(85, 125), random.uniform(35, 60)])
    grain = noise(random, height, width, 7, first=8) * 0.5 + random.normal(scale=0.12, size=(height, width))
    green = tinted((grain + 0.35 - 0.6 * y / height).astype(np.float32), leaves)
    picture[crown], mask[crown] = green[crown], 1
    return _worn(random, picture, mask, 0.12)


def board(random: Random) -> Cutout:
    """A traffic sign's board: disc, triangle or rectangle."""
    picture, mask = _blank(64, 64)
    kind = random.integers(4)
    if kind == 0:
        _disc(picture, mask, 0.5, 0.5, (0.47, 0.47), (200.0, 28.0, 30.0))
        _disc(picture, mask, 0.5, 0.5, (0.34, 0.34), (240.0, 240.0, 238.0))
    elif kind == 1:
        _shape(picture, mask, [(0.5, 0.03), (0.98, 0.92), (0.02, 0.92)], (202.0, 30.0, 30.0))
        _shape(picture, mask, [(0.5, 0.24), (0.79, 0.81), (0.21, 0.81)], (242.0, 242.0, 236.0))
    elif kind == 2:
        _disc(picture, mask, 0.5, 0.5, (0.47, 0.47), (28.0, 82.0, 170.0))
        _shape(picture, mask, [(0.45, 0.2), (0.55, 0.2), (0.55, 0.8), (0.45, 0.8)], (240.0, 240.0, 240.0))
    else:
        _shape(
            picture,
            mask,
            [(0.05, 0.2), (0.95, 0.2), (0.95, 0.8), (0.05, 0.8)],
            pick(random, ((30, 100, 60), (30, 80, 160), (245, 200, 40))),
        )
        for row in (0.35, 0.55):
            _shape(
                picture, mask, [(0.15, row), (0.8, row), (0.8, row + 0.07), (0.15, row + 0.07)], (240.0, 240.0, 240.0)
            )
    return _worn(random, picture, mask, 0.03)


def pole(random: Random) -> Cutout:
    """A lamp post or sign post."""
    picture, mask = _blank(256, 8)
    grey = random.uniform(60, 150)
    picture[...] = rgb([grey, grey, grey * 1.03]) * rgb([0.7, 0.9, 1.1, 1.2, 1.1, 0.95, 0.8, 0.65])[:, None]
    mask[...] = 1
    return _worn(random, picture, mask)


def fence(random: Random) -> Cutout:
    """Rails and pickets, open between."""
    picture, mask = _blank(64, 512)
    color = pick(random, ((60, 62, 60), (150, 150, 150), (110, 80, 55), (225, 225, 220)))
    spacing = int(random.integers(9, 18))
    for left in range(0, 512, spacing):
        picture[:, left : left + 3], mask[:, left : left + 3] = color, 1
    for top in (5, 50):
        picture[top : top + 5], mask[top : top + 5] = color, 1
    if random.random() < 0.4:
        picture[8:], mask[8:] = rgb(color) * 0.9, 1
    return _worn(random, picture, mask)
