"""From a picture, with labels and distances or without, to a training crop: scale, flip, colour, blur and noise."""

from __future__ import annotations

import math

import cv2
import numpy as np

from sharedbb.learn.data import Rgb, Sample
from sharedbb.learn.known import Objects
from sharedbb.learn.labels import VOID
from sharedbb.learn.warp import Warp

SCALES = (0.5, 1.0, 2.0)
"""Smallest, usual and largest scale of a training picture, relative to the scale it is asked at."""

HALVED_BELOW = 0.7
"""Scale under which a picture is halved before it is warped."""

BARS = (124, 116, 104)
"""What lies outside the picture half of the time: the grey of letterbox bars under ImageNet's normalization."""


def training_crop(
    sample: Sample, crop: tuple[int, int], rng: np.random.Generator, scale: tuple[float, float] = (1.0, 1.0)
) -> Sample:
    """A random crop of ``crop`` (height, width) of the picture, scaled, flipped half of the time, colours changed.

    ``scale`` (along x, along y) is the usual one, that of the network's input; it is varied by SCALES. What lies
    outside the picture is unknown, in one colour: that of letterbox bars, or any grey. Distances shrink by as much as
    things grow beyond their usual scale. What the sample lacks stays None.
    """
    warp = _placing((sample.rgb.shape[0], sample.rgb.shape[1]), crop, rng, scale)
    fill = BARS if rng.random() < 0.5 else (int(rng.integers(0, 256)),) * 3
    rgb = _photometric(_seen(sample.rgb, warp, fill), rng)
    return Sample(
        sample.name,
        rgb,
        None if sample.labels is None else warp.classes(sample.labels, VOID),
        None if sample.depth is None else warp.distances(sample.depth),
        None if sample.boxes is None else Objects(sample.boxes).warped(warp).boxes,
        {head: known.warped(warp) for head, known in sample.known.items()},
    )


def _placing(
    source: tuple[int, int], crop: tuple[int, int], rng: np.random.Generator, usual: tuple[float, float]
) -> Warp:
    """Where the picture (height, width) lies in the crop."""
    low, mode, high = (math.log(scale) for scale in SCALES)
    zoom, stretch = math.exp(rng.triangular(low, mode, high)), math.exp(rng.uniform(-0.1, 0.1))
    scale_x, scale_y = usual[0] * zoom * stretch, usual[1] * zoom / stretch
    left, top = _corner(source[1] * scale_x, crop[1], rng), _corner(source[0] * scale_y, crop[0], rng)
    matrix = np.array([[scale_x, 0, -left], [0, scale_y, -top]], np.float32)
    if rng.random() < 0.5:
        matrix[0] = -matrix[0]
        matrix[0, 2] += crop[1] - 1
    return Warp(matrix, source, crop, math.sqrt(scale_x * scale_y / (usual[0] * usual[1])))


def _corner(extent: float, crop: int, rng: np.random.Generator) -> float:
    """Where the crop begins in the scaled picture: anywhere inside it, or around it when it is smaller."""
    return float(rng.uniform(min(0.0, extent - crop), max(0.0, extent - crop)))


def _seen(rgb: Rgb, warp: Warp, fill: tuple[int, ...]) -> Rgb:
    """Bilinear; 2×2 pixels are averaged before strong reductions, so that they do not alias."""
    matrix, size = warp.matrix, (warp.size[1], warp.size[0])
    if math.sqrt(abs(matrix[0, 0] * matrix[1, 1])) < HALVED_BELOW:
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
