"""Calibration without a tool: ranges against the values themselves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sharedbb.compress import ranges
from sharedbb.compress.calibration import prepared, stems
from sharedbb.compress.ranges import calibrated
from sharedbb.graph.capture import capture
from sharedbb.graph.ir import Graph
from sharedbb.learn.network import Network


class Chain(nn.Module):
    """Operators of each kind behind one another; the picture passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.conv.weight.data.fill_(2.0)

    def forward(self, x: Tensor) -> Tensor:
        positive = x.relu()
        return self.conv(positive) + self.conv(-positive) * positive.matmul(positive.transpose(2, 3))


@pytest.fixture(scope="module")
def graph(one_thread: None) -> Graph:
    return prepared(capture(Chain(), torch.zeros(1, 1, 4, 4), ""))


def test_a_grid_ends_at_the_widest_of_the_pictures(graph: Graph) -> None:
    images = [torch.full((1, 1, 4, 4), value) for value in (0.5, 2.0, 1.0)]
    grids, biases = calibrated(graph, images, frozenset(), symmetric=True)
    assert biases == {}
    told = {edge: (float(grid.scale), grid.low, grid.high, int(grid.zero_point)) for edge, grid in grids.items()}
    assert told == {
        "conv|conv2d|0|0": (pytest.approx(2 / 255), 0, 255, 0),
        "conv|conv2d|1|0": (pytest.approx(2 / 127), -127, 127, 0),
        "|matmul|0|0": (pytest.approx(2 / 255), 0, 255, 0),
        "|matmul|0|1": (pytest.approx(2 / 255), 0, 255, 0),
    }


def test_bits_and_zero_points_are_as_asked(graph: Graph) -> None:
    image = torch.linspace(-1, 3, 16).view(1, 1, 4, 4)
    grids, _ = calibrated(graph, [image], frozenset(), symmetric=False, bits=4)
    grid = grids["conv|conv2d|1|0"]  # reads −3 to 0
    assert (float(grid.scale), int(grid.zero_point), grid.low, grid.high) == (
        pytest.approx(3 / 15, rel=1e-3),
        15,
        0,
        15,
    )


def test_a_lone_outlier_is_clipped(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    image = torch.linspace(0, 1, 40_000).view(1, 1, 200, 200).clone()
    image.view(-1)[7] = 1000.0
    plain = prepared(capture(Chain(), torch.zeros(1, 1, 200, 200), ""))
    grids, _ = calibrated(plain, [image], frozenset(), symmetric=True)
    assert float(grids["conv|conv2d|0|0"].scale) == pytest.approx(1 / 255, rel=1e-3)
    monkeypatch.setattr(ranges, "CLIPPED", 0.0)
    grids, _ = calibrated(plain, [image], frozenset(), symmetric=True)
    assert float(grids["conv|conv2d|0|0"].scale) == pytest.approx(1000 / 255)


def test_what_is_left_alone_has_no_grid(small: Network, one_thread: None) -> None:
    plain = prepared(small.graph())
    images = [torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    every, _ = calibrated(plain, images, frozenset(), symmetric=True)
    found, _ = calibrated(plain, images, stems(plain), symmetric=True)
    assert every.keys() - found.keys() == {"backbone.stem.0|conv2d|0|0"}
    assert all(edge.split("|")[1] in ("conv2d", "linear") for edge in found)
