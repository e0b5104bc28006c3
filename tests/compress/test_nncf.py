"""Calibration by NNCF: what it rounds, what it leaves alone, and that its grids are ours."""

from __future__ import annotations

import sys

import pytest
import torch

from sharedbb.compress.answers import images
from sharedbb.compress.calibration import left_alone, prepared, stems
from sharedbb.compress.nncf import calibrated
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
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(CompressionError, match=r"tool 'nncf' needs nncf: pip install 'sharedbb\[compress\]'"):
        calibrated(graph, [torch.zeros(1, 3, 64, 96)], frozenset(), symmetric=True)


def test_grids_and_biases_are_of_our_edges_and_answer_alike(small: Network, graph: Graph, scenes: Data) -> None:
    pytest.importorskip("nncf")
    seen = images(small, scenes, 3)
    grids, biases = calibrated(graph, seen, stems(graph), symmetric=True)
    operands = {edge: (node, place, leaf) for edge, node, place, leaf in edges(graph)}
    assert grids.keys() | biases.keys() <= operands.keys()
    values = {edge: grid for edge, grid in grids.items() if isinstance(operands[edge][2], Value)}
    read = {operands[edge][0].origin for edge in values}
    assert {"backbone.second.0", "neck.laterals.8.0", "heads.surface.predict"} <= read
    assert all(int(grid.zero_point.abs().max()) == 0 for grid in values.values())
    assert not any("backbone.stem.0|" in edge for edge in (*grids, *biases))
    assert biases
    for edge, bias in biases.items():
        node, place, leaf = operands[edge]
        assert (node.kind in ("conv2d", "linear"), place) == (True, 2)
        assert bias.shape == graph.weights[leaf.digest].shape
    plain = run(small.graph(), seen[0])
    found = run(quantized(small.graph(), Scheme(values, biases)), seen[0])
    for name, expected in plain.items():
        assert not torch.equal(found[name], expected)
        assert (found[name] - expected).abs().mean() < 0.1 * expected.abs().mean() + 0.01


def test_what_is_ignored_is_left_alone(small: Network, graph: Graph, scenes: Data) -> None:
    pytest.importorskip("nncf")
    alone = left_alone(graph, ["heads.surface", "backbone.second"])
    grids, biases = calibrated(graph, images(small, scenes, 1), alone, symmetric=False)
    assert grids
    for edge in (*grids, *biases):
        assert not edge.startswith(("heads.surface", "backbone.second.", "backbone.stem.0|"))
    assert any(int(grid.zero_point.abs().max()) != 0 for grid in grids.values())
