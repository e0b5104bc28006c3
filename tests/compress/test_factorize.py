"""Factorising networks: planted ranks are found, nothing is replaced in vain, floors hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb import nets
from sharedbb.compress.factorize import factorize
from sharedbb.errors import CompressionError
from sharedbb.graph.quantization import Scheme
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.network import Network
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import Pipeline

PIPELINE = Pipeline.model_validate(
    {
        "name": "tiny",
        "input": {"size": [32, 32], "normalize": "unit"},
        "backbone": {"arch": "mobilenet_v2"},
        "heads": {"scene": {"type": "tags", "taps": [32], "labels": ["sky", "road"]}},
    }
)
REASONS = {
    "first": "would not save multiply-adds",
    "deep": "sees groups of channels already",
    "mirror": "pads with reflect, not with zeros",
    "up": "transposed convolutions are not factorised",
    "last": "would not save multiply-adds",
}


class Tiny(nn.Module):
    """Layers of rank three, and layers that cannot or should not be factorised."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 2, 1)
        self.square = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.point = nn.Conv2d(16, 20, 1)
        self.deep = nn.Conv2d(20, 20, 3, 1, 1, groups=20)
        self.mirror = nn.Conv2d(20, 20, 3, 1, 1, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(20, 20, 2, 2)
        self.wide = nn.Linear(20, 16)
        self.last = nn.Linear(16, 2)
        for layer in (self.square[0], self.point, self.wide):
            outputs, *inputs = layer.weight.shape
            thin = torch.randn(outputs, 3) @ torch.randn(3, int(np.prod(inputs))) / 6
            layer.weight.data.copy_(thin.reshape(layer.weight.shape))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.point(self.square(self.first(image)))
        features = self.up(self.mirror(self.deep(features)).relu())
        return {"scene.logits": self.last(self.wide(features.mean((2, 3))).relu())}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(PIPELINE, Tiny().eval())


@pytest.fixture
def pictures() -> Data:
    draw = np.random.default_rng(0)
    rgb = [draw.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(4)]
    return Data.given("noise", [Sample(str(at), each) for at, each in enumerate(rgb)])


def answers(network: Network) -> Tensor:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer: Tensor = network.module(image)["scene.logits"]
    return answer


def test_layers_of_rank_three_are_replaced_and_the_rest_stays(network: Network) -> None:
    after, report = factorize(network, energy=1 - 1e-6)
    assert {told["layer"]: told["ranks"] for told in report.facts["layers"]} == {
        "square.0": [3],
        "point": [3],
        "wide": [3],
    }
    assert report.facts["refused"] == REASONS
    assert torch.allclose(answers(after), answers(network), atol=1e-4)
    saved = 64 * (16 * 144 - 3 * (144 + 16)) + 64 * (320 - 3 * 36) + (320 - 3 * 36)
    assert network.macs - after.macs == saved == report.facts["macs_before"] - report.facts["macs_after"]
    assert report.facts["parameters_after"] < report.facts["parameters_before"]
    assert isinstance(after.module.square[1], nn.BatchNorm2d)
    assert isinstance(network.module.point, nn.Conv2d)
    assert after.steps == (report,)
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


@pytest.mark.parametrize("method", ["tucker", "cp"])
def test_other_methods_factorise_kernels_and_leave_matrices_to_svd(network: Network, method: str) -> None:
    after, report = factorize(network, method=method, energy=0.8, layers=["square", "point"])
    kernel, matrix = after.module.square[0], after.module.point
    assert [layer.kernel_size for layer in kernel] == [(1, 1), (3, 3), (1, 1)]
    assert [layer.stride for layer in kernel] == [(1, 1), (2, 2), (1, 1)]
    assert (kernel[1].groups > 1) is (method == "cp")
    assert len(matrix) == 2
    assert all(told["energy"] >= 0.8 and told["macs_left"] < 1 for told in report.facts["layers"])
    macs = {told["layer"]: told["macs_left"] for told in report.facts["layers"]}
    expected = 64 * (16 * 144 * (1 - macs["square.0"]) + 320 * (1 - macs["point"]))
    assert network.macs - after.macs == pytest.approx(expected, rel=1e-3)


def test_ranks_are_taken_as_given(network: Network) -> None:
    after, report = factorize(network, rank={"point": 2, "wide": 15})
    assert [told["ranks"] for told in report.facts["layers"]] == [[2]]
    assert report.facts["refused"]["wide"] == "would not save multiply-adds"
    assert report.facts["refused"]["square.0"] == "no rank is given for it"
    assert after.module.point[0].out_channels == 2
    assert [told["ranks"] for told in factorize(network, rank=1, layers=["square"])[1].facts["layers"]] == [[1]]


def test_where_nothing_is_saved_nothing_changes(network: Network) -> None:
    after, report = factorize(network, layers=["first", "last"])
    assert after.macs == network.macs
    assert report.said == ("no layer was factorised: none would have fewer multiply-adds",)


def test_pictures_say_which_outputs_matter(network: Network, pictures: Data) -> None:
    seen, blind = (factorize(network, rank=1, layers=["point"], data=data)[0] for data in (pictures, None))
    errors = []
    for after in (seen, blind):
        change = []
        for sample in pictures:
            image = torch.from_numpy(sample.rgb).permute(2, 0, 1)[None] / 255
            with torch.no_grad():
                features = network.module.square(network.module.first(image))
                change.append((after.module.point(features) - network.module.point(features)).square().mean())
        errors.append(float(torch.stack(change).mean()))
    assert errors[0] < 0.8 * errors[1]
    assert seen.module.point[1].bias is not None


def test_a_floor_is_kept_and_made_use_of(network: Network, pictures: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, float]] = []

    def agreement(before: Network, module: nn.Module, data: Data) -> float:
        assert (before, data) == (network, pictures)
        ranks = sum(layer[0].weight.shape[0] for layer in (module.square[0], module.point) if hasattr(layer, "__len__"))
        tried.append((ranks, 0.5 + 0.1 * ranks))
        return tried[-1][1]

    room = import_module("sharedbb.compress.factorize")  # the package has the function under that name
    monkeypatch.setattr(room, "_agreement", agreement)
    _, report = factorize(network, floor=0.95, data=pictures, layers=["square", "point"])
    ranks = sum(told["ranks"][0] for told in report.facts["layers"])
    assert (ranks, 0.5 + 0.1 * ranks) in tried
    assert ranks == 5
    assert min(ranks for ranks, found in tried if found >= 0.95) == ranks
    assert len(tried) <= room.TRIES


def test_a_floor_that_nothing_keeps_leaves_all_as_it_was(network: Network, pictures: Data) -> None:
    after, report = factorize(network, floor=1.01, data=pictures, layers=["square", "point"])
    assert report.facts["layers"] == []
    assert report.facts["refused"] == dict.fromkeys(("square.0", "point"), "every try broke the floor")
    assert torch.equal(answers(after), answers(network))


def test_codings_of_replaced_weights_are_dropped(network: Network) -> None:
    coding = {"point.weight": {"type": "plain", "sparse": True}, "deep.weight": {"type": "uniform", "bits": 8}}
    coding["point.bias"] = {"type": "plain", "dtype": "f16"}
    after, report = factorize(replace(network, coding=coding), rank=2, layers=["point", "deep"])
    assert after.coding == {"deep.weight": {"type": "uniform", "bits": 8}}
    assert report.said == ("1 of the replaced weights were pruned, clustered or rounded; their factors are not",)


class Trunk(nn.Module):
    """A backbone of two layers."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {4: 16}
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        return {4: self.layers(image)}


def test_a_factorised_network_is_saved_and_built_again(tmp_path: Path) -> None:
    register_backbone("trunk", Trunk, strides=(4,))
    try:
        heads = {"scene": {"type": "tags", "taps": [4], "labels": ["sky", "road"]}}
        pipeline = Pipeline.model_validate(
            {"name": "thin", "input": {"size": [32, 32]}, "backbone": {"arch": "trunk"}, "heads": heads}
        )
        after, report = factorize(Network(pipeline, nets.build(pipeline).eval()), rank=4, layers=["backbone"])
        assert [told["layer"] for told in report.facts["layers"]] == ["backbone.layers.0", "backbone.layers.1"]
        after.save(tmp_path / "thin.sbb")
        weights = pipeline.backbone.model_copy(update={"weights": str(tmp_path / "thin.sbb")})
        again = Network.of(pipeline.model_copy(update={"backbone": weights}))
    finally:
        BACKBONES.unregister("trunk")
    assert str(again.module) == str(after.module)
    for name, tensor in again.module.state_dict().items():
        assert torch.allclose(tensor, after.module.state_dict()[name], atol=1e-3)  # stored as float16


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "qr"}, "called 'qr' \\(known: svd, cp, tucker\\)"),
        ({"energy": 0.0}, "energy is a share above 0, up to 1; got 0.0"),
        ({"energy": 1.5}, "got 1.5"),
        ({"rank": 0}, "a rank is at least 1, got 0"),
        ({"rank": {"point": -2}}, "got -2"),
        ({"floor": 0.9}, "give data, and no rank"),
        ({"layers": ["middle"]}, "no layer with weights at 'middle'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(network: Network, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(CompressionError, match=said):
        factorize(network, **settings)


def test_quantized_networks_are_refused(network: Network) -> None:
    with pytest.raises(CompressionError, match="factorize first, then quantize"):
        factorize(replace(network, scheme=Scheme({})))
