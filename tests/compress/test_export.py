"""Exported files: what they answer in their own engines, against the module itself."""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharedbb.compress.export import PICTURE, TARGETS, Standalone, export
from sharedbb.errors import CompressionError
from sharedbb.graph.lower import run
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.graph.quantization import Grid, Scheme, edges, unrounded
from sharedbb.learn.network import Network
from sharedbb.spec import loads

PIPELINE = """\
version: 1
name: tiny
input: {size: [32, 64], normalize: imagenet}
backbone: {arch: resnet18}
heads:
  look: {type: segmentation, taps: [4], classes: [a, b]}
  scene: {type: tags, taps: [4], labels: [day, night]}
"""
HERE = ("onnx", "openvino", "torch-export")


class Small(nn.Module):
    """A normalised image in, a map and a vector out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.look = nn.Conv2d(8, 2, 1)
        self.scene = nn.Linear(8, 2)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        value = torch.relu(self.norm(self.stem(image)))
        return {"look.logits": self.look(value), "scene.logits": self.scene(value.mean((2, 3)))}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    module = Small().eval()
    module.norm.running_mean.normal_()
    return Network(loads(PIPELINE), module)


@pytest.fixture
def quantized(network: Network) -> Network:
    """Both convolutions on integers, the second one's of four bits."""
    graph = fold_batch_norms(network.graph())
    grids = {}
    for edge, node, place, _ in edges(graph):
        if node.kind == "conv2d" and place == 1:
            count, high = node.shape[1], 127 if node.shape[1] == 8 else 7
            zero = torch.zeros(count, dtype=torch.int32)
            grids[edge] = Grid(torch.full((count,), 1 / high), zero, -high, high, 0)
        elif node.kind == "conv2d" and place == 0:
            scale, zero, high = (0.03, 77, 255) if node.shape[1] == 8 else (0.05, 0, 15)
            grids[edge] = Grid(torch.tensor(scale), torch.tensor(zero, dtype=torch.int32), 0, high)
    return replace(network, scheme=Scheme(grids))


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, 32, 64, 3), dtype=np.uint8)


def normalised(network: Network, picture: NDArray[np.uint8]) -> Tensor:
    """What the module reads, as a running pipeline would make it."""
    given = network.pipeline.input.normalization
    values = (picture.astype(np.float32) - np.float32(given.mean)) / np.float32(given.std)
    return torch.from_numpy(values.transpose(0, 3, 1, 2).copy())


def test_standalone_is_the_module_with_its_normalisation(network: Network, picture: NDArray[np.uint8]) -> None:
    standalone = Standalone(network).eval()
    answers, wanted = standalone(torch.from_numpy(picture)), network.module(normalised(network, picture))
    assert standalone.names == tuple(answers) == ("look.logits", "scene.logits")
    for name, answer in wanted.items():
        torch.testing.assert_close(answers[name], answer, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_an_exported_file_answers_as_the_module_does(
    network: Network, picture: NDArray[np.uint8], tmp_path: Path, target: str
) -> None:
    for module in (*TARGETS[target].written_with, *TARGETS[target].run_with):
        pytest.importorskip(module)
    written = export(network, target, tmp_path / f"net{TARGETS[target].suffix}")
    assert all(path.stat().st_size for path in written.paths)
    assert sorted(tmp_path.iterdir()) == sorted(written.paths)
    assert written.answers == {"look.logits": (1, 2, 16, 32), "scene.logits": (1, 2)}
    answers = written.open()(picture)
    for name, answer in network.module(normalised(network, picture)).items():
        np.testing.assert_allclose(answers[name], answer.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert written.said == ()


@pytest.mark.parametrize("target", HERE)
def test_rounding_is_exported(quantized: Network, picture: NDArray[np.uint8], tmp_path: Path, target: str) -> None:
    written = export(quantized, target, tmp_path / f"net{TARGETS[target].suffix}")
    image = normalised(quantized, picture)
    wanted = run(quantized.graph(), image)["look.logits"].numpy()
    unrounded = quantized.module(image)["look.logits"].detach().numpy()
    found = written.open()(picture)["look.logits"]
    assert np.abs(found - wanted).mean() < 0.02 * np.abs(unrounded - wanted).mean()


def test_openvino_gets_unsigned_activations(quantized: Network, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    import openvino as ov

    assert quantized.scheme is not None
    signed = {
        edge: grid if grid.axis == 0 else Grid(grid.scale, torch.zeros_like(grid.zero_point), -127, 127)
        for edge, grid in quantized.scheme.grids.items()
    }
    network = replace(quantized, scheme=Scheme(signed))
    written = export(network, "openvino", tmp_path / "net.xml")
    nodes = [node for node in ov.Core().read_model(written.path).get_ops() if node.get_type_name() == "FakeQuantize"]
    of_activations = [node for node in nodes if node.input_value(0).get_node().get_type_name() != "Constant"]
    assert [node.get_attributes()["levels"] for node in of_activations] == [256, 256]
    wanted = run(network.graph(), normalised(network, picture))["look.logits"].numpy()
    np.testing.assert_allclose(written.open()(picture)["look.logits"], wanted, atol=0.05 * np.abs(wanted).max())


def test_where_activations_cannot_be_rounded_weights_still_are(quantized: Network) -> None:
    picture = torch.zeros(1, 32, 64, 3, dtype=torch.uint8)
    standalone = Standalone(quantized, unrounded)
    assert not [node for node in standalone.network.graph.nodes if "fake_quantize" in str(node.target)]
    exact = Standalone(replace(quantized, scheme=None))(picture)["look.logits"]
    assert not torch.equal(standalone(picture)["look.logits"], exact)


def test_onnx_has_names_integers_and_pairs_of_rounding(quantized: Network, tmp_path: Path) -> None:
    import onnx

    written = export(quantized, "onnx", tmp_path / "net.onnx")
    graph = onnx.load(written.path).graph
    assert [value.name for value in graph.input] == [PICTURE]
    assert [value.name for value in graph.output] == list(written.answers)
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("DequantizeLinear") == 4
    assert kinds.count("QuantizeLinear") == 2
    weights = [one for one in graph.initializer if len(one.dims) == 4]
    assert {one.data_type for one in weights} == {onnx.TensorProto.INT8}


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        ("tensorrt", "net.onnx", "cannot export to 'tensorrt'; there are: onnx, openvino, torch-export"),
        ("openvino", "net.onnx", r"net\.onnx: files for openvino end in \.xml"),
    ],
)
def test_unknown_targets_and_suffixes_are_said(
    network: Network, tmp_path: Path, target: str, name: str, message: str
) -> None:
    with pytest.raises(CompressionError, match=message):
        export(network, target, tmp_path / name)


@pytest.mark.parametrize(
    ("target", "needs"), [("litert", r"litert-torch.*'torch<2\.15'"), ("executorch", "pip install executorch")]
)
def test_a_missing_package_names_the_environment(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, needs: str
) -> None:
    for module in TARGETS[target].written_with:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CompressionError, match=f"{needs}.*with torch {torch.__version__.split('+')[0]}"):
        export(network, target, tmp_path / f"net{TARGETS[target].suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_engine_is_missing_is_still_written(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    written = export(network, "onnx", tmp_path / "net.onnx")
    with pytest.raises(CompressionError, match="onnxruntime cannot be imported"):
        written.open()


def test_what_a_target_cannot_write_is_said(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError("no such operator\nand more")

    monkeypatch.setitem(TARGETS, "onnx", replace(TARGETS["onnx"], write=refuse))
    with pytest.raises(CompressionError, match=r"cannot export tiny to onnx: no such operator$"):
        export(network, "onnx", tmp_path / "net.onnx")


def test_a_full_disk_leaves_the_last_export(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def halfway(module: Standalone, picture: Tensor, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    made = tmp_path / "net.onnx"
    made.write_bytes(b"the last one")
    monkeypatch.setitem(TARGETS, "onnx", replace(TARGETS["onnx"], write=halfway))
    with pytest.raises(CompressionError, match="No space left"):
        export(network, "onnx", made)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"the last one"]
