"""One training run: network, averaged weights, optimizer, clock; saved and resumed as one file without pickle."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sharedbb.learn.batches import Batch
from sharedbb.learn.distillation import parts_of
from sharedbb.learn.judge import normalized
from sharedbb.learn.precision import mixed
from sharedbb.types import Normalization
from street import steady
from street.batches import Mix
from street.steady import steadiness_losses
from street.workers import Team

LONGEST_STEP = 20.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides how training goes. ``steps`` or ``minutes`` of work end it; ``steps`` wins if given.

    ``crops``: (share of the training at which it begins, height, width), ascending. ``overlap``: weight of IoU in what
    `surface` learns. ``steady``: weight of the losses that keep answers still under noise; above 0, every crop is seen
    twice.
    """

    minutes: float = 60.0
    steps: int | None = None
    batch: int = 8
    crops: tuple[tuple[float, int, int], ...] = ((0.0, 224, 320), (0.6, 288, 384), (0.85, 352, 480))
    lr: float = 2e-3
    weight_decay: float = 0.04
    warm_up: float = 0.03
    averaging: float = 0.998
    synthetic: float = 0.25
    overlap: float = 0.0
    steady: float = 0.0
    bf16: bool = True
    seed: int = 0

    def crop(self, progress: float) -> tuple[int, int]:
        """Height and width of the crops at ``progress`` in 0–1."""
        return [(height, width) for begin, height, width in self.crops if progress >= begin][-1]

    def rate(self, progress: float) -> float:
        """Learning rate at ``progress`` in 0–1: a linear warm-up, then half a cosine."""
        if progress < self.warm_up:
            return self.lr * (0.02 + 0.98 * progress / self.warm_up)
        return self.lr * (0.005 + 0.995 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


@dataclass(slots=True)
class Clock:
    """Steps done and seconds worked; a step counts for LONGEST_STEP seconds at most, so pauses cost no schedule."""

    step: int = 0
    seconds: float = 0.0

    def progress(self, recipe: Recipe) -> float:
        """Share of the training done, 0–1."""
        if recipe.steps is not None:
            return self.step / recipe.steps
        return self.seconds / (60 * recipe.minutes)

    def tick(self, seconds: float) -> None:
        """One more step, which took ``seconds`` on the wall."""
        self.step += 1
        self.seconds += min(seconds, LONGEST_STEP)


@dataclass(slots=True)
class Trainer:
    """A network in training on ``mix``; ``average`` holds the moving average of its weights and buffers."""

    network: nn.Module
    recipe: Recipe
    mix: Mix
    device: torch.device
    normalization: Normalization
    team: Team = field(default_factory=Team)
    stopped: bool = False
    clock: Clock = field(default_factory=Clock)
    average: dict[str, Tensor] = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)
    teacher: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.network.to(self.device, memory_format=torch.channels_last)
        self.average = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(_groups(self.network, self.recipe.weight_decay), lr=self.recipe.lr)
        self.teacher = copy.deepcopy(self.network).eval()

    def run(self) -> Iterator[dict[str, Any]]:
        """Train to the end of the recipe, or until ``stopped`` is set, giving the losses and the speed of each step."""
        self.network.train()
        while not self.stopped and (progress := self.clock.progress(self.recipe)) < 1:
            began = time.monotonic()
            crop = self.recipe.crop(progress)
            slots = range(self.recipe.batch)[self.team.rank :: self.team.count]
            step, size, rate = self.clock.step, self.recipe.batch, self.recipe.rate(progress)
            if self.recipe.steady:
                losses = self.steady_step(*self.mix.views(step, size, crop, slots), rate)
            else:
                losses = self.step(self.mix.of_slots(step, size, crop, slots), rate)
            seconds = self._agree(time.monotonic() - began)
            self.clock.tick(seconds)
            yield {"step": self.clock.step, "progress": round(progress, 4), "seconds": round(seconds, 3), **losses}

    def step(self, batch: Batch, rate: float) -> dict[str, float]:
        """One update on one batch; returns the losses. Raises ValueError when the loss is not finite."""
        batch = batch.to(self.device)
        return self._update(self._supervised(self._run(self.network, batch.images), batch), rate)

    def steady_step(self, batch: Batch, labelled: int, crops: int, rate: float) -> dict[str, float]:
        """One update on two views of ``crops`` crops, of which the first ``labelled`` are; returns the losses."""
        batch = batch.to(self.device)
        raw = self._run(self.network, batch.images)
        with torch.no_grad():
            taught = self._run(self.teacher, batch.images[labelled:crops]) if crops > labelled else {}
        first = {name: value[:labelled] for name, value in raw.items()}
        wanted = {
            name: torch.cat([value.detach(), taught[name]]) if taught else value.detach()
            for name, value in first.items()
        }
        losses = self._supervised(first, batch)
        again = {name: torch.cat([value[labelled:crops], value[crops:]]) for name, value in raw.items()}
        both = {name: torch.cat([taught[name], value]) if taught else value for name, value in wanted.items()}
        for name, loss in steadiness_losses(again, both).items():
            losses[f"steady.{name}"] = self.recipe.steady * steady.WEIGHTS[name] * loss
        return self._update(losses, rate)

    def _run(self, network: nn.Module, images: Tensor) -> dict[str, Tensor]:
        with mixed(network, self.device, self.recipe.bf16):
            raw: dict[str, Tensor] = network(normalized(images, self.normalization))
        return raw

    def _supervised(self, raw: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {name: task.loss(parts_of(raw, name), batch.targets[name]) for name, task in self.mix.tasks.items()}

    def _update(self, losses: dict[str, Tensor], rate: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        weights = {name: task.weight for name, task in self.mix.tasks.items()}
        total = torch.stack([weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        if not bool(torch.isfinite(total)):
            told = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in losses.items())
            raise ValueError(f"the loss is not finite at step {self.clock.step}: {told}")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.team.mean([p.grad for p in self.network.parameters() if p.grad is not None])
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self._average()
        return {name: round(float(loss.detach()), 4) for name, loss in losses.items()}

    def _agree(self, seconds: float) -> float:
        """The team's mean time for this step; stops all when one was told to."""
        told = torch.tensor([seconds, float(self.stopped)], dtype=torch.float64)
        self.team.mean([told])
        self.stopped = bool(told[1] > 0)
        return float(told[0])

    @torch.no_grad()
    def _average(self) -> None:
        self.team.mean([buffer for buffer in self.network.buffers() if buffer.is_floating_point()])
        keep = min(self.recipe.averaging, (1 + self.clock.step) / (10 + self.clock.step))
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - keep)
            else:
                self.average[name].copy_(tensor)

    def save(self, path: Path) -> None:
        """Write everything that ``resume`` needs; the file is complete or the old one stays."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        about = {"clock": json.dumps(asdict(self.clock)), "recipe": json.dumps(asdict(self.recipe))}
        fresh = path.with_suffix(".tmp")
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, fresh, about)
        os.replace(fresh, path)

    def resume(self, path: Path) -> None:
        """Take up where ``save`` left off."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}}
        with safe_open(path, "pt", device=str(self.device)) as file:
            self.clock = Clock(**json.loads(file.metadata()["clock"]))
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                part, _, name = key.partition(".")
                parts[part][name] = file.get_tensor(key)
        self.network.load_state_dict(parts["network"])
        self.average = parts["average"]
        state = self.optimizer.state_dict()
        for key, tensor in parts["optimizer"].items():
            index, _, name = key.partition(".")
            state["state"].setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict(state)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Convolution weights decay; biases and norms do not."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
