"""Fine-tuning: train a network on: from labels, from a teacher's answers, or from both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sharedbb.compress.ties import ties
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Data
from sharedbb.learn.distillation import Distill
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport
from sharedbb.learn.trainer import Course, Trainer

Footage = Sequence[tuple[Data, float]]
"""Sets of pictures without labels, and each one's share of a batch, above 0 to 1."""

Progress = Callable[[Mapping[str, Any]], None]
"""Is told what ``learn.trainer.Trainer.run`` says of each step."""

SAVED_EVERY_S = 30.0
"""Seconds between checkpoints."""


def finetune(
    network: Network,
    data: Data,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    lr: float = 1e-3,
    distill: Distill | None = None,
    teacher: Network | None = None,
    footage: Footage = (),
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    constrain: Callable[[nn.Module], None] | None = None,
    around: Callable[[nn.Module], AbstractContextManager[Any]] | None = None,
    **course: Any,
) -> tuple[Network, StepReport]:
    """Train a copy of ``network`` on the training part of ``data``, until ``steps`` or ``minutes`` of work are done.

    With a ``teacher``, heads learn from its answers as well, as ``distill`` says (half and half if it does not); heads
    without labels learn from those alone. ``footage`` are further pictures that the teacher answers, such as videos of
    the cameras to come, each set with its share of a batch; ``data`` has what is left. Weights that are zero and stored
    sparsely stay zero, and those that share a value go on sharing one, unless ``constrain(module)`` is given, which is
    called after every step. ``around(module)`` makes a context for each pass; without it a network that is quantized is
    refused. ``course`` are other fields of ``learn.trainer.Course``.

    ``checkpoint`` names a file, written every half minute and taken up where it exists: equal ``steps`` give equal
    weights, bit by bit, however often training was killed. Whoever owns the file removes it.

    Raises CompressionError when there is nothing to learn from or settings do not fit, DataError for unfit data.
    """
    if network.scheme is not None and around is None:
        raise CompressionError("a quantized network is fine-tuned before it is quantized, or by quantize(method='qat')")
    if distill is not None and teacher is None:
        raise CompressionError("to distill needs a teacher: give the network as it was before, say")
    wanted = Course(steps, minutes, lr=lr, distill=distill or (Distill() if teacher else None), **course)
    trainer = trainer_of(network, data, wanted, teacher, footage=footage, constrain=constrain, around=around)
    return train(trainer, network, "finetune", checkpoint, progress)


def trainer_of(
    network: Network,
    data: Data,
    course: Course,
    teacher: Network | None = None,
    *,
    footage: Footage = (),
    constrain: Callable[[nn.Module], None] | None = None,
    around: Callable[[nn.Module], AbstractContextManager[Any]] | None = None,
) -> Trainer:
    """A trainer of a copy of ``network`` on the training part of ``data``; the rest as in ``finetune``.

    Raises CompressionError when the teacher reads pictures in another way than the network, when there is footage and
    no teacher to answer it, or nothing of a batch left for ``data``.
    """
    left = 1 - sum(share for _, share in footage)
    if footage and not teacher:
        raise CompressionError(f"nobody answers the pictures of {footage[0][0].name}: footage needs a teacher")
    if left <= 0:
        raise CompressionError(f"the shares of footage, {1 - left:g}, leave nothing of a batch for {data.name}")
    if teacher and teacher.pipeline.input.normalization != network.pipeline.input.normalization:
        raise CompressionError(
            f"the teacher {teacher.pipeline.name} normalizes pictures by {teacher.pipeline.input.normalize!r}, "
            f"{network.pipeline.name} by {network.pipeline.input.normalize!r}: both must do it alike"
        )
    module = teacher.module if teacher else None
    return Trainer(
        network.copy(),
        course,
        ((data.of("train"), left), *footage),
        network.pipeline,
        module,
        masks=sparse_masks(network),
        constrain=constrain or ties(network),
        around=around,
    )


def train(
    trainer: Trainer,
    network: Network,
    step: str,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[Network, StepReport]:
    """Run to the end, from ``checkpoint`` if it exists, and put the averaged weights into a copy of ``network``."""
    path = Path(checkpoint) if checkpoint else None
    if path and path.is_file():
        trainer.resume(path)
    saved = time.monotonic()
    for line in trainer.run():
        if progress:
            progress(line)
        if path and time.monotonic() - saved > SAVED_EVERY_S:
            trainer.save(path)
            saved = time.monotonic()
    if path:
        trainer.save(path)
    module = network.copy()
    module.load_state_dict(trainer.averaged())
    network, said = network.unrounded()
    settings = {name: value for name, value in trainer.course.to_dict().items() if value is not None}
    report = StepReport(step, settings, facts_of(trainer), said)
    return network.then(report, module=module), report


def facts_of(trainer: Trainer) -> dict[str, Any]:
    """Steps, pictures, the running mean of the loss at the end, and which heads learned from what."""
    heads = list(trainer.pipeline.heads)
    return {
        "steps": trainer.clock.step,
        "pictures": sum(len(one) for one, _ in trainer.sets),
        "loss": round(trainer.clock.loss, 4),
        "heads_from_labels": [name for name in heads if name in trainer.tasks],
        "heads_from_teacher": heads if trainer.distiller else [],
    }


def sparse_masks(network: Network) -> dict[str, Tensor]:
    """By parameter name, True where a weight that is stored sparsely is not zero."""
    sparse = {name for name, coding in network.coding.items() if coding.get("sparse")}
    return {name: weight.detach() != 0 for name, weight in network.module.named_parameters() if name in sparse}
