"""The few pieces that necks and heads are made of: cheap convolutions, and fusing maps of several strides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from sharedbb.errors import GraphError


def projection(channels_in: int, channels_out: int) -> nn.Sequential:
    """A 1×1 convolution and batch norm: another channel count, no activation."""
    return nn.Sequential(pointwise(channels_in, channels_out), nn.BatchNorm2d(channels_out))


def pointwise(channels_in: int, channels_out: int) -> nn.Conv2d:
    """A 1×1 convolution without bias, for a batch norm to follow."""
    return _scaled(nn.Conv2d(channels_in, channels_out, 1, bias=False))


def depthwise(channels: int) -> nn.Conv2d:
    """A 3×3 convolution of each channel by itself, without bias, for a batch norm to follow."""
    return _scaled(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))


def separable(channels: int) -> nn.Sequential:
    """A depthwise-separable 3×3 convolution (Howard et al., 2017): depthwise, then 1×1, batch norm and ReLU each."""
    return nn.Sequential(
        depthwise(channels),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        *projection(channels, channels),
        nn.ReLU(),
    )


def upsample(features: Tensor, ratio: int, mode: str) -> Tensor:
    """``features`` made ``ratio`` times larger, ``"nearest"`` or ``"bilinear"`` (half-pixel centres)."""
    if ratio == 1:
        return features
    align = None if mode == "nearest" else False
    return F.interpolate(features, scale_factor=float(ratio), mode=mode, align_corners=align)


class Fuse(nn.Module):
    """One map at the finest stride from the maps of several: each projected to ``width`` channels, upsampled, added.

    Forward takes the maps in the order of ``taps`` and returns ``[N, width, h, w]`` of the finest one, after a ReLU.
    """

    def __init__(self, taps: Sequence[int], channels: Mapping[int, int], width: int) -> None:
        super().__init__()
        self.ratios = tuple(exact_ratio(stride, min(taps)) for stride in taps)
        self.projections = nn.ModuleList(projection(channels[stride], width) for stride in taps)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Project at each stride's own size (cheapest there), then upsample and add."""
        fused: Tensor | None = None
        for project, ratio, value in zip(self.projections, self.ratios, features, strict=True):
            raised = upsample(project(value), ratio, "bilinear")
            fused = raised if fused is None else fused + raised
        assert fused is not None
        return F.relu(fused)


def _scaled(convolution: nn.Conv2d) -> nn.Conv2d:
    """Weights of a variance that keeps the signal's through a ReLU (He et al., 2015), trained or not."""
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return convolution


def exact_ratio(coarse: int, fine: int) -> int:
    """How many times the finer stride fits in the coarser. Raises GraphError when it does not fit."""
    if coarse % fine:
        raise GraphError(f"stride {coarse} is not a multiple of stride {fine}; tap strides that are, such as 4, 8, 16")
    return coarse // fine
