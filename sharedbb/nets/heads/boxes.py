"""Anchor-free detection: at every cell of every level, class scores and distances to the four sides of a box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharedbb.nets.blocks import depthwise, pointwise, projection

PRIOR = 0.01
"""Probability that an untrained head gives every class at every cell (Lin et al., RetinaNet, 2017)."""


class DetectionSpec(Protocol):
    """What a detector is built from: strides tapped, ascending, classes, and the width inside."""

    taps: tuple[int, ...]
    classes: Sequence[str]
    channels: int


class SharedSeparable(nn.Module):
    """A depthwise-separable 3×3 convolution shared by all levels, with batch norms of each level's own.

    Levels differ in their statistics, not in what a filter looks for; the norms fold away, so this costs nothing.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.depthwise = depthwise(channels)
        self.pointwise = pointwise(channels, channels)
        self.depthwise_norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(levels))
        self.pointwise_norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(levels))

    def forward(self, features: Tensor, level: int) -> Tensor:
        """NCHW in, same shape out."""
        features = F.relu(self.depthwise_norms[level](self.depthwise(features)))
        return F.relu(self.pointwise_norms[level](self.pointwise(features)))


class PointDetector(nn.Module):
    """A detector after FCOS (Tian et al., 2019), without centre-ness, in depthwise-separable convolutions.

    Forward takes the tapped maps (NCHW, in the order of the taps) and returns
    ``scores`` [N, L, classes], class logits, and
    ``distances`` [N, L, 4], left, top, right, bottom ≥ 0 from the cell's centre, in strides of its level;
    L runs over levels, then rows, then columns. The centre of cell (row, column) at stride s lies at network pixel
    ``((column + 0.5) s, (row + 0.5) s)``.
    """

    def __init__(self, spec: DetectionSpec, channels: Mapping[int, int]) -> None:
        super().__init__()
        levels, width = len(spec.taps), spec.channels
        self.projections = nn.ModuleList(projection(channels[stride], width) for stride in spec.taps)
        self.tower = SharedSeparable(width, levels)
        self.score_branch = SharedSeparable(width, levels)
        self.box_branch = SharedSeparable(width, levels)
        self.scores = nn.Conv2d(width, len(spec.classes), 1)
        self.distances = nn.Conv2d(width, 4, 1)
        self.scales = nn.Parameter(torch.ones(levels))
        assert self.scores.bias is not None
        assert self.distances.bias is not None
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.constant_(self.scores.bias, -math.log((1 - PRIOR) / PRIOR))
        nn.init.normal_(self.distances.weight, std=0.01)
        nn.init.constant_(self.distances.bias, 2.0)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Every level through the same convolutions, flattened and joined."""
        scores: list[Tensor] = []
        distances: list[Tensor] = []
        for level, (project, value) in enumerate(zip(self.projections, features, strict=True)):
            shared = self.tower(F.relu(project(value)), level)
            scores.append(_flat(self.scores(self.score_branch(shared, level))))
            raw = self.distances(self.box_branch(shared, level))
            distances.append(_flat(F.softplus(raw * self.scales[level])))
        return {"scores": torch.cat(scores, 1), "distances": torch.cat(distances, 1)}


def detection(spec: DetectionSpec, channels: Mapping[int, int]) -> nn.Module:
    """``scores`` [N, L, classes] and ``distances`` [N, L, 4] over all cells of all levels."""
    return PointDetector(spec, channels)


def _flat(features: Tensor) -> Tensor:
    """[N, C, h, w] → [N, h·w, C]: rows, then columns."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)
