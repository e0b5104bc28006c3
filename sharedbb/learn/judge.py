"""How good the answers of a network are, head by head: against labels where a set has them, else against a reference.

Pictures go through the same intake and decoders as in a running pipeline, and are judged in their own pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sharedbb.errors import DataError
from sharedbb.learn.data import Data, Rgb, Sample
from sharedbb.learn.known import known_by_labels
from sharedbb.learn.labels import Kind, asked
from sharedbb.learn.measures import measure_of
from sharedbb.outputs.agreement import Agreement
from sharedbb.outputs.detections import Detections
from sharedbb.registry import HEADS, resolve
from sharedbb.spec import Head, Pipeline
from sharedbb.transforms.rgb import RgbIntake
from sharedbb.types import Frame, Normalization, Output

LOWEST_SCORE = 0.02
"""Average precision asks for every box above this score."""

HEADLINE: Mapping[Kind, str] = {"classes": "miou", "edges": "f1", "boxes": "map50", "tags": "f1", "depth": "delta1"}
"""The one metric of what is asked, 0–1, higher is better; ``agreement`` where labels ask nothing."""

AGREEMENT = "agreement"

Answer = Callable[[Rgb], Mapping[str, Output]]
Quality = dict[str, dict[str, Any]]


@dataclass(slots=True)
class Predictor:
    """A network with the intake and the decoders of its pipeline: one RGB picture in, the answer of each head out.

    ``network`` takes a normalised float32 image [1, 3, H, W] and returns tensors by ``"head.part"``; a module is put
    into eval mode. With ``lowest_score`` detection keeps every box above it, as average precision wants. ``bf16``
    computes under autocast.
    """

    network: Callable[[Tensor], Mapping[str, Tensor]]
    pipeline: Pipeline
    lowest_score: float | None = None
    bf16: bool = False

    @torch.no_grad()
    def __call__(self, rgb: Rgb) -> dict[str, Output]:
        """HWC uint8 RGB of any size; answers in its pixels."""
        size, normalization = self.pipeline.input.network_size, self.pipeline.input.normalization
        buffer = np.zeros((1, size.height, size.width, 3), np.uint8)
        geometry = RgbIntake(buffer, self.pipeline.input.fit, normalization)(Frame.of(rgb, order="rgb"))
        device = self._device()
        images = torch.from_numpy(buffer).to(device).permute(0, 3, 1, 2)
        with self._precision(device):
            raw = self.network(normalized(images, normalization))
        parts: dict[str, dict[str, Any]] = {name: {} for name in self.pipeline.heads}
        for key, value in raw.items():
            name, _, part = key.partition(".")
            parts.setdefault(name, {})[part] = _plain(value)
        return {
            name: resolve(HEADS[head.type].decoder)(self._asked(head))(parts[name], geometry)
            for name, head in self.pipeline.heads.items()
        }

    def _device(self) -> torch.device:
        if not isinstance(self.network, nn.Module):
            return torch.device("cpu")
        self.network.eval()
        return next((weight.device for weight in self.network.parameters()), torch.device("cpu"))

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def _asked(self, head: Head) -> Head:
        if head.type == "detection" and self.lowest_score is not None:
            return head.model_copy(update={"score_threshold": self.lowest_score})
        return head


def normalized(images: Tensor, normalization: Normalization) -> Tensor:
    """uint8 [N, 3, H, W] to float32 ``(x - mean) / std``, channels last in memory."""
    shift, scale = (
        images.new_tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
        for values in (normalization.mean, normalization.std)
    )
    return ((images.float() - shift) / scale).contiguous(memory_format=torch.channels_last)


def _plain(value: Tensor) -> np.ndarray[Any, Any]:
    """float32 on the host, NHWC where there are four dimensions."""
    value = value.float().cpu()
    return np.ascontiguousarray((value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy())


def judge(answer: Answer, data: Data, heads: Mapping[str, Head], reference: Answer | None = None) -> Quality:
    """The metrics of every head over ``data``, plain JSON values: shares 0–1, None for what never occurs.

    Heads that the set has labels for: ``miou``, ``accuracy`` and ``iou`` by class (the head's classes; others are
    void); ``f1``, ``precision`` and ``recall`` of boundaries; ``map50``, ``ap50`` and number of ``boxes`` by class, and
    where labels are boxes, as COCO has it, also ``map`` and ``ap``, over IoU 0.5 to 0.95; ``f1`` and ``f1_by_tag``,
    ``map`` and ``ap`` of tags; ``delta1`` and ``relative_error``. A picture whose labels say nothing of a head does not
    count for it. With a ``reference``, also each head's ``agreement`` with its answers (``sharedbb.outputs.agreement``;
    boxes count as its answer from the head's threshold up).

    Raises DataError without pictures, or when there are neither labels nor a reference for a head.
    """
    if not len(data):
        raise DataError(f"{data.name} has no pictures to judge by")
    questions = {name: asked(head, data.classes, depth=data.depth, boxed=data.boxed) for name, head in heads.items()}
    open_ones = [name for name, question in questions.items() if question is None]
    if open_ones and reference is None:
        raise DataError(
            f"{data.name} has no labels for {', '.join(open_ones)}; give a reference network to agree with, or a set "
            "whose classes are those of the head"
        )
    labelled = {name: measure_of(heads[name], question, data.boxed) for name, question in questions.items() if question}
    compared = {name: AgreementMeasure(head) for name, head in heads.items()} if reference is not None else {}
    for sample in data:
        ours = answer(sample.rgb)
        known = known_by_labels(sample, {name: question for name, question in questions.items() if question})
        for name, truth in known.items():
            labelled[name].add(truth, ours[name])
        if reference is not None:
            theirs = reference(sample.rgb)
            for name, measure in compared.items():
                measure.add(sample, ours[name], theirs[name])
    return {
        name: {key: value for one in (labelled, compared) if name in one for key, value in one[name].metrics().items()}
        for name in heads
    }


def headline(quality: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The one number of every head, 0–1, higher is better; heads of which nothing could be measured are left out."""
    order = (*dict.fromkeys(HEADLINE.values()), AGREEMENT)
    found = {name: [m[key] for key in order if m.get(key) is not None] for name, m in quality.items()}
    return {name: float(values[0]) for name, values in found.items() if values}


class AgreementMeasure:
    """The same head's answers by the reference."""

    def __init__(self, head: Any) -> None:
        self._threshold = getattr(head, "score_threshold", 0.0)
        self._agreement: Agreement | None = None

    def add(self, sample: Sample, ours: Any, theirs: Any) -> None:
        """Compare the answers to one picture."""
        if isinstance(theirs, Detections):
            theirs = _from_score(theirs, self._threshold)
        if self._agreement is None:
            self._agreement = Agreement.of(type(theirs))
        self._agreement.add(ours, theirs)

    def metrics(self) -> dict[str, Any]:
        """The headline share of the pictures together."""
        assert self._agreement is not None
        return {AGREEMENT: float(self._agreement.overall()["agreement"])}


def _from_score(found: Detections, threshold: float) -> Detections:
    kept = found.scores >= threshold
    return replace(found, boxes=found.boxes[kept], scores=found.scores[kept], classes=found.classes[kept])
