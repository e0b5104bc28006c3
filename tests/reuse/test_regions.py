"""What changes touch, held against dense networks; tiles that cover a mask, held against counting them."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.compiler.tiles import tiling_of
from sharedbb.graph.capture import capture
from sharedbb.graph.cut import Segment
from sharedbb.graph.ir import Graph
from sharedbb.graph.lower import to_module
from sharedbb.graph.merge import prune
from sharedbb.reuse.regions import CELL, Margin, Mask, Price, Tiling, cover, grid, whole_cells
from sharedbb.types import Size

PICTURE = Size(160, 224)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Layers(nn.Module):
    """A random chain of convolutions, upsampling and branches on a map of one channel and a given stride."""

    def __init__(self, dice: random.Random, stride: int, until: int) -> None:
        super().__init__()
        self.ways: list[str] = []
        self.layers = nn.ModuleList()
        for _ in range(dice.randint(1, 4)):
            stride = self._grow(dice, stride)
        while stride != until:
            stride = self._add("conv", 3, 2, 1, stride * 2) if stride < until else self._add("up", 1, 1, 1, stride // 2)

    def _grow(self, dice: random.Random, stride: int) -> int:
        way = dice.choice(("conv", "conv", "even", "lopsided", "up", "bilinear", "branch", "pool"))
        if way in ("up", "bilinear") and stride > 2:
            return self._add(way, 1, 1, 1, stride // 2)
        step = 2 if stride <= 8 and dice.random() < 0.4 else 1
        if way == "even" and stride <= 8:
            return self._add("conv", dice.choice((2, 4, 6)), 2, 1, stride * 2)
        if way in ("conv", "pool", "lopsided"):
            return self._add(way, dice.choice((1, 3, 5, 7)), step, dice.choice((1, 1, 2, 3)), stride * step)
        return self._add("branch", dice.choice((3, 5)), 1, dice.choice((1, 2)), stride)

    def _add(self, way: str, kernel: int, step: int, dilation: int, stride: int) -> int:
        dilation = 1 if way == "pool" else dilation
        padding = (dilation * (kernel - 1)) // 2
        layer: nn.Module = nn.Conv2d(1, 1, kernel, step, padding, dilation)
        if way == "pool":
            layer = nn.MaxPool2d(kernel, step, padding)
        elif way == "lopsided":
            beyond = dilation * (kernel - 1)
            layer = nn.Sequential(nn.ZeroPad2d((0, beyond, beyond, 0)), nn.Conv2d(1, 1, kernel, step, 0, dilation))
        elif way in ("up", "bilinear"):
            layer = nn.Upsample(scale_factor=2, mode="nearest" if way == "up" else "bilinear")
        self.layers.append(layer)
        self.ways.append(way)
        return stride

    def forward(self, x: Tensor) -> Tensor:
        for way, layer in zip(self.ways, self.layers, strict=True):
            x = layer(x) + x if way == "branch" else layer(x)
        return x


class Two(nn.Module):
    """Two branches of a picture, and what is made of both: the segment reads maps of two strides."""

    def __init__(self, dice: random.Random, fine: int, coarse: int, end: int) -> None:
        super().__init__()
        self.fine, self.coarse = nn.AvgPool2d(fine), nn.AvgPool2d(coarse)
        self.from_fine, self.from_coarse = Layers(dice, fine, end), Layers(dice, coarse, end)
        self.last = nn.Conv2d(2, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine, coarse = self.fine(x), self.coarse(x)
        joined = torch.cat([self.from_fine(fine), self.from_coarse(coarse)], 1)
        return {"fine": fine, "coarse": coarse, "end": self.last(joined)}


def between(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> Segment:
    """What leads from some answers of a graph to others, as a segment."""
    read = tuple(graph.outputs[name] for name in inputs)
    nodes = tuple(replace(node, op="input", args=(), kwargs=()) if node.name in read else node for node in graph.nodes)
    made = tuple(graph.outputs[name] for name in outputs)
    cut_out = prune(Graph(nodes, read, {name: name for name in made}, graph.weights))
    return Segment("between", cut_out, read, made, frozenset({"end"}), None)


def _any_network(seed: int) -> tuple[Segment, Tiling]:
    dice = random.Random(seed)
    torch.manual_seed(seed)
    fine, coarse, end = dice.choice((1, 2, 4, 8)), dice.choice((4, 8, 16, 32)), dice.choice((2, 4, 8, 16, 32))
    network = Two(dice, fine, coarse, end).double().eval()
    graph = capture(network, torch.zeros(1, 1, PICTURE.height, PICTURE.width, dtype=torch.float64), "")
    segment = between(graph, ["fine", "coarse"], ["end"])
    found = tiling_of(segment, PICTURE)
    assert found is not None
    return segment, found


def _cells(changed: Tensor, stride: int) -> Mask:
    """The cells of the mask that hold anything of the changed cells of a map [1, 1, h, w]."""
    pixels = changed[0, 0].repeat_interleave(stride, 0).repeat_interleave(stride, 1).numpy()
    rows, columns = grid(PICTURE)
    return pixels.reshape(rows, CELL, columns, CELL).any((1, 3))


@pytest.mark.parametrize("seed", range(30))
def test_no_cell_is_missed_that_a_dense_network_shows_as_changed(seed: int) -> None:
    segment, tiling = _any_network(seed)
    module, dice = to_module(segment.graph), np.random.default_rng(seed)
    shapes = [segment.graph.by_name[name].shape for name in segment.inputs]
    maps = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    with torch.no_grad():
        (before,) = module(*maps).values()
        for touched in (0, 1, 0, 1):
            changed = [torch.zeros(shape, dtype=torch.bool) for shape in shapes]
            _, _, height, width = shapes[touched]
            corners = [(0, 0), (height - 1, width - 1), *dice.integers(0, (height, width), (2, 2)).tolist()]
            for y, x in corners[: 2 + touched]:
                changed[touched][0, 0, y, x] = True
            (after,) = module(*(map_ + 3 * moved for map_, moved in zip(maps, changed, strict=True))).values()
            masks: list[Mask | None] = [None, None]
            masks[touched] = _cells(changed[touched], tiling.inputs[touched])
            reached = tiling.reached(masks)
            seen = _cells(before != after, tiling.outputs[0])
            assert reached is not None
            assert not (seen & ~reached).any()


def test_nothing_changed_reaches_nothing() -> None:
    margin = Margin(1, 1, 1, 1)
    assert Tiling((4, 8), (8,), (margin, margin), 8).reached([None, None]) is None


@pytest.mark.parametrize("seed", range(20))
def test_reached_are_just_the_cells_that_read_a_changed_one(seed: int) -> None:
    """Against the definition: an output's pixels, widened by the margin, overlap a changed cell."""
    dice = np.random.default_rng(seed)
    rows, columns = dice.integers(1, 47, 2)
    masks = [dice.random((rows, columns)) < 0.02, dice.random((rows, columns)) < 0.02]
    margins = [Margin(*map(int, dice.integers(0, 60, 4))) for _ in masks]
    expected = np.zeros((rows, columns), np.bool_)
    for mask, margin in zip(masks, margins, strict=True):
        for row, column in itertools.product(range(rows), range(columns)):
            top, bottom = row * CELL - margin.top, (row + 1) * CELL + margin.bottom
            left, right = column * CELL - margin.left, (column + 1) * CELL + margin.right
            down = slice(max(0, top // CELL), -(-bottom // CELL))
            along = slice(max(0, left // CELL), -(-right // CELL))
            expected[row, column] |= mask[down, along].any()
    reached = Tiling((16, 16), (16,), tuple(margins), 16).reached(masks)
    assert np.array_equal(reached, expected)


@pytest.mark.parametrize("shape", [(4, 6), (46, 80), (5, 7), (1, 1)])
@pytest.mark.parametrize("stride", [4, 16, 32, 64])
def test_cells_of_a_coarse_feature_are_dirty_as_a_whole(shape: tuple[int, int], stride: int) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.1
    factor = max(1, stride // CELL)
    expected = mask.copy()
    for row, column in zip(*np.nonzero(mask), strict=True):
        top, left = row - row % factor, column - column % factor
        expected[top : top + factor, left : left + factor] = True
    found = whole_cells(mask, stride)
    assert found.shape == shape
    assert np.array_equal(found, expected)


PRICES = (Price(32, 16, 1.5), Price(32, 64, 4.5), Price(64, 1, 0.8), Price(64, 6, 2.2), Price(128, 1, 1.7))


def _counted(mask: Mask, size: int, step: int) -> int:
    """How many tiles strips from the top take, each strip filled from the left."""
    left_over, count, side, steps = mask.copy(), 0, size // CELL, max(1, step // CELL)
    while left_over.any():
        top = int(left_over.any(1).argmax())
        strip = left_over[top - top % steps : top - top % steps + side]
        while strip.any():
            left = int(strip.any(0).argmax())
            strip[:, left - left % steps : left - left % steps + side] = False
            count += 1
    return count


@pytest.mark.parametrize("step", [16, 32])
@pytest.mark.parametrize("picture", [Size(736, 640), Size(384, 640), Size(128, 160)])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.3, 1.0])
def test_a_cover_is_the_cheapest_that_covers_everything(step: int, picture: Size, share: float) -> None:
    dice = np.random.default_rng(round(share * 1000) + picture.height)
    for _ in range(8):
        mask = dice.random(grid(picture)) < share
        mask.flat[dice.integers(mask.size)] = True
        dense = float(dice.uniform(0.5, 40))
        costs = [math.ceil(_counted(mask, one.size, step) / one.count) * one.milliseconds for one in PRICES]
        found = cover(mask, PRICES, step, picture, dense)
        if found is None:
            assert min(costs) >= dense
            continue
        size = PRICES[found.bucket].size
        assert costs[found.bucket] == min(costs) < dense
        assert len(found.rows) == len(found.columns) == _counted(mask, size, step)
        left_over = mask.copy()
        for row, column in zip(found.rows, found.columns, strict=True):
            assert 0 <= row <= picture.height - size
            assert 0 <= column <= picture.width - size
            assert row % step == 0 or row == picture.height - size
            assert column % step == 0 or column == picture.width - size
            left_over[row // CELL : (row + size) // CELL, column // CELL : (column + size) // CELL] = False
        assert not left_over.any()


def test_several_calls_are_made_where_that_is_cheapest() -> None:
    mask = np.zeros((24, 40), np.bool_)
    mask[::4, ::8] = True  # 30 cells apart
    prices = (Price(32, 10, 1.0), Price(32, 32, 5.0))
    found = cover(mask, prices, 16, Size(384, 640), 9.0)
    assert found is not None
    assert found.bucket == 0
    assert len(found.rows) == 30
    assert cover(mask, prices, 16, Size(384, 640), 3.0) is None
    fewer = cover(mask, (Price(32, 10, 2.0), prices[1]), 16, Size(384, 640), 9.0)
    assert fewer is not None
    assert fewer.bucket == 1


def test_without_a_dense_price_any_cover_will_do() -> None:
    mask = np.ones((4, 4), np.bool_)
    found = cover(mask, (Price(32, 1, 1.0),), 16, Size(64, 64), math.inf)
    assert found is not None
    assert len(found.rows) == 4


@pytest.mark.parametrize(("align", "step"), [(4, 16), (16, 16), (32, 32), (48, 48), (24, 48)])
def test_tiles_begin_at_whole_cells_that_are_aligned(align: int, step: int) -> None:
    assert Tiling((4,), (4,), (Margin(0, 0, 0, 0),), align).step == step


def test_a_crop_has_the_widest_margins_aligned_and_is_no_larger_than_the_picture() -> None:
    tiling = Tiling((4, 16), (8,), (Margin(3, 5, 0, 17), Margin(20, 1, 16, 0)), 16)
    assert tiling.ring() == Margin(32, 16, 16, 32)
    assert tiling.crop(64, Size(384, 640)) == Size(112, 112)
    assert tiling.crop(64, Size(96, 640)) == Size(96, 112)


def test_a_tiling_survives_being_stored() -> None:
    tiling = Tiling((1, 4), (8,), (Margin(1, 2, 3, 4), Margin(5, 6, 7, 8)), 8)
    assert Tiling.from_dict(json.loads(json.dumps(tiling.to_dict()))) == tiling
