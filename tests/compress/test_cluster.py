"""Clustering: few values per codebook, zeros kept, stored as what they are, and shared in training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb import coding
from sharedbb.compress.cluster import cluster
from sharedbb.compress.ties import ties
from sharedbb.errors import CompressionError
from sharedbb.graph.quantization import Scheme
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


class Tiny(nn.Module):
    """A layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.deep = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.pairs = nn.Conv2d(8, 8, 3, 1, 1, groups=4)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.last = nn.Linear(6, 2)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.up(self.pairs(self.deep(self.first(image)).relu()).relu()).relu()
        return {"scene.logits": self.last(features.mean((2, 3)))}


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
    return Data.given("noise", [Sample(str(at), draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for at in range(4)])


def values(network: Network, *layers: str) -> Tensor:
    """The different values of layers' weights."""
    return torch.cat([network.module.get_parameter(f"{name}.weight").flatten() for name in layers]).unique()


def decoded(network: Network) -> dict[str, Tensor]:
    return coding.decode(coding.encode(network.module.state_dict(), network.coding))


@pytest.mark.parametrize("bits", [1, 3, 4])
def test_every_layer_has_few_values_and_is_stored_so(network: Network, bits: int) -> None:
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    after, report = cluster(network, bits=bits)
    for name in ("first", "deep", "pairs", "up", "last"):
        assert len(values(after, name)) == min(2**bits, network.module.get_parameter(f"{name}.weight").numel())
        assert after.coding[f"{name}.weight"] == {"type": "codebook", "bits": bits}
        assert torch.equal(after.module.state_dict()[f"{name}.bias"], before[f"{name}.bias"])
    found = decoded(after)
    assert all(torch.equal(found[name], tensor) for name, tensor in after.module.state_dict().items())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.module.state_dict().items())
    assert after.steps == (report,)
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_more_values_than_weights_have_change_nothing(network: Network) -> None:
    module = network.copy()
    with torch.no_grad():
        for layer in (module.first, module.deep):
            layer.weight.copy_((layer.weight * 10).round())
    rough = replace(network, module=module)
    after, report = cluster(rough, bits=4, layers=["first", "deep"])
    assert len(values(rough, "first")) <= 16
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in after.module.state_dict().items())
    assert [told["error"] for told in report.facts["layers"]] == [0.0, 0.0]
    assert set(after.coding) == {"first.weight", "deep.weight"}


def test_more_bits_come_nearer(network: Network) -> None:
    errors = [[told["error"] for told in cluster(network, bits=bits)[1].facts["layers"]] for bits in (1, 2, 3, 5)]
    assert (np.diff(np.array(errors), axis=0) < 0).all()


@pytest.mark.parametrize(
    ("group", "shared", "apart"),
    [("all", ("first", "deep", "pairs", "up", "last"), ()), ("shape", ("first", "pairs"), ("deep", "up", "last"))],
)
def test_layers_share_a_codebook(network: Network, group: str, shared: tuple[str, ...], apart: tuple[str, ...]) -> None:
    after, _ = cluster(network, bits=3, group=group)
    assert len(values(after, *shared)) == 8
    assert len({after.coding[f"{name}.weight"]["group"] for name in shared}) == 1
    assert len({after.coding[f"{name}.weight"]["group"] for name in apart}) == len(apart)
    assert all(torch.equal(tensor, after.module.state_dict()[name]) for name, tensor in decoded(after).items())


def test_levels_need_not_be_a_power_of_two(network: Network) -> None:
    after, report = cluster(network, levels=5, layers=["first"])
    assert len(values(after, "first")) == 5
    assert after.coding == {"first.weight": {"type": "codebook", "bits": 3}}
    assert report.settings["levels"] == 5


def test_zeros_of_pruned_weights_stay(network: Network) -> None:
    module = network.copy()
    with torch.no_grad():
        mask = module.first.weight.abs() > module.first.weight.abs().median()
        module.first.weight.mul_(mask)
        module.pairs.weight[0, 0, 0, 0] = 0  # told to be sparse, by its coding alone
    thin = replace(network, module=module, coding={"pairs.weight": {"type": "plain", "sparse": True}})
    after, _ = cluster(thin, bits=2)
    assert torch.equal(after.module.get_parameter("first.weight") != 0, mask)
    assert len(values(after, "first")) == 5  # zero takes none of the four
    assert after.coding["first.weight"] == {"type": "codebook", "bits": 2, "sparse": True}
    assert after.coding["pairs.weight"]["sparse"]
    assert after.module.get_parameter("pairs.weight")[0, 0, 0, 0] == 0
    assert "sparse" not in after.coding["deep.weight"]
    assert all(torch.equal(tensor, after.module.state_dict()[name]) for name, tensor in decoded(after).items())


def test_a_weight_that_multiplies_nothing_takes_no_value(network: Network, pictures: Data) -> None:
    module = network.copy()
    with torch.no_grad():
        module.deep.weight[4:] = 0
        module.deep.bias[4:] = 0  # channels 4 to 7 are dead; only pairs 4 to 7 read them
        module.pairs.weight[:4] = torch.tensor([-0.3, -0.1, 0.1, 0.3]).repeat(18).reshape(4, 2, 3, 3)
    dead = replace(network, module=module)
    seen, _ = cluster(dead, bits=2, layers=["pairs"], data=pictures)
    blind, _ = cluster(dead, bits=2, layers=["pairs"])
    alive = module.pairs.weight[:4]
    assert torch.allclose(seen.module.get_parameter("pairs.weight")[:4], alive, atol=1e-6)
    assert not torch.allclose(blind.module.get_parameter("pairs.weight")[:4], alive, atol=1e-3)


@pytest.mark.parametrize("group", ["layer", "all"])
def test_weights_that_are_one_value_move_as_one(network: Network, group: str) -> None:
    module = network.copy()
    with torch.no_grad():
        module.first.weight.mul_(module.first.weight.abs() > 0.1)
    after, _ = cluster(replace(network, module=module), bits=3, group=group)
    tie, moved = ties(after), after.copy()
    tie(moved)
    assert all(torch.equal(tensor, after.module.state_dict()[name]) for name, tensor in moved.state_dict().items())
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    free = {name: tensor.clone() for name, tensor in moved.state_dict().items()}
    tie(moved)
    for name in ("first", "deep", "up") if group == "layer" else ():
        old, new = after.module.get_parameter(f"{name}.weight"), moved.get_parameter(f"{name}.weight")
        for value in old.unique():
            where = old == value
            mean = 0.0 if value == 0 else float(free[f"{name}.weight"][where].mean())
            assert new[where].unique().tolist() == [pytest.approx(mean, abs=1e-6)]
    assert len(values(replace(after, module=moved), "first", "deep", "up")) == len(values(after, "first", "deep", "up"))
    assert torch.equal(moved.get_parameter("last.bias"), free["last.bias"])
    decoded(replace(after, module=moved))  # still fits its codebooks


def test_a_network_without_codebooks_has_no_ties(network: Network) -> None:
    module = network.copy()
    ties(network)(module)
    assert all(torch.equal(network.module.state_dict()[name], tensor) for name, tensor in module.state_dict().items())


def test_fine_tuning_keeps_the_codebooks(network: Network, pictures: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    def shaken(
        given: Network, data: Data, *, constrain: Callable[[nn.Module], None], **settings: Any
    ) -> tuple[Network, None]:
        assert (data, settings) == (pictures, {"steps": 3})
        module = given.copy()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        constrain(module)
        return replace(given, module=module), None

    room = import_module("sharedbb.compress.finetune")  # the package has the function under that name
    monkeypatch.setattr(room, "finetune", shaken)
    after, _ = cluster(network, bits=2, data=pictures, finetune={"steps": 3})
    assert len(values(after, "first")) == 4
    assert not torch.equal(after.module.get_parameter("last.bias"), network.module.get_parameter("last.bias"))


def test_the_same_seed_gives_the_same_weights(network: Network) -> None:
    first, second = (cluster(network, bits=3, seed=1)[0].module.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bits": 0}, "2 to 256 values \\(1 to 8 bits\\), got bits=0"),
        ({"levels": 257}, "got levels=257"),
        ({"group": "block"}, "called 'block' \\(known: layer, shape, all\\)"),
        (
            {"layers": ["second"]},
            "no layer with weights at 'second' \\(they begin with: deep, first, last, pairs, up\\)",
        ),
        ({"exclude": ["fir"]}, "no layer with weights at 'fir'"),
        ({"finetune": {"steps": 1}}, "needs data"),
        ({"init": "guess"}, "called 'guess'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(network: Network, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(CompressionError, match=said):
        cluster(network, **settings)


def test_quantized_networks_are_refused(network: Network) -> None:
    with pytest.raises(CompressionError, match="cluster first, then quantize"):
        cluster(replace(network, scheme=Scheme({})))


@pytest.mark.parametrize("group", ["all", "shape"])
def test_steps_with_shared_codebooks_have_each_their_own(network: Network, group: str) -> None:
    first, _ = cluster(network, bits=3, group=group, exclude=["last"])
    both, _ = cluster(first, bits=5, group=group, layers=["last"])
    few = ("first", "deep", "pairs", "up")
    assert len(values(both, *few)) <= (8 if group == "all" else 8 * len(few))
    assert all(torch.equal(weight, decoded(both)[name]) for name, weight in both.module.state_dict().items())
