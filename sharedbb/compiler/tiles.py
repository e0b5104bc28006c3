"""Segments in parts: which can be computed tile by tile, and in which sizes and numbers of tiles it pays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sharedbb.compiler.measure import features_of, interleaved, size_of
from sharedbb.errors import BackendError, GraphError
from sharedbb.graph.axis import Axis
from sharedbb.graph.cost import cost
from sharedbb.graph.cut import Cut, Segment
from sharedbb.graph.reach import Global, reach
from sharedbb.graph.resize import resized
from sharedbb.program import Stage, Tiles
from sharedbb.reuse.regions import CELL, Cover, Margin, Tiling
from sharedbb.runtime.parts import Part
from sharedbb.types import Plane, Size

SIZES = (32, 64, 128, 256, 384, 512)  # sides of tiles, in network pixels
SHARES = (0.03, 0.12, 0.3, 0.6)  # of the picture's area that a batch of tiles may have, rings included
LEAST_KEPT = 0.12  # of a crop that is not ring: tiles that keep less are not tried
ROUNDING = 0.03  # of a feature's largest number: more than this, and a tile's numbers are not those of the whole
PLACES = 9  # in which tiles are held against the whole, at least
WORTH = 0.8  # of the whole segment's work that a bucket may take at most


def tiling_of(segment: Segment, picture: Size) -> Tiling | None:
    """What it takes to compute a segment in parts; None where some output depends on more than a bounded window."""
    inputs = tuple(_stride(segment, name, picture) for name in segment.inputs)
    outputs = tuple(_stride(segment, name, picture) for name in segment.outputs)
    if not all(inputs) or not all(outputs):
        return None
    margins, aligns = [], [*inputs, *outputs]
    for name, stride in zip(segment.inputs, inputs, strict=True):
        found = reach(segment.graph, name)
        read_by = [(output, coarse) for output, coarse in zip(segment.outputs, outputs, strict=True) if output in found]
        local = [(found[output], coarse) for output, coarse in read_by]
        if any(isinstance(one, Global) or one.dims != (-2, -1) for one, _ in local):
            return None
        y = [(one.y, coarse) for one, coarse in local if not isinstance(one, Global)]
        x = [(one.x, coarse) for one, coarse in local if not isinstance(one, Global)]
        margins.append(Margin(*_sides(y, stride), *_sides(x, stride)))
        aligns += [stride * axis.align for axis, _ in (*y, *x)]
    align = math.lcm(*aligns)
    if picture.height % align or picture.width % align or picture.height % CELL or picture.width % CELL:
        return None
    return Tiling(inputs, outputs, tuple(margins), align)


def _stride(segment: Segment, name: str, picture: Size) -> int:
    """Network pixels a cell of a feature map, 0 for what is none, or does not divide picture and mask evenly."""
    shape = segment.graph.by_name[name].shape
    if len(shape) != 4 or picture.height % shape[2] or picture.width % shape[3]:
        return 0
    stride = picture.height // shape[2]
    return stride if stride == picture.width // shape[3] and not (CELL % stride and stride % CELL) else 0


def _sides(axes: Sequence[tuple[Axis, int]], stride: int) -> tuple[int, int]:
    """Pixels read before and after an output's own, along one axis, of an input of ``stride``."""
    before = max((math.ceil(axis.left * stride) for axis, _ in axes), default=0)
    after = max((math.ceil((axis.right + 1) * stride) - coarse for axis, coarse in axes), default=0)
    return max(0, before), max(0, after)


def candidates(tiling: Tiling, picture: Size) -> Iterator[tuple[int, int]]:
    """Sizes and numbers of tiles worth trying: small ones in batches, larger ones by themselves."""
    area = picture.height * picture.width
    for size in SIZES:
        crop = tiling.crop(size, picture)
        share = crop.height * crop.width / area
        if size % tiling.step or size > min(picture.height, picture.width) or share > SHARES[-1]:
            continue
        if size * size < LEAST_KEPT * crop.height * crop.width:
            continue
        counts = {round(limit / share) for limit in SHARES if limit >= share}
        yield from ((size, count) for count in sorted(counts))


def cut_to(segment: Segment, tiling: Tiling, size: int, count: int, picture: Size) -> Segment:
    """The segment for a batch of ``count`` crops, each around a tile of ``size``. Raises GraphError."""
    crop = tiling.crop(size, picture)
    sizes = {
        name: (count, crop.height // stride, crop.width // stride)
        for name, stride in zip(segment.inputs, tiling.inputs, strict=True)
    }
    found = resized(segment, sizes)
    for name, stride in zip(segment.outputs, tiling.outputs, strict=True):
        shape = found.graph.by_name[name].shape
        if (shape[0], shape[2] * stride, shape[3] * stride) != (count, crop.height, crop.width):
            raise GraphError(f"segment {segment.name} makes {shape} of {name} from a crop of {crop}")
    return replace(found, name=f"{segment.name} {count} of {size}")


def divided(
    stages: Sequence[Stage], parts: Cut, planes: Sequence[Plane], backend: Any
) -> tuple[tuple[Stage, ...], list[str]]:
    """The stages with the batches of tiles that cost clearly less than all of a stage, and what was found in words."""
    picture = size_of(parts, planes)
    made, said = [], []
    features, scale = _computed(stages, parts, planes, backend)
    for stage, segment in zip(stages, parts.segments, strict=True):
        tiling = tiling_of(segment, picture)
        tiles: tuple[Tiles, ...] = ()
        if tiling is not None:
            compiled = _compiled(segment, tiling, parts, planes, backend, picture)
            tiles = _worthwhile(replace(stage, tiling=tiling), compiled, backend, picture, features, scale)
        made.append(replace(stage, tiling=tiling, tiles=tiles))
        if tiles:
            costs = ", ".join(f"{one.count} of {one.size}: {one.measured_ms:.2f} ms" for one in tiles)
            said.append(f"{segment.name} in tiles: {costs}; whole {stage.facts.measured_ms:.2f} ms")
    return tuple(made), said


def _computed(
    stages: Sequence[Stage], parts: Cut, planes: Sequence[Plane], backend: Any
) -> tuple[dict[str, Any], dict[str, float]]:
    """Every feature of a picture of noise, and its largest number."""
    features = features_of(backend, [stage.executable for stage in stages], parts, planes, noise=True)
    scale = {}
    for stage in stages:
        for name, shape in zip(stage.facts.outputs, stage.facts.shapes, strict=True):
            if len(shape) == 3:
                map_ = backend.patches(features[name])
                nothing = backend.patches(backend.batch(features[name], 1, *shape[1:]))
                scale[name] = float(map_.spread(nothing, 1).max())
    return features, scale


def _compiled(
    segment: Segment, tiling: Tiling, parts: Cut, planes: Sequence[Plane], backend: Any, picture: Size
) -> Iterator[Tiles]:
    """Every candidate that can be compiled."""
    for size, count in candidates(tiling, picture):
        try:
            small = cut_to(segment, tiling, size, count, picture)
            (executable,) = backend.compile(replace(parts, segments=(small,)), planes)
        except (GraphError, BackendError, RuntimeError):
            continue
        yield Tiles(size, count, executable, sum(item.macs for item in cost(small.graph).values()))


def _worthwhile(
    stage: Stage,
    compiled: Iterable[Tiles],
    backend: Any,
    picture: Size,
    features: Mapping[str, Any],
    scale: Mapping[str, float],
) -> tuple[Tiles, ...]:
    """Those that give the right numbers in clearly less time than the whole stage takes."""
    found = []
    for tiles in compiled:
        part = Part(replace(stage, tiles=(tiles,)), backend, picture)
        taken = _checked(part, features, backend.device, scale)
        if taken is not None and taken < WORTH * (stage.facts.measured_ms or math.inf):
            found.append(replace(tiles, measured_ms=round(taken, 4)))
    return tuple(one for one in found if not any(_beats(other, one) for other in found))


def _beats(one: Tiles, other: Tiles) -> bool:
    """Whether a bucket makes another one superfluous: as many tiles of its size or more, for no more time."""
    larger = one.size == other.size and one.count > other.count
    return larger and one.measured_ms <= other.measured_ms


def _checked(part: Part, features: Mapping[str, Any], device: str, scale: Mapping[str, float]) -> float | None:
    """Milliseconds of one full batch with cutting out, comparing and putting back; None where its results are wrong.

    They are looked at in the corners of the picture, where crops are pushed inwards, and anywhere between.
    """
    (tiles,) = part.stage.tiles
    patches = {name: part.device.patches(features[name]) for name in part.facts.inputs}
    for name, (_, height, width) in zip(part.facts.outputs, part.facts.shapes, strict=True):
        patches[name] = _copy(features[name], height, width, part.device)

    def run(place: Cover, tolerance: Mapping[str, float]) -> bool:
        part.pending = np.ones(part.grid, np.bool_)
        changed, _ = part.run_tiles(place, features, patches, tolerance)
        return any(mask is not None for mask in changed.values())

    everywhere, batch = _scattered(tiles, part, max(PLACES, tiles.count)), _scattered(tiles, part, tiles.count)
    if run(everywhere, {name: ROUNDING * scale[name] for name in part.facts.outputs}):
        return None
    return interleaved({"tiles": lambda: run(batch, dict.fromkeys(part.facts.outputs, 0.0))}, device)["tiles"]


def _copy(feature: Any, height: int, width: int, backend: Any) -> Any:
    """The patches of a copy, so that wrong numbers of one bucket are not what the next one is held against."""
    made, origin = backend.patches(backend.batch(feature, 1, height, width)), np.zeros(1, np.intp)
    backend.patches(feature).take(origin, origin, made)
    return made


def _scattered(tiles: Tiles, part: Part, count: int) -> Cover:
    """Tiles in the corners of the picture first, then in its middle and in any places."""
    assert part.stage.tiling is not None
    step = part.stage.tiling.step
    down, right = (part.size.height - tiles.size) // step, (part.size.width - tiles.size) // step
    dice = np.random.default_rng(0)
    rows = np.concatenate([[0, down, 0, down, down // 2], dice.integers(0, down + 1, count)])[:count] * step
    columns = np.concatenate([[0, right, right, 0, right // 2], dice.integers(0, right + 1, count)])[:count] * step
    return Cover(0, rows.astype(np.intp), columns.astype(np.intp))
