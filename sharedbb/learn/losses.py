"""What each type of head learns: the target of a batch, made on the host of what is known, and the loss against it.

A task is one head's: ``target(known, size)`` turns what labels or teachers say of the crops of a batch into what the
head should answer, ``loss(raw, target)`` compares the head's raw parts (as the network returns them, by part name) with
it. A crop of which nothing is known (None) counts for nothing: pictures may lack some heads. Heads about which no set
knows anything have no task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sharedbb.errors import DataError
from sharedbb.learn.data import Data
from sharedbb.learn.fcos import Assignment, Grid, assign, detection_loss
from sharedbb.learn.known import Classes, Direction, Edges, Known, Metres, Objects, Points, Present, known_by_labels
from sharedbb.learn.labels import EDGES, VOID, Asked, Boxes, LabelMap, asked, edge_cells
from sharedbb.outputs.keypoints import LEAST_SCORE
from sharedbb.spec import Head, Pipeline

Raw = Mapping[str, Tensor]
Size = tuple[int, int]

WEIGHTS = {"tags": 0.2}
"""Weight of a type of head in the sum of all; the others count 1."""

EDGE_WEIGHT = 0.5
"""Weight of a segmentation head that learns boundaries."""

MOST_COUNTED = 400
"""Pictures of a set that the weights of classes are counted on."""

SPREAD = 1.0
"""Standard deviation of a point's heat, in cells."""


class Task(Protocol):
    """How one head learns from what is known."""

    @property
    def weight(self) -> float:
        """Weight of this loss in the sum of all heads."""
        ...

    def target(self, known: Sequence[Known | None], size: Size) -> Any:
        """What the head should answer on crops of ``size`` (height, width); has ``to(device)``.

        Raises DataError for what a head of this type cannot answer.
        """
        ...

    def loss(self, raw: Raw, target: Any) -> Tensor:
        """How far the head's parts are from ``target``: a scalar with a gradient."""
        ...


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Cross-entropy of the classes, weighted by class, plus ``overlap`` × how far IoU is off; void does not count."""

    class_weight: Tensor
    weight: float = 1.0
    overlap: float = 0.0

    def target(self, known: Sequence[Known | None], size: Size) -> Tensor:
        """uint8 [N, H, W] in the head's classes."""
        maps = [_void(size) if one is None else _of(Classes, one).map for one in known]
        return torch.from_numpy(np.stack(maps))

    def loss(self, raw: Raw, target: Tensor) -> Tensor:
        """See ``segmentation_loss`` and ``overlap_loss``."""
        loss = segmentation_loss(raw["logits"], target, self.class_weight)
        return loss + self.overlap * overlap_loss(raw["logits"], target) if self.overlap else loss


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Cross-entropy of inside and edge at cells of ``stride``² pixels; edges, which are rare, count twice."""

    stride: int
    weight: float = EDGE_WEIGHT

    def target(self, known: Sequence[Known | None], size: Size) -> Tensor:
        """uint8 [N, H / stride, W / stride]."""
        return torch.from_numpy(np.stack([self._cells(one, size) for one in known]))

    def loss(self, raw: Raw, target: Tensor) -> Tensor:
        """See ``cell_loss``."""
        return cell_loss(raw["logits"], target, raw["logits"].new_tensor([1.0, 2.0], dtype=torch.float32))

    def _cells(self, one: Known | None, size: Size) -> LabelMap:
        """A cell with a labelled edge in it is one; a teacher has answered by cell: what its centre says."""
        if isinstance(one, Classes):
            return one.map[self.stride // 2 :: self.stride, self.stride // 2 :: self.stride]
        return edge_cells(_void(size) if one is None else _of(Edges, one).map, self.stride)


@dataclass(frozen=True, slots=True)
class Detection:
    """Boxes of ``classes`` classes on the grid of ``strides``."""

    classes: int
    strides: tuple[int, ...]
    weight: float = 1.0

    def target(self, known: Sequence[Known | None], size: Size) -> Assignment:
        """Scores, distances and what counts, at every point of the grid."""
        grid = Grid.of(*size, self.strides)
        return Assignment.stack([self._assigned(one, grid, size) for one in known])

    def loss(self, raw: Raw, target: Assignment) -> Tensor:
        """See ``fcos.detection_loss``."""
        return detection_loss(raw["scores"], raw["distances"], target)

    def _assigned(self, one: Known | None, grid: Grid, size: Size) -> Assignment:
        objects = Objects(_NO_BOXES, np.ones(size, bool)) if one is None else _of(Objects, one)
        return assign(objects.boxes, objects.void, grid, self.classes)


@dataclass(frozen=True, slots=True)
class Tags:
    """How surely each of ``labels`` labels is right for the picture."""

    labels: int
    weight: float = WEIGHTS["tags"]

    def target(self, known: Sequence[Known | None], size: Size) -> Tensor:
        """float32 [N, labels] in 0–1, NaN where nobody knows."""
        rows = [np.full(self.labels, np.nan, np.float32) if one is None else _of(Present, one).shares for one in known]
        return torch.from_numpy(np.stack(rows))

    def loss(self, raw: Raw, target: Tensor) -> Tensor:
        """See ``tags_loss``."""
        return tags_loss(raw["logits"], target)


@dataclass(frozen=True, slots=True)
class Depth:
    """Distances in metres, at the resolution of the answer."""

    weight: float = 1.0

    def target(self, known: Sequence[Known | None], size: Size) -> Tensor:
        """float32 [N, 1, H, W], NaN where nobody knows."""
        maps = [np.full(size, np.nan, np.float32) if one is None else _of(Metres, one).map for one in known]
        return torch.from_numpy(np.stack(maps))[:, None]

    def loss(self, raw: Raw, target: Tensor) -> Tensor:
        """See ``depth_loss``; the distance wanted of a cell is that of the pixel at its centre."""
        step = target.shape[-1] // raw["depth"].shape[-1]
        return depth_loss(raw["depth"], target[..., step // 2 :: step, step // 2 :: step])


@dataclass(frozen=True, slots=True)
class Keypoints:
    """A heat map for each of ``points`` points at cells of ``stride``² pixels, empty where a point is not seen."""

    points: int
    stride: int
    weight: float = 1.0

    def target(self, known: Sequence[Known | None], size: Size) -> Tensor:
        """float32 [N, points, H / stride, W / stride] in 0–1, NaN where nobody knows."""
        return torch.from_numpy(np.stack([self._heat(one, size) for one in known]))

    def loss(self, raw: Raw, target: Tensor) -> Tensor:
        """See ``heatmap_loss``."""
        return heatmap_loss(raw["heatmaps"], target)

    def _heat(self, one: Known | None, size: Size) -> NDArray[np.float32]:
        """A bell of the score's height around each point."""
        height, width = size[0] // self.stride, size[1] // self.stride
        if one is None:
            return np.full((self.points, height, width), np.nan, np.float32)
        found = _of(Points, one)
        x, y = (found.xy.T / self.stride - 0.5)[..., None]
        across = np.exp(-((np.arange(width) - x) ** 2) / (2 * SPREAD**2))
        down = np.exp(-((np.arange(height) - y) ** 2) / (2 * SPREAD**2))
        seen = np.where(found.scores >= LEAST_SCORE, found.scores, 0)
        heat: NDArray[np.float32] = (seen[:, None, None] * down[:, :, None] * across[:, None, :]).astype(np.float32)
        return heat


@dataclass(frozen=True, slots=True)
class Embedding:
    """A vector of ``dim`` numbers for the whole picture, by direction."""

    dim: int
    weight: float = 1.0

    def target(self, known: Sequence[Known | None], size: Size) -> Tensor:
        """float32 [N, dim], NaN where nobody knows."""
        rows = [np.full(self.dim, np.nan, np.float32) if one is None else _of(Direction, one).vector for one in known]
        return torch.from_numpy(np.stack(rows))

    def loss(self, raw: Raw, target: Tensor) -> Tensor:
        """See ``embedding_loss``."""
        return embedding_loss(raw["vector"], target)


_NO_BOXES = Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))


def _void(size: Size) -> LabelMap:
    return np.full(size, VOID, np.uint8)


def _of(kind: type[Any], known: Known) -> Any:
    if not isinstance(known, kind):
        raise DataError(f"a teacher gave {type(known).__name__}, where the head needs {kind.__name__}")
    return known


def questions_of(pipeline: Pipeline, data: Data) -> dict[str, Asked]:
    """What the labels of ``data`` can ask, by head."""
    found = {name: asked(h, data.classes, depth=data.depth, boxed=data.boxed) for name, h in pipeline.heads.items()}
    return {name: question for name, question in found.items() if question is not None}


def tasks_of(pipeline: Pipeline, *sets: Data, overlap: float = 0.0) -> dict[str, Task]:
    """The heads that can learn from labels or teachers of any of ``sets``, by name, each with its task.

    ``overlap``: weight of ``overlap_loss`` in what segmentation learns. Reads up to MOST_COUNTED pictures of each set,
    for the weights of classes.
    """
    asked_of = [(data, questions_of(pipeline, data)) for data in sets]
    wanted = {name for data, questions in asked_of for name in (*questions, *data.taught)}
    heads = {name: head for name, head in pipeline.heads.items() if name in wanted}
    counted = [name for name, head in heads.items() if head.type == "segmentation" and not _of_edges(head)]
    counts = _counts(asked_of, counted) if counted else {}
    return {name: _task(head, counts.get(name, np.zeros(0)), overlap) for name, head in heads.items()}


def _counts(
    asked_of: Iterable[tuple[Data, Mapping[str, Asked]]], heads: Sequence[str]
) -> dict[str, np.ndarray[Any, Any]]:
    """For each head, how many pixels are known to be of each class, float64 [256]."""
    counts = {name: np.zeros(256) for name in heads}
    for data, questions in asked_of:
        mine = {name: question for name, question in questions.items() if name in counts}
        if not mine and not counts.keys() & set(data.taught):
            continue
        for sample in data.spread(MOST_COUNTED):
            known = {**sample.known, **known_by_labels(sample, mine)}
            for name in counts.keys() & known.keys():
                counts[name] += np.bincount(_of(Classes, known[name]).map.ravel(), minlength=256)
    return counts


def _of_edges(head: Head) -> bool:
    return tuple(getattr(head, "classes", ())) == EDGES


def _task(head: Any, counts: np.ndarray[Any, Any], overlap: float) -> Task:
    match head.type:
        case "segmentation" if _of_edges(head):
            return Boundaries(head.taps[0])
        case "segmentation":
            return Segmentation(class_weights(counts[: len(head.classes)]), overlap=overlap)
        case "detection":
            return Detection(len(head.classes), head.taps)
        case "tags":
            return Tags(len(head.labels))
        case "depth":
            return Depth()
        case "keypoints":
            return Keypoints(len(head.points), head.taps[0])
        case "embedding":
            return Embedding(head.dim)
    raise DataError(
        f"a head of type {head.type!r} learns neither from labels nor from answers; distil it from a network"
    )


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


def overlap_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 − IoU, made differentiable, at the resolution of ``logits`` [N, C, h, w]: a mean over the classes that occur.

    The Lovász extension of 1 − IoU (Berman et al. 2018): with answers that are sure it is 1 − IoU itself, so that rare
    classes count as much as common ones. ``labels`` uint8 [N, H, W] at stride 1; the pixel at a cell's centre is asked,
    void is not. 0 where all is void.
    """
    step = labels.shape[-1] // logits.shape[-1]
    labels = labels[:, step // 2 :: step, step // 2 :: step]
    known = labels != VOID
    classes, wanted = cast("tuple[Tensor, Tensor]", torch.unique(labels[known].long(), return_inverse=True))
    given = logits.float().softmax(1).movedim(1, 0)[:, known][classes]
    right = (torch.arange(len(classes), device=wanted.device)[:, None] == wanted).to(given)
    off, order = (right - given).abs().sort(dim=1, descending=True)
    right = right.gather(1, order)
    area = right.sum(1, keepdim=True)
    lost = 1 - (area - right.cumsum(1)) / (area + (1 - right).cumsum(1))
    steps = lost.diff(dim=1, prepend=lost.new_zeros(len(classes), 1))
    return (off * steps).sum() / max(1, len(classes))


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
    """Divergence of heat maps [N, K, h, w] of logits from ``wanted`` ones in 0–1, times the square of how far off.

    Per unit of what is wanted; NaN is unknown. A point has few cells: without the square, which counts cells that are
    nearly right for nearly nothing, the empty ones would decide (as in the focal loss of CenterNet, Zhou et al. 2019).
    """
    known, wanted = ~wanted.isnan(), wanted.nan_to_num(0.0).float()
    off = (wanted - logits.float().sigmoid()) ** 2 * binary_divergence(logits, wanted)
    return (off * known).sum() / wanted.sum().clamp(min=1.0)


def embedding_loss(vectors: Tensor, wanted: Tensor) -> Tensor:
    """1 − cosine of vectors [N, D], averaged: 0 for equal directions. Rows of NaN in ``wanted`` do not count."""
    known = ~wanted.isnan().any(dim=1)
    off = 1 - F.cosine_similarity(vectors.float(), wanted.nan_to_num(0.0).float(), dim=1)
    return (off * known).sum() / known.sum().clamp(min=1)


def binary_divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of Bernoulli probabilities ``sigmoid(logits)`` from ``wanted`` ones, by element."""
    wanted = wanted.float()
    least = F.binary_cross_entropy(wanted, wanted, reduction="none")
    return F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none") - least
