"""What each type of head learns from labels: the target of a batch, made on the host, and the loss against it.

A task is one head's: ``target(samples)`` turns the labels of a batch (all pictures of one size) into what the head
should answer, ``loss(raw, target)`` compares the head's raw parts (as the network returns them, by part name) with it.
Heads about which a set knows nothing have no task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sharedbb.learn.data import Data, Sample
from sharedbb.learn.fcos import Assignment, Grid, assign, detection_loss
from sharedbb.learn.labels import VOID, Asked, LabelMap, asked, boxes_of, classes_of, edge_target, tags_of
from sharedbb.spec import Head, Pipeline

Raw = Mapping[str, Tensor]

WEIGHTS = {"tags": 0.2}
"""Weight of a type of head in the sum of all; the others count 1."""

EDGE_WEIGHT = 0.5
"""Weight of a segmentation head that learns boundaries."""


class Task(Protocol):
    """How one head learns from labels."""

    @property
    def weight(self) -> float:
        """Weight of this loss in the sum of all heads."""
        ...

    def target(self, samples: Sequence[Sample]) -> Any:
        """What the head should answer on a batch of these pictures; has ``to(device)``."""
        ...

    def loss(self, raw: Raw, target: Any) -> Tensor:
        """How far the head's parts are from ``target``: a scalar with a gradient."""
        ...


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Cross-entropy of the classes ``ids`` of the set, weighted by class; every other class is void."""

    ids: tuple[int, ...]
    class_weight: Tensor
    weight: float = 1.0

    def target(self, samples: Sequence[Sample]) -> Tensor:
        """uint8 [N, H, W] in the head's classes."""
        return torch.from_numpy(np.stack([classes_of(_labels(one), self.ids) for one in samples]))

    def loss(self, raw: Raw, target: Tensor) -> Tensor:
        """See ``segmentation_loss``."""
        return segmentation_loss(raw["logits"], target, self.class_weight)


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Cross-entropy of inside and edge at cells of ``stride``² pixels; edges, which are rare, count twice."""

    stride: int
    weight: float = EDGE_WEIGHT

    def target(self, samples: Sequence[Sample]) -> Tensor:
        """uint8 [N, H / stride, W / stride]."""
        return torch.from_numpy(np.stack([edge_target(_labels(one), self.stride) for one in samples]))

    def loss(self, raw: Raw, target: Tensor) -> Tensor:
        """See ``cell_loss``."""
        return cell_loss(raw["logits"], target, raw["logits"].new_tensor([1.0, 2.0], dtype=torch.float32))


@dataclass(frozen=True, slots=True)
class Detection:
    """Boxes around the connected components of the classes ``ids``, on the grid of ``strides``."""

    ids: tuple[int, ...]
    strides: tuple[int, ...]
    weight: float = 1.0

    def target(self, samples: Sequence[Sample]) -> Assignment:
        """Scores, distances and what counts, at every point of the grid."""
        maps = [_labels(one) for one in samples]
        grid = Grid.of(maps[0].shape[0], maps[0].shape[1], self.strides)
        return Assignment.stack([assign(boxes_of(one, self.ids), one, grid, len(self.ids)) for one in maps])

    def loss(self, raw: Raw, target: Assignment) -> Tensor:
        """See ``fcos.detection_loss``."""
        return detection_loss(raw["scores"], raw["distances"], target)


@dataclass(frozen=True, slots=True)
class Tags:
    """Whether each of the classes ``ids`` is in the picture at all."""

    ids: tuple[int, ...]
    weight: float = WEIGHTS["tags"]

    def target(self, samples: Sequence[Sample]) -> Tensor:
        """float32 [N, tags] of 0 and 1; NaN in the rows of pictures of which nothing is known."""
        maps = [_labels(one) for one in samples]
        rows = [np.where((one == VOID).all(), np.nan, tags_of(one, self.ids)) for one in maps]
        return torch.from_numpy(np.stack(rows).astype(np.float32))

    def loss(self, raw: Raw, target: Tensor) -> Tensor:
        """See ``tags_loss``."""
        return tags_loss(raw["logits"], target)


@dataclass(frozen=True, slots=True)
class Depth:
    """Distances in metres, at the resolution of the answer."""

    weight: float = 1.0

    def target(self, samples: Sequence[Sample]) -> Tensor:
        """float32 [N, 1, H, W], NaN where nobody knows."""
        unknown = np.full(samples[0].rgb.shape[:2], np.nan, np.float32)
        return torch.from_numpy(np.stack([unknown if one.depth is None else one.depth for one in samples]))[:, None]

    def loss(self, raw: Raw, target: Tensor) -> Tensor:
        """See ``depth_loss``; the distance wanted of a cell is that of the pixel at its centre."""
        step = target.shape[-1] // raw["depth"].shape[-1]
        return depth_loss(raw["depth"], target[..., step // 2 :: step, step // 2 :: step])


def tasks_of(pipeline: Pipeline, data: Data) -> dict[str, Task]:
    """The heads that can learn from a set, by name, each with its task; reads all of it once for the class weights."""
    wanted = {
        name: found for name, head in pipeline.heads.items() if (found := asked(head, data.classes, depth=data.depth))
    }
    needed = any(found.kind == "classes" for found in wanted.values())
    counts = frequencies(one.labels for one in data if one.labels is not None) if needed else np.zeros(256)
    return {name: _task(pipeline.heads[name], found, counts) for name, found in wanted.items()}


def _labels(sample: Sample) -> LabelMap:
    return np.full(sample.rgb.shape[:2], VOID, np.uint8) if sample.labels is None else sample.labels


def _task(head: Head, found: Asked, counts: np.ndarray[Any, Any]) -> Task:
    match found.kind:
        case "classes":
            return Segmentation(found.ids, class_weights(counts[list(found.ids)]))
        case "edges":
            return Boundaries(head.taps[0])
        case "boxes":
            return Detection(found.ids, head.taps)
        case "tags":
            return Tags(found.ids)
        case "depth":
            return Depth()


def frequencies(labels: Iterable[LabelMap]) -> np.ndarray[Any, Any]:
    """How many pixels of all maps have each value, float64 [256]."""
    counts = np.zeros(256)
    for one in labels:
        counts += np.bincount(one.ravel(), minlength=256)
    return counts


def class_weights(counts: np.ndarray[Any, Any]) -> Tensor:
    """Mild weights for rare classes, 1 / ln(1.15 + frequency) (Paszke et al. 2016), float32, a mean of 1 per pixel."""
    frequency = counts / max(1.0, counts.sum())
    weight = 1 / np.log(1.15 + frequency)
    mean = (weight * frequency).sum()
    return torch.tensor(weight / (mean if mean > 0 else weight.mean()), dtype=torch.float32)


def segmentation_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross-entropy at twice the resolution of ``logits`` [N, C, h, w], void ignored.

    ``labels`` uint8 [N, H, W] at stride 1; every (H / 2h)-th pixel is asked.
    """
    logits = F.interpolate(logits.float(), scale_factor=2, mode="bilinear", align_corners=False)
    step = labels.shape[-1] // logits.shape[-1]
    return cell_loss(logits, labels[:, step // 2 :: step, step // 2 :: step], weight)


def cell_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of ``logits`` [N, C, h, w] and ``labels`` uint8 [N, h, w], weighted by class [C].

    The mean over what is not void, 0 where all is.
    """
    weight, target = weight.to(logits.device), labels.long()
    each = F.cross_entropy(logits.float(), target, weight, ignore_index=VOID, reduction="none")
    counted = weight[target.clamp(max=len(weight) - 1)] * (target != VOID)
    return each.sum() / counted.sum().clamp(min=1e-6)


def tags_loss(logits: Tensor, tags: Tensor) -> Tensor:
    """Binary cross-entropy of ``logits`` and ``tags`` [N, labels]; rows of NaN do not count."""
    known = ~tags.isnan()
    each = F.binary_cross_entropy_with_logits(logits.float(), torch.where(known, tags, 0.0), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def depth_loss(metres: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of the logarithms of distances (of one shape, above 0); NaN in ``wanted`` is unknown."""
    known = ~wanted.isnan()
    off = (metres.float().log() - torch.where(known, wanted, 1.0).float().log()).abs()
    return (off * known).sum() / known.sum().clamp(min=1)


def heatmap_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Divergence of heat maps [N, K, h, w] of logits from ``wanted`` ones in 0–1, per unit of what is wanted.

    A point has few cells: without the sum over ``wanted`` below, empty cells would decide.
    """
    return binary_divergence(logits, wanted).sum() / wanted.float().sum().clamp(min=1.0)


def embedding_loss(vectors: Tensor, wanted: Tensor) -> Tensor:
    """1 − cosine of vectors [N, D], averaged: 0 for equal directions."""
    return (1 - F.cosine_similarity(vectors.float(), wanted.float(), dim=1)).mean()


def binary_divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of Bernoulli probabilities ``sigmoid(logits)`` from ``wanted`` ones, by element."""
    wanted = wanted.float()
    least = F.binary_cross_entropy(wanted, wanted, reduction="none")
    return F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none") - least
