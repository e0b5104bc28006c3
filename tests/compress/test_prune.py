"""The step: what is asked, what comes out, what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharedbb import artifact, nets
from sharedbb.compress.cluster import cluster
from sharedbb.compress.prune import METHODS, prune
from sharedbb.compress.widths import Layer, retrace, total, trace
from sharedbb.errors import CompressionError
from sharedbb.graph.quantization import Scheme
from sharedbb.learn.data import Sample
from sharedbb.learn.network import Network
from sharedbb.spec import Pipeline

HEADS = {
    "tag": {"type": "tags", "taps": [32], "labels": ["p", "q"]},
    "seg": {"type": "segmentation", "taps": [8], "classes": ["a", "b"], "channels": 16},
    "det": {"type": "detection", "taps": [8, 16], "classes": ["x"], "channels": 16},
}


@pytest.fixture(scope="module")
def network() -> Network:
    document = {
        "version": 1,
        "name": "test",
        "input": {"size": [64, 64]},
        "backbone": {"arch": "mobilenet_v3_small"},
        "neck": {"type": "fpn", "channels": 32, "strides": [8, 16, 32]},
        "heads": HEADS,
    }
    return Network.of(Pipeline.model_validate(document))


@pytest.fixture(scope="module")
def pictures() -> list[Sample]:
    random = np.random.default_rng(0)
    return [Sample(str(n), random.integers(0, 256, (48, 80, 3), dtype=np.uint8), None) for n in range(2)]


@pytest.mark.parametrize("importance", ["l2", "bn", "taylor"])
def test_half_the_multiply_adds_go_and_every_head_answers(
    network: Network, pictures: list[Sample], importance: str
) -> None:
    pruned, report = prune(network, importance=importance, data=pictures)
    facts = report.facts
    assert 0.4 < facts["macs_after"] / facts["macs_before"] <= 0.5
    assert facts["left"] == pytest.approx(facts["macs_after"] / facts["macs_before"], abs=1e-6)
    assert facts["parameters_after"] == pruned.parameters < network.parameters
    assert all(width % 8 == 0 for layer in facts["widths"].values() for width in layer[2:] if width not in layer[:2])
    assert pruned.steps == (report,)
    json.dumps(report.to_dict())
    image = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        before, after = network.module(image), pruned.module(image)
    assert {name: value.shape for name, value in after.items()} == {n: value.shape for n, value in before.items()}


def test_a_latency_target_takes_more_from_high_resolution(network: Network) -> None:
    by_macs, by_latency = (prune(network, target=target)[0].module for target in ("macs", "latency"))
    expansion = "backbone.features.2.block.0.0"
    assert by_latency.get_submodule(expansion).out_channels < by_macs.get_submodule(expansion).out_channels


def test_a_cost_of_ones_own_decides(network: Network) -> None:
    def free_but_for_one(layer: Layer, channels_in: int, channels_out: int) -> float:
        return float(channels_out) if layer.name == "neck.laterals.8.0" else 0.0

    _, report = prune(network, cost=free_but_for_one)
    assert report.facts["widths"]["neck.laterals.8.0"][3] == 16
    assert not [name for name in report.facts["widths"] if name.startswith("backbone")]
    assert report.settings["target"] == "cost"


def test_what_is_kept_keeps_its_width(network: Network) -> None:
    kept = ("backbone.features.2", "heads")
    pruned, _ = prune(network, keep=kept)
    widths = {"backbone.features.2.block.0.0": 72, "backbone.features.2.block.2.0": 24, "heads.seg.predict": 2}
    assert {path: pruned.module.get_submodule(path).out_channels for path in widths} == widths


@pytest.mark.parametrize("form", ["numbers", "json"])
def test_sensitive_layers_are_spared(network: Network, form: str) -> None:
    path = "backbone.features.2.block.0.0"
    if form == "numbers":
        given: dict[str, Any] = {path: 50.0}
    else:
        given = {"version": 1, "pipeline": "test", "pictures": 1, "layers": []}
        for name, quality in ((path, 0.5), ("neck.laterals.8.0", 1.0), ("neck.laterals.16.0", 1.0)):
            trial = {"strength": 0.5, "quality": {"seg": quality}}
            entry = {"name": name, "kind": "conv2d", "parameters": 1, "macs": 1, "methods": {"prune": [trial]}}
            given["layers"].append(entry)
    plain, spared = prune(network)[0], prune(network, sensitivity=given)[0]
    widths = [each.module.get_submodule(path).out_channels for each in (plain, spared)]
    assert widths[0] < widths[1]


def test_rounds_go_down_by_equal_ratios(network: Network) -> None:
    layers, seen = trace(network.module, (1, 3, 64, 64)), list[float]()

    def between(current: Network) -> Network:
        seen.append(total(retrace(layers, current.module), Layer.macs) / total(layers, Layer.macs))
        return current

    _, report = prune(network, amount=0.75, iterations=2, between=between)
    assert seen == [pytest.approx(0.5, abs=0.05)]
    assert report.facts["left"] <= 0.25


def test_hidden_neurons_alone(network: Network) -> None:
    _, report = prune(network, method="neuron")
    assert report.facts["widths"] == {"heads.tag.hidden": [64, 128, 64, 64], "heads.tag.predict": [128, 2, 64, 2]}


def test_more_than_can_go_is_said(network: Network) -> None:
    _, report = prune(network, amount=0.99, round_to=32)
    assert "asked to take 99%" in report.said[0]
    assert report.facts["left"] > 0.01


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bits(network: Network, pictures: list[Sample], method: str) -> None:
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    settings: dict[str, Any] = {"method": method, "amount": 0.2, "importance": "taylor", "data": pictures[:1]}
    first, second = (prune(network, **settings)[0].module.state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "structured, magnitude, threshold, neuron, block"),
        ({"importance": "loud"}, "l2, bn, taylor"),
        ({"target": "fun"}, "macs, parameters, latency"),
        ({"amount": 1.0}, "below 1, got 1.0"),
        ({"round_to": 0}, "round_to is 1 or more"),
        ({"keep": ["nobody"]}, "no module 'nobody'"),
        ({"head_weights": {"nobody": 1.0}}, "it has: tag, seg, det"),
        ({"head_weights": {"tag": 0, "seg": 0, "det": 0}}, "one of them above 0"),
        ({"importance": "taylor"}, "give data"),
        ({"sensitivity": {"neck": -1}}, "numbers above 0"),
        ({"keep": ["backbone", "neck", "heads"]}, "no channel that may go"),
        ({"method": "neuron", "keep": ["heads"]}, "no hidden linear layer"),
    ],
)
def test_settings_that_mean_nothing_are_refused(network: Network, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        prune(network, **settings)


def test_a_quantized_network_is_refused(network: Network) -> None:
    with pytest.raises(CompressionError, match="prune first"):
        prune(replace(network, scheme=object.__new__(Scheme)))


SEG = {"type": "segmentation", "taps": [4], "classes": ["a", "b"], "channels": 16}
TAG = {"type": "tags", "taps": [16], "labels": ["p", "q"]}
NECK = {"type": "fpn", "channels": 16, "strides": [8, 16]}
UNREAD: dict[str, dict[str, Any]] = {
    "stages behind the last tap": {"heads": {"seg": SEG}},
    "taps that nobody reads": {"heads": {"seg": {**SEG, "taps": [8]}}, "neck": {"type": "fpn", "channels": 16}},
    "branches": {
        "heads": {"seg": {**SEG, "taps": [8]}, "tag": TAG},
        "neck": NECK,
        "branches": {"own": {"after": 8, "heads": ["tag"]}},
    },
}


@pytest.mark.parametrize("what", UNREAD)
def test_parts_that_no_answer_reads_fit_after_pruning_and_count_for_nothing(what: str) -> None:
    document = {
        "version": 1,
        "name": "t",
        "input": {"size": [64, 96]},
        "backbone": {"arch": "mobilenet_v3_small"},
        **UNREAD[what],
    }
    given = Network.of(Pipeline.model_validate(document))
    pruned, report = prune(given, amount=0.4)
    with torch.no_grad():
        answers = pruned.module(torch.zeros(1, 3, 64, 96))
    assert answers.keys() == given.module(torch.zeros(1, 3, 64, 96)).keys()
    assert (report.facts["macs_before"], report.facts["macs_after"]) == (given.macs, pruned.macs)
    assert pruned.macs < 0.65 * given.macs
    assert "no answer reads them" in report.facts["held"].values()
    assert all(name.startswith("heads.") for name, why in report.facts["held"].items() if "answer of the net" in why)


def test_sensitivity_of_another_network_is_refused(network: Network) -> None:
    with pytest.raises(CompressionError, match=r"has none of the layers whose sensitivity is given, such as 'no\.such"):
        prune(network, sensitivity={"no.such.layer": 2.0})


def test_what_is_pruned_without_branches_begins_them(tmp_path: Path) -> None:
    heads = {"seg": {**SEG, "taps": [8]}}
    document = {
        "version": 1,
        "name": "t",
        "input": {"size": [64, 96]},
        "backbone": {"arch": "mobilenet_v3_small"},
        "heads": heads,
        "neck": NECK,
    }
    pruned, _ = prune(Network.of(Pipeline.model_validate(document)), amount=0.4)
    pruned.save(tmp_path / "x.sbb")
    stored = artifact.load(tmp_path / "x.sbb")
    branched = {
        "heads": {**heads, "other": {**SEG, "taps": [8]}},
        "branches": {"own": {"after": 8, "heads": ["other"]}},
    }
    module = nets.build(Pipeline.model_validate(document | branched)).eval()
    told = {
        **stored.weights,
        **{f"heads.other.{n[10:]}": t for n, t in stored.weights.items() if n[:10] == "heads.seg."},
    }
    manifest = replace(stored.manifest, classes={**stored.manifest.classes, "other": ("a", "b")})
    artifact.save(tmp_path / "y.sbb", manifest, told, half=True)
    artifact.load_weights(module, artifact.load(tmp_path / "y.sbb"), Pipeline.model_validate(document | branched).heads)
    with torch.no_grad():
        answers = module(torch.rand(1, 3, 64, 96))
    assert torch.equal(answers["seg.logits"], answers["other.logits"])


def test_weights_that_are_no_numbers_are_refused(network: Network) -> None:
    module = network.copy()
    next(module.parameters()).data[0] = float("nan")
    for step in (prune, cluster):
        with pytest.raises(CompressionError, match=r"weight 'backbone.* has numbers that are not finite"):
            step(replace(network, module=module))  # type: ignore[operator]
