"""From a labelled picture to a training crop: scale, crop, flip, colour, blur and noise, all from one generator."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from street.labels import VOID, LabelMap
from street.pictures import Labelled, Rgb

SCALES = (0.5, 1.1, 2.0)
BARS = (124, 116, 104)


def training_crop(sample: Labelled, crop: tuple[int, int], rng: np.random.Generator) -> tuple[Rgb, LabelMap]:
    """A random crop of ``crop`` (height, width) of the picture scaled by 0.5–2 and flipped half of the time.

    Returns HWC uint8 and HW uint8. What lies outside the picture is void, in one colour: that of letterbox bars, or
    any grey.
    """
    low, usual, high = (math.log(scale) for scale in SCALES)
    scale = math.exp(rng.triangular(low, usual, high))
    stretch = math.exp(rng.uniform(-0.1, 0.1))
    height, width = sample.labels.shape
    scale_x, scale_y = scale * stretch, scale / stretch
    matrix = np.float32(
        [
            [scale_x, 0, -_corner(width * scale_x, crop[1], rng)],
            [0, scale_y, -_corner(height * scale_y, crop[0], rng)],
        ]
    )
    if rng.random() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += crop[1] - 1
    size = (crop[1], crop[0])
    fill = BARS if rng.random() < 0.5 else (int(rng.integers(0, 256)),) * 3
    rgb = _warp(sample.rgb, matrix, size, fill, halve=scale < 0.7)
    labels = cv2.warpAffine(sample.labels, matrix, size, flags=cv2.INTER_NEAREST, borderValue=VOID)
    return _photometric(rgb, rng), labels


def _corner(extent: float, crop: int, rng: np.random.Generator) -> float:
    """Where the crop begins in the scaled picture: anywhere inside it, or around it when it is smaller."""
    return float(rng.uniform(min(0.0, extent - crop), max(0.0, extent - crop)))


def _warp(rgb: Rgb, matrix: NDArray[np.float32], size: tuple[int, int], fill: tuple[int, ...], halve: bool) -> Rgb:
    """Bilinear; ``halve`` averages 2×2 pixels first, so that strong reductions do not alias."""
    if halve:
        rgb = cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA)
        matrix = np.column_stack((matrix[:, :2] * 2, matrix[:, 2] + matrix[:, :2].sum(axis=1) / 2))
    return cv2.warpAffine(rgb, matrix, size, flags=cv2.INTER_LINEAR, borderValue=fill)


def _photometric(rgb: Rgb, rng: np.random.Generator) -> Rgb:
    """Brightness, contrast, saturation, white balance and gamma; sometimes blur, noise or grey."""
    x = rgb.astype(np.float32) / 255
    if rng.random() < 0.4:
        x = np.power(x, np.float32(math.exp(rng.uniform(-0.4, 0.4))))
    grey = x @ np.float32([0.299, 0.587, 0.114])
    saturation = 0.0 if rng.random() < 0.03 else rng.uniform(0.5, 1.5)
    x = grey[..., None] + (x - grey[..., None]) * np.float32(saturation)
    x = (x - 0.45) * np.float32(rng.uniform(0.7, 1.3)) + np.float32(0.45 + rng.uniform(-0.12, 0.12))
    x = x * np.float32(rng.uniform(0.92, 1.08, 3))
    if rng.random() < 0.2:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.4))
    if rng.random() < 0.2:
        x = x + rng.normal(0, rng.uniform(0.005, 0.03), x.shape).astype(np.float32)
    return np.clip(x * 255, 0, 255).astype(np.uint8)
