from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sharedbb.errors import GraphError
from sharedbb.nets import Fpn

CHANNELS = {4: 3, 8: 5, 16: 7, 32: 9}


def features(height: int = 96, width: int = 160) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {s: torch.randn(2, c, height // s, width // s, generator=generator) for s, c in CHANNELS.items()}


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (4, 16), (8, 32), (16,)])
def test_levels_are_laterals_plus_everything_above(strides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    neck = Fpn(CHANNELS, SimpleNamespace(channels=6, strides=strides)).eval()
    maps = features()
    levels = neck(maps)
    assert tuple(levels) == strides
    assert neck.channels == dict.fromkeys(strides, 6)
    for stride in strides:
        expected = torch.zeros(())
        for above in (s for s in strides if s >= stride):
            lateral = neck.laterals[str(above)](maps[above])
            ratio = above // stride
            expected = expected + lateral.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3)
        torch.testing.assert_close(levels[stride], neck.smooth[str(stride)](expected), rtol=1e-4, atol=1e-5)


def test_a_stride_the_backbone_lacks_is_an_error() -> None:
    with pytest.raises(GraphError, match=r"no stride 64 .*\[4, 8, 16, 32\]"):
        Fpn(CHANNELS, SimpleNamespace(channels=6, strides=(32, 64)))


def test_every_weight_learns() -> None:
    neck = Fpn(CHANNELS, SimpleNamespace(channels=6, strides=(4, 8, 16, 32))).train()
    sum(level.square().mean() for level in neck(features()).values()).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in neck.parameters())
