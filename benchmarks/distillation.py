"""Teaching a network with another trunk to answer as a trained one does, on real pictures without labels.

It learns from the teacher's features (Romero et al., FitNets, 2015) and from its answers (Hinton et al., Distilling the
Knowledge in a Neural Network, 2015).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import sharedbb as sb
from sharedbb import nets
from sharedbb.spec.parts import Input
from sharedbb.types import Normalization

Rgb = NDArray[np.uint8]

SEED = 0
RATE, COPIED_RATE, WARM_UP, WEIGHT_DECAY = 2e-3, 4e-4, 0.04, 0.02
STAGES = ((0.0, 16, 160, 256), (0.4, 8, 224, 384), (0.85, 4, 320, 512))
"""(share of the training at which it begins, crops in a batch, their height and width), ascending."""
WEIGHTS = {"features": 2.0, "surface": 1.0, "edges": 0.5, "scores": 0.3, "distances": 0.5, "scene": 0.2}
SURE = 0.2
"""Boxes are compared where the teacher gives some class at least this probability."""
FRAMES_PER_CLIP = 48
LOGGED = 10
"""Steps whose mean losses make one line of the log."""


class Crops:
    """Random crops of real pictures as the pipeline would show them: letterbox scale, give or take, and some bars.

    Half of them are CamVid's, the others come from all clips equally. A step's crops depend on nothing but its number.
    """

    def __init__(self, data: Path, shown: Input) -> None:
        """Raises FileNotFoundError when ``data`` has no ``camvid/train`` or no clips."""
        self.still = read(sorted((data / "camvid" / "train").glob("*.jpg")))
        clips = [path for kind in ("static", "moving") for path in sorted((data / "clips").glob(f"{kind}-*"))]
        self.clips = [sampled(path) for path in clips]
        self.size = shown.network_size
        self.bars = tuple(round(value) for value in shown.normalization.mean)
        if not self.still or not self.clips:
            raise FileNotFoundError(f"{data} must hold camvid/train/*.jpg and clips/static-*, clips/moving-*")

    def batch(self, step: int, count: int, height: int, width: int) -> Tensor:
        """uint8 [count, 3, height, width] RGB."""
        crops = [self._crop(np.random.default_rng((SEED, step, slot)), height, width) for slot in range(count)]
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)

    def _crop(self, rng: np.random.Generator, height: int, width: int) -> Rgb:
        pool = self.still if rng.random() < 0.5 else self.clips[rng.integers(len(self.clips))]
        rgb = pool[rng.integers(len(pool))]
        scale = min(self.size.height / rgb.shape[0], self.size.width / rgb.shape[1]) * rng.uniform(0.8, 1.1)
        across, down = (_corner(rgb.shape[axis] * scale, crop, rng) for axis, crop in ((1, width), (0, height)))
        matrix = np.float32([[scale, 0, -across], [0, scale, -down]])
        if rng.random() < 0.5:
            matrix[0] = (-scale, 0, across + width - 1)
        crop = cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=self.bars)
        gain, shift = rng.uniform(0.8, 1.2) * rng.uniform(0.95, 1.05, 3), rng.uniform(-15, 15)
        return np.clip(crop * gain + shift, 0, 255).astype(np.uint8)


def _corner(extent: float, crop: int, rng: np.random.Generator, margin: float = 32.0) -> float:
    """Where a crop begins in a picture of ``extent`` pixels: it may overhang by ``margin``."""
    return float(rng.uniform(-margin, max(0.0, extent - crop) + margin))


def read(files: Sequence[Path]) -> list[Rgb]:
    """Pictures as HWC uint8 RGB."""
    return [frame.rgb() for frame in sb.open_source(files)] if files else []


def sampled(clip: Path) -> list[Rgb]:
    """About FRAMES_PER_CLIP frames, evenly spaced over the clip."""
    with sb.open_source(clip) as source:
        every = max(1, (source.frames or 0) // FRAMES_PER_CLIP)
        return [frame.rgb() for frame in source if frame.index % every == 0]


def normalized(images: Tensor, normalization: Normalization) -> Tensor:
    """uint8 [N, 3, H, W] to float32 ``(x - mean) / std``, channels last in memory."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (normalization.mean, normalization.std))
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def run(network: nets.MultiHead, images: Tensor) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
    """The neck's maps by stride, and what ``network`` itself returns, both float32; computed in bfloat16."""
    features: dict[int, Tensor] = {}
    assert network.neck is not None
    keep = network.neck.register_forward_hook(lambda _module, _inputs, maps: features.update(maps))
    with torch.autocast("cpu", torch.bfloat16):
        answers = network(images)
    keep.remove()
    return {s: m.float() for s, m in features.items()}, {name: raw.float() for name, raw in answers.items()}


def student_of(teacher: nets.MultiHead, pipeline: sb.Pipeline) -> nets.MultiHead:
    """A network with random trunk and laterals; all else is the teacher's, down to the laterals' batch norms.

    Those norms give every channel the teacher's mean and spread from the first step. Residual branches start at zero
    (Goyal et al., 2017), so that the untrained trunk is a shallow one.
    """
    student = nets.build(pipeline)
    own = student.state_dict()
    copied = {
        name: value
        for name, value in teacher.state_dict().items()
        if not name.startswith("backbone.") and own[name].shape == value.shape
    }
    student.load_state_dict(copied, strict=False)
    for name, module in student.backbone.named_modules():
        if name.endswith(".bn3"):
            assert isinstance(module, nn.BatchNorm2d)
            nn.init.zeros_(module.weight)
    return student.to(memory_format=torch.channels_last)


def learning(student: nets.MultiHead) -> None:
    """Training mode for what starts from random weights; what was copied keeps its norms' statistics."""
    assert student.neck is not None
    student.eval()
    student.backbone.train()
    student.neck.get_submodule("laterals").train()


def distillation_losses(
    learnt: tuple[Mapping[int, Tensor], Mapping[str, Tensor]],
    taught: tuple[Mapping[int, Tensor], Mapping[str, Tensor]],
    spread: Mapping[int, Tensor],
) -> dict[str, Tensor]:
    """How far student is from teacher, by the names in WEIGHTS; each is 0 where they agree.

    ``spread``: stride to the teacher's standard deviation of each channel, [1, C, 1, 1].
    """
    (own, mine), (maps, theirs) = learnt, taught
    levels = [F.mse_loss(own[stride] / spread[stride], maps[stride] / spread[stride]) for stride in maps]
    wanted = theirs["objects.scores"].sigmoid()
    weight = wanted.amax(-1) * (wanted.amax(-1) > SURE)
    sides = theirs["objects.distances"]
    off = (mine["objects.distances"] - sides).abs().mean(-1) / (1 + sides.mean(-1))
    return {
        "features": torch.stack(levels).mean(),
        "surface": _kl(mine["surface.logits"], theirs["surface.logits"]),
        "edges": _kl(mine["edges.logits"], theirs["edges.logits"]),
        "scores": _bce(mine["objects.scores"], wanted).sum() / wanted.sum().clamp(min=1),
        "distances": (off * weight).sum() / weight.sum().clamp(min=1),
        "scene": _bce(mine["scene.logits"], theirs["scene.logits"].sigmoid()).mean(),
    }


def _kl(logits: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence from ``wanted`` [N, C, h, w] (logits), the mean over cells."""
    each = F.kl_div(logits.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True)
    return each.sum(1).mean()


def _bce(logits: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross-entropy, element by element, less what the best answer would leave."""
    least = F.binary_cross_entropy(wanted, wanted, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") - least


@dataclass(slots=True)
class Distillation:
    """A training run of ``minutes``; ``seconds`` counts the processor's time, over ``threads``, so pauses are free."""

    teacher: nets.MultiHead
    student: nets.MultiHead
    normalization: Normalization
    crops: Crops
    minutes: float
    threads: int
    step: int = 0
    seconds: float = 0.0
    pictures: int = 0
    stopped: bool = False
    spread: dict[int, Tensor] = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        named = list(self.student.named_parameters())
        fresh = [p for name, p in named if name.startswith(("backbone.", "neck.laterals."))]
        copied = [p for name, p in named if not name.startswith(("backbone.", "neck.laterals."))]
        groups = [{"params": fresh, "most": RATE}, {"params": copied, "most": COPIED_RATE}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY, fused=True)
        with torch.no_grad():
            maps, _ = run(self.teacher, self._images(32, 224, 384))
        spread = {stride: value.std((0, 2, 3), keepdim=True) for stride, value in maps.items()}
        self.spread = {stride: value.clamp(min=0.1 * float(value.mean())) for stride, value in spread.items()}

    @property
    def progress(self) -> float:
        """Share of the training done, 0–1."""
        return self.seconds / (60 * self.minutes)

    def advance(self) -> dict[str, float]:
        """One update; returns the losses. Raises ValueError when they are not finite."""
        began = time.process_time()
        progress = self.progress
        share = min(1.0, progress / WARM_UP) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = group["most"] * (0.01 + 0.99 * share)
        _, count, height, width = [stage for stage in STAGES if progress >= stage[0]][-1]
        images = self._images(count, height, width)
        with torch.no_grad():
            taught = run(self.teacher, images)
        losses = distillation_losses(run(self.student, images), taught, self.spread)
        total = torch.stack([WEIGHTS[name] * loss for name, loss in losses.items()]).sum()
        if not bool(torch.isfinite(total)):
            raise ValueError(f"the loss is not finite at step {self.step}: {losses}")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.optimizer.step()
        self.step, self.pictures = self.step + 1, self.pictures + count
        self.seconds += (time.process_time() - began) / self.threads
        return {name: loss.item() for name, loss in losses.items()}

    def _images(self, count: int, height: int, width: int) -> Tensor:
        """The crops of this step, as the networks take them."""
        return normalized(self.crops.batch(self.step, count, height, width), self.normalization)

    def train(self, checkpoint: Path, log: Path, every: float = 120.0) -> None:
        """To the end, or until ``stopped``: a checkpoint every ``every`` seconds and last of all.

        ``log`` gets a JSON line of mean losses every LOGGED steps.
        """
        learning(self.student)
        saved, recent = time.monotonic(), []
        with log.open("a") as lines:
            while self.progress < 1 and not self.stopped:
                recent.append(self.advance())
                if len(recent) == LOGGED:
                    means = {name: round(sum(losses[name] for losses in recent) / LOGGED, 4) for name in recent[0]}
                    lines.write(json.dumps({"step": self.step, "minutes": round(self.seconds / 60, 2), **means}) + "\n")
                    lines.flush()
                    recent.clear()
                if time.monotonic() - saved > every:
                    self.save(checkpoint)
                    saved = time.monotonic()
        self.save(checkpoint)

    def save(self, path: Path) -> None:
        """Everything that ``resume`` needs; the file is complete or the old one stays."""
        state = {"student": self.student.state_dict(), "optimizer": self.optimizer.state_dict()}
        fresh = path.with_suffix(".tmp")
        torch.save(state | {"clock": [self.step, self.seconds, self.pictures]}, fresh)
        os.replace(fresh, path)

    def resume(self, path: Path) -> None:
        """Take up where ``save`` left off."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.pictures = state["clock"]
