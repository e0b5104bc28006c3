"""Mixed precision for training: bfloat16, but where a CPU is slower in it than in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def mixed(network: nn.Module, device: torch.device, enabled: bool = True) -> Iterator[None]:
    """Autocast to bfloat16 on ``device``; on a CPU, depthwise convolutions with a stride stay in float32.

    Their gradients take oneDNN three times as long in bfloat16 as in float32: a tenth of a MobileNetV2's training step.
    """
    strided = [module for module in network.modules() if _is_strided_depthwise(module)]
    slow = strided if enabled and device.type == "cpu" else []
    for module in slow:
        module.__class__ = _Float32Conv2d
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            yield
    finally:
        for module in slow:
            module.__class__ = nn.Conv2d


class _Float32Conv2d(nn.Conv2d):
    """A convolution that autocast leaves in float32."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def _is_strided_depthwise(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and module.groups == module.in_channels > 1 and max(module.stride) > 1
