"""Sensitivity: each layer alone, against the same change made by hand; what is read from the result."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.compress.sensitivity import Layer, Sensitivity, Trial, sensitivity
from sharedbb.errors import CompressionError, DataError
from sharedbb.graph.quantization import Grid
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.judge import LOWEST_SCORE, Predictor
from sharedbb.learn.network import Network
from sharedbb.outputs.agreement import Agreement
from sharedbb.spec import loads

PIPELINE = """\
version: 1
name: tiny
input: {size: [32, 64], normalize: unit}
backbone: {arch: resnet18}
heads:
  look: {type: segmentation, taps: [4], classes: [a, b, c]}
  scene: {type: tags, taps: [4], labels: [day, night], threshold: 0.5}
"""


class Two(nn.Module):
    """A trunk of two layers, the second used twice, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.look = nn.Conv2d(8, 3, 1)
        self.scene = nn.Linear(8, 2)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        value = torch.relu(self.norm(self.stem(image)))
        value = self.again(torch.relu(self.again(value)))
        return {"look.logits": self.look(value), "scene.logits": self.scene(value.mean((2, 3)))}


@pytest.fixture
def module() -> Two:
    torch.manual_seed(1)
    made = Two().eval()
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.6)
    made.norm.running_var.uniform_(0.5, 2.0)
    return made


@pytest.fixture
def data() -> Data:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (40, 64, 3), dtype=np.uint8) for _ in range(3)]
    return Data.given("noise", [Sample(str(number), picture) for number, picture in enumerate(pictures)])


def network(module: nn.Module) -> Network:
    return Network(loads(PIPELINE), module)


def agreement(module: nn.Module, other: nn.Module, data: Data) -> dict[str, float]:
    """How the answers of ``other`` agree with those of ``module``, head by head, computed in full."""
    pipeline = loads(PIPELINE)
    found: dict[str, Agreement] = {}
    for sample in data:
        theirs, ours = Predictor(module, pipeline)(sample.rgb), Predictor(other, pipeline, LOWEST_SCORE)(sample.rgb)
        for name, answer in theirs.items():
            found.setdefault(name, Agreement.of(type(answer))).add(ours[name], answer)
    return {name: measure.overall()["agreement"] for name, measure in found.items()}


def test_layers_are_in_running_order_and_shared_ones_are_one(module: Two, data: Data) -> None:
    found = sensitivity(network(module), data[:1], strengths={"cluster": (8,)})
    assert [layer.name for layer in found.layers] == ["stem", "again", "look", "scene"]
    assert found.layers[1] == Layer("again", "conv2d", 8 * 8 * 9, 2 * 8 * 8 * 9 * 8 * 16)
    assert (found.pipeline, found.pictures, found.methods) == ("tiny", 1, ("cluster",))


def test_clusters_as_many_as_values_change_nothing(module: Two, data: Data) -> None:
    with torch.no_grad():
        module.again.weight.copy_(module.again.weight.sign())
    found = sensitivity(network(module), data, strengths={"cluster": (1,)}, layers=["again"])
    assert found.trials == (Trial("again", "cluster", 1, {"look": 1.0, "scene": 1.0}),)


def test_pruning_is_the_layer_without_its_weakest_channels(module: Two, data: Data) -> None:
    pruned = copy.deepcopy(module)
    norm = pruned.norm
    strength = pruned.stem.weight.flatten(1).norm(dim=1) * (norm.weight.abs() / (norm.running_var + norm.eps).sqrt())
    weakest = strength.argsort()[:6]
    with torch.no_grad():
        norm.weight[weakest] = 0
        norm.bias[weakest] = 0
    (trial,) = sensitivity(network(module), data, strengths={"prune": (0.75,)}, layers=["stem"]).trials
    assert trial.quality == pytest.approx(agreement(module, pruned, data))
    assert trial.quality["look"] < 0.95
    assert trial.fall == 1 - min(trial.quality.values())


def test_dead_channels_are_pruned_first_and_not_missed(module: Two, data: Data) -> None:
    with torch.no_grad():
        module.norm.weight[::2] = 0
        module.norm.bias[::2] = 0
        module.stem.weight[::2] *= 10
    found = sensitivity(network(module), data, strengths={"prune": (0.25, 0.5, 0.75)}, layers=["stem"])
    assert [trial.fall == 0 for trial in found.trials] == [True, True, False]


def test_quantization_rounds_weights_and_what_the_layer_reads(module: Two, data: Data) -> None:
    class Rounded(nn.Conv2d):
        def forward(self, value: Tensor) -> Tensor:
            low, high = min(0.0, value.min().item()), value.max().item()
            scale = torch.tensor((high - low) / 7)
            grid = Grid(scale, torch.tensor(round(-low / scale.item()), dtype=torch.int32), 0, 7)
            step = self.weight.abs().amax((1, 2, 3), keepdim=True) / 3
            weight = (self.weight / step).round().clamp(-3, 3) * step
            return nn.functional.conv2d(grid.rounded(value), weight, self.bias, padding=1)

    rounded = copy.deepcopy(module)
    rounded.again.__class__ = Rounded
    found = sensitivity(network(module), data, strengths={"quantize": (16, 3)}, layers=["again"])
    assert found.trials[0].quality == {"look": pytest.approx(1, abs=2e-3), "scene": 1.0}
    assert found.trials[1].quality == pytest.approx(agreement(module, rounded, data))
    assert found.trials[1].quality["look"] < 0.99


def test_a_layer_of_one_head_leaves_the_other_as_it_was(module: Two, data: Data) -> None:
    found = sensitivity(network(module), data, strengths={"prune": (0.7,)}, layers=["look"])
    assert found.trials[0].quality["scene"] == 1
    assert found.trials[0].quality["look"] < 1


def test_the_network_is_left_as_it_was_and_progress_is_told(module: Two, data: Data) -> None:
    before = {name: value.clone() for name, value in module.state_dict().items()}
    told: list[tuple[int, int]] = []
    sensitivity(
        network(module),
        data[:2],
        strengths={"prune": (0.5,)},
        layers=["look", "stem"],
        progress=lambda *done: told.append(done),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_what_cannot_be_measured_is_said(module: Two, data: Data) -> None:
    with pytest.raises(CompressionError, match=r"no method 'shrink' .*prune, quantize, cluster"):
        sensitivity(network(module), data, strengths={"shrink": (1,)})
    with pytest.raises(CompressionError, match=r"no layer 'sten' with weights; did you mean 'stem'\?"):
        sensitivity(network(module), data, layers=["sten"])
    with pytest.raises(DataError, match="no pictures"):
        sensitivity(network(module), Data.given("nothing", []))


@pytest.fixture
def measured() -> Sensitivity:
    """Layer a bears nothing, b half of its channels; c falls in between and back."""
    falls = {"a": (0.1, 0.5, 0.9), "b": (0.0, 0.01, 0.3), "c": (0.0, 0.05, 0.0)}
    trials = [
        Trial(layer, "prune", strength, {"look": 1 - fall, "scene": 1.0})
        for layer, several in falls.items()
        for strength, fall in zip((0.25, 0.5, 0.75), several, strict=True)
    ]
    return Sensitivity("tiny", 3, tuple(Layer(name, "conv2d", 10, 100) for name in falls), tuple(trials))


def test_tolerated_is_the_last_strength_before_the_first_fall(measured: Sensitivity) -> None:
    assert measured.tolerated("prune", 0.02) == {"a": None, "b": 0.5, "c": 0.25}
    assert measured.tolerated("prune", 0.1) == {"a": 0.25, "b": 0.5, "c": 0.75}
    assert measured.tolerated("cluster", 0.1) == {"a": None, "b": None, "c": None}


def test_bits_are_the_fewest_that_every_head_bears() -> None:
    falls = {"a": (0.0, 0.01), "b": (0.01, 0.2), "c": (0.3, 0.4)}
    trials = [
        Trial(layer, "quantize", bits, {"look": 1 - fall})
        for layer, several in falls.items()
        for bits, fall in zip((8, 4), several, strict=True)
    ]
    found = Sensitivity("tiny", 3, tuple(Layer(name, "conv2d", 10, 100) for name in falls), tuple(trials))
    assert found.bits(0.02) == {"a": 4, "b": 8, "c": 8}


def test_cautions_compare_with_the_median_layer(measured: Sensitivity) -> None:
    cautions = measured.cautions()
    assert cautions["b"] == 1
    assert cautions["a"] == pytest.approx((1.5 / 6 + 0.005) / (0.31 / 6 + 0.005))
    assert 0 < cautions["c"] < 1
    with pytest.raises(CompressionError, match="nothing is known of cluster: measured was prune"):
        measured.cautions("cluster")


def test_a_file_gives_the_same_back(measured: Sensitivity, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(measured.to_dict()))
    assert Sensitivity.load(path).to_dict() == measured.to_dict()
    assert Sensitivity.load(path).tolerated("prune", 0.02) == measured.tolerated("prune", 0.02)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no sensitivity of a network"),
        ("{}", "'version' is missing"),
        ('{"version": 2}', "version 2; this sharedbb reads 1"),
        ('{"version": 1, "layers": [{}]}', "'name' is missing"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(CompressionError, match=message):
        Sensitivity.load(path)
