from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18

from sharedbb.errors import GraphError
from sharedbb.graph.capture import capture
from sharedbb.graph.ir import Graph
from sharedbb.graph.lower import run
from sharedbb.graph.reach import Axis, Global, Reach, crop, dirty, reach
from sharedbb.registry import BACKBONE_NAMES

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

Captured = Callable[[str], Graph]
Span = tuple[int, int] | None

# The feature map before the first operator that reads the whole picture: the last local stride and its reach.
LAST_LOCAL = {
    "mobilenet_v2": (32, 245, 245),
    "mobilenet_v3_small": (4, 3, 3),
    "mobilenet_v3_large": (8, 17, 17),
    "resnet18": (32, 217, 217),
    "resnet34": (32, 449, 449),
    "resnet50": (32, 213, 213),
    "efficientnet_b0": (2, 3, 3),
    "regnet_x_400mf": (32, 487, 487),
    "shufflenet_v2_x1_0": (32, 263, 263),
    "convnext_tiny": (32, 828, 859),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Depthwise convolutions in float64 run group by group: waiting for threads would cost more than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def everything(graph: Graph) -> Graph:
    """The same graph, answering with every node's value."""
    return replace(graph, outputs={node.name: node.name for node in graph.nodes})


def poisoned(shape: tuple[int, ...], pixels: Iterable[tuple[int, int]]) -> Tensor:
    """Random pictures, in each one pixel NaN: it spreads through everything that reads it."""
    picture = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for index, (y, x) in enumerate(pixels):
        picture[index, :, y, x] = torch.nan
    return picture


def spans(value: Tensor, dims: tuple[int, int]) -> list[tuple[Span, Span]]:
    """For each picture the first and last row, and column, with a NaN anywhere; None where there is none."""
    channels = [dim for dim in range(1, value.ndim) if dim - value.ndim not in dims]
    moved = (value.sum(channels) if channels else value).isnan()
    return [(_span(picture.any(1)), _span(picture.any(0))) for picture in moved]


def _span(moved: Tensor) -> Span:
    places = moved.nonzero().flatten().tolist()
    return (places[0], places[-1]) if places else None


def predicted(found: Reach, value: Tensor, pixel: tuple[int, int]) -> tuple[Span, Span]:
    """The same from the reach, for a change of one pixel."""
    y, x = pixel
    height, width = (value.shape[dim] for dim in found.dims)
    rows, columns = clipped(dirty(found.y, y, y), height), clipped(dirty(found.x, x, x), width)
    return (rows, columns) if rows and columns else (None, None)


def clipped(interval: tuple[int, int], size: int) -> Span:
    first, last = max(interval[0], 0), min(interval[1], size - 1)
    return (first, last) if first <= last else None


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_every_backbone_moves_exactly_where_predicted(name: str, backbone_graph: Captured) -> None:
    graph = backbone_graph(name)
    shape = graph.by_name["input"].shape
    draw = random.Random(name)
    pixels = [(0, 0), (shape[2] - 1, shape[3] - 1), (draw.randrange(shape[2]), draw.randrange(shape[3]))]
    values = run(everything(graph), poisoned(shape, pixels))
    local = {node: found for node, found in reach(graph).items() if isinstance(found, Reach)}
    for node, found in local.items():
        value = values[node]
        if isinstance(value, Tensor):  # the parts of a tuple follow
            assert spans(value, found.dims) == [predicted(found, value, pixel) for pixel in pixels], f"{node}: {found}"


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_every_backbone_is_local_as_far_as_it_can_be(name: str, backbone_graph: Captured) -> None:
    graph = backbone_graph(name)
    found = reach(graph)
    assert list(found) == [node.name for node in graph.nodes]
    last = [entry for entry in found.values() if isinstance(entry, Reach)][-1]
    stride, left, right = LAST_LOCAL[name]
    assert last == Reach(Axis(stride, left, right), Axis(stride, left, right))
    reasons = {entry.reason for entry in found.values() if isinstance(entry, Global)}
    assert len(reasons) == 1  # the first global operator, for everything after it


def test_reason_names_the_module(backbone_graph: Captured) -> None:
    gate = next(f for f in reach(backbone_graph("mobilenet_v3_small")).values() if isinstance(f, Global))
    assert "mobilenet_v3_small/features.1.block.1.avgpool" in gate.reason
    assert gate.reason.endswith("pools the whole picture")


def test_axes_are_followed_through_nhwc(backbone_graph: Captured) -> None:
    graph = backbone_graph("convnext_tiny")
    found = reach(graph)
    norms = [found[node.name] for node in graph.nodes if node.kind == "layer_norm"][:-1]
    assert {norm.dims for norm in norms if isinstance(norm, Reach)} == {(-3, -2)}


def test_segments_compose_to_the_whole(backbone_graph: Captured) -> None:
    graph = backbone_graph("resnet18")
    whole = reach(graph)
    cut = next(node.name for node in graph.nodes if node.kind == "relu" and node.shape[1] == 128)
    rest = reach(graph, source=cut)
    assert next(iter(rest)) == cut
    for node, found in rest.items():
        if node in ("relu__5", graph.outputs["resnet18"]):
            assert whole[cut].compose(found) == whole[node]


class TwoInputs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        half = nn.functional.max_pool2d(x, 2)
        return half + nn.functional.avg_pool2d(x, 4, 2, 1)


def test_source_may_be_any_node() -> None:
    graph = capture(TwoInputs(), torch.zeros(1, 3, 16, 16))
    found = reach(graph, source="max_pool2d")
    assert found == {"max_pool2d": Reach(), "add": Reach()}  # the other branch does not depend on it
    assert reach(graph)["add"] == Reach(Axis(2, 1, 2), Axis(2, 1, 2))
    with pytest.raises(GraphError, match="no node named 'relu'"):
        reach(graph, source="relu")
    several = replace(graph, inputs=("input", "max_pool2d"))
    with pytest.raises(GraphError, match="one of input, max_pool2d"):
        reach(several)


def test_nhwc_source() -> None:
    class Nhwc(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.max_pool2d(x.permute(0, 3, 1, 2), 3, 2)

    graph = capture(Nhwc(), torch.zeros(1, 9, 11, 3))
    assert reach(graph, dims=(-3, -2))["max_pool2d"] == Reach(Axis(2, 0, 2), Axis(2, 0, 2))


def test_a_vector_is_global() -> None:
    graph = capture(nn.Linear(4, 2), torch.zeros(1, 4))
    assert isinstance(reach(graph, dims=(-3, -2))["linear"], Global)
    assert isinstance(reach(graph)["linear"], Global)


# --- Random networks ------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A branch added to, or joined with, what it starts from."""

    def __init__(self, channels: int, kernel: int, dilation: int, joined: bool) -> None:
        super().__init__()
        self.branch = nn.Conv2d(channels, channels, kernel, padding="same", dilation=dilation)
        self.joined = joined
        self.back = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        return self.back(torch.cat([x, y], 1)) if self.joined else torch.relu(x + y)


class DownUp(nn.Module):
    """One level of a U-Net, for even sizes."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels, kernel, stride=2, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.interpolate(self.down(x), scale_factor=2.0)


class SpaceToDepth(nn.Module):
    """Pixels into channels, mixed, and back; for even sizes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4 * channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.mix(nn.functional.pixel_unshuffle(x, 2)), 2)


class ChannelsLast(nn.Module):
    """ConvNeXt's way of mixing channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Every(nn.Module):
    """Every so many rows and columns, from the given one on."""

    def __init__(self, start: int, step: int) -> None:
        super().__init__()
        self.start, self.step = start, step

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, self.start :: self.step, self.start :: self.step]


C = 2
TAPS = st.integers(1, 5)
STEPS = st.integers(1, 3)
LAYERS = st.one_of(
    st.builds(lambda k, s, d, p: nn.Conv2d(C, C, k, s, min(p, d * (k - 1)), d), TAPS, STEPS, STEPS, st.integers(0, 4)),
    st.builds(lambda k, s, p: nn.ConvTranspose2d(C, C, k, s, min(p, k - 1)), TAPS, STEPS, st.integers(0, 2)),
    st.builds(lambda k, s, ceil: nn.MaxPool2d(k, s, k // 2, ceil_mode=ceil), TAPS, STEPS, st.booleans()),
    st.builds(lambda k, s, ceil: nn.AvgPool2d(k, s, k // 2, ceil_mode=ceil), TAPS, STEPS, st.booleans()),
    st.builds(Residual, st.just(C), TAPS, st.integers(1, 2), st.booleans()),
    st.builds(ChannelsLast, st.just(C)),
    st.builds(lambda factor: nn.Upsample(scale_factor=float(factor)), st.integers(2, 3)),
    st.builds(Every, st.integers(0, 1), st.integers(1, 2)),
    st.builds(nn.ZeroPad2d, st.tuples(*[st.integers(-1, 2)] * 4)),
    st.builds(nn.ReplicationPad2d, st.integers(1, 2)),
    st.builds(nn.BatchNorm2d, st.just(C)),
)
EVEN = st.one_of(st.builds(DownUp, st.just(C), st.sampled_from([1, 3, 5])), st.builds(SpaceToDepth, st.just(C)))
# NaN times a weight of zero is NaN, so at the border bilinear upsampling reads more than it depends on.
SMOOTH = st.builds(lambda factor: nn.Upsample(scale_factor=factor, mode="bilinear"), st.sampled_from([2.0, 3.0, 0.5]))


SIZE = (22, 26)


@st.composite
def networks(draw: st.DrawFn, layers: st.SearchStrategy[nn.Module] = LAYERS) -> nn.Module:
    torch.manual_seed(draw(st.integers(0, 99)))
    start = [draw(EVEN)] if draw(st.booleans()) else []
    network = nn.Sequential(*start, *draw(st.lists(layers, min_size=1, max_size=4))).double().eval()
    try:
        network(torch.zeros(1, C, *SIZE, dtype=torch.float64))
    except RuntimeError:  # a kernel larger than what is left of the picture
        reject()
    return network


@settings(max_examples=30, deadline=None, derandomize=True)
@given(networks(), st.lists(st.tuples(st.integers(0, 21), st.integers(0, 25)), min_size=2, max_size=2))
def test_random_networks_move_only_where_predicted(network: nn.Module, pixels: list[tuple[int, int]]) -> None:
    pixels = [*pixels, (0, 0), (21, 25)]
    graph = capture(network, torch.zeros(4, C, *SIZE, dtype=torch.float64))
    values = run(everything(graph), poisoned((4, C, *SIZE), pixels).double())
    for node, found in reach(graph).items():
        assert isinstance(found, Reach), found
        for pixel, moved in zip(pixels, spans(values[node], found.dims), strict=True):
            for actual, bound in zip(moved, predicted(found, values[node], pixel), strict=True):
                if actual is not None:
                    assert bound is not None
                    assert bound[0] <= actual[0] <= actual[1] <= bound[1]


def check_crop(network: nn.Module, picture: Tensor, found: Reach, box: tuple[int, int, int, int]) -> Tensor:
    """Hold every output that the crop for rows and columns of ``box`` claims valid against the dense ones."""
    rows = crop(found.y, box[0], box[1], picture.shape[-2])
    columns = crop(found.x, box[2], box[3], picture.shape[-1])
    (y0, y1), (x0, x1) = rows.inputs, columns.inputs
    with torch.no_grad():
        dense, part = network(picture), network(picture[..., y0 : y1 + 1, x0 : x1 + 1])
    (v0, v1), (w0, w1) = rows.outputs, columns.outputs
    expected = dense[..., v0 : v1 + 1, w0 : w1 + 1]
    got = part[..., v0 - rows.origin : v1 + 1 - rows.origin, w0 - columns.origin : w1 + 1 - columns.origin]
    assert box[1] < v0 + expected.shape[-2]
    assert box[3] < w0 + expected.shape[-1]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    return part


@settings(max_examples=40, deadline=None, derandomize=True)
@given(networks(LAYERS | SMOOTH), st.data())
def test_crops_of_random_networks_equal_the_dense_result(network: nn.Module, data: st.DataObject) -> None:
    picture = torch.randn(1, C, *SIZE, dtype=torch.float64)
    graph = capture(network, picture)
    node = graph.by_name[graph.outputs["net"]]
    found = reach(graph)[node.name]
    assert isinstance(found, Reach)
    box: list[int] = []
    for extent in node.shape[-2:]:
        box += sorted(data.draw(st.tuples(st.integers(0, extent - 1), st.integers(0, extent - 1))))
    check_crop(network, picture, found, (box[0], box[1], box[2], box[3]))


def smoothed(*layers: nn.Module) -> nn.Module:
    """The layers and a convolution that would read what a crop has too little of."""
    torch.manual_seed(4)
    return nn.Sequential(*layers, nn.Conv2d(C, C, 3, padding=1)).double()


TAKING_AWAY = {
    "transposed, padded": lambda: smoothed(nn.ConvTranspose2d(C, C, 2, 2, 1)),
    "transposed, kernel below stride": lambda: smoothed(nn.ConvTranspose2d(C, C, 2, 3)),
    "transposed, one more": lambda: smoothed(nn.ConvTranspose2d(C, C, 3, 2, 1, output_padding=1)),
    "cut at the start": lambda: smoothed(nn.ZeroPad2d((-2, 0, -1, 0))),
    "cut at the end": lambda: smoothed(nn.ZeroPad2d((0, -2, 0, -1))),
    "moved": lambda: smoothed(nn.ZeroPad2d((2, -2, -1, 1))),
    "every second from 1": lambda: smoothed(Every(1, 2)),
    "bilinear by three halves": lambda: smoothed(nn.Upsample(scale_factor=1.5, mode="bilinear")),
    "nearest by three quarters": lambda: smoothed(nn.Upsample(scale_factor=0.75)),
    "reflected": lambda: smoothed(nn.ReflectionPad2d(1)),
}


@pytest.mark.parametrize("name", TAKING_AWAY)
def test_crops_behind_operators_that_take_places_away(name: str) -> None:
    network = TAKING_AWAY[name]()
    picture = torch.randn(1, C, 4, 16, dtype=torch.float64)
    graph = capture(network, picture)
    node = graph.by_name[graph.outputs["net"]]
    found = reach(graph)[node.name]
    assert isinstance(found, Reach)
    for column in range(node.shape[-1]):
        check_crop(network, picture, found, (0, node.shape[-2] - 1, column, column))


# --- Crops of real segments -----------------------------------------------------------------------------------------


def segments(name: str) -> nn.Module:
    torch.manual_seed(3)
    if name.startswith("resnet18"):
        net = resnet18(weights=None)
        return (
            net.layer2 if name.endswith("8") else nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        )
    features = mobilenet_v2(weights=None).features
    return features[7:11] if name.endswith("16") else features[:7]


@pytest.mark.parametrize(
    ("name", "stride"),
    [("resnet18 to 4", 4), ("resnet18 4 to 8", 2), ("mobilenet_v2 to 8", 8), ("mobilenet_v2 8 to 16", 2)],
)
def test_crops_of_segments_equal_the_dense_result(name: str, stride: int) -> None:
    network = segments(name).double().eval()
    channels = next(p for p in network.parameters() if p.ndim == 4).shape[1]
    picture = torch.randn(1, channels, 13 * stride - 1, 16 * stride - 1, dtype=torch.float64)
    graph = capture(network, picture)
    found = reach(graph)[graph.outputs["net"]]
    assert isinstance(found, Reach)
    assert found.y.stride == stride
    for box in [(0, 3, 0, 2), (5, 8, 6, 9), (9, 12, 10, 15), (0, 12, 4, 4)]:
        check_crop(network, picture, found, box)


def test_the_ring_thrown_away_is_really_spoilt() -> None:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Conv2d(1, 4, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 2, 3, 1, 2, 2)).double()
    picture = torch.randn(1, 1, 121, 121, dtype=torch.float64)
    graph = capture(network, picture)
    found = reach(graph)[graph.outputs["net"]]
    assert isinstance(found, Reach)
    plan = crop(found.y, 12, 16, 121)
    part = check_crop(network, picture, found, (12, 16, 12, 16))[0, 0]
    dense = network(picture)[0, 0]
    before, after = plan.outputs[0] - 1, plan.outputs[1] + 1
    for row in (before, after):
        got = part[row - plan.origin, plan.outputs[0] - plan.origin : plan.outputs[1] + 1 - plan.origin]
        assert not torch.allclose(got, dense[row, plan.outputs[0] : plan.outputs[1] + 1])
