from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sharedbb.outputs.sampling import axes, read_at_cells, resample
from sharedbb.types import Geometry, Size

NETWORK = Size(64, 96)
SIDES = st.integers(1, 90)


def read_at(plane: np.ndarray, geometry: Geometry, x: float, y: float) -> float:
    """One source pixel, by the definition: its centre in the network, in cells, between the four nearest ones."""
    height, width = plane.shape
    u = ((x + 0.5) * geometry.scale_x + geometry.offset_x) * width / geometry.network.width - 0.5
    v = ((y + 0.5) * geometry.scale_y + geometry.offset_y) * height / geometry.network.height - 0.5
    u, v = min(max(u, 0.0), width - 1.0), min(max(v, 0.0), height - 1.0)
    left, top = int(u), int(v)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    upper = plane[top, left] * (1 - u + left) + plane[top, right] * (u - left)
    lower = plane[bottom, left] * (1 - u + left) + plane[bottom, right] * (u - left)
    return float(upper * (1 - v + top) + lower * (v - top))


@settings(max_examples=40, deadline=None)
@given(
    source=st.builds(Size, SIDES, SIDES),
    fit=st.sampled_from(["letterbox", "stretch", "crop"]),
    stride=st.sampled_from([4, 8, 32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_resampling_equals_reading_pixel_by_pixel(source: Size, fit: Any, stride: int, seed: int) -> None:
    plane = np.random.default_rng(seed).normal(size=(64 // stride, 96 // stride)).astype(np.float32)
    geometry = Geometry.fit(source, NETWORK, fit)
    result = resample(plane, geometry)
    assert result.shape == (source.height, source.width)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    points = np.random.default_rng(seed).integers(0, (source.width, source.height), (20, 2))
    for x, y in points:
        assert result[y, x] == pytest.approx(read_at(plane, geometry, x, y), abs=1e-5)


@pytest.mark.parametrize("source", [Size(128, 192), Size(97, 31), Size(11, 200)])
def test_stretching_equals_torch_interpolate(source: Size) -> None:
    plane = np.random.default_rng(0).normal(size=(16, 24)).astype(np.float32)
    size = (source.height, source.width)
    expected = F.interpolate(torch.from_numpy(plane)[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_allclose(resample(plane, Geometry.fit(source, NETWORK, "stretch")), expected.numpy(), atol=1e-5)


def test_letterbox_bars_do_not_show() -> None:
    plane = np.full((16, 24), 100.0, np.float32)
    geometry = Geometry.fit(Size(96, 288), NETWORK)  # 32 of 64 rows, cells 4 to 12
    plane[4:12] = 1.0
    rows, columns = axes(geometry, 16, 24)
    assert rows.cells == slice(3, 13)
    assert columns.cells == slice(0, 24)
    inner = resample(plane, geometry)[8:-8]  # a band of half a cell (6 pixels) blends with the bars
    np.testing.assert_array_equal(inner, np.ones_like(inner))


def test_shared_tables_cannot_be_changed() -> None:
    rows, _ = axes(Geometry.fit(Size(10, 10), NETWORK), 16, 24)
    with pytest.raises(ValueError, match="read-only"):
        rows.fraction[0] = 1


@settings(max_examples=40, deadline=None)
@given(
    source=st.builds(Size, SIDES, SIDES),
    fit=st.sampled_from(["letterbox", "stretch", "crop"]),
    network=st.sampled_from([Size(32, 48), Size(64, 96), Size(32, 96)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_map_is_read_where_the_cells_of_another_one_lie_in_the_source(
    source: Size, fit: Any, network: Size, seed: int
) -> None:
    """By the definition: a cell's centre in source pixels, which lies somewhere in the map that is read."""
    dice = np.random.default_rng(seed)
    cells = dice.normal(size=(network.height // 4, network.width // 4)).astype(np.float32)
    geometry, other = Geometry.fit(source, network, fit), Geometry.fit(source, NETWORK, fit)
    found = read_at_cells(cells, geometry, other, (8, 12))
    rows, columns = axes(other, 8, 12)
    assert found.shape == (rows.cells.stop - rows.cells.start, columns.cells.stop - columns.cells.start)
    for row, column in dice.integers(0, found.shape, (20, 2)):
        x = ((columns.cells.start + column + 0.5) * 8 - other.offset_x) / other.scale_x
        y = ((rows.cells.start + row + 0.5) * 8 - other.offset_y) / other.scale_y
        x, y = min(max(x, 0.0), source.width), min(max(y, 0.0), source.height)
        assert found[row, column] == pytest.approx(read_at(cells, geometry, x - 0.5, y - 0.5), abs=1e-4)
    deep = read_at_cells(np.stack([cells, -cells], axis=-1), geometry, other, (8, 12))
    np.testing.assert_array_equal(deep, np.stack([found, -found], axis=-1))


def test_a_map_over_half_as_many_pixels_shows_a_slope_as_the_full_one_does() -> None:
    """Away from the edges, where maps are clamped."""
    small, large = (Geometry.fit(Size(128, 192), size, "stretch") for size in (Size(32, 48), NETWORK))
    slope = (np.arange(24, dtype=np.float32) + 0.5) * 8  # source pixels, at the centres of the large map's cells
    coarse = np.tile(((np.arange(12, dtype=np.float32) + 0.5) * 16)[None], (8, 1))
    found = read_at_cells(coarse, small, large, (16, 24))
    np.testing.assert_allclose(found[:, 1:-1], np.tile(slope, (16, 1))[:, 1:-1], rtol=1e-6)
