"""Operators read from a graph, held against the graph's own costs and against graphs of the other width or size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharedbb.compress.operators import Operator, at_width, macs, narrowed, of_nodes, operators, resized
from sharedbb.errors import CompressionError
from sharedbb.graph.capture import capture
from sharedbb.graph.cost import cost, total
from sharedbb.graph.cut import cut, fold_constants
from sharedbb.graph.ir import Graph, Weight
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.graph.quantization import Grid, Scheme, edges, quantized


class Small(nn.Module):
    """Every kind of operator once, ``width`` channels wide."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.wide = nn.Conv2d(width, 2 * width, 1)
        self.depth = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2 * width)
        self.groups = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=width // 4)
        self.back = nn.Conv2d(2 * width, width, 3, 1, 1)
        self.up = nn.ConvTranspose2d(width, width, 2, 2)
        self.answer = nn.Conv2d(width, 5, 1)
        self.tags = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """A map and a vector."""
        first = self.stem(x).relu()
        y = self.groups(self.depth(F.relu6(self.wide(first))).relu())
        y = first + self.back(y)
        return {
            "map": F.interpolate(self.answer(self.up(y).relu()), scale_factor=2.0).softmax(1),
            "tags": self.tags(y.mean((2, 3))),
        }


def graph(module: nn.Module, height: int = 64, width: int = 96) -> Graph:
    return fold_constants(fold_batch_norms(capture(module.eval(), torch.zeros(1, 3, height, width), "")))


def kinds(found: dict[str, Operator]) -> list[str]:
    return [operator.kind for operator in found.values()]


def test_every_call_becomes_what_it_costs() -> None:
    one = graph(Small())
    found = operators(one)
    assert kinds(found) == [
        *("stem", "fused", "pointwise", "fused", "depthwise", "fused", "grouped", "dense", "fused"),
        *("pointwise", "fused", "pointwise", "resample", "elementwise", "resample", "product"),
    ]
    assert macs(found.values()) == total(cost(one).values()).macs
    by_kind = {operator.kind: operator for operator in found.values()}
    assert by_kind["stem"] == Operator("stem", 3, 32, 64 * 96, 32 * 48, 9, 1, (True, False))
    assert by_kind["depthwise"] == Operator("depthwise", 64, 64, 32 * 48, 32 * 48, 9, 64)
    assert by_kind["product"] == Operator("product", 32, 7, 1, 1, fixed=(False, True))
    assert by_kind["grouped"].parameters == sum(part.numel() for part in [Small().groups.weight])


def test_fused_calls_move_their_second_operand_alone() -> None:
    fused = [operator for operator in operators(graph(Small())).values() if operator.kind == "fused"]
    assert [operator.read for operator in fused] == [0, 0, 0, 32 * 48, 0]


def test_a_result_that_others_read_as_well_is_moved() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.conv(x)
            return {"a": y.relu(), "b": y}

    assert kinds(operators(graph(Twice()))) == ["stem", "elementwise"]


def test_another_size_is_what_the_graph_has_at_that_size() -> None:
    small, large = (tuple(operators(graph(Small(), *size)).values()) for size in ((64, 96), (128, 192)))
    assert resized(small, 4.0) == large
    assert resized(large, 0.25) == small


def test_another_width_is_what_the_graph_has_at_that_width() -> None:
    wide, narrow = (tuple(operators(graph(Small(width))).values()) for width in (64, 32))
    assert at_width(wide, 0.5) == narrow


@pytest.mark.parametrize("amount", [0.25, 0.5, 0.75])
def test_pruning_takes_the_multiply_adds_asked_for(amount: float) -> None:
    whole = tuple(operators(graph(Small(128))).values())
    pruned = narrowed(whole, amount)
    assert macs(pruned) == pytest.approx((1 - amount) * macs(whole), rel=0.1)
    assert all(one.outputs % 8 == 0 or one.fixed[1] for one in pruned if one.kind in ("dense", "pointwise"))
    assert [one.outputs for one in pruned if one.fixed[1]] == [one.outputs for one in whole if one.fixed[1]]
    assert pruned[0].inputs == 3
    assert narrowed(whole, 0.0) == whole


@pytest.mark.parametrize("amount", [-0.1, 1.0])
def test_impossible_amounts(amount: float) -> None:
    with pytest.raises(CompressionError, match="must be from 0 to below 1"):
        narrowed((), amount)


def test_rounding_to_grids_costs_nothing_by_itself() -> None:
    one = graph(Small())
    grids = {
        edge: Grid(torch.tensor(0.1), torch.tensor(0, dtype=torch.int32), -127, 127)
        for edge, node, place, operand in edges(one)
        if node.kind == "conv2d" and (place == 0 or isinstance(operand, Weight)) and place < 2
    }
    assert len(grids) == 12
    assert operators(quantized(one, Scheme(grids))) == operators(one)


def test_segments_have_the_operators_of_their_nodes() -> None:
    one = graph(Small())
    found, parts = operators(one), cut(one)
    pieces = [of_nodes(found, [node.name for node in segment.graph.nodes]) for segment in parts.segments]
    assert sum(map(macs, pieces)) == macs(found.values())
