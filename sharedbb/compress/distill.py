"""Distillation: a network, often of another and smaller architecture, learns to answer as its teacher does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharedbb.compress.finetune import Footage, Progress, train, trainer_of
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Data
from sharedbb.learn.distillation import Distill
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport
from sharedbb.learn.trainer import Course
from sharedbb.registry import BACKBONES


def distill(
    network: Network,
    teacher: Network,
    data: Data,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    lr: float = 2e-3,
    alpha: float = 0.9,
    temperature: float = 2.0,
    features: float = 0.0,
    attention: float = 0.0,
    footage: Footage = (),
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    **course: Any,
) -> tuple[Network, StepReport]:
    """Train a copy of the student ``network`` on the teacher's answers to the training part of ``data``.

    ``data`` needs no labels; heads that it has labels for learn from those too, with weight ``1 − alpha``. ``footage``:
    sets without labels, each with its share of a batch. ``features`` and ``attention`` are weights of what the shared
    features should be, and where they should look; see ``learn.distillation.Distill``. The rest is as in ``finetune``.
    ``student`` makes a student of another backbone.

    Raises CompressionError when the two have different heads, or settings do not fit.
    """
    if network.scheme is not None:
        raise CompressionError("a quantized network is distilled before it is quantized")
    lesson = Distill(alpha, temperature, features, attention)
    trainer = trainer_of(
        network, data, Course(steps, minutes, lr=lr, distill=lesson, **course), teacher, footage=footage
    )
    return train(trainer, network, "distill", checkpoint, progress)


def student(network: Network, backbone: str, *, weights: str | None = None, teacher: Network | None = None) -> Network:
    """A network with the input, neck and heads of ``network`` on another backbone, by its registered name.

    The backbone begins with ``weights`` (a torchvision name or a file) or at random; of the neck and the heads, what
    has the teacher's shape begins as in the ``teacher``, which is ``network`` itself unless another is given.

    Raises RegistryError for an unknown backbone, CompressionError for one that lacks a stride, and WeightsError.
    """
    offered, pipeline = BACKBONES[backbone].strides, network.pipeline
    tapped = sorted({stride for head in pipeline.heads.values() for stride in head.taps})
    wanted = pipeline.neck.strides if pipeline.neck else tapped
    absent = [stride for stride in wanted if stride not in offered]
    if absent:
        raise CompressionError(f"{backbone} has no features at stride {absent[0]}, only at {list(offered)}")
    changed = pipeline.backbone.model_copy(update={"arch": backbone, "weights": weights})
    made = Network.of(pipeline.model_copy(update={"backbone": changed}))
    state, taught = made.module.state_dict(), (teacher or network).module.state_dict()
    for name, tensor in state.items():
        known = taught.get(name)
        if not name.startswith("backbone.") and known is not None and known.shape == tensor.shape:
            tensor.copy_(known)
    return made
