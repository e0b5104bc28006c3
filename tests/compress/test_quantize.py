"""Quantization: what each method rounds, stores and says, and that engines run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharedbb as sb
from sharedbb.coding import decode, encode
from sharedbb.compress.answers import images
from sharedbb.compress.code import code
from sharedbb.compress.quantize import quantize
from sharedbb.errors import CompressionError
from sharedbb.graph.cost import cost
from sharedbb.graph.lower import run
from sharedbb.graph.quantization import Grid, Scheme, is_rounding
from sharedbb.learn.data import Data
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport
from sharedbb.spec import Pipeline

PipelineOf = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def seen(small: Network, scenes: Data) -> Tensor:
    return images(small, scenes, 1)[0]


@pytest.fixture(scope="module")
def static(small: Network, scenes: Data) -> Network:
    return quantize(small, scenes, tool="own", pictures=3)[0]


def grids(network: Network) -> dict[str, Grid]:
    assert network.scheme is not None
    return dict(network.scheme.grids)


def answers(network: Network, image: Tensor) -> dict[str, Tensor]:
    return run(network.graph(), image)


def off(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """How far the surface is off, on average, relative to its own spread."""
    name = "surface.logits"
    return float((found[name] - expected[name]).abs().mean() / expected[name].std())


def test_static_rounds_both_operands_of_all_but_the_stem(small: Network, static: Network) -> None:
    graph = static.graph()
    for node in graph.nodes:
        if node.kind in ("conv2d", "linear"):
            read = [graph.by_name[name] for name in node.values]
            assert all(map(is_rounding, read)) is (node.origin != "backbone.stem.0"), node.origin
    report = static.steps[-1]
    costs = {node.name: one.macs for node, one in zip(graph.nodes, cost(graph).values(), strict=True)}
    stem = next(node.name for node in graph.nodes if node.origin == "backbone.stem.0")
    assert report.facts["macs_in_integers"] == pytest.approx(1 - costs[stem] / sum(costs.values()), abs=1e-4)
    assert report.facts["grids"] == len(grids(static)) == 2 * len({edge.rsplit("|", 1)[0] for edge in grids(static)})
    assert (report.step, report.settings["tool"], report.settings["pictures"]) == ("quantize", "own", 3)
    json.dumps(report.to_dict())
    assert small.scheme is None
    assert small.coding == {}


def test_more_bits_are_closer(small: Network, scenes: Data, seen: Tensor, static: Network) -> None:
    plain = answers(small, seen)
    coarse, _ = quantize(small, scenes, tool="own", pictures=3, bits=5)
    assert 0 < off(answers(static, seen), plain) < 0.05
    assert 4 < off(answers(coarse, seen), plain) / off(answers(static, seen), plain) < 16  # steps are 8 times as wide


def test_weights_stand_on_the_grids_that_round_them(static: Network) -> None:
    state = static.module.state_dict()
    for name, told in static.coding.items():
        assert told == {"type": "uniform", "bits": 8, "axis": 0, "symmetric": True}
        rows = state[name].flatten(1)
        scale = rows.abs().amax(1, keepdim=True) / 127
        assert torch.allclose(rows / scale, (rows / scale).round(), atol=1e-3)
    assert all(torch.equal(decode(encode({n: state[n]}, {n: static.coding[n]}))[n], state[n]) for n in static.coding)
    graph = static.graph()
    for node in graph.nodes:
        if is_rounding(node) and not node.values:  # folding a norm scales rows, and so does not leave the grid
            weight, scale = (graph.weights[leaf.digest] for leaf in node.args[:2])
            steps = weight / scale.view(-1, *[1] * (weight.ndim - 1))
            assert torch.allclose(steps, steps.round(), atol=0.02)


def test_bits_of_weights_are_by_module_the_innermost_first(small: Network, scenes: Data) -> None:
    layers = {"neck": 4, "neck.laterals": 6, "neck.laterals.4.0": 2}
    found, _ = quantize(small, scenes, tool="own", pictures=1, weight_bits=5, layers=layers)
    tops = {edge.split("|")[0]: grid.high for edge, grid in grids(found).items() if grid.axis == 0}
    assert (tops["backbone.second.0"], tops["neck.smooth.4.0"], tops["neck.laterals.8.0"]) == (15, 7, 31)
    assert tops["neck.laterals.4.0"] == 1
    assert found.coding["neck.laterals.4.0.weight"]["bits"] == 2
    assert {grid.high for grid in grids(found).values() if grid.axis is None} <= {127, 255}


@pytest.mark.parametrize("per_channel", [True, False])
def test_asymmetric_grids_have_zero_points(small: Network, scenes: Data, seen: Tensor, per_channel: bool) -> None:
    found, _ = quantize(small, scenes, tool="own", pictures=2, symmetric=False, per_channel=per_channel)
    weights = [grid for edge, grid in grids(found).items() if edge.endswith("|1")]
    assert all((grid.low, grid.high, grid.axis) == (0, 255, 0 if per_channel else None) for grid in weights)
    assert any(int(grid.zero_point.max()) > 0 for grid in weights)
    assert off(answers(found, seen), answers(small, seen)) < 0.05


def test_what_is_ignored_stays_in_floating_point(small: Network, scenes: Data) -> None:
    found, _ = quantize(small, scenes, tool="own", pictures=1, ignore=["heads.surface", "neck"])
    assert {edge.split("|")[0].split(".")[0] for edge in grids(found)} == {"backbone", "heads"}
    assert not any("surface" in name or "neck" in name for name in (*grids(found), *found.coding))


def test_dynamic_rounds_linear_layers_by_the_picture(small: Network, seen: Tensor) -> None:
    found, report = quantize(small, method="dynamic")
    assert {edge: grid.dynamic for edge, grid in grids(found).items()} == {
        f"heads.scene.{layer}|linear|0|{place}": place == 0 for layer in ("hidden", "predict") for place in (0, 1)
    }
    assert report.facts["dynamic"] == 2
    assert found.coding.keys() == {"heads.scene.hidden.weight", "heads.scene.predict.weight"}
    plain, rounded = small.graph(), found.graph()
    for image in (seen, seen * 1e-3, seen * 1e3):
        expected, got = (run(graph, image) for graph in (plain, rounded))
        assert not torch.equal(got["scene.logits"], expected["scene.logits"])
        largest = float(expected["scene.logits"].abs().max())
        assert torch.allclose(got["scene.logits"], expected["scene.logits"], rtol=0.05, atol=0.05 * largest)
        assert off(got, expected) < 1e-5


class Attention(nn.Module):
    """Products of values with values, and of values with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 16, 16)
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        return {"scene.logits": self.mix(tokens @ tokens.transpose(1, 2) @ tokens).mean(1)}


def test_dynamic_leaves_products_of_values_alone(small: Network) -> None:
    torch.manual_seed(0)
    found, _ = quantize(Network(small.pipeline, Attention().eval()), method="dynamic")
    assert set(grids(found)) == {"mix|linear|0|0", "mix|linear|0|1"}


def test_dynamic_needs_a_linear_layer(small: Network) -> None:
    with pytest.raises(CompressionError, match="method 'dynamic' rounds linear layers, and the network has none"):
        quantize(small, method="dynamic", ignore=["heads.scene"])


def test_weights_alone_make_the_artifact_smaller_and_nothing_else(small: Network, seen: Tensor) -> None:
    found, report = quantize(small, method="weights", bits=4)
    assert found.scheme is None
    assert report.said
    assert found.bytes < code(small)[0].bytes
    assert len(found.coding) == report.facts["weights"]
    assert not any(is_rounding(node) for node in found.graph().nodes)
    assert 0 < off(answers(found, seen), answers(small, seen)) < 1


class Upsampling(nn.Module):
    """A transposed convolution, whose output channels are the second axis of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 8, 8)
        self.up = nn.ConvTranspose2d(4, 5, 2, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"surface.logits": self.up(self.stem(x))}


def test_transposed_convolutions_are_rounded_and_stored_as_they_are(small: Network, scenes: Data, seen: Tensor) -> None:
    torch.manual_seed(0)
    network = Network(small.pipeline, Upsampling().eval())
    found, _ = quantize(network, scenes, tool="own", pictures=1)
    assert (grids(found)["up|conv_transpose2d|0|1"].axis, found.coding) == (1, {})
    assert 0 < off(answers(found, seen), answers(network, seen)) < 0.02


def test_what_is_stored_in_another_way_stays_so(small: Network, scenes: Data) -> None:
    name = "neck.laterals.4.0.weight"
    network = small.then(StepReport("prune"), coding={name: {"type": "plain", "sparse": True}})
    found, _ = quantize(network, scenes, tool="own", pictures=1)
    assert found.coding[name] == {"type": "plain", "sparse": True}
    assert torch.equal(found.module.state_dict()[name], small.module.state_dict()[name])
    assert "neck.laterals.4.0|conv2d|0|1" in grids(found)


def test_qat_trains_with_the_rounding_in_place(small: Network, scenes: Data, seen: Tensor) -> None:
    course: dict[str, Any] = {"tool": "own", "pictures": 2, "bits": 4, "steps": 2, "batch": 2, "crop": (64, 96)}
    found, report = quantize(small, scenes, method="qat", **course)
    assert [step.step for step in found.steps] == ["finetune", "quantize"]
    assert report.settings["training"]["steps"] == 2
    assert found.scheme is not None
    untrained, _ = quantize(small, scenes, tool="own", pictures=2, bits=4)
    assert off(answers(found, seen), answers(untrained, seen)) > 0
    again, _ = quantize(small, scenes, method="qat", **course)
    assert again.graph().digest == found.graph().digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "int8"}, "no method 'int8' of quantization"),
        ({"tool": "tensorrt"}, "no tool 'tensorrt' of quantization"),
        ({"bits": 1}, "bits of activations are 2 to 8, got 1"),
        ({"bits": 16}, "bits of activations are 2 to 8, got 16"),
        ({"bits": "8"}, "bits of activations are 2 to 8, got '8'"),
        ({"weight_bits": 0}, "bits of weights are 2 to 8, got 0"),
        ({"layers": {"neck": 9}}, "bits of neck are 2 to 8, got 9"),
        ({"layers": {"nick": 4}}, "no layer 'nick' to give 4 bits"),
        ({"ignore": ["nick"]}, "nothing to leave alone is called 'nick'"),
        ({"bits": 4}, "tool 'nncf' calibrates 8 bits; for 4 give tool='own'"),
        ({"steps": 3}, "trains nothing, so 'steps' has no meaning; use 'qat'"),
        ({"method": "qat", "tool": "own"}, "'qat' needs an end of its training: give steps or minutes"),
        ({"data": None}, "method 'static' needs pictures to calibrate with"),
        ({"tool": "pt2e"}, "give symmetric=False, or tool='nncf'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    small: Network, scenes: Data, settings: dict[str, Any], message: str
) -> None:
    if settings.get("tool") == "pt2e":
        pytest.importorskip("torchao")
    with pytest.raises(CompressionError, match=message):
        quantize(small, **{"data": scenes, **settings})


def test_a_quantized_network_is_not_quantized_again(static: Network, scenes: Data) -> None:
    with pytest.raises(CompressionError, match="quantized already"):
        quantize(static, scenes, tool="own")


@pytest.mark.parametrize(("tool", "symmetric"), [("nncf", True), ("nncf", False), ("pt2e", False)])
def test_tools_calibrate_as_well_as_we_do(
    small: Network, scenes: Data, seen: Tensor, static: Network, tool: str, symmetric: bool
) -> None:
    pytest.importorskip({"nncf": "nncf", "pt2e": "torchao"}[tool])
    found, report = quantize(small, scenes, tool=tool, pictures=3, symmetric=symmetric)
    plain = answers(small, seen)
    assert off(answers(found, seen), plain) < 2 * off(answers(static, seen), plain)
    assert report.facts["macs_in_integers"] == static.steps[-1].facts["macs_in_integers"]
    assert not any(edge.startswith("backbone.stem.0|") for edge in grids(found))


def _engine(network: Network, folder: Path, pipeline_of: PipelineOf, backend: str, **more: Any) -> sb.Engine:
    path = folder / "network.sbb"
    network.save(path)
    runtime = {"device": "cpu", "backend": backend, "precision": "f32", "threads": 1}
    pipeline = pipeline_of(backbone={"arch": "steps", "weights": str(path)}, runtime=runtime, **more)
    return sb.compile(pipeline, use_cache=False)


def _surface(engine: sb.Engine, rgb: np.ndarray) -> np.ndarray:
    return np.array(engine.step(rgb, order="rgb")["surface"].logits)


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_an_engine_answers_what_the_rounded_graph_does(
    small: Network, static: Network, scenes: Data, tmp_path: Path, pipeline_of: PipelineOf, backend: str
) -> None:
    """Integer products of 8 bits are summed exactly; in float32 they round, and what lay on an edge of a step may fall.

    So almost everything is as in torch, and on average the engine is far closer to it than rounding is to not rounding.
    """
    engine = _engine(static, tmp_path, pipeline_of, backend)
    assert len(engine.program.stages) > 3
    rgb = scenes[0].rgb
    found, expected, plain = _surface(engine, rgb), *(n.predictor()(rgb)["surface"].logits for n in (static, small))
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected - plain).mean()
    assert (np.abs(found - expected) > 1e-3).mean() < 0.05


@pytest.mark.parametrize("transform", [{"type": "space_to_depth", "block": 4}, {"type": "rgb"}])
def test_reuse_and_a_folded_stem_give_the_dense_answers(
    static: Network,
    scenes: Data,
    tmp_path: Path,
    pipeline_of: PipelineOf,
    transform: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sharedbb.reuse.worth.GAIN", float("inf"))
    monkeypatch.setattr("sharedbb.compiler.measure.ROUNDS", 1)
    reuse = {"mode": "exact", "audit": 0, "refresh": 0}
    dense = _engine(static, tmp_path, pipeline_of, "eager")
    engine = _engine(static, tmp_path, pipeline_of, "eager", transform=transform, reuse=reuse)
    first = scenes[0].rgb
    second = first.copy()
    second[:16, :16] = 255 - second[:16, :16]
    modes = []
    for rgb in (first, first, second):
        result = engine.step(rgb, order="rgb")
        modes.append(result.mode)
        difference = np.abs(result["surface"].logits - _surface(dense, rgb))
        assert (difference > 1e-3).mean() < 0.02
        assert difference.max() < 0.1
    assert modes[1] == "still"
    assert modes[2] != "still"


def test_a_scheme_on_the_stem_cannot_be_folded_but_runs(
    small: Network, static: Network, scenes: Data, tmp_path: Path, pipeline_of: PipelineOf
) -> None:
    stem = {"backbone.stem.0|conv2d|0|1": Grid(torch.full((8,), 0.01), torch.zeros(8, dtype=torch.int32), -127, 127, 0)}
    network = small.then(static.steps[-1], scheme=Scheme(stem))
    assert _surface(_engine(network, tmp_path, pipeline_of, "eager"), scenes[0].rgb).shape == (16, 24, 3)
    with pytest.raises(sb.SharedBBError, match="constant weights"):
        _engine(network, tmp_path, pipeline_of, "eager", transform={"type": "space_to_depth"})


def test_the_graph_of_a_quantized_network_is_the_same_each_time(static: Network) -> None:
    assert static.graph().digest == static.graph().digest
