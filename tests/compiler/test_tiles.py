"""Runs of every backbone's blocks in tiles, against the whole; what cannot be divided, and what the check refuses."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.backends.torch_backends import EagerBackend, TorchExecutable
from sharedbb.compiler import tiles as under_test
from sharedbb.compiler.lower import describe
from sharedbb.compiler.tiles import LEAST_KEPT, SHARES, candidates, cut_to, divided, tiling_of
from sharedbb.errors import GraphError
from sharedbb.graph.capture import capture
from sharedbb.graph.cut import Cut, Segment, cut, fold_constants
from sharedbb.graph.ir import Graph
from sharedbb.graph.lower import to_module
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.nets import backbones
from sharedbb.program import Stage, Tiles
from sharedbb.registry import BACKBONE_NAMES
from sharedbb.reuse.regions import CELL, Cover, Margin, Price, Tiling, cover, grid
from sharedbb.runtime.parts import Part
from sharedbb.types import Normalization, Plane, Size

WIDE, TALL = Size(64, 448), Size(448, 64)
NORMALIZATION = Normalization((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
PLANES = Plane.rgb(NORMALIZATION)
UNTOUCHED = 1e6
RUNS = 4

# Networks with blocks that pool the whole picture, and that were captured with a fixed size.
GLOBAL = {"mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"}
FIXED = {"shufflenet_v2_x1_0"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def _steps(name: str) -> tuple[tuple[nn.Module, ...], tuple[tuple[int, int], ...]]:
    """A backbone's blocks in double precision, and before each of them channels and stride."""
    network = getattr(backbones, name)().eval()
    blocks = tuple(network.get_submodule(step) for step in network.steps)
    seen, value = [], torch.zeros(1, 3, 64, 64)
    for block in blocks:
        seen.append((value.shape[1], 64 // value.shape[2]))
        with torch.no_grad():
            value = block(value)
    return tuple(block.double() for block in blocks), tuple(seen)


def _run_of(name: str, seed: int, picture: Size) -> Segment:
    """Some blocks of a backbone in a row, as a segment that reads the map before them: the first one, or any."""
    dice = random.Random(f"{name} {seed}")
    blocks, seen = _steps(name)
    begin = 0 if seed == 0 else dice.randrange(len(blocks))
    end = min(len(blocks), begin + (dice.randint(1, 3 if len(blocks) > 9 else 2) if seed else 1))
    channels, stride = seen[begin]
    example = torch.zeros(1, channels, picture.height // stride, picture.width // stride, dtype=torch.float64)
    return _segment(fold_constants(fold_batch_norms(capture(nn.Sequential(*blocks[begin:end]), example, "end"))))


def _segment(graph: Graph) -> Segment:
    """All of a graph."""
    outputs = tuple(graph.outputs.values())
    named = replace(graph, outputs={name: name for name in outputs})
    return Segment("run", named, graph.inputs, outputs, frozenset({"end"}), None)


def _executable(segment: Segment, dtype: torch.dtype) -> TorchExecutable:
    module = to_module(segment.graph).to(dtype)
    return TorchExecutable(lambda *features: tuple(module(*features)[name] for name in segment.outputs))


def _map(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    made = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return made.to(dtype).contiguous(memory_format=torch.channels_last)


def _places(size: int, count: int, step: int, picture: Size, seed: int) -> Cover:
    """Corners and any places between, no two tiles alike."""
    dice = np.random.default_rng(seed)
    down, right = (picture.height - size) // step, (picture.width - size) // step
    chosen = [(0, 0), (down, right), (0, right), (down, 0)]
    chosen += [(int(dice.integers(down + 1)), int(dice.integers(right + 1))) for _ in range(count)]
    found = np.array(list(dict.fromkeys(chosen))[:count], np.intp) * step
    return Cover(0, found[:, 0], found[:, 1])


def _largest_error(segment: Segment, tiling: Tiling, picture: Size, size: int, dtype: torch.dtype) -> float:
    """Of a few tiles anywhere, then of tiles all over, relative to the largest number; nothing else is touched."""
    count = 5
    small = cut_to(segment, tiling, size, count, picture)
    stage = Stage(
        describe(segment, ("end",)),
        _executable(segment, dtype),
        tiling,
        (Tiles(size, count, _executable(small, dtype)),),
    )
    backend = EagerBackend("f32")
    (name,), (output,) = segment.inputs, segment.outputs
    features = {name: _map(segment.graph.by_name[name].shape, dtype)}
    (dense,) = stage.executable.session()([features[name]])
    features[output] = torch.full_like(dense, UNTOUCHED, memory_format=torch.channels_last)
    patches = {key: backend.patches(feature) for key, feature in features.items()}
    part, stride, errors = Part(stage, backend, picture), tiling.outputs[0], []
    dirty = np.ones(grid(picture), np.bool_)
    everywhere = cover(dirty, [Price(size, count, 1.0)], tiling.step, picture, 1e9)
    assert everywhere is not None
    for place in (_places(size, count, tiling.step, picture, size), everywhere):
        features[output].fill_(UNTOUCHED)
        part.pending = dirty.copy()
        part.run_tiles(place, features, patches, {})
        inside = torch.zeros(dense.shape[2:], dtype=torch.bool)
        for row, column in zip(place.rows // stride, place.columns // stride, strict=True):
            inside[row : row + size // stride, column : column + size // stride] = True
        assert (features[output][..., ~inside] == UNTOUCHED).all()
        errors.append(float((features[output] - dense)[..., inside].abs().max() / dense.abs().max()))
    assert inside.all()
    return max(errors)


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_tiles_of_a_backbones_blocks_are_those_of_the_whole(name: str) -> None:
    found = 0
    for seed in range(RUNS):
        picture = (WIDE, TALL)[seed % 2]
        segment = _run_of(name, seed, picture)
        tiling = tiling_of(segment, picture)
        if tiling is None:
            assert name in GLOBAL
            continue
        sizes = [size for size in (32, 64) if size % tiling.step == 0]
        size = random.Random(seed).choice(sizes)
        if name in FIXED and any(node.kind in ("view", "reshape") for node in segment.graph.nodes):
            with pytest.raises(GraphError, match="does not run at another size"):
                cut_to(segment, tiling, size, 5, picture)
            continue
        assert _largest_error(segment, tiling, picture, size, torch.float64) < 1e-10
        found += 1
    # Every run of a network without global operators, and at least a stem of the others.
    assert found == RUNS or (found >= 1 and name in GLOBAL | FIXED)


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "regnet_x_400mf"])
def test_in_float32_they_differ_by_rounding(name: str) -> None:
    segment = _run_of(name, 1, TALL)
    tiling = tiling_of(segment, TALL)
    assert tiling is not None
    assert _largest_error(segment, tiling, TALL, 64, torch.float32) < 1e-4


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_the_margins_are_needed(side: str) -> None:
    """With one of them gone, numbers are wrong: what the tests above hold is not held by wider crops alone."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 5, 2, 2)).double()
    picture = Size(128, 160)
    segment = _captured(network, picture)
    tiling = tiling_of(segment, picture)
    assert tiling is not None
    assert tiling.margins == (Margin(5, 2, 5, 2),)
    assert _largest_error(segment, tiling, picture, 32, torch.float64) < 1e-10
    narrow = replace(tiling, margins=(replace(tiling.margins[0], **{side: 0}),))
    assert _largest_error(segment, narrow, picture, 32, torch.float64) > 1e-3


def _captured(network: nn.Module, picture: Size) -> Segment:
    example = torch.zeros(1, 3, picture.height, picture.width, dtype=torch.float64)
    return _segment(capture(network.double().eval(), example, "end"))


class Permuted(nn.Module):
    """A map whose last axis is its channels, as many as it has columns."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x).permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("network", "picture"),
    [
        (nn.Conv2d(3, 4, 3, 1, 1), Size(40, 64)),  # no whole number of cells
        (nn.Conv2d(3, 4, 3, 3), Size(48, 96)),  # a stride that does not divide a cell
        (nn.Conv2d(3, 4, 24, 24), Size(96, 192)),  # cells that do not divide a stride
        (nn.Conv2d(3, 4, 3, 1, 0), Size(64, 64)),  # a map that does not divide the picture
        (nn.Conv2d(3, 4, 3, (2, 1), 1), Size(64, 64)),  # other strides down than along
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1)), Size(64, 64)),  # all of the picture
        (nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Flatten()), Size(64, 64)),  # a vector
        (Permuted(32), Size(128, 128)),  # other axes
    ],
)
def test_what_cannot_be_divided(network: nn.Module, picture: Size) -> None:
    assert tiling_of(_captured(network, picture), picture) is None


def test_several_inputs_and_outputs_have_strides_and_margins_of_their_own() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.deep = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 5, 2, 2)
            self.wide, self.up = nn.Conv2d(4, 4, 3, 1, 1), nn.Upsample(scale_factor=2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            fine = self.stem(x)
            deep = self.deep(fine)
            joined = self.wide(self.up(deep)) + fine
            return {"a.joined": joined, "a.deep": self.deep(joined), "b.fine": fine, "c.deep": deep}

    picture = Size(96, 128)
    graph = capture(Joined().eval(), torch.zeros(1, 3, 96, 128), "")
    segment = next(one for one in cut(graph).segments if len(one.inputs) == 2)
    tiling = tiling_of(segment, picture)
    assert tiling is not None
    by_name = dict(zip(segment.inputs, zip(tiling.inputs, tiling.margins, strict=True), strict=True))
    assert sorted(stride for stride, _ in by_name.values()) == [4, 8]
    assert sorted(tiling.outputs) == [4, 8]
    margins = dict(by_name.values())
    assert margins[4] == Margin(8, 4, 8, 4)  # the last convolution alone: two cells before and after every second one
    assert margins[8].top >= 8 + 4
    assert tiling.align == 8


@pytest.mark.parametrize("picture", [Size(384, 640), Size(736, 1280), Size(64, 96)])
@pytest.mark.parametrize("margin", [0, 7, 60])
@pytest.mark.parametrize("align", [4, 32])
def test_candidates_are_aligned_and_of_a_bounded_share(picture: Size, margin: int, align: int) -> None:
    tiling = Tiling((4,), (align,), (Margin(margin, margin, margin, margin),), align)
    found = list(candidates(tiling, picture))
    assert len(found) == len(set(found))
    for size, count in found:
        crop = tiling.crop(size, picture)
        area = crop.height * crop.width
        assert size % tiling.step == 0
        assert size <= min(picture.height, picture.width)
        assert size * size >= LEAST_KEPT * area
        assert count * area <= 1.5 * SHARES[-1] * picture.height * picture.width
    if picture.height == 384 and margin < 60:
        assert {size for size, _ in found} >= {64, 128}


@pytest.fixture
def parts() -> Cut:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 12, 5, 2, 2), nn.ReLU(), nn.Conv2d(12, 8, 3, 1, 1)
    )
    return cut(capture(network.eval(), torch.zeros(1, 3, 160, 192), "end"))


def _divided(parts: Cut, backend: EagerBackend) -> tuple[tuple[Stage, ...], list[str]]:
    executables = backend.compile(parts, PLANES)
    stages = tuple(
        Stage(replace(describe(segment, ("end",)), measured_ms=1e3), executable)
        for segment, executable in zip(parts.segments, executables, strict=True)
    )
    return divided(stages, parts, PLANES, backend)


def test_stages_get_the_tiles_that_pay(parts: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "interleaved", _priced(2.0))
    stages, said = _divided(parts, EagerBackend("f32"))
    assert len(said) == len(stages) == len(parts.segments) == 2
    for stage, line in zip(stages, said, strict=True):
        assert stage.tiling is not None
        assert stage.tiles
        assert line.startswith(f"{stage.facts.name} in tiles: ")
        assert line.endswith("; whole 1000.00 ms")
        assert all(one.measured_ms == 2.0 and one.macs > 0 for one in stage.tiles)
        # At one price, of each size only the largest batch is worth having.
        sizes = [one.size for one in stage.tiles]
        assert len(sizes) == len(set(sizes))
    monkeypatch.setattr(under_test, "interleaved", _priced(999.0))
    stages, said = _divided(parts, EagerBackend("f32"))
    assert said == []
    assert all(stage.tiling is not None and stage.tiles == () for stage in stages)


def _priced(milliseconds: float) -> Callable[[dict[str, Callable[[], Any]], str], dict[str, float]]:
    """In place of a clock: runs every case once."""

    def run(cases: dict[str, Callable[[], Any]], device: str) -> dict[str, float]:
        return {key: milliseconds for key, call in cases.items() if call() is not ...}

    return run


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_batch_that_gives_other_numbers_is_refused(
    parts: Cut, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(under_test, "interleaved", _priced(2.0))
    backend = EagerBackend(precision)
    assert all(stage.tiles for stage in _divided(parts, backend)[0])
    for side in ("top", "left", "bottom", "right"):

        def narrow(segment: Segment, picture: Size, side: str = side) -> Tiling | None:
            found = tiling_of(segment, picture)
            assert found is not None
            return replace(found, margins=tuple(replace(margin, **{side: 0}) for margin in found.margins))

        monkeypatch.setattr(under_test, "tiling_of", narrow)
        first, second = _divided(parts, backend)[0]
        assert first.tiles  # its one convolution reads nothing beyond its own pixels
        assert not second.tiles


def test_a_batch_that_does_not_compile_is_left_out(parts: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "interleaved", _priced(2.0))

    def refused(*_: Any) -> Segment:
        raise GraphError("of a fixed size")

    monkeypatch.setattr(under_test, "cut_to", refused)
    stages, said = _divided(parts, EagerBackend("f32"))
    assert said == []
    assert all(stage.tiles == () for stage in stages)


def test_a_cut_segment_says_how_many_of_what(parts: Cut) -> None:
    picture = Size(160, 192)
    for segment in parts.segments:
        tiling = tiling_of(segment, picture)
        assert tiling is not None
        small, crop = cut_to(segment, tiling, 32, 3, picture), tiling.crop(32, picture)
        assert small.name == f"{segment.name} 3 of 32"
        for name, stride in zip(small.outputs, tiling.outputs, strict=True):
            shape = small.graph.by_name[name].shape
            assert (shape[0], *shape[2:]) == (3, crop.height // stride, crop.width // stride)
    assert CELL == 16
