from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sharedbb.errors import GraphError
from sharedbb.nets.blocks import Fuse, exact_ratio, separable, upsample


def test_upsample_nearest_repeats_cells() -> None:
    cells = torch.arange(6.0).reshape(1, 1, 2, 3)
    expected = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(upsample(cells, 4, "nearest"), expected)


def test_upsample_bilinear_has_half_pixel_centres() -> None:
    up = upsample(torch.tensor([[[[0.0, 4.0]]]]), 2, "bilinear")
    assert torch.allclose(up, torch.tensor([[[[0.0, 1.0, 3.0, 4.0], [0.0, 1.0, 3.0, 4.0]]]]))


def test_separable_is_a_depthwise_and_a_pointwise_convolution() -> None:
    block = separable(8).eval()
    assert [m.groups for m in block if isinstance(m, torch.nn.Conv2d)] == [8, 1]
    value = torch.zeros(1, 8, 5, 5)
    value[0, 3, 2, 2] = 1.0
    touched = (block[0](value) != 0).nonzero()
    assert set(touched[:, 1].tolist()) == {3}
    assert touched[:, 2].min() == 1
    assert touched[:, 2].max() == 3


def test_fuse_adds_what_each_tap_projects_at_the_finest_size() -> None:
    torch.manual_seed(0)
    fuse = Fuse((8, 16, 32), {4: 1, 8: 5, 16: 6, 32: 7}, 4).eval()
    maps = [torch.randn(2, 5, 12, 20), torch.randn(2, 6, 6, 10), torch.randn(2, 7, 3, 5)]
    expected = sum(
        project(F.interpolate(value, (12, 20), mode="bilinear", align_corners=False))
        for project, value in zip(fuse.projections, maps, strict=True)
    )
    torch.testing.assert_close(fuse(maps), torch.relu(expected), rtol=1e-4, atol=1e-5)


def test_fuse_wants_as_many_maps_as_taps() -> None:
    with pytest.raises(ValueError, match="zip"):
        Fuse((4, 8), {4: 2, 8: 2}, 2)([torch.zeros(1, 2, 8, 8)])


def test_strides_must_nest() -> None:
    assert exact_ratio(32, 8) == 4
    with pytest.raises(GraphError, match="stride 12 is not a multiple of stride 8"):
        exact_ratio(12, 8)
