from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sharedbb.outputs.sampling import axes, resample
from sharedbb.types import Geometry, Size

NETWORK = Size(64, 96)
SIDES = st.integers(1, 90)


def read_at(plane: np.ndarray, geometry: Geometry, x: int, y: int) -> float:
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
