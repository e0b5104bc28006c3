"""The losses of the four heads, and which point of the detection grid answers for which box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from street.labels import IGNORED, VOID, Boxes

LEVEL_REACH = {8: (0.0, 48.0), 16: (48.0, 104.0), 32: (104.0, float("inf"))}
CENTRE_RADIUS = 1.5
WEIGHTS = {"surface": 1.0, "objects": 1.0, "edges": 0.5, "scene": 0.2}


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
        """Cell centres by level in the order of ``strides``, then rows, then columns."""
        xy, stride, low, high = [], [], [], []
        for step in strides:
            y, x = torch.meshgrid(torch.arange(height // step), torch.arange(width // step), indexing="ij")
            points = torch.stack((x, y), dim=-1).reshape(-1, 2).float().add(0.5).mul(step)
            xy.append(points)
            for values, value in zip((stride, low, high), (step, *LEVEL_REACH[step]), strict=True):
                values.append(torch.full((len(points),), float(value)))
        return cls(torch.cat(xy), torch.cat(stride), torch.cat(low), torch.cat(high))


@dataclass(frozen=True, slots=True)
class Assignment:
    """Targets of one picture: ``scores`` [L, C] in 0/1, ``counted`` bool [L, C], ``box`` int64 [L] (−1: none)."""

    scores: Tensor
    counted: Tensor
    box: Tensor


def assign(boxes: Boxes, void: Tensor, grid: Grid, classes: int) -> Assignment:
    """Give each point at most one box, as FCOS does (Tian et al. 2019), with level ranges and centre sampling.

    A point answers for a box that holds it, whose centre is within CENTRE_RADIUS strides, and whose farthest side fits
    its level; of several, the smallest. Points inside an ignored box (or inside one that no point answers for) do not
    count for that class; points on void (``void`` bool [L]) count for none, unless they answer for a box.
    """
    points = len(grid.xy)
    scores, counted = torch.zeros(points, classes), (~void)[:, None].repeat(1, classes)
    owner = torch.full((points,), -1, dtype=torch.int64)
    if len(boxes) == 0:
        return Assignment(scores, counted, owner)
    xyxy, labels = torch.from_numpy(boxes.xyxy), torch.from_numpy(boxes.classes)
    sides = _sides(grid.xy[:, None], xyxy[None])
    inside = sides.amin(-1) > 0
    offset = (grid.xy[:, None] - (xyxy[:, :2] + xyxy[:, 2:])[None] / 2).abs().amax(-1)
    farthest = sides.amax(-1)
    answers = inside & (offset < CENTRE_RADIUS * grid.stride[:, None])
    answers &= (farthest > grid.low[:, None]) & (farthest <= grid.high[:, None])
    answers &= ~torch.from_numpy(boxes.ignored)[None]
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    smallest, owner = torch.where(answers, area[None], torch.inf).min(dim=1)
    owner = torch.where(smallest.isinf(), -1, owner)
    unanswered = ~torch.isin(torch.arange(len(boxes)), owner)
    for index in unanswered.nonzero().flatten().tolist():
        counted[inside[:, index], labels[index]] = False
    positive = owner >= 0
    scores[positive, labels[owner[positive]]] = 1.0
    counted[positive] = True
    return Assignment(scores, counted, owner)


def _sides(points: Tensor, xyxy: Tensor) -> Tensor:
    """Distances left, top, right, bottom from points [..., 2] to the sides of boxes [..., 4], in pixels."""
    return torch.cat((points - xyxy[..., :2], xyxy[..., 2:] - points), dim=-1)


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017), element by element, with alpha 0.25 and gamma 2."""
    probability = logits.sigmoid()
    right = torch.where(targets > 0, probability, 1 - probability)
    alpha = torch.where(targets > 0, 0.25, 0.75)
    return alpha * (1 - right) ** 2 * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def giou_of_distances(predicted: Tensor, wanted: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of boxes given as side distances [n, 4] from the same points: [n]."""
    low, high = torch.minimum(predicted, wanted), torch.maximum(predicted, wanted)
    overlap = (low[:, 0] + low[:, 2]) * (low[:, 1] + low[:, 3])
    hull = (high[:, 0] + high[:, 2]) * (high[:, 1] + high[:, 3])
    area = [(box[:, 0] + box[:, 2]) * (box[:, 1] + box[:, 3]) for box in (predicted, wanted)]
    union = area[0] + area[1] - overlap
    return overlap / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def detection_loss(scores: Tensor, distances: Tensor, boxes: Sequence[Boxes], labels: Tensor, grid: Grid) -> Tensor:
    """Focal loss on the scores and GIoU on the boxes of the points that answer, per such point in the batch.

    ``scores`` [N, L, C] logits, ``distances`` [N, L, 4] in strides, ``labels`` uint8 [N, H, W] for the void.
    """
    total, positives = scores.new_zeros(()), 0
    cells = (grid.xy.long()[:, 1], grid.xy.long()[:, 0])
    for index, picture in enumerate(boxes):
        made = assign(picture, (labels[index] == VOID)[cells].cpu(), grid, scores.shape[-1])
        target, counted = made.scores.to(scores.device), made.counted.to(scores.device)
        total = total + (focal(scores[index].float(), target) * counted).sum()
        point = (made.box >= 0).nonzero().flatten()
        if len(point):
            wanted = _sides(grid.xy[point], torch.from_numpy(picture.xyxy)[made.box[point]])
            wanted = (wanted / grid.stride[point, None]).to(scores.device)
            predicted = distances[index, point.to(scores.device)].float()
            total = total + (1 - giou_of_distances(predicted, wanted)).sum()
        positives += len(point)
    return total / max(1, positives)


def segmentation_loss(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross-entropy at twice the resolution of ``logits`` [N, C, h, w], void ignored.

    ``labels`` uint8 [N, H, W] at stride 1; every (H / 2h)-th pixel is asked.
    """
    logits = F.interpolate(logits.float(), scale_factor=2, mode="bilinear", align_corners=False)
    step = labels.shape[-1] // logits.shape[-1]
    target = labels[:, step // 2 :: step, step // 2 :: step].long()
    return F.cross_entropy(logits, target, weight, ignore_index=VOID)


def multi_task_loss(
    raw: Mapping[str, Tensor], targets: Mapping[str, Tensor], boxes: Sequence[Boxes], grid: Grid, class_weight: Tensor
) -> dict[str, Tensor]:
    """The loss of each head, unweighted; see WEIGHTS for how they add up.

    ``targets``: ``labels`` uint8 [N, H, W], ``edges`` uint8 [N, H/4, W/4], ``tags`` float [N, 11].
    """
    edge_weight = class_weight.new_tensor([1.0, 2.0])
    return {
        "surface": segmentation_loss(raw["surface.logits"], targets["labels"], class_weight),
        "objects": detection_loss(raw["objects.scores"], raw["objects.distances"], boxes, targets["labels"], grid),
        "edges": F.cross_entropy(
            raw["edges.logits"].float(), targets["edges"].long(), edge_weight, ignore_index=IGNORED
        ),
        "scene": F.binary_cross_entropy_with_logits(raw["scene.logits"].float(), targets["tags"]),
    }
