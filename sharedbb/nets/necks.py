"""Necks: features shared by all heads, between the backbone and them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from sharedbb.errors import GraphError
from sharedbb.nets.blocks import exact_ratio, projection, separable, upsample


class FpnSpec(Protocol):
    """What a feature pyramid is built from."""

    channels: int
    strides: tuple[int, ...]


class Fpn(nn.Module):
    """A light feature pyramid (Lin et al., 2017): 1×1 laterals, top-down adding, depthwise-separable smoothing.

    ``channels`` maps each stride it gives to ``spec.channels``. Forward takes and returns stride → NCHW map; backbone
    strides that ``spec.strides`` does not name are not read.

    Raises GraphError when the backbone lacks one of the strides.
    """

    def __init__(self, channels_in: Mapping[int, int], spec: FpnSpec) -> None:
        super().__init__()
        strides = sorted(spec.strides)
        absent = [stride for stride in strides if stride not in channels_in]
        if absent:
            raise GraphError(f"the backbone has no stride {absent[0]} for the neck (it has {sorted(channels_in)})")
        self.channels = dict.fromkeys(strides, spec.channels)
        self.laterals = nn.ModuleDict({str(s): projection(channels_in[s], spec.channels) for s in strides})
        self.smooth = nn.ModuleDict({str(s): separable(spec.channels) for s in strides})

    def forward(self, features: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """From the coarsest level down, each level its lateral plus the level above, nearest-upsampled."""
        levels: dict[int, Tensor] = {}
        above: tuple[int, Tensor] | None = None
        for stride in sorted(self.channels, reverse=True):
            level = self.laterals[str(stride)](features[stride])
            if above is not None:
                level = level + upsample(above[1], exact_ratio(above[0], stride), "nearest")
            levels[stride] = self.smooth[str(stride)](level)
            above = (stride, level)
        return {stride: levels[stride] for stride in self.channels}
