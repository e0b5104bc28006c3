"""Training with the rounding in place: a pass rounds what the graph rounds, and gradients reach every weight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sharedbb.compress.answers import images
from sharedbb.compress.calibration import prepared, stems, weight_grids
from sharedbb.compress.qat import rounding
from sharedbb.compress.ranges import calibrated
from sharedbb.graph.capture import capture
from sharedbb.graph.ir import Graph
from sharedbb.graph.lower import run
from sharedbb.graph.quantization import Grid, Scheme, edges, quantized
from sharedbb.learn.data import Data
from sharedbb.learn.network import Network


@pytest.fixture(scope="module")
def seen(small: Network, scenes: Data, one_thread: None) -> list[Tensor]:
    return images(small, scenes, 3)


@pytest.fixture(scope="module")
def graph(small: Network) -> Graph:
    return small.graph()


def scheme_of(graph: Graph, seen: list[Tensor], bits: int) -> Scheme:
    plain = prepared(graph)
    alone = stems(plain)
    weights = weight_grids(plain, alone, bits, symmetric=True, per_channel=True)
    return Scheme(calibrated(plain, seen, alone, symmetric=True)[0] | weights)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_pass_rounds_what_the_graph_rounds(small: Network, graph: Graph, seen: list[Tensor], bits: int) -> None:
    scheme = scheme_of(graph, seen, bits)
    expected, plain = run(quantized(graph, scheme), seen[0]), run(graph, seen[0])
    with torch.no_grad(), rounding(small.module, scheme, bits):
        found, again = small.module(seen[0]), small.module(seen[0])
    for name, value in expected.items():
        error = (plain[name] - value).abs().mean()
        assert error > 0
        assert (found[name] - value).abs().mean() < 0.02 * error  # but for numbers that lie on the edge of a step
        assert torch.equal(found[name], again[name])


def test_afterwards_passes_round_nothing(small: Network, graph: Graph, seen: list[Tensor]) -> None:
    with torch.no_grad():
        before = small.module(seen[0])
        with rounding(small.module, scheme_of(graph, seen, 8), 8):
            small.module(seen[0])
        after = small.module(seen[0])
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in small.module.modules())


def test_gradients_reach_every_weight_and_are_those_of_the_rounded_pass(
    small: Network, graph: Graph, seen: list[Tensor]
) -> None:
    module = small.copy().train()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    with rounding(module, scheme_of(graph, seen, 4), 4):
        sum(value.square().mean() for value in module(seen[0]).values()).backward()
    for name, weight in module.named_parameters():
        if "neck.smooth.8" not in name:  # no head taps it
            assert weight.grad is not None, name
            assert bool(torch.isfinite(weight.grad).all())
    assert float(module.get_parameter("backbone.second.0.weight").grad.abs().sum()) > 0
    assert not any(isinstance(weight.grad, Grid) for weight in module.parameters())


class Everything(nn.Module):
    """Each operator that is rounded on its way, in every spelling, with turns to be told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        once = self.conv(x)
        twice = self.conv(once[:, :3])
        both = 2 + once + torch.add(twice, once)
        both += once.clone()
        scaled = both * once * 0.5 * torch.mul(twice, once)
        scaled *= both
        wide = nn.functional.interpolate(self.pool(scaled), scale_factor=2.0, mode="nearest")
        small = nn.functional.avg_pool2d(self.up(wide), 2)
        joined = torch.cat([small, twice], 1).mean((2, 3), keepdim=True)
        gate = nn.functional.adaptive_avg_pool2d(small, 1).flatten(1)
        return joined.flatten(1) @ torch.cat([self.linear(gate)] * 2, 1).t() + torch.bmm(once[:, 0], twice[:, 0]).sum()


def test_every_operator_is_known_in_every_spelling() -> None:
    torch.manual_seed(0)
    module = Everything().eval()
    image = torch.randn(1, 3, 8, 8)
    plain = prepared(capture(module, image, ""))
    kinds = {"conv2d", "conv_transpose2d", "linear", "matmul", "bmm", "add", "mul", "cat", "mean"}
    kinds |= {"adaptive_avg_pool2d", "avg_pool2d", "max_pool2d", "upsample_nearest2d"}
    steps = iter(range(1, 1000))
    zero = torch.tensor(0, dtype=torch.int32)
    wanted = {
        edge: Grid(torch.tensor(0.002 + 1e-5 * next(steps)), zero, -32767, 32767)
        for edge, node, place, leaf in edges(plain)
        if node.kind in kinds and type(leaf).__name__ == "Value"
    }
    assert {edge.split("|")[1] for edge in wanted} == kinds
    with torch.no_grad():
        for edge, grid in wanted.items():
            coarse = Scheme({edge: replace(grid, scale=grid.scale * 50)})
            (expected,) = run(quantized(capture(module, image, ""), coarse), image).values()
            with rounding(module, coarse, 8):
                assert torch.allclose(module(image), expected, rtol=1e-4, atol=1e-4), edge
            assert not torch.equal(module(image), expected), edge


def test_a_pass_that_fails_leaves_the_next_one_right(small: Network, graph: Graph, seen: list[Tensor]) -> None:
    scheme = scheme_of(graph, seen, 8)
    with torch.no_grad(), rounding(small.module, scheme, 8):
        expected = small.module(seen[0])
        with pytest.raises(Exception, match="channels"):
            small.module(torch.zeros(1, 5, 64, 96))
        found = small.module(seen[0])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_weights_keep_grids_of_both_signs_from_wherever_they_start(start: float) -> None:
    layer = nn.Linear(2, 2, bias=False)
    image = torch.tensor([[1.0, 0.0]])
    layer.weight.data.fill_(start)
    weights = weight_grids(prepared(capture(layer, image, "")), frozenset(), 8, symmetric=True, per_channel=True)
    layer.weight.data.copy_(torch.tensor([[-1.27, 0.004], [0.5, 0.25]]))
    with torch.no_grad(), rounding(layer, Scheme(weights), 8):
        found: Any = layer(image)
    assert torch.allclose(found, torch.tensor([[-1.27, 0.5]]), atol=1e-6)


def test_bits_are_by_module(small: Network, graph: Graph, seen: list[Tensor]) -> None:
    scheme = scheme_of(graph, seen, 8)
    own = {edge: grid for edge, grid in scheme.grids.items() if edge.endswith("|1") and grid.axis == 0}
    with torch.no_grad():
        with rounding(small.module, Scheme(own), {"heads.surface.predict": 2}):
            found = small.module(seen[0])
        with rounding(small.module, Scheme(own), 8):
            fine = small.module(seen[0])
    assert not torch.equal(found["surface.logits"], fine["surface.logits"])
    assert torch.equal(found["scene.logits"], fine["scene.logits"])
