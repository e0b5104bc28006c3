"""From steps as recipes write them to the functions that take them: the real ones, on a tiny network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.compress.probes import Layer
from sharedbb.compress.sensitivity import Sensitivity, Trial
from sharedbb.compress.steps import Bench, check_names, take
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.network import Network
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import loads
from sharedbb.spec.steps import (
    AnyStep,
    ClusterStep,
    CodeStep,
    Course,
    DistillStep,
    FactorizeStep,
    FinetuneStep,
    PruneStep,
    QuantizeStep,
)

PIPELINE = """\
name: plain
input: {size: [32, 64], normalize: unit}
backbone: {arch: three_layers}
heads: {scene: {type: tags, taps: [8], labels: [sky, road]}}
"""


class ThreeLayers(nn.Module):
    """A backbone of three convolutions."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {8: 16}
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 2, 2)
        )
        for place, weight in enumerate(self.layers.parameters()):
            nn.init.normal_(weight, 0.0, 0.1, generator=torch.Generator().manual_seed(place))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at stride 8."""
        return {8: self.layers(image)}


@pytest.fixture
def network() -> Iterator[Network]:
    register_backbone("three_layers", ThreeLayers, strides=(8,))
    yield Network.of(loads(PIPELINE))
    BACKBONES.unregister("three_layers")


def _bench(network: Network, folder: Path, told: list[tuple[str, float | None]] | None = None) -> Bench:
    rng = np.random.default_rng(0)
    samples = [
        Sample(f"{number}", rng.integers(0, 256, (32, 64, 3), np.uint8), rng.integers(0, 2, (32, 64), np.uint8))
        for number in range(10)
    ]
    data = Data.given("noise", samples, ("sky", "road")).of("train")

    def watch(doing: str, share: float | None) -> None:
        if told is not None:
            told.append((doing, share))

    return Bench(data, [], data.spread(2), network, folder, 0, watch)


SHORT: dict[str, Any] = {"steps": 1, "batch": 2, "crop": (32, 32)}


@pytest.mark.parametrize(
    "step",
    [
        PruneStep(method="magnitude", amount=0.3),
        ClusterStep(bits=3),
        ClusterStep(bits=3, pictures=1),
        FactorizeStep(energy=0.5),
        FactorizeStep(energy=0.5, pictures=1),
        FactorizeStep(energy=0.5, pictures=0),
        QuantizeStep(method="weights", weight_bits=4),
        FinetuneStep(**SHORT),
        FinetuneStep(**SHORT, distill=None),
        DistillStep(**SHORT),
        CodeStep(bits=8),
    ],
    ids=lambda step: str(step.type),
)
def test_every_step_is_taken(network: Network, tmp_path: Path, step: AnyStep) -> None:
    before = {name: weight.clone() for name, weight in network.module.state_dict().items()}
    after = take(step, network, _bench(network, tmp_path))
    assert [report.step for report in after.steps] == [step.type]
    state = after.module.state_dict()
    assert any(name not in state or not torch.equal(weight, state[name]) for name, weight in before.items())
    assert all(torch.equal(weight, before[name]) for name, weight in network.module.state_dict().items())


def test_training_tells_how_far_it_is(network: Network, tmp_path: Path) -> None:
    told: list[tuple[str, float | None]] = []
    take(FinetuneStep(**SHORT | {"steps": 2}), network, _bench(network, tmp_path, told))
    assert [share for _, share in told] == [0.5, 1.0]
    assert told[0][0].startswith("training, step 1, loss ")


def test_pruning_trains_between_its_rounds(network: Network, tmp_path: Path) -> None:
    told: list[tuple[str, float | None]] = []
    step = PruneStep(method="magnitude", amount=0.5, iterations=2, finetune=Course(**SHORT))
    pruned = take(step, network, _bench(network, tmp_path, told))
    assert told
    weight = pruned.module.get_parameter("backbone.layers.2.weight")
    assert 0.2 < float((weight == 0).float().mean()) < 0.8


def test_training_keeps_values_shared(network: Network, tmp_path: Path) -> None:
    clustered = take(ClusterStep(bits=2), network, _bench(network, tmp_path))
    trained = take(FinetuneStep(**SHORT), clustered, _bench(network, tmp_path))
    weight = trained.module.get_parameter("backbone.layers.2.weight")
    assert weight.unique().numel() <= 4
    assert not torch.equal(weight, clustered.module.get_parameter("backbone.layers.2.weight"))


def test_svd_looks_at_the_pictures_to_calibrate_with(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Data | None] = []

    def factorize(network: Network, *, data: Data | None, **_: Any) -> tuple[Network]:
        seen.append(data)
        return (network,)

    monkeypatch.setattr(import_module("sharedbb.compress.factorize"), "factorize", factorize)
    bench = _bench(network, tmp_path)
    for step in (FactorizeStep(), FactorizeStep(pictures=0), FactorizeStep(pictures=3)):
        take(step, network, bench)
    calibrate, nothing, three = seen
    assert calibrate is bench.calibrate
    assert nothing is None
    assert three is not None
    assert len(three) == 3
    assert FactorizeStep().energy == 0.99


def _bits(network: Network) -> dict[str, int]:
    """Bits of the stored weights, by module."""
    return {name.removesuffix(".weight"): coding["bits"] for name, coding in network.coding.items()}


MIDDLE, LAST = "backbone.layers.2", "backbone.layers.4"


@pytest.mark.parametrize("tool", ["own", "nncf"])
def test_weights_of_some_layers_have_fewer_bits(network: Network, tmp_path: Path, tool: Literal["own", "nncf"]) -> None:
    step = QuantizeStep(tool=tool, layers={"backbone": 6, MIDDLE: 3})
    after = take(step, network, _bench(network, tmp_path))
    bits = _bits(after)
    assert (bits.pop(MIDDLE), bits.pop(LAST)) == (3, 6)
    assert set(bits.values()) == {8}  # those of the head
    assert after.scheme is not None
    levels = {edge: grid.high - grid.low for edge, grid in after.scheme.grids.items()}
    assert {levels[edge] for edge in levels if edge.startswith(MIDDLE) and edge.endswith("|1")} == {2**3 - 2}
    assert {levels[edge] for edge in levels if edge.endswith("|0")} <= {254, 255}  # activations keep 8 bits
    assert all(channel.unique().numel() <= 7 for channel in after.module.get_parameter(f"{MIDDLE}.weight"))


def test_bits_by_what_sensitivity_found(network: Network, tmp_path: Path) -> None:
    layers = {MIDDLE: {8: 1.0, 4: 0.99, 2: 0.5}, LAST: {8: 0.999, 4: 0.9, 2: 0.5}, "pruned.away": {8: 1.0}}
    trials = [
        Trial(layer, "quantize", bits, {"scene": share})
        for layer, tried in layers.items()
        for bits, share in tried.items()
    ]
    found = Sensitivity("plain", 1, tuple(Layer(name, "conv2d", 1, 1) for name in layers), tuple(trials))
    (tmp_path / "s.json").write_text(json.dumps(found.to_dict()))
    bench = _bench(network, tmp_path)
    for fall, extra, expected in (
        (0.02, {}, (4, 8)),
        (0.2, {}, (4, 4)),
        (0.6, {}, (2, 2)),
        (0.02, {LAST: 5}, (4, 5)),
    ):
        step = QuantizeStep(tool="own", sensitivity=str(tmp_path / "s.json"), fall=fall, layers=extra)
        bits = _bits(take(step, network, bench))
        assert (bits[MIDDLE], bits[LAST]) == expected, (fall, extra)


def test_a_layer_that_is_not_there_gets_no_bits(network: Network, tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"no layer .backbone\.layer. to give 4 bits"):
        take(QuantizeStep(tool="own", layers={"backbone.layer": 4}), network, _bench(network, tmp_path))


@pytest.mark.parametrize(
    ("content", "message"), [("[1]", "no sensitivity of a network"), ("{", "cannot be read"), (None, "cannot be")]
)
def test_a_file_of_sensitivity_that_is_none_is_said(
    network: Network, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "sensitivity.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CompressionError, match=message):
        take(PruneStep(sensitivity=str(path)), network, _bench(network, tmp_path))


@pytest.mark.parametrize(
    ("step", "method", "layer", "message"),
    [
        (PruneStep, "quantize", MIDDLE, r"step 1: .*s\.json: nothing is known of prune: measured was quantize"),
        (QuantizeStep, "prune", MIDDLE, r"step 1: .*s\.json: nothing is known of quantize: measured was prune"),
        (PruneStep, "prune", "features.0", r"step 1: plain has none of the layers .* such as 'features\.0'"),
        (QuantizeStep, "quantize", "features.0", r"step 1: plain has none of the layers .* such as 'features\.0'"),
    ],
)
def test_sensitivity_that_does_not_fit_is_refused_before_the_first_step(
    network: Network, tmp_path: Path, step: type[PruneStep | QuantizeStep], method: str, layer: str, message: str
) -> None:
    found = Sensitivity("x", 1, (Layer(layer, "conv2d", 1, 1),), (Trial(layer, method, 0.5, {"scene": 0.9}),))
    (tmp_path / "s.json").write_text(json.dumps(found.to_dict()))
    with pytest.raises(CompressionError, match=message):
        check_names([FinetuneStep(steps=1), step(sensitivity=str(tmp_path / "s.json"))], network)


@pytest.mark.parametrize(
    "step",
    [
        PruneStep(keep=("heads.absent",)),
        FactorizeStep(layers=("heads.absent",)),
        ClusterStep(exclude=("heads.absent",)),
        QuantizeStep(ignore=("heads.absent",)),
        QuantizeStep(layers={"heads.absent": 4}),
    ],
)
def test_modules_that_are_not_there_are_said_before_the_first_step(network: Network, step: AnyStep) -> None:
    with pytest.raises(CompressionError, match=r"step 0 names 'heads\.absent' in '\w+', no module of plain"):
        check_names([step], network)
    check_names([FactorizeStep(), step], network)  # who knows what the products are called
