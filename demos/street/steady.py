"""Answers that stay when nothing happens: a second view of every crop, as a fixed camera's next frame would show it.

A network that learnt from single pictures answers differently at every frame of a still scene, because of noise alone.
Here it sees each crop twice, clean and with sensor and coding noise, and learns to answer the second as the first
(Zheng et al., Improving the Robustness of Deep Neural Networks via Stability Training, 2016). What is asked for is
sharpened: away from where an answer would flip. Crops without labels take part too; there a frozen copy of the
network, from before, says what to answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor

import sharedbb as sb
from sharedbb.learn.data import Rgb, Sample
from sharedbb.learn.losses import binary_divergence

TEMPERATURE = 0.6  # of what is asked for: below 1, surer than the network is
SCORE_THRESHOLD = 0.4  # of `objects` in pipelines/street.yaml
FRAMES_PER_CLIP = 40
WEIGHTS = {"surface": 1.0, "edges": 0.5, "scores": 0.5, "distances": 0.5, "scene": 0.2}


def unlabelled(clips: Sequence[Path], size: tuple[int, int]) -> list[Sample]:
    """About FRAMES_PER_CLIP frames of every clip, at the scale at which ``size`` (height, width) has them."""
    return [Sample(f"{clip.stem}-{at}", _scaled(rgb, size)) for clip in clips for at, rgb in enumerate(_sampled(clip))]


def _scaled(rgb: Rgb, size: tuple[int, int]) -> Rgb:
    scale = min(size[0] / rgb.shape[0], size[1] / rgb.shape[1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=how).view(np.uint8)


def _sampled(clip: Path) -> list[Rgb]:
    with sb.open_source(clip) as source:
        every = max(1, (source.frames or 0) // FRAMES_PER_CLIP)
        return [frame.rgb() for frame in source if frame.index % every == 0]


def next_frame(rgb: Rgb, rng: np.random.Generator) -> Rgb:
    """The crop as a camera would show it a moment later: noise of 0.5–4 levels, fine or coarse, light, coding."""
    height, width = rgb.shape[:2]
    coarse = int(rng.choice((1, 1, 2, 4)))
    noise = rng.normal(0, math.exp(rng.uniform(-0.7, 1.4)), (-(-height // coarse), -(-width // coarse), 3))
    noise = cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    seen = np.clip(rgb * np.float32(rng.uniform(0.985, 1.015)) + noise + np.float32(rng.uniform(-1.5, 1.5)), 0, 255)
    seen = np.rint(seen).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(35, 96))
        coded = cv2.imencode(".jpg", seen[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        seen = cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1]
    return np.ascontiguousarray(seen)


def steadiness_losses(raw: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How far raw answers are from the sharpened ``wanted`` ones (both as the network returns them), by head.

    Kullback-Leibler divergences of the maps, binary ones of scores and tags, and the boxes' sides where there are any.
    """
    score = _sharpened(wanted["objects.scores"], SCORE_THRESHOLD)
    weight = score.amax(-1) * (score.amax(-1) > SCORE_THRESHOLD / 2)
    sides = wanted["objects.distances"].float()
    off = (raw["objects.distances"].float() - sides).abs().mean(-1) / (1 + sides.mean(-1))
    return {
        "surface": _kl(raw["surface.logits"], wanted["surface.logits"]),
        "edges": _kl(raw["edges.logits"], wanted["edges.logits"]),
        "scores": binary_divergence(raw["objects.scores"], score).sum() / score.sum().clamp(min=1),
        "distances": (off * weight).sum() / weight.sum().clamp(min=1),
        "scene": binary_divergence(raw["scene.logits"], _sharpened(wanted["scene.logits"], 0.5)).mean(),
    }


def _kl(logits: Tensor, wanted: Tensor) -> Tensor:
    each = F.kl_div(
        logits.float().log_softmax(1),
        (wanted.float() / TEMPERATURE).log_softmax(1),
        reduction="none",
        log_target=True,
    )
    return each.sum(1).mean()


def _sharpened(logits: Tensor, threshold: float) -> Tensor:
    """Probabilities that lie farther from ``threshold``, on the same side."""
    middle = math.log(threshold / (1 - threshold))
    return ((logits.float() - middle) / TEMPERATURE + middle).sigmoid()
