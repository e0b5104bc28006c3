"""What quantizing tools share: grids against hand computation, graphs as tools take them, results read back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharedbb.compress.calibration import (
    ROUNDED,
    exported,
    grid_of_range,
    grid_of_weight,
    left_alone,
    prepared,
    read_back,
    stems,
    weight_grids,
)
from sharedbb.errors import CompressionError
from sharedbb.graph.capture import capture
from sharedbb.graph.ir import Graph, Node
from sharedbb.graph.lower import run
from sharedbb.graph.quantization import SMALLEST_SCALE, Scheme, edges, quantized
from sharedbb.learn.network import Network


@pytest.fixture(autouse=True, scope="module")
def _quick(one_thread: None) -> None:
    """All tests here on one thread."""


@pytest.fixture(scope="module")
def graph(small: Network) -> Graph:
    return prepared(small.graph())


@pytest.mark.parametrize(
    ("low", "high", "bits", "symmetric", "scale", "zero_point", "ends"),
    [
        (-1.27, 0.5, 8, True, 0.01, 0, (-127, 127)),
        (-0.5, 1.27, 8, True, 0.01, 0, (-127, 127)),
        (0.0, 2.55, 8, True, 0.01, 0, (0, 255)),
        (0.4, 2.55, 8, True, 0.01, 0, (0, 255)),
        (-0.7, 0.1, 4, True, 0.1, 0, (-7, 7)),
        (-1.0, 0.2, 2, True, 1.0, 0, (-1, 1)),
        (-0.55, 2.0, 8, False, 0.01, 55, (0, 255)),
        (1.0, 2.55, 8, False, 0.01, 0, (0, 255)),
        (-2.55, -1.0, 8, False, 0.01, 255, (0, 255)),
        (-0.5, 1.0, 4, False, 0.1, 5, (0, 15)),
        (0.0, 0.0, 8, False, SMALLEST_SCALE, 0, (0, 255)),
        (0.0, 0.0, 8, True, SMALLEST_SCALE, 0, (0, 255)),
    ],
)
def test_a_grid_just_holds_a_range(
    low: float, high: float, bits: int, symmetric: bool, scale: float, zero_point: int, ends: tuple[int, int]
) -> None:
    found = grid_of_range(torch.tensor(low), torch.tensor(high), bits, None, symmetric=symmetric)
    assert float(found.scale) == pytest.approx(scale, rel=1e-5)
    assert (int(found.zero_point), found.low, found.high, found.axis) == (zero_point, *ends, None)
    assert float(found.rounded(torch.tensor(0.0))) == 0.0
    for end in (low, high):
        assert abs(float(found.rounded(torch.tensor(end))) - end) <= scale * 0.5001


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_weight_is_off_by_half_a_step_at_most(bits: int, symmetric: bool, axis: int | None) -> None:
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    found = grid_of_weight(weight, bits, axis, symmetric=symmetric)
    rows = weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)
    width = 2 * rows.abs().amax(1) / (2**bits - 2) if symmetric else (rows.amax(1) - rows.amin(1)) / (2**bits - 1)
    assert torch.allclose(found.scale.reshape(-1), width)
    assert (found.high - found.low, found.scale.ndim) == (2**bits - (2 if symmetric else 1), int(axis is not None))
    side = found.scale if axis is None else found.scale.view([-1 if d == axis else 1 for d in range(4)])
    assert ((found.rounded(weight) - weight).abs() <= side * 0.5001).all()
    assert torch.equal(found.rounded(found.rounded(weight)), found.rounded(weight))


@pytest.mark.parametrize("weight", [torch.zeros(3, 2), torch.rand(3, 2) + 0.1, -torch.rand(3, 2) - 0.1])
def test_symmetric_weights_have_zero_in_the_middle_whatever_their_signs(weight: Tensor) -> None:
    found = grid_of_weight(weight, 8, 0, symmetric=True)
    assert (found.low, found.high) == (-127, 127)
    assert torch.equal(found.zero_point, torch.zeros(3, dtype=torch.int32))
    assert torch.allclose(found.rounded(weight), weight, atol=0.01)


def test_the_prepared_graph_computes_the_same_and_no_call_shares_a_weight(small: Network, graph: Graph) -> None:
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    found, expected = run(graph, image), run(small.graph(), image)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)
    assert not any(node.kind == "batch_norm" for node in graph.nodes)
    used = [digest for node in graph.nodes for digest in node.weights]
    assert len(used) == len(set(used)) == len(graph.weights)


class Odd(nn.Module):
    """A weight that is read by name, one that is read twice, and a value in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.mask = nn.Parameter(torch.zeros(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv(self.conv(x)).chunk(2, 1)
        return F.scaled_dot_product_attention(first, second, second, attn_mask=self.mask)


def test_weights_that_calls_share_or_read_by_name_are_prepared() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 4, 6, 6)
    plain = capture(Odd(), image, "")
    graph = prepared(plain)
    assert torch.equal(*(next(iter(run(one, image).values())) for one in (graph, plain)))
    assert read_back(graph, exported(graph)) == ({}, {})


def test_the_convolution_that_reads_the_picture_is_the_stem(graph: Graph) -> None:
    assert [graph.by_name[name].origin for name in stems(graph)] == ["backbone.stem.0"]


def test_modules_are_left_alone_with_all_that_is_in_them(graph: Graph) -> None:
    found = {graph.by_name[name].origin for name in left_alone(graph, ["heads.surface", "neck.smooth.4"])}
    assert "backbone.stem.0" in found
    assert all(one.startswith(("backbone.stem.0", "heads.surface", "neck.smooth.4.", "neck.smooth.4")) for one in found)
    assert found >= {node.origin for node in graph.nodes if node.origin.startswith("heads.surface")} != set()
    with pytest.raises(CompressionError, match=r"nothing to leave alone is called 'heads\.sur'"):
        left_alone(graph, ["heads.sur"])


def test_weights_have_grids_by_output_channel_and_of_their_own_bits(graph: Graph) -> None:
    found = weight_grids(graph, stems(graph), {"neck.laterals.4.0": 3}, symmetric=True, per_channel=True)
    calls = {edge: (node, leaf) for edge, node, _, leaf in edges(graph)}
    assert {calls[edge][0].name for edge in found} == {
        node.name for node in graph.nodes if node.kind in ROUNDED and node.name not in stems(graph)
    }
    for edge, grid in found.items():
        node, leaf = calls[edge]
        weight = graph.weights[leaf.digest]
        assert (grid.axis, grid.high) == (0, 3 if node.origin == "neck.laterals.4.0" else 127)
        assert torch.allclose(grid.scale, weight.flatten(1).abs().amax(1).div(grid.high).clamp(min=SMALLEST_SCALE))
    alike = weight_grids(graph, stems(graph), 8, symmetric=True, per_channel=False)
    assert all(grid.axis is None for grid in alike.values())


class Products(nn.Module):
    """Weights whose output channels are not their first axis, or who have none."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(4, 6, 2, 2, groups=2)
        self.matrix = nn.Parameter(torch.randn(8, 5))
        self.vector = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x).matmul(self.matrix).matmul(self.vector)


def test_scales_lie_along_the_outputs_wherever_a_weight_has_them() -> None:
    torch.manual_seed(0)
    graph = prepared(capture(Products(), torch.randn(1, 4, 4, 4), ""))
    found = weight_grids(graph, frozenset(), 8, symmetric=True, per_channel=True)
    assert {edge.split("|", 1)[1]: (grid.axis, grid.scale.numel()) for edge, grid in found.items()} == {
        "conv_transpose2d|0|1": (1, 3),
        "matmul|0|1": (1, 5),
        "matmul|1|1": (None, 1),
    }
    run(quantized(capture(Products(), torch.randn(1, 4, 4, 4), ""), Scheme(found)), torch.randn(1, 4, 4, 4))


def test_a_graph_that_the_tool_left_as_it_was_gives_no_grids(graph: Graph) -> None:
    assert read_back(graph, exported(graph)) == ({}, {})


def test_calls_that_the_tool_added_are_not_taken_for_others(graph: Graph) -> None:
    def more() -> Iterator[Node]:
        for node in graph.nodes:
            yield node
            if node.kind == "relu":
                yield Node(f"{node.name}_more", "aten.neg.default", node.args, (), node.shape)

    extra = Graph(tuple(more()), graph.inputs, graph.outputs, graph.weights)
    answered = {**graph.outputs, **{node.name: node.name for node in extra.nodes if node.name.endswith("_more")}}
    with pytest.raises(CompressionError, match=r"the tool gave back .* use tool='own'"):
        read_back(graph, exported(Graph(extra.nodes, extra.inputs, answered, extra.weights)))
