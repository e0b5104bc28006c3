"""One training run: network, averaged weights, optimizer, clock; saved and resumed as one file without pickle."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sharedbb.errors import CompressionError
from sharedbb.learn.batches import Batch, Batches, Pool
from sharedbb.learn.data import Data
from sharedbb.learn.distillation import Distill, Distiller, parts_of, watching
from sharedbb.learn.judge import normalized
from sharedbb.learn.losses import WEIGHTS, questions_of, tasks_of
from sharedbb.spec import Pipeline

LONGEST_STEP = 20.0
"""A step counts for so many seconds at most, so that pauses cost no schedule."""

CROPS = ((0.0, 0.6), (0.6, 0.75), (0.85, 0.93))
"""Share of the training at which it begins, size of the crops as a share of what the network sees of a picture."""

CLIP = 5.0
"""Longest gradient."""


@dataclass(frozen=True, slots=True)
class Course:
    """Everything that decides how training goes. ``steps`` or ``minutes`` of work end it; ``steps`` wins if given.

    ``crop``: height and width of the crops, multiples of 32; None for CROPS. ``lr`` falls along half a cosine after
    ``warm_up``, a share of the training; ``averaging`` is the decay of the weights' moving average. ``labels``: weight
    of what labels say. ``heads``: weights of heads, where they are not those of ``losses.WEIGHTS``. ``bf16``: compute
    in bfloat16 where that is enough (weights and sums stay float32).
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 8
    crop: tuple[int, int] | None = None
    lr: float = 1e-3
    weight_decay: float = 0.02
    warm_up: float = 0.05
    averaging: float = 0.998
    labels: float = 1.0
    distill: Distill | None = None
    heads: Mapping[str, float] = field(default_factory=dict)
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise CompressionError("a training needs an end: give steps or minutes")
        if self.crop and (self.crop[0] % 32 or self.crop[1] % 32 or min(self.crop) < 32):
            raise CompressionError(f"the sides of a crop are multiples of 32, got {self.crop[0]}x{self.crop[1]}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self) | {"crop": list(self.crop) if self.crop else None}

    def rate(self, progress: float) -> float:
        """Learning rate at ``progress`` in 0–1: a linear warm-up, then half a cosine."""
        if progress < self.warm_up:
            return self.lr * (0.02 + 0.98 * progress / self.warm_up)
        return self.lr * (0.005 + 0.995 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)

    def crop_at(self, progress: float, content: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the crops at ``progress`` in 0–1; ``content`` is what the network sees of a picture."""
        if self.crop:
            return self.crop
        share = [size for begin, size in CROPS if progress >= begin][-1]
        height, width = (max(32, round(share * side / 32) * 32) for side in content)
        return height, width


@dataclass(slots=True)
class Clock:
    """Steps done, seconds worked, and the running mean of the loss (over about fifty steps)."""

    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0

    def progress(self, course: Course) -> float:
        """Share of the training done, 0–1."""
        if course.steps is not None:
            return self.step / course.steps if course.steps else 1.0
        assert course.minutes is not None
        return self.seconds / (60 * course.minutes) if course.minutes else 1.0

    def tick(self, seconds: float, loss: float) -> None:
        """One more step, which took ``seconds`` on the wall."""
        self.step += 1
        self.loss += (loss - self.loss) / min(self.step, 50)
        self.seconds += min(seconds, LONGEST_STEP)


class Trainer:
    """A module in training; it is changed in place.

    ``module`` maps a normalised image to raw parts, as ``nets.MultiHead`` does; it is moved to a CUDA device where
    there is one. ``data`` is one set, or several with their shares of each batch; each may know other heads.
    ``averaged`` gives the weights to keep. ``teacher``: with ``course.distill``, what to learn from as well. ``masks``:
    by parameter name, 0 or False where a weight stays zero. ``constrain(module)`` is called after every step and on the
    averaged weights, ``around(module)`` gives a context for every pass of the student (fake quantization, say).

    Raises DataError for a set without pictures, CompressionError when there is nothing to learn from.
    """

    stopped = False
    """Set it to end ``run`` after the step at hand."""

    def __init__(
        self,
        module: nn.Module,
        course: Course,
        data: Data | Sequence[tuple[Data, float]],
        pipeline: Pipeline,
        teacher: nn.Module | None = None,
        *,
        masks: Mapping[str, Tensor] | None = None,
        constrain: Callable[[nn.Module], None] | None = None,
        around: Callable[[nn.Module], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sets = ((data, 1.0),) if isinstance(data, Data) else tuple(data)
        self.course, self.pipeline, self.clock = course, pipeline, Clock()
        self.constrain, self.around = constrain, around or (lambda _module: nullcontext())
        self.masks = {name: mask.to(self.device) for name, mask in (masks or {}).items()}
        self.tasks = tasks_of(pipeline, *(one for one, _ in self.sets)) if course.labels > 0 else {}
        pools = [Pool(one, questions_of(pipeline, one), share) for one, share in self.sets]
        self.batches = Batches(pools, self.tasks, pipeline.input, course.seed)
        self.distiller = self._distiller(teacher)
        if not self.tasks and self.distiller is None:
            names = ", ".join(one.name for one, _ in self.sets)
            raise CompressionError(
                f"no head of {pipeline.name} can learn from {names}, whose classes are "
                f"{[name for one, _ in self.sets for name in one.classes]}; give a teacher and `distill`"
            )
        self._constrain(module)
        self.average = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self._groups(), lr=course.lr, fused=True)

    def _distiller(self, teacher: nn.Module | None) -> Distiller | None:
        if self.course.distill is None or teacher is None:
            return None
        made = Distiller(copy.deepcopy(teacher).to(self.device), self.pipeline, self.course.distill)
        made.teacher.to(memory_format=torch.channels_last)
        made.adapt(self.module)
        made.adaptors.to(self.device)
        return made

    def run(self) -> Iterator[dict[str, Any]]:
        """Train to the end of the course, or until ``stopped`` is set, giving the losses and the speed of each step.

        Each step gives ``step``, ``progress`` (0–1), ``seconds``, ``loss`` (their weighted sum) and ``losses``: by head
        against labels, as ``head.teacher`` against the teacher, and of ``features`` and ``attention``.
        """
        self.module.train()
        while not self.stopped and (progress := self.clock.progress(self.course)) < 1:
            began = time.monotonic()
            crop = self.course.crop_at(progress, self.batches.content())
            batch = self.batches.batch(self.clock.step, self.course.batch, crop)
            loss, losses = self.step(batch.to(self.device), self.course.rate(progress))
            seconds = time.monotonic() - began
            self.clock.tick(seconds, loss)
            yield {
                "step": self.clock.step,
                "progress": round(min(1.0, self.clock.progress(self.course)), 4),
                "seconds": round(seconds, 3),
                "loss": loss,
                "losses": losses,
            }
        self.module.eval()

    def step(self, batch: Batch, rate: float) -> tuple[float, dict[str, float]]:
        """One update; returns the loss and its parts. Raises CompressionError when the loss is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed((self.course.seed * 1_000_003 + self.clock.step) % 2**63)
            total, losses = self._losses(batch)
        if not bool(torch.isfinite(total)):
            told = ", ".join(f"{name} {float(loss):g}" for name, loss in losses.items())
            raise CompressionError(f"the loss is not finite at step {self.clock.step}: {told}; lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trained(), CLIP)
        self.optimizer.step()
        self._constrain(self.module)
        self._average()
        return round(float(total.detach()), 4), {name: round(float(loss), 4) for name, loss in losses.items()}

    def _losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, and what it is the weighted sum of."""
        distiller = self.distiller
        images = normalized(batch.images, self.pipeline.input.normalization)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.course.bf16):
            watch = distiller is not None and distiller.watches
            with self.around(self.module), watching(self.module, watch) as features:
                raw = self.module(images)
            lesson = distiller.teach(images) if distiller else None
        labelled = {name: task.loss(parts_of(raw, name), batch.targets[name]) for name, task in self.tasks.items()}
        losses = dict(labelled)
        terms = [self._weight(name) * self.course.labels * loss for name, loss in labelled.items()]
        if distiller and lesson:
            alpha = distiller.settings.alpha
            terms = [(1 - alpha) * term for term in terms]
            for name, loss in distiller.responses(raw, lesson).items():
                losses[f"{name}.teacher"] = loss
                terms.append(self._weight(name) * (alpha if name in labelled else 1.0) * loss)
            hints = distiller.hints(features, lesson)
            losses |= hints
            terms += hints.values()
        return torch.stack(terms).sum(), {name: loss.detach() for name, loss in losses.items()}

    def _weight(self, head: str) -> float:
        if head in self.course.heads:
            return self.course.heads[head]
        return self.tasks[head].weight if head in self.tasks else WEIGHTS.get(self.pipeline.heads[head].type, 1.0)

    def _groups(self) -> list[dict[str, Any]]:
        """Weights of convolutions and linear layers decay; biases and norms do not."""
        parameters = self._trained()
        return [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.course.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def _trained(self) -> list[nn.Parameter]:
        own = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        return own + (list(self.distiller.adaptors.parameters()) if self.distiller else [])

    @torch.no_grad()
    def _constrain(self, module: nn.Module) -> None:
        for name, mask in self.masks.items():
            module.get_parameter(name).mul_(mask)
        if self.constrain:
            self.constrain(module)

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.course.averaging, (1 + self.clock.step) / (10 + self.clock.step))
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - keep)
            else:
                self.average[name].copy_(tensor)

    def averaged(self) -> dict[str, Tensor]:
        """The moving average of weights and buffers, on the CPU, within masks and constraint."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(self.average)
        self._constrain(module)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write everything that ``resume`` needs; the file is complete or the old one stays."""
        tensors = {f"network.{name}": tensor for name, tensor in self.module.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        if self.distiller:
            tensors |= {f"adaptors.{name}": tensor for name, tensor in self.distiller.adaptors.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        about = {"clock": json.dumps(asdict(self.clock)), "training": self._training()}
        fresh = path.with_suffix(".tmp")
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, fresh, about)
        os.replace(fresh, path)

    def _training(self) -> str:
        """What a checkpoint must have been made with to be taken up here."""
        data = [[one.name, len(one), share] for one, share in self.sets]
        return json.dumps(self.course.to_dict() | {"data": data}, sort_keys=True)

    def resume(self, path: Path) -> None:
        """Take up where ``save`` left off. Raises CompressionError for a file of another training or a damaged one."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "optimizer": {}, "adaptors": {}}
        try:
            with safe_open(path, "pt", device=str(self.device)) as file:
                about = file.metadata() or {}
                for key in file.keys():  # noqa: SIM118 (not a mapping)
                    part, _, name = key.partition(".")
                    parts[part][name] = file.get_tensor(key)
            if about["training"] != self._training():
                raise CompressionError(f"{path} is of a training with other settings or data; delete it to begin anew")
            self.module.load_state_dict(parts["network"])
            self.average = {name: _laid_out_as(parts["average"][name], own) for name, own in self.average.items()}
            if self.distiller:
                self.distiller.adaptors.load_state_dict(parts["adaptors"])
            self._resume_optimizer(parts["optimizer"])
            self.clock = Clock(**json.loads(about["clock"]))
        except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CompressionError(f"{path} is no checkpoint of this training ({reason}); delete it") from error

    def _resume_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        state = self.optimizer.state_dict()
        owners = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for key, tensor in tensors.items():
            index, _, name = key.partition(".")
            own = owners[int(index)]
            laid_out = _laid_out_as(tensor, own) if tensor.shape == own.shape else tensor
            state["state"].setdefault(int(index), {})[name] = laid_out
        self.optimizer.load_state_dict(state)


def _laid_out_as(tensor: Tensor, like: Tensor) -> Tensor:
    """The same numbers in the memory order of ``like``: sums in another order would round differently."""
    return torch.empty_like(like, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
