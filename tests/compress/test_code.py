"""Coding of what no step has coded: the weights are what the artifact gives back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sharedbb.coding import encode
from sharedbb.compress.cluster import cluster
from sharedbb.compress.code import code
from sharedbb.compress.finetune import finetune
from sharedbb.compress.prune import prune
from sharedbb.compress.quantize import quantize
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Data
from sharedbb.learn.network import Network
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import loads

PIPELINE = """\
name: plain
input: {size: [32, 64], normalize: unit}
backbone: {arch: one_coded_layer}
heads: {scene: {type: tags, taps: [4], labels: [sky, road]}}
"""
WEIGHT = "backbone.layer.weight"


class OneLayer(nn.Module):
    """A backbone of one convolution."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {4: 8}
        self.layer = nn.Conv2d(3, 8, 4, 4)
        nn.init.normal_(self.layer.weight, 0.0, 0.1, generator=torch.Generator().manual_seed(0))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at stride 4."""
        return {4: self.layer(image)}


@pytest.fixture
def network() -> Iterator[Network]:
    register_backbone("one_coded_layer", OneLayer, strides=(4,))
    yield Network.of(loads(PIPELINE))
    BACKBONES.unregister("one_coded_layer")


@pytest.mark.parametrize(("bits", "values"), [(2, 4), (4, 16), (8, 256)])
def test_each_output_channel_has_so_few_values(network: Network, bits: int, values: int) -> None:
    coded, report = code(network, bits=bits)
    before, after = network.module.get_parameter(WEIGHT), coded.module.get_parameter(WEIGHT)
    assert all(channel.unique().numel() <= values for channel in after)
    steps = 2 * before.detach().abs().amax((1, 2, 3)) / (values - 2)
    distances = (after - before).detach().abs().amax((1, 2, 3))
    assert bool((distances <= steps / 2 * 1.001).all())
    assert report.facts["off_by"] >= float(distances.max()) > 0
    assert torch.equal(
        coded.module.get_parameter("backbone.layer.bias"), network.module.get_parameter("backbone.layer.bias")
    )


def test_half_precision_and_none(network: Network) -> None:
    before = network.module.get_parameter(WEIGHT)
    assert torch.equal(code(network, bits=16)[0].module.get_parameter(WEIGHT), before.half().float())
    assert torch.equal(code(network, bits=32)[0].module.get_parameter(WEIGHT), before)


def test_the_artifact_gives_the_same_weights_back(network: Network, tmp_path: Path) -> None:
    coded, _ = code(network, bits=4)
    coded.save(tmp_path / "coded.sbb")
    backbone = network.pipeline.backbone.model_copy(update={"weights": str(tmp_path / "coded.sbb")})
    back = Network.of(network.pipeline.model_copy(update={"backbone": backbone}))
    for name, weight in coded.module.state_dict().items():
        assert torch.equal(weight, back.module.state_dict()[name]), name
    assert back.coding == coded.coding


def test_what_has_a_coding_keeps_it(network: Network) -> None:
    first, _ = code(network, bits=2)
    second, report = code(first, bits=8)
    assert second.coding == first.coding
    assert (report.facts["weights"], report.facts["off_by"]) == (0, 0.0)


def test_codebooks_of_clustering_stay_and_the_rest_is_coded(network: Network) -> None:
    clustered, _ = cluster(network, bits=2, layers=["backbone.layer"])
    coded, _ = code(clustered, bits=4)
    assert coded.coding[WEIGHT] == clustered.coding[WEIGHT]
    assert torch.equal(coded.module.get_parameter(WEIGHT), clustered.module.get_parameter(WEIGHT))
    rest = coded.coding.keys() - {WEIGHT}
    assert rest
    assert all(coded.coding[name]["bits"] == 4 for name in rest)


def test_norms_and_biases_are_halved_where_asked(network: Network) -> None:
    plain, _ = code(network, bits=8)
    halved, report = code(network, bits=8, norms=16)
    biases = [name for name, weight in network.module.named_parameters() if weight.ndim == 1]
    assert plain.coding.keys() == halved.coding.keys() - biases
    for name in biases:
        assert torch.equal(halved.module.get_parameter(name), network.module.get_parameter(name).half().float())
    assert report.settings == {"bits": 8, "norms": 16}
    with pytest.raises(CompressionError, match="norms and biases are stored in 16 or 32 bits, got 8"):
        code(network, norms=8)


def test_the_report_tells_what_it_saves(network: Network) -> None:
    facts = [code(network, bits=bits)[1].facts for bits in (32, 16, 4)]
    assert {one["bytes_before"] for one in facts} == {4 * network.parameters}
    sizes = [one["bytes_after"] for one in facts]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.7 * sizes[0]
    coded, report = code(network, bits=4)
    assert report.facts["bytes_after"] == len(encode(coded.module.state_dict(), coded.coding))
    assert report.facts["ratio"] == pytest.approx(4 * network.parameters / sizes[2], abs=0.005)


@pytest.mark.parametrize("bits", [1, 9, 17])
def test_other_numbers_of_bits_are_refused(network: Network, bits: int) -> None:
    with pytest.raises(CompressionError, match=f"2 to 8, 16 or 32 bits, got {bits}"):
        code(network, bits=bits)


@pytest.mark.parametrize(("way", "name"), [("code", WEIGHT), ("quantize", "heads.scene.predict.weight")])
def test_weights_with_zeros_left_out_are_coded_like_others(
    network: Network, way: str, name: str, tmp_path: Path
) -> None:
    sparse, _ = prune(network, method="magnitude", amount=0.5)
    if way == "code":
        coded, report = code(sparse, bits=4)
    else:  # but for what reads the picture
        coded, report = quantize(sparse, method="weights", bits=4)
    told = coded.coding[name]
    assert (told["type"], told["bits"], told["sparse"]) == ("uniform", 4, True)
    assert report.facts["weights"] >= 1
    weight, zeros = coded.module.get_parameter(name), sparse.module.get_parameter(name) == 0
    assert bool((weight[zeros] == 0).all())
    coded.save(tmp_path / "x.sbb")
    assert torch.equal(Network.of(tmp_path / "x.sbb").module.get_parameter(name), weight)


@pytest.mark.parametrize("bits", [4, 16])
def test_weights_that_change_are_stored_as_floats_again(
    network: Network, scenes: Data, tmp_path: Path, bits: int
) -> None:
    coded, _ = code(network, bits=bits, norms=16)
    data = Data.given("scenes", list(scenes), ("sky", "road", "car"))
    trained, report = finetune(coded, data, steps=2, batch=2, crop=(32, 64), lr=0.05)
    assert WEIGHT not in trained.coding
    assert "weights that had been rounded change: they are stored as floats" in report.said[0]
    trained.save(tmp_path / "x.sbb")
    assert torch.equal(
        Network.of(tmp_path / "x.sbb").module.get_parameter(WEIGHT),
        trained.module.get_parameter(WEIGHT).half().float(),
    )
    again, _ = code(trained, bits=4, norms=16)
    assert again.coding[WEIGHT]["bits"] == 4
    again.save(tmp_path / "x.sbb")
    read = Network.of(tmp_path / "x.sbb").module.state_dict()
    assert all(torch.equal(read[name], value) for name, value in again.module.state_dict().items())
