"""Heads with an answer at every cell of the finest tap: segmentation, keypoint heat maps, depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from sharedbb.nets.blocks import Fuse, separable


class DenseSpec(Protocol):
    """What every dense head is built from: strides tapped, ascending, and the width inside."""

    taps: tuple[int, ...]
    channels: int


class SegmentationSpec(DenseSpec, Protocol):
    """One class a cell."""

    classes: Sequence[str]


class KeypointsSpec(DenseSpec, Protocol):
    """One heat map a named point."""

    points: Sequence[str]


class DepthSpec(DenseSpec, Protocol):
    """Metres between two bounds."""

    min_m: float
    max_m: float


class DenseHead(nn.Module):
    """Fused taps, two depthwise-separable 3×3 convolutions, and a 1×1 convolution to ``outputs`` channels.

    Forward takes the tapped maps (NCHW, in the order of the taps) and returns ``{part: [N, outputs, h, w]}``, h and w
    those of the finest tap.
    """

    def __init__(self, spec: DenseSpec, channels: Mapping[int, int], part: str, outputs: int) -> None:
        super().__init__()
        self.part = part
        self.fuse = Fuse(spec.taps, channels, spec.channels)
        self.refine = nn.Sequential(separable(spec.channels), separable(spec.channels))
        self.predict = nn.Conv2d(spec.channels, outputs, 1)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """The raw map under its part name."""
        return {self.part: self.predict(self.refine(self.fuse(features)))}


class DepthHead(DenseHead):
    """A dense head whose one channel becomes metres, even in log-depth: ``min_m · (max_m / min_m) ** sigmoid(x)``."""

    def __init__(self, spec: DepthSpec, channels: Mapping[int, int]) -> None:
        super().__init__(spec, channels, "depth", 1)
        self.min_m = float(spec.min_m)
        self.log_range = math.log(spec.max_m / spec.min_m)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """``{"depth": [N, 1, h, w]}`` in metres."""
        position = super().forward(features)["depth"].sigmoid()
        return {"depth": (position * self.log_range).exp() * self.min_m}


def segmentation(spec: SegmentationSpec, channels: Mapping[int, int]) -> nn.Module:
    """``logits`` [N, classes, h, w] at the stride of the finest tap."""
    return DenseHead(spec, channels, "logits", len(spec.classes))


def keypoints(spec: KeypointsSpec, channels: Mapping[int, int]) -> nn.Module:
    """``heatmaps`` [N, points, h, w]: a logit per cell that the point lies there. Starts out at "nowhere"."""
    head = DenseHead(spec, channels, "heatmaps", len(spec.points))
    assert head.predict.bias is not None
    nn.init.constant_(head.predict.bias, -math.log((1 - 0.01) / 0.01))
    return head


def depth(spec: DepthSpec, channels: Mapping[int, int]) -> nn.Module:
    """``depth`` [N, 1, h, w] in metres between ``min_m`` and ``max_m``."""
    return DepthHead(spec, channels)
