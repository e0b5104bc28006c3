"""Every rule against brute force: one pixel of a picture moves, and what moves with it is compared with the reach."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharedbb.graph.capture import capture
from sharedbb.graph.reach import Axis, Global, Reach, dirty, reach

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

Function = Callable[[Tensor], Tensor]

HEIGHT, WIDTH, CHANNELS = 22, 24, 4
WEIGHT = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=torch.Generator().manual_seed(0))
MATRIX = WEIGHT[..., 0, 0]
POSITIONS = torch.linspace(0, 1, WIDTH).expand(WIDTH, 1, HEIGHT, WIDTH).contiguous()


class Apply(nn.Module):
    """A function, or a module, as a network."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def analyse(function: Function, shape: tuple[int, ...] = (WIDTH, CHANNELS, HEIGHT, WIDTH)) -> Reach | Global:
    graph = capture(Apply(function), torch.zeros(shape))
    return reach(graph)[graph.outputs["net"]]


def moved_by(function: Function, *, finite: bool) -> Tensor:
    """[pixel, *output dims]: what moves when pixel (i mod height, i) of picture i does.

    By NaN, which finds everything that is read; or by another finite value, where a weight of zero is no dependence.
    """
    before = torch.randn(1, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = before.repeat(WIDTH, 1, 1, 1).float()
    after = before.clone()
    for column in range(WIDTH):
        after[column, :, column % HEIGHT, column] = 7.0 if finite else torch.nan
    network = Apply(function).eval()
    with torch.no_grad():
        dense, changed = network(before), network(after)
    return dense != changed


def span(touched: Tensor, dim: int) -> tuple[int, int] | None:
    others = [axis for axis in range(touched.ndim) if axis != dim % touched.ndim]
    places = touched.any(dim=others[0]) if len(others) == 1 else touched.sum(others) > 0
    found = places.nonzero().flatten().tolist()
    return (found[0], found[-1]) if found else None


def check(
    function: Function, *, exact: Literal["everywhere", "inside", ""] = "everywhere", finite: bool = False
) -> Reach:
    """What moves lies within the reach; ``exact``: and fills it, at least where the border clips nothing."""
    found = analyse(function)
    assert isinstance(found, Reach), found
    touched = moved_by(function, finite=finite)
    for column in range(WIDTH):
        for axis, dim, place in ((found.y, found.dims[0], column % HEIGHT), (found.x, found.dims[1], column)):
            actual = span(touched[column], dim)
            if actual is None:
                continue
            whole = dirty(axis, place, place)
            bound = (max(whole[0], 0), min(whole[1], touched.shape[dim] - 1))
            assert bound[0] <= actual[0] <= actual[1] <= bound[1], f"pixel {place}: {found}"
            if exact == "everywhere" or (exact == "inside" and bound == whole):
                assert actual == bound, f"pixel {place}: {found}"
    return found


WINDOWS: dict[str, Function] = {
    "conv 3x5": nn.Conv2d(CHANNELS, 3, (3, 5), (2, 1), (1, 4)),
    "conv 4, no bias": nn.Conv2d(CHANNELS, 3, 4, 3, 2, bias=False),
    "conv depthwise": nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1, groups=CHANNELS),
    "conv same, even kernel": nn.Conv2d(CHANNELS, 3, 4, padding="same"),
    "conv valid": nn.Conv2d(CHANNELS, 3, 3, padding="valid"),
    "conv that skips pixels": nn.Conv2d(CHANNELS, 3, 1, 3),
    "conv called plainly": lambda x: torch.convolution(x, WEIGHT, None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1),
    "transposed conv called plainly": lambda x: torch.convolution(
        x, WEIGHT, None, [2, 2], [0, 0], [1, 1], True, [0, 0], 1
    ),
    "transposed conv 4, stride 2": nn.ConvTranspose2d(CHANNELS, 3, 4, 2, 1),
    "transposed conv 3, stride 2": nn.ConvTranspose2d(CHANNELS, 3, 3, 2, 1, output_padding=1),
    "transposed conv 2, stride 2": nn.ConvTranspose2d(CHANNELS, 3, 2, 2),
    "max pool": nn.MaxPool2d(3, 2, 1),
    "max pool, whole windows": nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    "average pool": nn.AvgPool2d(2),
    "average pool, padded": nn.AvgPool2d((3, 5), (2, 3), (1, 2), ceil_mode=True, count_include_pad=False),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3)),
    "space to depth": lambda x: F.pixel_unshuffle(x, 2),
    "depth to space": lambda x: F.pixel_shuffle(x, 2),
    "every third": lambda x: x[:, :, ::2, ::3],
    "nearest by 2 and 3": nn.Upsample(scale_factor=(2.0, 3.0)),
    "nearest to a size": lambda x: F.interpolate(x, size=(44, 48)),
    "nearest down": lambda x: F.interpolate(x, scale_factor=0.5),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name: str) -> None:
    check(WINDOWS[name])


DILATED: dict[str, Function] = {
    "conv dilated by 3": nn.Conv2d(CHANNELS, 3, 3, 1, 3, 3),
    "conv same, even and dilated": nn.Conv2d(CHANNELS, 3, (2, 4), padding="same", dilation=3),
    "max pool dilated": nn.MaxPool2d((2, 3), 1, (0, 1), dilation=2),
}


@pytest.mark.parametrize("name", DILATED)
def test_dilated_windows(name: str) -> None:
    check(DILATED[name], exact="inside")


CONSERVATIVE: dict[str, Function] = {
    "conv dilated, stride 2": nn.Conv2d(CHANNELS, 3, 3, 2, 3, 3),
    "pad negative": lambda x: F.pad(x, (0, -2)),
    "nearest by 1.5": lambda x: F.interpolate(x, scale_factor=1.5),
    "nearest exact": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest-exact"),
    "pad by reflection": lambda x: F.pad(x, (2, 1, 3, 0), mode="reflect"),
    "pad by the border": lambda x: F.pad(x, (2, 1, 3, 0), mode="replicate"),
    "pad that cuts and adds": lambda x: F.pad(x, (-1, 2, 3, -2)),
    "every second from 1": lambda x: x[:, :, 1::2, 1::2],
    "transposed conv, cut short": nn.ConvTranspose2d(CHANNELS, 3, 2, 3, 1),
    "nearest to an odd size": lambda x: F.interpolate(x, size=(35, 31)),
}


@pytest.mark.parametrize("name", CONSERVATIVE)
def test_windows_never_too_small(name: str) -> None:
    check(CONSERVATIVE[name], exact="")


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [2.0, 4.0, (1.5, 0.5), (3.0, 1.25)])
def test_smooth_resampling(mode: str, scale: float | tuple[float, float]) -> None:
    found = check(lambda x: F.interpolate(x, scale_factor=scale, mode=mode), exact="", finite=True)
    down = 1 / Fraction(scale if isinstance(scale, float) else scale[0])
    assert found.y.stride == down


def test_bilinear_by_two_is_tight() -> None:
    found = check(nn.Upsample(scale_factor=2.0, mode="bilinear"), finite=True)
    assert found.x == Axis(Fraction(1, 2), 1, Fraction(1, 2))


WITHIN: dict[str, tuple[Function, tuple[int, int]]] = {
    "permute to NHWC": (lambda x: x.permute(0, 2, 3, 1), (-3, -2)),
    "NHWC norm, linear and back": (
        lambda x: F.linear(F.layer_norm(x.permute(0, 2, 3, 1), (CHANNELS,)), MATRIX).permute(0, 3, 1, 2),
        (-2, -1),
    ),
    "NHWC times a matrix": (lambda x: x.movedim(1, -1) @ MATRIX, (-3, -2)),
    "transpose and conv": (lambda x: F.conv2d(x.transpose(2, 3), WEIGHT, stride=(1, 2)), (-1, -2)),
    "swapaxes": (lambda x: x.swapaxes(1, 3), (-2, -3)),
    "channel shuffle": (lambda x: x.view(WIDTH, 2, 2, HEIGHT, WIDTH).transpose(1, 2).flatten(1, 2), (-2, -1)),
    "unflatten": (lambda x: x.unflatten(1, (2, 2)), (-2, -1)),
    "unsqueeze behind": (lambda x: x.unsqueeze(-1), (-3, -2)),
    "unsqueeze and squeeze": (lambda x: x.unsqueeze(0).squeeze(0), (-2, -1)),
    "squeeze all": (lambda x: x[:, :1].squeeze(), (-2, -1)),
    "select a channel of NHWC": (lambda x: x.permute(0, 2, 3, 1)[..., 1], (-2, -1)),
    "mean of channels": (lambda x: x.mean(1, keepdim=True), (-2, -1)),
    "sum of channels in NHWC": (lambda x: x.permute(0, 2, 3, 1).sum(-1), (-2, -1)),
    "largest channel": (lambda x: x.max(1).values, (-2, -1)),
    "smaller of two": (lambda x: torch.min(x, x * 2), (-2, -1)),
    "softmax over channels": (lambda x: x.softmax(1), (-2, -1)),
    "unit vectors": (lambda x: F.normalize(x, dim=1), (-2, -1)),
    "prelu": (nn.PReLU(CHANNELS), (-2, -1)),
    "batch norm": (nn.BatchNorm2d(CHANNELS).eval(), (-2, -1)),
    "gates and constants": (lambda x: F.hardswish(x) * x.sigmoid() + MATRIX[:, :1, None], (-2, -1)),
    "join and split": (lambda x: torch.cat([x, F.silu(x)], 1).chunk(2, 1)[1], (-2, -1)),
    "to another dtype": (lambda x: x.to(torch.float64).clamp(0, 1), (-2, -1)),
    "expand": (lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1, -1), (-2, -1)),
}


@pytest.mark.parametrize("name", WITHIN)
def test_operators_within_a_place_keep_reach_and_move_axes(name: str) -> None:
    function, dims = WITHIN[name]
    found = check(function)
    assert found.dims == dims


def test_branches_take_the_widest() -> None:
    found = check(lambda x: F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, (2, 4), 2, (0, 1)))
    assert found == Reach(Axis(2, 1, 1), Axis(2, 1, 2))


GLOBAL: dict[str, tuple[Function, str]] = {
    "squeeze-excite": (lambda x: x * F.adaptive_avg_pool2d(x, 1).sigmoid(), "pools the whole picture"),
    "mean": (lambda x: x.mean((2, 3)), "along an axis of the picture"),
    "mean of everything": (lambda x: x.mean(), "mixes the whole picture"),
    "norm over the row": (lambda x: F.layer_norm(x, (WIDTH,)), "along an axis of the picture"),
    "linear along the row": (lambda x: F.linear(x, torch.ones(2, WIDTH)), "along an axis of the picture"),
    "softmax over columns": (lambda x: x.softmax(-1), "along an axis of the picture"),
    "batch norm in training": (lambda x: F.batch_norm(x, None, None, training=True), "statistics"),
    "group norm": (lambda x: F.group_norm(x, 2), "statistics"),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), "attends over the whole picture"),
    "product of maps": (lambda x: x @ x.transpose(2, 3), "weights that depend on the picture"),
    "fixed part": (lambda x: x[:, :, :10], "cuts a fixed part out of the picture"),
    "corners aligned": (nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True), "aligns corners"),
    "odd factor": (lambda x: F.interpolate(x, scale_factor=1.3171), "scales by 1.3171"),
    "circular padding": (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), "mode circular, which reads the far side"),
    "position map": (lambda x: x + torch.arange(WIDTH), "constant that differs"),
    "position channel": (lambda x: torch.cat([x, POSITIONS], 1), "constant that differs"),
    "computed positions": (lambda x: x * torch.arange(WIDTH).float().sin(), "constant that differs"),
    "two strides": (
        lambda x: F.avg_pool2d(F.pad(x, (0, 24, 0, 22)), 2) + x,
        "different strides",
    ),
    "axes crossed": (lambda x: F.pad(x, (0, 0, 0, 2)) + F.pad(x, (0, 0, 0, 2)).transpose(2, 3), "lie differently"),
    "rows beside rows": (lambda x: torch.cat([x, x], 2), "side by side"),
    "split rows": (lambda x: x.chunk(2, 2)[0], "along an axis of the picture"),
    "flat": (lambda x: x.flatten(1), "folds an axis"),
    "patches by view": (lambda x: x.view(WIDTH, CHANNELS, HEIGHT, 12, 2), "folds an axis"),
    "one row": (lambda x: x[:, :, 3], "takes an axis of the picture away"),
    "conv over channels and rows": (lambda x: F.conv2d(x.permute(0, 3, 1, 2), torch.ones(1, WIDTH, 3, 3)), "slides"),
    "convolution in three axes": (lambda x: F.conv3d(x.unsqueeze(1), torch.ones(1, 1, 1, 3, 3)), "not known"),
    "sorting": (lambda x: x.flip(3), "not known to be local"),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_what_is_not_proved_local_is_global_with_the_reason(name: str) -> None:
    function, reason = GLOBAL[name]
    found = analyse(function)
    assert isinstance(found, Global)
    assert re.search(reason, found.reason), found.reason


def test_one_row_laid_over_many_is_global() -> None:
    found = analyse(lambda x: x + F.pad(x, (0, 0, 0, 3)), (1, CHANNELS, 1, 8))
    assert isinstance(found, Global)
    assert found.reason.endswith("spreads one place of a map over many")
