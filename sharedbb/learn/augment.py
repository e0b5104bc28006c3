"""From a picture, with labels and distances or without, to a training crop: scale, flip, colour, blur and noise."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.learn.data import Rgb, Sample
from sharedbb.learn.labels import VOID

Affine = NDArray[np.float32]

SCALES = (0.5, 1.0, 2.0)
"""Smallest, usual and largest scale of a training picture, relative to the scale it is asked at."""

BARS = (124, 116, 104)
"""What lies outside the picture half of the time: the grey of letterbox bars under ImageNet's normalization."""


def training_crop(
    sample: Sample, crop: tuple[int, int], rng: np.random.Generator, scale: tuple[float, float] = (1.0, 1.0)
) -> Sample:
    """A random crop of ``crop`` (height, width) of the picture, scaled, flipped half of the time, colours changed.

    ``scale`` (along x, along y) is the usual one, that of the network's input; it is varied by SCALES. What lies
    outside the picture is unknown, in one colour: that of letterbox bars, or any grey. Distances shrink by as much as
    things grow beyond their usual scale. Labels and distances that the sample lacks stay None.
    """
    matrix, scaled = _placing((sample.rgb.shape[0], sample.rgb.shape[1]), crop, rng, scale)
    size = (crop[1], crop[0])
    fill = BARS if rng.random() < 0.5 else (int(rng.integers(0, 256)),) * 3
    rgb = _photometric(_warp(sample.rgb, matrix, size, fill, halve=scaled < 0.7), rng)
    labels = depth = None
    if sample.labels is not None:
        labels = cv2.warpAffine(sample.labels, matrix, size, flags=cv2.INTER_NEAREST, borderValue=VOID).view(np.uint8)
    if sample.depth is not None:
        metres = sample.depth * np.float32(math.sqrt(scale[0] * scale[1]) / scaled)
        depth = cv2.warpAffine(metres, matrix, size, flags=cv2.INTER_NEAREST, borderValue=math.nan).view(np.float32)
    return Sample(sample.name, rgb, labels, depth)


def _placing(
    source: tuple[int, int], crop: tuple[int, int], rng: np.random.Generator, usual: tuple[float, float]
) -> tuple[Affine, float]:
    """Where the picture (height, width) lies in the crop, as an affine matrix [2, 3], and at which scale on average."""
    low, mode, high = (math.log(scale) for scale in SCALES)
    zoom, stretch = math.exp(rng.triangular(low, mode, high)), math.exp(rng.uniform(-0.1, 0.1))
    scale_x, scale_y = usual[0] * zoom * stretch, usual[1] * zoom / stretch
    left, top = _corner(source[1] * scale_x, crop[1], rng), _corner(source[0] * scale_y, crop[0], rng)
    matrix = np.array([[scale_x, 0, -left], [0, scale_y, -top]], np.float32)
    if rng.random() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += crop[1] - 1
    return matrix, math.sqrt(scale_x * scale_y)


def _corner(extent: float, crop: int, rng: np.random.Generator) -> float:
    """Where the crop begins in the scaled picture: anywhere inside it, or around it when it is smaller."""
    return float(rng.uniform(min(0.0, extent - crop), max(0.0, extent - crop)))


def _warp(rgb: Rgb, matrix: Affine, size: tuple[int, int], fill: tuple[int, ...], halve: bool) -> Rgb:
    """Bilinear; ``halve`` averages 2×2 pixels first, so that strong reductions do not alias."""
    if halve:
        rgb = cv2.resize(rgb, (rgb.shape[1] // 2, rgb.shape[0] // 2), interpolation=cv2.INTER_AREA).view(np.uint8)
        matrix = np.column_stack((matrix[:, :2] * 2, matrix[:, 2] + matrix[:, :2].sum(axis=1) / 2))
    return cv2.warpAffine(rgb, matrix, size, flags=cv2.INTER_LINEAR, borderValue=fill).view(np.uint8)


def _photometric(rgb: Rgb, rng: np.random.Generator) -> Rgb:
    """Brightness, contrast, saturation, white balance and gamma; sometimes blur, noise or grey.

    All but the last two are one table and one 4×3 matrix for all pixels.
    """
    gamma = math.exp(rng.uniform(-0.4, 0.4)) if rng.random() < 0.4 else 1.0
    table = (np.arange(256, dtype=np.float32) / 255) ** np.float32(gamma)
    saturation = 0.0 if rng.random() < 0.03 else rng.uniform(0.5, 1.5)
    contrast, light, white = rng.uniform(0.7, 1.3), rng.uniform(-0.12, 0.12), rng.uniform(0.92, 1.08, 3)
    grey = np.array([0.299, 0.587, 0.114])
    mixed = saturation * np.eye(3) + (1 - saturation) * grey
    matrix = np.column_stack((contrast * mixed, np.full(3, 0.45 * (1 - contrast) + light))) * white[:, None] * 255
    seen = cv2.transform(cv2.LUT(rgb, table), matrix.astype(np.float32))
    if rng.random() < 0.2:
        seen = cv2.GaussianBlur(seen, (0, 0), rng.uniform(0.4, 1.4))
    if rng.random() < 0.2:
        noise = rng.standard_normal(seen.shape, np.float32)
        seen = seen + noise * np.float32(255 * rng.uniform(0.005, 0.03))
    return cv2.convertScaleAbs(np.maximum(seen, 0)).view(np.uint8)
