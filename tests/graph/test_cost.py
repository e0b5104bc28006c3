from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sharedbb.graph.capture import capture
from sharedbb.graph.cost import Cost, cost, total
from sharedbb.graph.ir import Graph
from sharedbb.registry import BACKBONE_NAMES


class Apply(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def flops(module: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_every_backbone_as_torch_counts_it(name: str, backbone_graph: Callable[[str], Graph]) -> None:
    graph = backbone_graph(name)
    module = getattr(torchvision.models, name)(weights=None).eval().to("meta")
    expected = flops(module, torch.zeros(graph.by_name["input"].shape, device="meta"))
    costs = cost(graph)
    assert list(costs) == [node.name for node in graph.nodes]
    together = total(costs.values())
    assert 2 * together.macs == expected
    assert together.parameters == sum(parameter.numel() for parameter in module.parameters())


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "grouped convolution": nn.Conv2d(4, 8, 3, 2, 1, groups=2),
    "transposed convolution": nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2),
    "transposed, called plainly": lambda x: torch.convolution(
        x, torch.ones(4, 6, 3, 3), None, [2, 2], [1, 1], [1, 1], True, [0, 0], 1
    ),
    "product of batches": lambda x: x @ x.transpose(2, 3),
    "bmm": lambda x: torch.bmm(x[0], x[1].transpose(1, 2)),
    "addmm": lambda x: torch.addmm(torch.zeros(10), x[0, 0], torch.ones(12, 10)),
    "baddbmm": lambda x: torch.baddbmm(torch.zeros(1), x[0], x[1].transpose(1, 2)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x[:, :, :5], x[:, :, :5, :7].contiguous()),
    "einsum": lambda x: torch.einsum("nchw,dc->ndhw", x, torch.ones(5, 4)),
    "upsampling and the like": lambda x: F.interpolate(F.relu(x), scale_factor=2.0) * 2 + 1,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operators_as_torch_counts_them(name: str) -> None:
    module, x = Apply(FUNCTIONS[name]), torch.zeros(2, 4, 8, 12)
    assert 2 * total(cost(capture(module, x)).values()).macs == flops(module, x)


def test_bytes_of_a_small_network() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x))
            a, b = y.chunk(2, 1)
            return a + b

    graph = capture(Small(), torch.zeros(1, 3, 8, 8))
    costs = cost(graph)
    assert costs["input"] == Cost()
    weights = 3 * 8 * 9 + 8
    assert costs["conv2d"] == Cost(8 * 16 * 27, 4 * weights, 4 * 3 * 64, 4 * 8 * 16, weights)
    assert costs["batch_norm"] == Cost(0, 4 * 32, 4 * 128, 4 * 128, 16)
    assert costs["chunk"] == costs["getitem"] == Cost()  # the same memory looked at otherwise
    assert costs["add"] == Cost(0, 0, 2 * 4 * 64, 4 * 64, 0)
    assert total(costs.values()) == Cost(
        8 * 16 * 27, 4 * weights + 4 * 32, 4 * (192 + 128 + 128), 4 * (128 + 128 + 64), weights + 16
    )


def test_bytes_follow_the_dtype() -> None:
    graph = capture(nn.Conv2d(4, 4, 1, bias=False).bfloat16(), torch.zeros(1, 4, 8, 8, dtype=torch.bfloat16))
    assert cost(graph)["conv2d"] == Cost(64 * 16, 2 * 16, 2 * 256, 2 * 256, 16)
