"""One training run: network, averaged and best weights, balance, optimizer, clock; saved and resumed as one file."""

from __future__ import annotations

import copy
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharedbb.errors import CompressionError
from sharedbb.learn import checkpoint
from sharedbb.learn.ahead import ahead
from sharedbb.learn.balance import balance_of
from sharedbb.learn.batches import Batch, Batches, Pool
from sharedbb.learn.course import Clock as Clock
from sharedbb.learn.course import Course as Course
from sharedbb.learn.data import Data
from sharedbb.learn.distillation import Distiller, parts_of, watching
from sharedbb.learn.judge import normalized
from sharedbb.learn.losses import WEIGHTS, questions_of, tasks_of
from sharedbb.learn.precision import mixed
from sharedbb.learn.selection import Selection
from sharedbb.spec import Pipeline

CLIP = 5.0
"""Longest gradient."""

BALANCE_PACE = 10.0
"""How much faster a balance learns than the network, so that it settles while there is something to balance."""

NETWORK = {"input", "backbone", "neck", "branches", "heads"}
"""Fields of a pipeline that decide what is trained."""

THREADS = 8
"""Most threads that make batches for a CUDA device; a CPU makes them in turns with its steps."""


class NotFiniteError(CompressionError):
    """A loss or a gradient that is not a number, or infinite; the step was not taken."""


class Trainer:
    """A module in training; it is changed in place.

    ``module`` maps a normalised image to raw parts, as ``nets.MultiHead`` does; it is moved to a CUDA device where
    there is one. ``data`` is one set, or several with their shares of each batch; each may know other heads.
    ``averaged`` gives the weights to keep. ``teacher``: with ``course.distill``, what to learn from as well. ``masks``:
    by parameter name, 0 or False where a weight stays zero. ``constrain(module)`` is called after every step and on the
    averaged weights, ``around(module)`` gives a context for every pass of the student (fake quantization, say).
    ``origin``: what else decides the training, as JSON values, such as the weights that it begins with; a checkpoint
    with another one is refused. ``selection``: the validations that somebody made of it, and the best weights.

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
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sets = ((data, 1.0),) if isinstance(data, Data) else tuple(data)
        self.course, self.pipeline, self.clock, self.selection = course, pipeline, Clock(), Selection()
        self.origin = dict(origin or {})
        self.constrain, self.around = constrain, around or (lambda _module: nullcontext())
        self.masks = {name: mask.to(self.device) for name, mask in (masks or {}).items()}
        sets = [one for one, _ in self.sets]
        self.tasks = tasks_of(pipeline, *sets, overlap=course.overlap) if course.labels > 0 else {}
        pools = [Pool(one, questions_of(pipeline, one), share) for one, share in self.sets]
        self.batches = Batches(pools, self.tasks, pipeline.input, course.seed)
        self.distiller = self._distiller(teacher)
        if not self.tasks and self.distiller is None:
            names = ", ".join(one.name for one, _ in self.sets)
            raise CompressionError(
                f"no head of {pipeline.name} can learn from {names}, whose classes are "
                f"{[name for one, _ in self.sets for name in one.classes]}; give a teacher and `distill`"
            )
        learning = [name for name in pipeline.heads if name in self.tasks or self.distiller]
        given = {name: self._weight(name) for name in learning}
        self.balance = balance_of(course.balance, given, self.module).to(self.device)
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
        steps = itertools.count(self.clock.step)
        threads = min(THREADS, os.cpu_count() or 1) if self.device.type == "cuda" else 0
        with closing(ahead(self._batch, steps, threads)) as batches:
            while not self.stopped and (progress := self.clock.progress(self.course)) < 1:
                began = time.monotonic()
                loss, losses = self.step(self._moved(next(batches)), self.course.rate(progress))
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

    def _batch(self, step: int) -> Batch:
        """The batch of a step, on the host; of a training that is counted in steps, whenever it is made."""
        steps = self.course.steps
        progress = self.clock.progress(self.course) if steps is None else step / max(1, steps)
        made = self.batches.batch(step, self.course.batch, self.course.crop_at(progress, self.batches.content()))
        return Batch(made.images.pin_memory(), made.targets) if self.device.type == "cuda" else made

    def _moved(self, batch: Batch) -> Batch:
        targets = {name: target.to(self.device) for name, target in batch.targets.items()}
        return Batch(batch.images.to(self.device, non_blocking=True), targets)

    def step(self, batch: Batch, rate: float) -> tuple[float, dict[str, float]]:
        """One update; returns the loss and its parts.

        Raises NotFiniteError, and changes nothing, when a loss or a gradient is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["pace"]
        buffers = [(buffer, buffer.clone()) for buffer in self.module.buffers()]
        try:
            total, losses = self._gradient(batch)
        except NotFiniteError:
            for buffer, before in buffers:
                buffer.copy_(before)
            raise
        self.optimizer.step()
        self._constrain(self.module)
        self._average()
        return round(float(total), 6), {name: round(float(loss), 6) for name, loss in losses.items()}

    def _gradient(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Leave the gradient in the weights, no longer than CLIP; returns the loss and its parts."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed((self.course.seed * 1_000_003 + self.clock.step) % 2**63)
            total, losses = self._losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self._clip()
        return total.detach(), losses

    def _losses(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, and what it is the weighted sum of."""
        distiller = self.distiller
        images = normalized(batch.images, self.pipeline.input.normalization)
        with mixed(self.module, self.device, self.course.bf16):
            watch = distiller is not None and distiller.watches
            with self.around(self.module), watching(self.module, watch) as features:
                raw = self.module(images)
            lesson = distiller.teach(images) if distiller else None
        labelled = {name: task.loss(parts_of(raw, name), batch.targets[name]) for name, task in self.tasks.items()}
        losses, terms = dict(labelled), {name: self.course.labels * loss for name, loss in labelled.items()}
        hints: dict[str, Tensor] = {}
        if distiller and lesson:
            alpha = distiller.settings.alpha
            for name, loss in distiller.responses(raw, lesson).items():
                losses[f"{name}.teacher"] = loss
                terms[name] = (1 - alpha) * terms[name] + alpha * loss if name in terms else loss
            hints = distiller.hints(features, lesson)
        self._check(losses | hints)
        total = torch.stack([self.balance(terms), *hints.values()]).sum()
        return total, {name: loss.detach() for name, loss in (losses | hints).items()}

    def _check(self, losses: Mapping[str, Tensor]) -> None:
        """Raises NotFiniteError naming the losses that are not finite."""
        finite = torch.stack([loss.detach() for loss in losses.values()]).isfinite().tolist()
        wrong = [name for name, fine in zip(losses, finite, strict=True) if not fine]
        if wrong:
            told = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in losses.items())
            raise NotFiniteError(
                f"the loss of {' and '.join(wrong)} is not finite at step {self.clock.step} ({told}); "
                "lower the learning rate"
            )

    def _clip(self) -> None:
        """Make the gradient no longer than CLIP. Raises NotFiniteError saying where it is not finite."""
        trained = [weight for weight in self._trained() if weight.grad is not None]
        length = nn.utils.get_total_norm([weight.grad for weight in trained if weight.grad is not None])
        if not bool(length.isfinite()):
            named = self.module.named_parameters()
            wrong = (name for name, weight in named if weight.grad is not None and not weight.grad.isfinite().all())
            raise NotFiniteError(
                f"the gradient at {next(wrong, 'an adaptor')} is not finite at step {self.clock.step}; "
                "lower the learning rate"
            )
        nn.utils.clip_grads_with_norm_(trained, CLIP, length)

    def _weight(self, head: str) -> float:
        if head in self.course.heads:
            return self.course.heads[head]
        if self.course.balance != "fixed":
            return 1.0
        return self.tasks[head].weight if head in self.tasks else WEIGHTS.get(self.pipeline.heads[head].type, 1.0)

    def _groups(self) -> list[dict[str, Any]]:
        """Weights of convolutions and linear layers decay; biases, norms and what a balance learns do not."""
        parameters, balance = self._trained(), list(self.balance.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.course.weight_decay, "pace": 1.0},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "pace": 1.0},
            {"params": balance, "weight_decay": 0.0, "pace": BALANCE_PACE},
        ]
        return [group for group in groups if group["params"]]

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
        """Write everything that ``resume`` needs; the file is complete or the old one stays.

        Raises CompressionError where it cannot be written.
        """
        states = self.optimizer.state_dict()["state"].items()
        parts = {
            "network": self.module.state_dict(),
            "average": self.average,
            "best": self.selection.weights,
            "balance": self.balance.state_dict(),
            "adaptors": self.distiller.adaptors.state_dict() if self.distiller else {},
            "optimizer": {f"{index}.{name}": tensor for index, state in states for name, tensor in state.items()},
        }
        about = {"clock": asdict(self.clock), "selection": self.selection.to_dict(), "training": self.settings()}
        checkpoint.write(path, parts, about)

    def settings(self) -> dict[str, Any]:
        """Everything that decides the training, as JSON values: a checkpoint of others is refused."""
        network = self.pipeline.model_dump(mode="json", include=NETWORK)
        data = {
            one.name: {"pictures": len(one), "share": share} | ({"digest": one.digest} if one.digest else {})
            for one, share in self.sets
        }
        return {**self.course.to_dict(), "data": data, "pipeline": network, **self.origin}

    def resume(self, path: Path) -> None:
        """Take up where ``save`` left off.

        Raises CompressionError for a file of another training, saying field by field what differs, or a damaged one.
        """
        parts, about = checkpoint.read(path, self.device)
        try:
            checkpoint.check_same(path, about["training"], self.settings())
            self.module.load_state_dict(parts["network"])
            self.average = {name: _laid_out_as(parts["average"][name], own) for name, own in self.average.items()}
            best = {name: tensor.cpu() for name, tensor in parts.get("best", {}).items()}
            self.selection = Selection.of(about["selection"], best)
            self.balance.load_state_dict(parts.get("balance", {}))
            if self.distiller:
                self.distiller.adaptors.load_state_dict(parts.get("adaptors", {}))
            self._resume_optimizer(parts.get("optimizer", {}))
            self.clock = Clock(**about["clock"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise checkpoint.unfit(path, error) from error

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
