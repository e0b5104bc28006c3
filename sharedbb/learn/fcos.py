"""Detection without anchors (FCOS, Tian et al. 2019): which point of the grid answers for which box, and the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sharedbb.learn.labels import Boxes

FARTHEST: Mapping[int, float] = {4: 24.0, 8: 48.0, 16: 104.0, 32: 208.0, 64: 416.0}
"""Stride of a level → how far away, in pixels, the farthest side of its boxes may lie; the coarsest has no limit."""

CENTRE_RADIUS = 1.5


@dataclass(frozen=True, slots=True)
class Grid:
    """The points of all detection levels: ``xy`` [L, 2] in network pixels, ``stride`` [L], ``low``/``high`` [L].

    A point answers only for boxes whose farthest side lies between ``low`` and ``high`` pixels away.
    """

    xy: Tensor
    stride: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, height: int, width: int, strides: Sequence[int]) -> Grid:
        """Cell centres by level in the order of ``strides`` (ascending), then rows, then columns."""
        reach = [0.0, *(FARTHEST.get(stride, 6.5 * stride) for stride in strides[:-1]), float("inf")]
        levels = []
        for step, low, high in zip(strides, reach[:-1], reach[1:], strict=True):
            y, x = torch.meshgrid(torch.arange(height // step), torch.arange(width // step), indexing="ij")
            points = torch.stack((x, y), dim=-1).reshape(-1, 2).float().add(0.5).mul(step)
            levels.append((points, *(torch.full((len(points),), float(value)) for value in (step, low, high))))
        xy, stride, low_side, high_side = (torch.cat(parts) for parts in zip(*levels, strict=True))
        return cls(xy, stride, low_side, high_side)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Targets of one picture or, stacked, of a batch: ``scores`` [..., L, C] in 0–1, ``counted`` bool [..., L, C].

    ``positive`` bool [..., L]: the points that answer for a box; ``distances`` [..., L, 4] to its left, top, right and
    bottom side in strides, zero where there is none.
    """

    scores: Tensor
    counted: Tensor
    positive: Tensor
    distances: Tensor

    @classmethod
    def stack(cls, pictures: Sequence[Assignment]) -> Assignment:
        """The assignments of a batch."""
        return cls(
            torch.stack([one.scores for one in pictures]),
            torch.stack([one.counted for one in pictures]),
            torch.stack([one.positive for one in pictures]),
            torch.stack([one.distances for one in pictures]),
        )

    def to(self, device: torch.device) -> Assignment:
        """The same on ``device``."""
        parts = (self.scores, self.counted, self.positive, self.distances)
        return Assignment(*(part.to(device) for part in parts))


def assign(boxes: Boxes, unknown: NDArray[np.bool_] | None, grid: Grid, classes: int) -> Assignment:
    """Give each point at most one box, with level ranges and centre sampling.

    A point answers for a box that holds it, whose centre is within CENTRE_RADIUS strides, and whose farthest side fits
    its level; of several, the smallest. Points inside an ignored box (or inside one that no point answers for) do not
    count for that class; points where ``unknown`` (bool HW) is true count for none, unless they answer for a box.
    """
    x, y = grid.xy.long().unbind(1)
    void = torch.zeros(len(grid.xy), dtype=torch.bool) if unknown is None else torch.from_numpy(unknown)[y, x]
    scores, counted = torch.zeros(len(void), classes), (~void)[:, None].repeat(1, classes)
    if len(boxes) == 0:
        return Assignment(scores, counted, torch.zeros_like(void), torch.zeros(len(void), 4))
    xyxy, kinds = torch.from_numpy(boxes.xyxy), torch.from_numpy(boxes.classes)
    sides = torch.cat((grid.xy[:, None] - xyxy[None, :, :2], xyxy[None, :, 2:] - grid.xy[:, None]), dim=-1)
    inside, farthest = sides.amin(-1) > 0, sides.amax(-1)
    off = (grid.xy[:, None] - (xyxy[:, :2] + xyxy[:, 2:])[None] / 2).abs().amax(-1)
    answers = inside & (off < CENTRE_RADIUS * grid.stride[:, None]) & ~torch.from_numpy(boxes.ignored)[None]
    answers &= (farthest > grid.low[:, None]) & (farthest <= grid.high[:, None])
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    smallest, owner = torch.where(answers, area[None], torch.inf).min(dim=1)
    positive = ~smallest.isinf()
    answered = torch.bincount(owner[positive], minlength=len(boxes)) > 0
    for index in (~answered).nonzero().flatten().tolist():
        counted[inside[:, index], kinds[index]] = False
    scores[positive, kinds[owner[positive]]] = torch.from_numpy(boxes.certainty)[owner[positive]]
    counted[positive] = True
    distances = sides[torch.arange(len(owner)), owner] / grid.stride[:, None]
    return Assignment(scores, counted, positive, torch.where(positive[:, None], distances, 0.0))


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017), element by element, with alpha 0.25 and gamma 2; ``targets`` in 0–1.

    Between 0 and 1, the distance from the target takes the place of the error (quality focal loss, Li et al. 2020).
    """
    alpha = torch.where(targets > 0, 0.25, 0.75)
    off = (targets - logits.sigmoid()).abs()
    return alpha * off**2 * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def giou_of_distances(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes given as side distances [..., 4] from the same points."""
    low, high = torch.minimum(predicted, wanted), torch.maximum(predicted, wanted)
    overlap, hull, *areas = (
        (sides[..., 0] + sides[..., 2]) * (sides[..., 1] + sides[..., 3]) for sides in (low, high, predicted, wanted)
    )
    union = areas[0] + areas[1] - overlap
    return overlap / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def detection_loss(scores: Tensor, distances: Tensor, target: Assignment) -> Tensor:
    """Focal loss on the scores and GIoU on the boxes of the points that answer, per such point in the batch.

    A point counts by how sure its box is. ``scores`` [N, L, C] logits, ``distances`` [N, L, 4] in strides.
    """
    total = (focal(scores.float(), target.scores) * target.counted).sum()
    predicted, wanted = distances.float()[target.positive], target.distances[target.positive]
    sure = target.scores[target.positive].amax(-1)
    return (total + (sure * (1 - giou_of_distances(predicted, wanted))).sum()) / sure.sum().clamp(min=1.0)
