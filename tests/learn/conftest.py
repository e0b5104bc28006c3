"""A backbone small enough that whole studies run in a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from sharedbb.nets.backbones import Backbone, seeded
from sharedbb.registry import BACKBONES, register_backbone


def _step(channels_in: int, channels_out: int) -> nn.Module:
    convolution = nn.Conv2d(channels_in, channels_out, 3, 2, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def _chain(weights: str | None) -> Backbone:
    widths = {"first": (3, 8), "second": (8, 8), "third": (8, 12), "fourth": (12, 16), "last": (16, 20)}
    network = seeded(0, lambda: nn.ModuleDict({name: _step(*width) for name, width in widths.items()}))
    taps = {4: ("second", 8), 8: ("third", 12), 16: ("fourth", 16), 32: ("last", 20)}
    return Backbone(network, tuple(widths), taps)


@pytest.fixture(scope="module")
def chain() -> Iterator[None]:
    """The backbone ``chain``: the steps first, second, third, fourth and last halve the picture each; one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    register_backbone("chain", _chain)
    yield
    BACKBONES.unregister("chain")
    torch.set_num_threads(threads)
