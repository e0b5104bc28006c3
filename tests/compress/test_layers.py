"""Layers by name, and what comes into them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.compress.layers import Weighted, watched, weighted_layers
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.network import Network
from sharedbb.spec import Pipeline

PIPELINE = Pipeline.model_validate(
    {
        "name": "tiny",
        "input": {"size": [32, 32], "normalize": "unit"},
        "backbone": {"arch": "mobilenet_v2"},
        "heads": {"scene": {"type": "tags", "taps": [32], "labels": ["sky", "road"]}},
    }
)


class Twice(nn.Module):
    """One layer called twice, one never, one with a name that another begins with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
        self.stem2 = nn.Conv2d(3, 2, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"scene.logits": self.stem2(self.stem(self.stem(image))).mean((2, 3))}


@pytest.fixture
def network() -> Network:
    return Network(PIPELINE, Twice().eval())


@pytest.mark.parametrize(
    ("layers", "exclude", "found"),
    [
        (None, (), ["stem.0", "stem2", "unused"]),
        (["stem"], (), ["stem.0"]),
        (["stem.0", "unused"], (), ["stem.0", "unused"]),
        (None, ["stem", "unused"], ["stem2"]),
        ([], (), []),
    ],
)
def test_layers_are_chosen_by_name(
    network: Network, layers: list[str] | None, exclude: list[str], found: list[str]
) -> None:
    assert list(weighted_layers(network.module, layers, exclude)) == found


@pytest.mark.parametrize("name", ["ste", "stem.1", "stem.0.weight", "heads"])
def test_a_name_without_layers_is_an_error(network: Network, name: str) -> None:
    with pytest.raises(CompressionError, match=f"no layer with weights at '{name}' .*: stem, stem2, unused"):
        weighted_layers(network.module, exclude=[name])


def test_inputs_are_measured_over_all_calls_and_pictures(network: Network) -> None:
    draw = np.random.default_rng(0)
    rgb = [draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(3)]
    data = Data.given("noise", [Sample(str(at), each) for at, each in enumerate(rgb)])

    def mean(layer: Weighted, features: Tensor) -> Tensor:
        return features.mean((0, 2, 3))

    found = watched(network, weighted_layers(network.module), data, mean)
    assert set(found) == {"stem.0", "stem2"}
    with torch.no_grad():
        images = torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2) / 255
        once = network.module.stem(images)
        twice = network.module.stem(once)
    assert found["stem.0"] == pytest.approx((images.mean((0, 2, 3)) + once.mean((0, 2, 3))) / 2, rel=1e-5)
    assert found["stem2"] == pytest.approx(twice.mean((0, 2, 3)), rel=1e-5)
    assert not network.module.stem[0]._forward_pre_hooks
