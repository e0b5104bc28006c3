"""A stage computed in parts, against the same stage computed whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.backends.openvino import OpenVINOBackend
from sharedbb.backends.torch_backends import EagerBackend
from sharedbb.compiler.lower import describe
from sharedbb.compiler.tiles import cut_to, tiling_of
from sharedbb.graph.capture import capture
from sharedbb.graph.cut import Cut, Segment, cut
from sharedbb.program import Stage, Tiles
from sharedbb.reuse.regions import CELL, Mask, grid
from sharedbb.runtime.parts import Part
from sharedbb.types import Normalization, Plane, Size

PICTURE = Size(160, 192)
NORMALIZATION = Normalization((127.5, 127.5, 127.5), (60.0, 60.0, 60.0))
PLANES = Plane.rgb(NORMALIZATION)
BUCKETS = ((32, 4), (64, 1))
ROUNDING = 1e-5  # of a feature's largest number


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Network(nn.Module):
    """Strides 4, 8 and 32, a segment that reads two of them and gives two, and a vector of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, 1, 1)
        self.deep = nn.Conv2d(8, 8, 3, 2, 1)
        self.deeper = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 5, 2, 2))
        self.joined, self.last = nn.Conv2d(16, 8, 3, 1, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(self.stem(x)).relu()
        deep = self.deep(fine).relu()
        deeper = self.deeper(deep).relu()
        up = nn.functional.interpolate(deep, scale_factor=2.0, mode="bilinear")
        joined = self.joined(torch.cat([fine, up], 1))
        return {
            "map.fine": joined,
            "map.coarse": self.deep(joined),
            "far": deeper,
            "vector": self.last(deeper.mean((2, 3))),
        }


def compiled(parts: Cut, backend: Any) -> list[Stage]:
    """Every segment as a stage with both buckets of tiles, where it can be divided."""

    def stage(segment: Segment, executable: Any) -> Stage:
        facts, tiling, tiles = describe(segment, ("map", "far", "vector")), tiling_of(segment, PICTURE), []
        for size, count in BUCKETS if tiling is not None else ():
            assert tiling is not None
            small = cut_to(segment, tiling, size, count, PICTURE)
            (runs,) = backend.compile(replace(parts, segments=(small,)), PLANES)
            tiles.append(Tiles(size, count, runs, macs=size * count, measured_ms=1.0))
        return Stage(replace(facts, measured_ms=4.0), executable, tiling, tuple(tiles))

    return [stage(*both) for both in zip(parts.segments, backend.compile(parts, PLANES), strict=True)]


class Setting:
    """A network's stages, a stream's features, and a picture that changes."""

    def __init__(self, backend: Any, stages: list[Stage]) -> None:
        self.backend, self.stages = backend, stages
        self.buffer = backend.picture(PICTURE, PLANES)
        self.array = self.buffer.planes["input"]
        self.array[...] = np.random.default_rng(0).integers(0, 256, self.array.shape, np.uint8)
        self.features = self.dense()
        maps = [
            name
            for stage in stages
            for name, shape in zip(stage.facts.outputs, stage.facts.shapes, strict=True)
            if shape[1:]
        ]
        self.patches = {name: backend.patches(self.features[name]) for name in ("input", *maps)}

    def dense(self) -> dict[str, Any]:
        """All features of the picture, in buffers of their own."""
        found = dict(self.buffer.features)
        for stage in self.stages:
            results = stage.executable.session()([found[name] for name in stage.facts.inputs])
            found.update(zip(stage.facts.outputs, results, strict=True))
        return found

    def numbers(self, features: dict[str, Any], name: str) -> np.ndarray:
        """A copy, [1, h, w, C] or a vector."""
        return np.array(self.backend.answer(features[name]))

    def change(self, *boxes: tuple[int, int, int, int]) -> Mask:
        """Draw noise into boxes (top, left, height, width); returns the cells that they touch."""
        mask = np.zeros(grid(PICTURE), np.bool_)
        dice = np.random.default_rng(sum(map(sum, boxes)))
        for top, left, height, width in boxes:
            self.array[0, top : top + height, left : left + width] = dice.integers(0, 256, (height, width, 3))
            mask[top // CELL : -(-(top + height) // CELL), left // CELL : -(-(left + width) // CELL)] = True
        return mask

    def check(
        self, stage: Stage, before: dict[str, np.ndarray], changed: dict[str, Mask | None], tolerance: float
    ) -> None:
        """The outputs are the whole's, and the masks are where they are not what they were."""
        dense = self.dense()
        for name in stage.facts.outputs:
            expected, got = self.numbers(dense, name), self.numbers(self.features, name)
            assert np.abs(got - expected).max() <= tolerance + ROUNDING * np.abs(expected).max()
            assert np.array_equal(bits(before[name] != got), everywhere(changed[name]))


def cells(numbers: np.ndarray) -> np.ndarray:
    """The largest number of a map [1, h, w, C] in every cell."""
    stride = PICTURE.height // numbers.shape[1]
    pixels = numbers[0].max(-1).repeat(stride, 0).repeat(stride, 1)
    rows, columns = grid(PICTURE)
    return pixels.reshape(rows, CELL, columns, CELL).max((1, 3))


def bits(moved: np.ndarray) -> Mask:
    """Cells in which any number of a map [1, h, w, C] moved."""
    return cells(moved)


def everywhere(mask: Mask | None) -> Mask:
    return np.zeros(grid(PICTURE), np.bool_) if mask is None else mask


@pytest.fixture(scope="module", params=[EagerBackend, OpenVINOBackend], ids=["eager", "openvino"])
def built(request: pytest.FixtureRequest) -> tuple[Any, list[Stage]]:
    torch.manual_seed(0)
    backend = request.param("f32")
    parts = cut(capture(Network().eval(), torch.zeros(1, 3, PICTURE.height, PICTURE.width), ""))
    return backend, compiled(parts, backend)


@pytest.fixture
def setting(built: tuple[Any, list[Stage]]) -> Setting:
    return Setting(*built)


BOXES = [
    [(0, 0, 1, 1)],
    [(159, 191, 1, 1)],
    [(0, 180, 20, 12), (150, 0, 10, 30)],
    [(60, 70, 30, 40)],
    [(10, 10, 8, 8), (90, 100, 20, 16), (140, 20, 3, 3)],
]


@pytest.mark.parametrize("whole", [False, True], ids=["tiles", "whole"])
def test_changes_go_from_stage_to_stage_as_in_the_whole_network(setting: Setting, whole: bool) -> None:
    """Several pictures in a row, each stage told of what moved before it."""
    stages = [stage for stage in setting.stages if stage.tiling is not None]
    assert len(stages) == len(setting.stages) - 1
    assert {stride for stage in stages for stride in stage.tiling.outputs} >= {4, 8, 32}
    assert any(len(stage.facts.inputs) == 2 and len(stage.facts.outputs) == 2 for stage in stages)
    working = [Part(stage, setting.backend, PICTURE) for stage in stages]
    for boxes in BOXES:
        found: dict[str, Mask | None] = {"input": setting.change(*boxes)}
        for part in working:
            for name in part.facts.inputs:
                mask = found[name]
                if mask is not None:
                    part.expect(name, mask, 1.0)
            assert part.pending is not None
            assert part.since == 1.0
            before = {name: setting.numbers(setting.features, name) for name in part.facts.outputs}
            pending = part.pending.copy()
            if whole:
                changed, macs = part.run_whole(setting.features, setting.patches, {})
                assert macs == part.facts.macs
                if pending.mean() >= 0.5:
                    assert all(mask is not None and mask.all() for mask in changed.values())
                    changed = {name: bits(before[name] != setting.numbers(setting.features, name)) for name in changed}
            else:
                work = part.work(wait=False)
                if work.cover is None:
                    assert work.kind == "whole"
                    changed, _ = part.run_whole(setting.features, setting.patches, {})
                    found.update(changed)
                    continue
                changed, macs = part.run_tiles(work.cover, setting.features, setting.patches, {})
                tiles = part.stage.tiles[work.cover.bucket]
                assert macs == tiles.macs * -(-len(work.cover.rows) // tiles.count)
            setting.check(part.stage, before, changed, 0.0)
            assert all(not (everywhere(mask) & ~pending).any() for mask in changed.values())
            assert part.pending is None
            assert part.since is None
            found.update(changed)


def _first(setting: Setting) -> Part:
    return Part(setting.stages[0], setting.backend, PICTURE)


def _second(setting: Setting) -> Part:
    return Part(next(one for one in setting.stages if one.facts.stride == 8), setting.backend, PICTURE)


@pytest.mark.parametrize("way", ["tiles", "whole"])
def test_what_moved_by_no_more_than_the_tolerance_keeps_its_numbers(setting: Setting, way: str) -> None:
    part = _first(setting)
    (name,) = part.facts.outputs
    before = {name: setting.numbers(setting.features, name)}
    part.expect("input", setting.change((40, 40, 30, 30)), 0.0)
    moved = np.abs(setting.numbers(setting.dense(), name) - before[name])
    levels = np.unique(cells(moved))
    tolerance = float(levels[-3:-1].mean())  # two cells moved by more, or by just as much
    if way == "tiles":
        cover = part.work(wait=False).cover
        assert cover is not None
        changed, _ = part.run_tiles(cover, setting.features, setting.patches, {name: tolerance})
    else:
        changed, _ = part.run_whole(setting.features, setting.patches, {name: tolerance})
    setting.check(part.stage, before, changed, tolerance)
    assert np.array_equal(everywhere(changed[name]), bits(moved > tolerance))
    assert 0 < everywhere(changed[name]).sum() < bits(moved > 0).sum()
    part.expect("input", everywhere(bits(moved > 0)), 0.0)
    changed, _ = part.run_whole(setting.features, setting.patches, {name: tolerance})
    assert changed == {name: None}


def test_a_change_that_moves_nothing_reaches_nobody(setting: Setting) -> None:
    part = _first(setting)
    part.expect("input", np.eye(*grid(PICTURE), dtype=np.bool_), 0.0)
    cover = part.work(wait=False).cover
    if cover is None:
        changed, _ = part.run_whole(setting.features, setting.patches, dict.fromkeys(part.facts.outputs, 1e-5))
    else:
        changed, _ = part.run_tiles(cover, setting.features, setting.patches, dict.fromkeys(part.facts.outputs, 1e-5))
    assert set(changed.values()) == {None}


def test_only_pending_cells_are_written(setting: Setting) -> None:
    """Even where the numbers would be others."""
    part = _first(setting)
    (name,) = part.facts.outputs
    for way in ("tiles", "whole"):
        setting.array[...] = 255 - setting.array
        part.pending = np.zeros(grid(PICTURE), np.bool_)
        part.pending[2:4, 3], part.pending[9, 11], part.pending[9, 0] = True, True, True
        expected, before = part.pending.copy(), setting.numbers(setting.features, name)
        if way == "tiles":
            cover = part.work(wait=False).cover
            assert cover is not None
            changed, _ = part.run_tiles(cover, setting.features, setting.patches, {})
        else:
            changed, _ = part.run_whole(setting.features, setting.patches, {})
        assert np.array_equal(changed[name], expected)
        assert np.array_equal(bits(before != setting.numbers(setting.features, name)), expected)


def test_expectations_add_up_and_the_oldest_counts(setting: Setting) -> None:
    part = _second(setting)
    assert part.stage.tiling is not None
    (name,) = part.facts.inputs
    one, other = (np.zeros(grid(PICTURE), np.bool_) for _ in range(2))
    one[1, 1], other[8, 9] = True, True
    part.expect(name, one, 3.0)
    part.expect(name, other, 4.0)
    reached = part.stage.tiling.reached([one | other])
    assert np.array_equal(part.pending, reached)
    assert part.since == 3.0
    part.settle()
    assert part.pending is None
    assert part.since is None
    part.expect(name, other, 4.0)
    assert part.since == 4.0


def test_a_stage_that_cannot_be_divided_waits_for_all_or_nothing(setting: Setting) -> None:
    stage = next(stage for stage in setting.stages if stage.tiling is None)
    part = Part(stage, setting.backend, PICTURE)
    setting.change((0, 0, 160, 192))
    setting.features.update({name: value for name, value in setting.dense().items() if name not in stage.facts.outputs})
    mask = np.zeros(grid(PICTURE), np.bool_)
    mask[0, 0] = True
    part.expect(stage.facts.inputs[0], mask, 0.0)
    assert part.pending is not None
    assert part.pending.all()
    assert part.work(wait=True).kind == "later"
    assert part.work(wait=False).kind == "whole"
    (name,) = stage.facts.outputs
    held = setting.features[name]
    changed, _ = part.run_whole(setting.features, setting.patches, {})
    assert changed[name] is not None
    assert setting.features[name] is held
    assert np.allclose(setting.numbers(setting.features, name), setting.numbers(setting.dense(), name), atol=1e-5)


def test_work_is_done_in_tiles_where_that_is_cheaper(setting: Setting) -> None:
    part = _first(setting)
    mask = np.zeros(grid(PICTURE), np.bool_)
    mask[0, 0] = mask[9, 11] = True
    part.expect("input", mask, 0.0)
    for wait in (False, True):
        work = part.work(wait=wait)
        assert work.kind == "tiles"
        assert work.cover is not None
    part.expect("input", ~mask, 0.0)  # 30 tiles of 32 in eight calls, or nine of 64
    assert part.work(wait=False).kind == "whole"
    assert part.work(wait=True).kind == "later"


def test_what_was_foreseen_is_what_is_done(setting: Setting) -> None:
    part, mask = _first(setting), np.zeros(grid(PICTURE), np.bool_)
    mask[4, 4] = True
    milliseconds, touched = part.foresee({"input": mask})
    assert milliseconds == 1  # one call
    assert part.pending is None
    part.expect("input", mask, 0.0)
    assert np.array_equal(part.pending, touched)
    assert part.work(wait=False).kind == "tiles"
    assert part.foresee({"input": np.ones(grid(PICTURE), np.bool_)})[0] == part.whole_ms == 4
    other = np.roll(mask, 3)
    part.settle()
    assert part.foresee({}) == (0.0, None)
    assert part.foresee({"input": other})[0] < part.whole_ms
    fresh = _first(setting)
    for one in (part, fresh):
        one.expect("input", mask, 0.0)
    found, expected = part.work(wait=False).cover, fresh.work(wait=False).cover  # not what was foreseen
    assert found is not None
    assert expected is not None
    assert found.rows.tolist() == expected.rows.tolist()


def test_a_session_that_hands_out_new_buffers_is_read_anew(setting: Setting) -> None:
    """Memory that was freed may come back as another result, and be taken for the one before."""
    part = _first(setting)
    for top in range(0, 120, 8):
        before = {name: setting.numbers(setting.features, name) for name in part.facts.outputs}
        part.expect("input", setting.change((top, top, 16, 16)), 0.0)
        cover = part.work(wait=False).cover
        assert cover is not None
        changed, _ = part.run_tiles(cover, setting.features, setting.patches, {})
        setting.check(part.stage, before, changed, 0.0)


@pytest.mark.parametrize(
    ("shape", "stride"),
    [((8, 40, 48), 4), ((8, 5, 6), 32), ((8, 40, 40), 0), ((8,), 0), ((8, 53, 64), 0), ((8, 10, 6), 0)],
)
def test_outputs_that_are_maps_have_a_stride(setting: Setting, shape: tuple[int, ...], stride: int) -> None:
    stage = setting.stages[0]
    facts = replace(stage.facts, shapes=(shape,))
    assert Part(replace(stage, facts=facts), setting.backend, PICTURE).strides == [stride]


def test_a_stride_that_does_not_divide_a_cell_is_none() -> None:
    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(x, 3)

    segment = cut(capture(Three(), torch.zeros(1, 3, 96, 192), "")).segments[0]
    stage = Stage(describe(segment, ("",)), EagerBackend("f32").compile(cut(segment.graph), PLANES)[0])
    assert Part(stage, EagerBackend("f32"), Size(96, 192)).strides == [0]
