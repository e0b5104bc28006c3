"""A network so small that quantizing it takes no time, and pictures for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.learn.data import Data, Sample
from sharedbb.learn.network import Network
from sharedbb.nets.backbones import seeded
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import Pipeline


class Steps(nn.Module):
    """Features at strides 4 to 32, with what backbones are made of: a residual sum, a gate, batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = {4: 8, 8: 12, 16: 16, 32: 16}
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.residual = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.Hardswish())
        self.third = nn.Sequential(nn.Conv2d(12, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.gate = nn.Conv2d(16, 16, 1)
        self.fourth = nn.Conv2d(16, 16, 3, 2, 1, groups=2)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 2.0)
                nn.init.uniform_(part.running_mean, -0.3, 0.3)
                nn.init.uniform_(part.running_var, 0.1, 0.5)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        first = self.stem(image)
        first = (first + self.residual(first)).relu()
        second = self.second(first)
        third = self.third(second)
        third = third * self.gate(nn.functional.adaptive_avg_pool2d(third, 1)).sigmoid()
        return {4: first, 8: second, 16: third, 32: self.fourth(third).relu()}


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from several threads, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipeline_of(one_thread: None) -> Iterator[Callable[..., Pipeline]]:
    """``pipeline_of(field=value)``: the small pipeline, changed."""
    register_backbone("steps", lambda _weights: seeded(0, Steps), strides=(4, 8, 16, 32))
    heads: dict[str, Any] = {
        "surface": {"type": "segmentation", "taps": [4], "classes": ["a", "b", "c"], "channels": 8},
        "scene": {"type": "tags", "taps": [32], "labels": ["p", "q"]},
    }
    plain = {"name": "small", "input": {"size": [64, 96]}, "backbone": {"arch": "steps"}, "heads": heads}
    neck = {"type": "fpn", "channels": 8, "strides": [4, 8, 32]}

    yield lambda **changes: Pipeline.model_validate(plain | {"neck": neck} | changes)
    BACKBONES.unregister("steps")


@pytest.fixture(scope="module")
def small(pipeline_of: Callable[..., Pipeline]) -> Network:
    """The small network."""
    return Network.of(pipeline_of())


@pytest.fixture(scope="session")
def scenes() -> Data:
    """A few pictures of rectangles and noise, labelled by which rectangle it is."""
    random = np.random.default_rng(0)
    samples = []
    for index in range(6):
        labels = np.zeros((64, 96), np.uint8)
        labels[8 * index : 8 * index + 20, 10:60] = 1
        labels[30:60, 50 + 4 * index :] = 2
        colours = np.array([[40, 60, 90], [220, 60, 30], [90, 200, 120]])
        noisy = colours[labels] + random.normal(0, 12, (64, 96, 3))
        samples.append(Sample(str(index), noisy.clip(0, 255).astype(np.uint8), labels))
    return Data.given("rectangles", samples, ("a", "b", "c"))
