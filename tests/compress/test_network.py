"""A network as steps see it, and as it comes back from its artifact."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb import artifact
from sharedbb.compress.code import code
from sharedbb.compress.quantize import quantize
from sharedbb.errors import ArtifactError, GraphError, WeightsError
from sharedbb.graph.lower import run
from sharedbb.graph.quantization import Grid, Scheme
from sharedbb.learn.data import Data
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport
from sharedbb.spec import Pipeline

PipelineOf = Callable[..., Pipeline]


def image() -> Tensor:
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def answers(network: Network) -> dict[str, Tensor]:
    return run(network.graph(), image())


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def stored(network: Network, path: Path, pipeline_of: PipelineOf, **changes: Any) -> Pipeline:
    """The pipeline whose weights are the network's, written to ``path``."""
    network.save(path)
    return pipeline_of(backbone={"arch": "steps", "weights": str(path)}, **changes)


def narrowed(network: Network) -> Network:
    """A stage narrower, a convolution in two, a block left out, as steps do it."""
    torch.manual_seed(0)
    module: Any = network.copy()
    trunk = module.backbone
    trunk.second[0], trunk.second[1] = nn.Conv2d(8, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
    trunk.third[0] = nn.Sequential(nn.Conv2d(6, 5, (3, 1), (2, 1), (1, 0)), nn.Conv2d(5, 16, (1, 3), (1, 2), (0, 1)))
    trunk.residual = nn.Identity()
    trunk.channels[8] = 6
    module.neck.laterals["8"][0] = nn.Conv2d(6, 8, 1, bias=False)
    return network.then(StepReport("prune"), module=module)


@pytest.fixture(scope="module")
def rounded(small: Network, scenes: Data) -> Network:
    return quantize(small, scenes, tool="own", pictures=2)[0]


def test_a_step_gives_the_next_network_and_leaves_this_one(small: Network) -> None:
    report = StepReport("nothing", {"a": 1}, {"b": [2]}, ("said",))
    module = small.copy().train()
    with torch.no_grad():
        next(module.parameters()).zero_()
    found = small.then(report, module=module, coding={"x": {"type": "plain"}})
    assert (found.steps, found.coding, found.pipeline) == ((report,), {"x": {"type": "plain"}}, small.pipeline)
    assert (small.steps, small.coding) == ((), {})
    assert not any(part.training for part in found.module.modules())
    assert float(next(small.module.parameters()).detach().abs().sum()) > 0
    assert report.to_dict() == {"step": "nothing", "settings": {"a": 1}, "facts": {"b": [2]}, "said": ["said"]}


def test_numbers_are_those_of_the_network(small: Network, rounded: Network, tmp_path: Path) -> None:
    assert small.parameters == sum(weight.numel() for weight in small.module.parameters())
    assert rounded.macs == small.macs > 3 * 4 * 4 * 8 * 16 * 24  # the stem
    for network in (small, rounded):
        network.save(tmp_path / "x.sbb")
        assert network.bytes == (tmp_path / "x.sbb").stat().st_size


def test_a_batch_is_several_pictures(rounded: Network) -> None:
    graph = rounded.graph(batch=2)
    two = torch.cat([image(), image().flip(3)])
    found = run(graph, two)
    assert found["surface.logits"].shape[0] == 2
    assert torch.allclose(found["surface.logits"][:1], answers(rounded)["surface.logits"], atol=1e-4)


def test_a_plain_network_comes_back_in_half_precision(small: Network, tmp_path: Path, pipeline_of: PipelineOf) -> None:
    found = Network.of(stored(small, tmp_path / "a.sbb", pipeline_of))
    assert found.pipeline == small.pipeline
    assert found.pipeline.backbone.weights is None
    assert (found.scheme, found.coding) == (None, {})
    for name, weight in small.module.state_dict().items():
        kept = weight.half().float() if weight.is_floating_point() and weight.ndim > 1 else weight
        assert torch.equal(found.module.state_dict()[name], kept)
    assert artifact.load(tmp_path / "a.sbb").manifest.version == 1


def test_a_quantized_network_comes_back_with_the_same_answers(
    rounded: Network, tmp_path: Path, pipeline_of: PipelineOf
) -> None:
    pipeline = stored(rounded, tmp_path / "a.sbb", pipeline_of)
    found = Network.of(pipeline)
    assert same(answers(found), answers(rounded))
    assert found.coding == rounded.coding
    assert found.graph().digest == rounded.graph().digest
    found.save(tmp_path / "b.sbb")
    first, again = (artifact.load(tmp_path / name) for name in ("a.sbb", "b.sbb"))
    assert again.parts == first.parts
    assert first.manifest.version == 2
    assert [step["step"] for step in first.manifest.recipe["steps"]] == ["quantize"]


def test_a_narrowed_and_then_quantized_network_comes_back_with_the_same_answers(
    small: Network, scenes: Data, tmp_path: Path, pipeline_of: PipelineOf
) -> None:
    thin = narrowed(small)
    assert same(answers(Network.of(stored(code(thin)[0], tmp_path / "f.sbb", pipeline_of))), answers(code(thin)[0]))
    both, _ = quantize(thin, scenes, tool="own", pictures=2)
    found: Any = Network.of(stored(both, tmp_path / "a.sbb", pipeline_of))
    assert same(answers(found), answers(both))
    assert found.macs == both.macs < small.macs
    assert found.module.backbone.channels[8] == 6
    assert not same(answers(both), answers(thin))


def test_a_network_that_is_quantized_but_not_coded_comes_back_with_the_same_answers(
    small: Network, rounded: Network, tmp_path: Path, pipeline_of: PipelineOf
) -> None:
    network = small.then(StepReport("quantize"), scheme=rounded.scheme)
    assert same(answers(Network.of(stored(network, tmp_path / "a.sbb", pipeline_of))), answers(network))


def test_fewer_heads_than_the_artifact_has_are_loaded_rounded_and_saved(
    rounded: Network, tmp_path: Path, pipeline_of: PipelineOf
) -> None:
    heads = {"scene": rounded.pipeline.model_dump()["heads"]["scene"]}
    found = Network.of(stored(rounded, tmp_path / "a.sbb", pipeline_of, heads=heads))
    assert torch.equal(answers(found)["scene.logits"], answers(rounded)["scene.logits"])
    again = Network.of(stored(found, tmp_path / "b.sbb", pipeline_of, heads=heads))
    assert same(answers(again), answers(found))


def test_equal_networks_give_equal_bytes(rounded: Network, tmp_path: Path) -> None:
    rounded.save(tmp_path / "a.sbb", report={"miou": 0.5})
    rounded.save(tmp_path / "b.sbb", report={"miou": 0.5})
    assert (tmp_path / "a.sbb").read_bytes() == (tmp_path / "b.sbb").read_bytes()
    assert artifact.load(tmp_path / "a.sbb").manifest.report == {"miou": 0.5}


def test_the_predictor_rounds_as_the_scheme_says(small: Network, rounded: Network, scenes: Data) -> None:
    rgb = scenes[0].rgb
    found, plain = (network.predictor()(rgb)["surface"].logits for network in (rounded, small))
    normalization = small.pipeline.input.normalization
    x = (torch.from_numpy(rgb).permute(2, 0, 1).float() - torch.tensor(normalization.mean).view(3, 1, 1)) / (
        torch.tensor(normalization.std).view(3, 1, 1)
    )
    expected = run(rounded.graph(), x[None])["surface.logits"][0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).mean() < 0.02 * np.abs(found - plain).mean()


def test_an_artifact_of_another_network_is_refused(small: Network, tmp_path: Path, pipeline_of: PipelineOf) -> None:
    thin = stored(narrowed(small), tmp_path / "a.sbb", pipeline_of)
    found = artifact.load(tmp_path / "a.sbb")
    found.manifest.structure["backbone.second.0"]["out_channels"] = 7  # type: ignore[index]
    with pytest.raises(WeightsError, match="told with weight of shape"):
        artifact.load_weights(Network.of(small.pipeline).module, found, thin.heads)
    grid = Grid(torch.tensor(0.1), torch.tensor(0, dtype=torch.int32), 0, 255)
    stray = small.then(StepReport("quantize"), scheme=Scheme({"backbone|add|7|0": grid}))
    with pytest.raises(GraphError, match="which this network does not compute"):
        stray.graph()


def test_a_coding_for_no_weight_is_refused(small: Network, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no weight of that name"):
        small.then(StepReport("x"), coding={"gone": {"type": "plain"}}).save(tmp_path / "a.sbb")


WITHOUT_THE_TOOLS = """
import importlib.util, sys
for name in ("nncf", "torch_pruning", "torchao", "optuna", "onnx", "onnxruntime", "onnxscript", "executorch"):
    sys.modules[name] = None
import numpy as np
import sharedbb as sb
from sharedbb.nets.backbones import seeded
found = importlib.util.spec_from_file_location("small", sys.argv[1])
small = importlib.util.module_from_spec(found)
found.loader.exec_module(small)
sb.register_backbone("steps", lambda _weights: seeded(0, small.Steps), strides=(4, 8, 16, 32))
engine = sb.compile(sb.load(sys.argv[2]), use_cache=False)
picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
np.save(sys.argv[3], engine.step(picture, order="rgb")["surface"].logits)
from sharedbb.compress import Network
assert Network.of(sb.load(sys.argv[2])).scheme is not None
"""


def test_what_the_tools_made_runs_without_them(rounded: Network, tmp_path: Path, pipeline_of: PipelineOf) -> None:
    runtime = {"device": "cpu", "backend": "eager", "precision": "f32", "threads": 1}
    pipeline = stored(rounded, tmp_path / "a.sbb", pipeline_of, runtime=runtime)
    (tmp_path / "pipeline.yaml").write_text(pipeline.model_dump_json(exclude_none=True))
    places = [Path(__file__).with_name("conftest.py"), tmp_path / "pipeline.yaml", tmp_path / "answers.npy"]
    command = [sys.executable, "-c", WITHOUT_THE_TOOLS, *map(str, places)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    expected = rounded.predictor()(picture)["surface"].logits
    assert np.abs(np.load(tmp_path / "answers.npy") - expected).mean() < 1e-3
