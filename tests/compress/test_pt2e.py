"""Calibration by torchao's PT2E: a scheme that can be used, of activations alone."""

from __future__ import annotations

import sys

import pytest
import torch

from sharedbb.compress.answers import images
from sharedbb.compress.calibration import left_alone, prepared
from sharedbb.compress.pt2e import calibrated
from sharedbb.errors import CompressionError
from sharedbb.graph.ir import Graph, Value
from sharedbb.graph.lower import run
from sharedbb.graph.quantization import Scheme, edges, quantized
from sharedbb.learn.data import Data
from sharedbb.learn.network import Network


@pytest.fixture(scope="module")
def graph(small: Network, one_thread: None) -> Graph:
    return prepared(small.graph())


def test_without_the_package_it_says_what_to_install(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torchao", "torchao.quantization.pt2e.quantize_pt2e"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CompressionError, match=r"tool 'pt2e' needs torchao: pip install 'sharedbb\[compress\]'"):
        calibrated(graph, [torch.zeros(1, 3, 64, 96)], frozenset(), symmetric=False)


def test_symmetric_grids_are_refused(graph: Graph) -> None:
    pytest.importorskip("torchao")
    with pytest.raises(CompressionError, match="give symmetric=False, or tool='nncf'"):
        calibrated(graph, [torch.zeros(1, 3, 64, 96)], frozenset(), symmetric=True)


def test_grids_are_of_our_edges_and_answer_alike(small: Network, graph: Graph, scenes: Data) -> None:
    pytest.importorskip("torchao")
    seen = images(small, scenes, 3)
    grids, biases = calibrated(graph, seen, left_alone(graph, ["heads.scene"]), symmetric=False)
    operands = {edge: (node, leaf) for edge, node, _, leaf in edges(graph)}
    assert biases == {}
    assert all(isinstance(operands[edge][1], Value) for edge in grids)
    read = {operands[edge][0].origin for edge in grids}
    assert {"backbone.second.0", "neck.laterals.8.0", "heads.surface.predict"} <= read
    assert not any(origin.startswith(("heads.scene", "backbone.stem")) for origin in read)
    assert all((grid.low, grid.high) == (0, 255) for grid in grids.values())
    plain = run(small.graph(), seen[0])["surface.logits"]
    found = run(quantized(small.graph(), Scheme(grids)), seen[0])["surface.logits"]
    assert not torch.equal(found, plain)
    assert (found - plain).abs().mean() < 0.1 * plain.abs().mean()
