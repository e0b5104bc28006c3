"""A transformed network answers as before; what it emits can be cut, divided and reached; what cannot be is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.compiler.stem import Transformed, colour_of, exact_transforms, transformed
from sharedbb.compiler.tiles import cut_to, tiling_of
from sharedbb.errors import TransformError
from sharedbb.graph.capture import capture, digest
from sharedbb.graph.cost import cost
from sharedbb.graph.cut import Segment, cut, fold_constants
from sharedbb.graph.ir import Graph, Value, Weight, rewrite
from sharedbb.graph.lower import run
from sharedbb.graph.merge import fold_batch_norms, merge, prune
from sharedbb.graph.reach import Reach, dirty, reach
from sharedbb.nets import backbones
from sharedbb.registry import BACKBONE_NAMES
from sharedbb.spec import (
    AutoTransform,
    HaarTransform,
    LowResolutionTransform,
    RgbTransform,
    SpaceToDepthTransform,
    WaveletTransform,
    Yuv420Transform,
)
from sharedbb.transforms.colour import Colour
from sharedbb.types import Normalization, Plane, Size, rounded_up

IMAGENET = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HEIGHT, WIDTH = 64, 96
EXACT = [
    SpaceToDepthTransform(),
    SpaceToDepthTransform(block=4),
    HaarTransform(),
    HaarTransform(levels=2),
    HaarTransform(levels=2, layout="packet"),
    WaveletTransform(),
    WaveletTransform(wavelet="bior2.2", levels=2),
]
SMALL = [*EXACT, HaarTransform(bands="low"), HaarTransform(levels=2, bands="low_and_edges"), Yuv420Transform()]
ids = {"ids": lambda transform: " ".join(map(str, transform.model_dump().values()))}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def _backbone(name: str) -> Graph:
    return capture(getattr(backbones, name)().eval(), torch.zeros(1, 3, HEIGHT, WIDTH), "")


def _double(graph: Graph) -> Graph:
    """The same network in float64."""
    wide = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in graph.weights.items()}
    names = {key: digest(tensor) for key, tensor in wide.items()}

    def move(leaf: object) -> object:
        return Weight(names[leaf.digest]) if isinstance(leaf, Weight) else leaf

    nodes = tuple(
        replace(node, args=rewrite(node.args, move), kwargs=rewrite(node.kwargs, move), dtype=torch.float64)
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes, weights={names[key]: tensor for key, tensor in wide.items()})


def _picture(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def _error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest of all outputs, relative to each one's largest number."""
    assert found.keys() == expected.keys()
    return max(float((found[key] - expected[key]).abs().max() / expected[key].abs().max()) for key in expected)


class _Stem(nn.Sequential):
    """A strided convolution, its norm, and another convolution."""

    def __init__(self, kernel: int = 3, stride: int = 4, padding: int = 1) -> None:
        torch.manual_seed(kernel)
        super().__init__(
            nn.Conv2d(3, 8, kernel, stride, padding), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)
        )
        nn.init.uniform_(self[1].running_mean)
        nn.init.uniform_(self[1].running_var, 0.5, 2.0)


def _small(kernel: int = 3, stride: int = 4, padding: int = 1) -> Graph:
    """One such network in float64 on a small picture."""
    network = _Stem(kernel, stride, padding).double().eval()
    return capture(network, torch.zeros(1, 3, 32, 64, dtype=torch.float64), "net")


@pytest.mark.parametrize("name", BACKBONE_NAMES)
def test_every_backbone_reads_another_form_to_the_same_first_tap(name: str) -> None:
    graph = _backbone(name)
    first = prune(replace(graph, outputs={"4": graph.outputs["4"]}))
    stride = 4 if name == "convnext_tiny" else 2
    transforms = [SpaceToDepthTransform(block=stride), HaarTransform(levels=stride // 2), WaveletTransform()]
    for wide, allowed in ((first, 1e-5), (_double(first), 1e-10)):
        picture = _picture(wide.by_name["input"].dtype, 1, 3, HEIGHT, WIDTH)
        expected = run(wide, picture)
        for transform in transforms:
            assert _error(run(transformed(wide, transform, IMAGENET).graph, picture), expected) <= allowed, transform


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "convnext_tiny"])
def test_whole_backbones_answer_as_before(name: str) -> None:
    graph = _backbone(name)
    for wide, allowed in ((graph, 1e-5), (_double(graph), 1e-10)):
        picture = _picture(wide.by_name["input"].dtype, 1, 3, HEIGHT, WIDTH)
        found = run(transformed(wide, SpaceToDepthTransform(), IMAGENET).graph, picture)
        assert _error(found, run(wide, picture)) <= allowed


@pytest.mark.parametrize("transform", EXACT, **ids)
@pytest.mark.parametrize(("kernel", "padding"), [(4, 0), (3, 1), (7, 3), (1, 0), (3, 4)])
def test_a_stem_of_stride_4_answers_to_ten_digits(transform: object, kernel: int, padding: int) -> None:
    graph = _small(kernel, 4, padding)
    picture = _picture(torch.float64, 1, 3, 32, 64)
    found = transformed(graph, transform, IMAGENET)  # type: ignore[arg-type]
    assert _error(run(found.graph, picture), run(graph, picture)) <= 1e-10
    assert found.planes == Plane.rgb(IMAGENET)
    assert found.stems[0].certificate is None


@pytest.mark.parametrize("colour", [Colour(), Colour("bt709", "full")], ids=str)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (7, 2, 3), (4, 4, 0)])
def test_planes_answer_as_the_picture_they_stand_for(colour: Colour, kernel: int, stride: int, padding: int) -> None:
    graph = _small(kernel, stride, padding)
    found = transformed(graph, Yuv420Transform(), IMAGENET, colour)
    dice = np.random.default_rng(0)
    planes = [torch.from_numpy(dice.integers(16, 236, (1, 1, *side)).astype(float)) for side in ((32, 64), (16, 32))]
    planes.append(planes[1].flip(3))
    to_rgb, foot = colour.to_rgb()
    full = [planes[0], *(plane.repeat_interleave(2, 2).repeat_interleave(2, 3) for plane in planes[1:])]
    rgb = np.einsum("ck,khw->chw", to_rgb, torch.cat(full, 1).numpy()[0] - foot[:, None, None])
    mean, std = (np.array(levels)[:, None, None] for levels in (IMAGENET.mean, IMAGENET.std))
    expected = run(graph, torch.from_numpy((rgb - mean) / std)[None])
    read = [(x - plane.mean[0]) / plane.std[0] for x, plane in zip(planes, found.planes, strict=True)]
    assert _error(run(found.graph, *read), expected) <= 1e-10


def test_planes_are_described_for_the_backend() -> None:
    found = transformed(_small(), Yuv420Transform(), IMAGENET, Colour("bt601", "full"))
    assert found.graph.inputs == ("input.y", "input.u", "input.v") == tuple(plane.name for plane in found.planes)
    for plane in found.planes:
        node = found.graph.by_name[plane.name]
        _, height, width, channels = plane.shape(Size(32, 64))
        assert node.shape == (1, channels, height, width)
        assert plane.std == (1.0,)
    luma = 0.299 * 123.675 + 0.587 * 116.28 + 0.114 * 103.53
    assert found.planes[0].mean[0] == pytest.approx(luma)
    assert found.planes[2].mean[0] == pytest.approx(128 + (123.675 - luma) / 1.402)


def test_colours_come_from_the_file_then_from_the_tags() -> None:
    tagged = Colour("bt709", "full")
    assert colour_of(Yuv420Transform(), tagged) == tagged
    assert colour_of(Yuv420Transform(matrix="bt601"), tagged) == Colour("bt601", "full")
    assert colour_of(Yuv420Transform(range="limited"), tagged) == Colour("bt709", "limited")
    assert colour_of(Yuv420Transform(), None) == Colour()


@pytest.mark.parametrize("transform", [RgbTransform(), LowResolutionTransform(sizes=((64, 64), (32, 32)))], **ids)
def test_what_is_no_matter_of_the_graph_leaves_it_alone(transform: object) -> None:
    graph = _small()
    assert transformed(graph, transform, IMAGENET) == Transformed(graph, Plane.rgb(IMAGENET))  # type: ignore[arg-type]


def test_bands_left_out_cost_no_more_than_the_certificate_says() -> None:
    network = nn.Conv2d(3, 8, 3, 2, 1).double()
    graph = capture(network, torch.zeros(1, 3, 32, 64, dtype=torch.float64), "net")
    found = transformed(graph, HaarTransform(bands="low"), IMAGENET)
    certificate = found.stems[0].certificate
    assert certificate is not None
    levels = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    picture = torch.from_numpy((levels - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)).permute(2, 0, 1)[None]
    missed = (run(found.graph, picture)["net"] - run(graph, picture)["net"]).abs()[0].amax((1, 2)).numpy()
    bound = certificate.bound(certificate.measure(levels))
    assert (missed <= bound).all()
    assert bound.max() <= 20 * missed.max()
    assert sum(one.macs for one in cost(found.graph).values()) < 0.5 * sum(one.macs for one in cost(graph).values())


@pytest.mark.parametrize(("levels", "stride"), [(1, 2), (1, 4), (2, 4)])
def test_nothing_is_missed_of_a_picture_without_detail(levels: int, stride: int) -> None:
    graph = _small(3, stride, 1)
    block = 2**levels
    coarse = _picture(torch.float64, 1, 3, 32 // block, 64 // block)
    picture = coarse.repeat_interleave(block, 2).repeat_interleave(block, 3)
    found = transformed(graph, HaarTransform(levels=levels, bands="low"), IMAGENET)  # type: ignore[arg-type]
    assert _error(run(found.graph, picture), run(graph, picture)) <= 1e-10


def test_networks_that_were_merged_share_the_analysis() -> None:
    example = torch.zeros(1, 3, 32, 64)
    networks = {"one": _Stem(3, 2, 1), "two": _Stem(7, 4, 3)}
    graph = merge({name: capture(net.eval(), example, name) for name, net in networks.items()}).graph
    picture = _picture(torch.float32, 1, 3, 32, 64)
    for transform in (SpaceToDepthTransform(), HaarTransform()):
        found = transformed(graph, transform, IMAGENET)
        assert len(found.stems) == 2
        assert {stem.origin.split("/")[0] for stem in found.stems} == {"one", "two"}
        assert len(found.graph.users["input"]) == 1
        assert _error(run(found.graph, picture), run(graph, picture)) <= 1e-5


@pytest.mark.parametrize("transform", SMALL, **ids)
def test_what_is_emitted_is_consistent(transform: object) -> None:
    graph = _small()
    found = transformed(graph, transform, IMAGENET).graph  # type: ignore[arg-type]
    assert found.digest == transformed(graph, transform, IMAGENET).graph.digest != graph.digest  # type: ignore[arg-type]
    assert all(digest(tensor) == key for key, tensor in found.weights.items())
    assert {key for node in found.nodes for key in node.weights} == set(found.weights)
    seen: set[str] = set()
    for node in found.nodes:
        assert seen.issuperset(node.values)
        assert node.name not in seen
        seen.add(node.name)
    everything = replace(found, outputs={node.name: node.name for node in found.nodes if node.op != "input"})
    values = run(everything, *(_picture(torch.float64, *found.by_name[name].shape) for name in found.inputs))
    assert {name: tuple(value.shape) for name, value in values.items()} == {
        node.name: node.shape for node in found.nodes if node.op != "input"
    }


def _whole(graph: Graph) -> Segment:
    """All of a graph as one segment."""
    outputs = tuple(graph.outputs.values())
    named = replace(graph, outputs={name: name for name in outputs})
    return Segment("all", named, graph.inputs, outputs, frozenset({"net"}), None)


@pytest.mark.parametrize("transform", SMALL, **ids)
def test_reach_is_not_less_than_what_is_read(transform: object) -> None:
    graph = fold_constants(fold_batch_norms(transformed(_small(), transform, IMAGENET).graph))  # type: ignore[arg-type]
    given = [_picture(torch.float64, *graph.by_name[name].shape) for name in graph.inputs]
    before = run(graph, *given)["net"]
    for position, name in enumerate(graph.inputs):
        found = reach(graph, name)[graph.outputs["net"]]
        assert isinstance(found, Reach)
        for y, x in ((0, 0), (7, 13), (8, 24), (given[position].shape[2] - 1, given[position].shape[3] - 1)):
            changed = [one.clone() for one in given]
            changed[position][..., y, x] += 1e6  # through activations of any sign
            rows, columns = ((run(graph, *changed)["net"] - before)[0].abs().amax(0) > 1e-6).nonzero().T
            for axis, at, touched in ((found.y, y, rows), (found.x, x, columns)):
                first, last = dirty(axis, at, at)
                assert touched.numel() == 0 or first <= int(touched.min()) <= int(touched.max()) <= last


@pytest.mark.parametrize("transform", SMALL, **ids)
def test_tiles_are_those_of_the_whole(transform: object) -> None:
    picture = Size(64, 256)
    network = _Stem(3, 4, 1).double().eval()
    graph = capture(network, torch.zeros(1, 3, 64, 256, dtype=torch.float64), "net")
    segment = _whole(fold_constants(fold_batch_norms(transformed(graph, transform, IMAGENET).graph)))  # type: ignore[arg-type]
    tiling = tiling_of(segment, picture)
    assert tiling is not None
    given = [_picture(torch.float64, *segment.graph.by_name[name].shape) for name in segment.inputs]
    (dense,) = run(segment.graph, *given).values()
    small = cut_to(segment, tiling, 32, 1, picture)
    crop = tiling.crop(32, picture)
    left = 96
    begin = min(max(0, left - (crop.width - 32) // 2), 256 - crop.width) // tiling.align * tiling.align
    parts = [
        one[..., begin // stride : (begin + crop.width) // stride]
        for one, stride in zip(given, tiling.inputs, strict=True)
    ]
    (found,) = run(small.graph, *parts).values()
    inner = found[..., (left - begin) // 4 : (left - begin + 32) // 4]
    torch.testing.assert_close(inner, dense[..., left // 4 : (left + 32) // 4], rtol=0, atol=1e-10)


@pytest.mark.parametrize("transform", [SpaceToDepthTransform(), HaarTransform(bands="low"), Yuv420Transform()], **ids)
def test_a_transformed_backbone_is_cut_as_before(transform: object) -> None:
    graph = _backbone("mobilenet_v2")
    before, after = (
        cut(fold_constants(fold_batch_norms(one)))
        for one in (graph, transformed(graph, transform, IMAGENET).graph)  # type: ignore[arg-type]
    )
    assert [part.name for part in after.segments] == [part.name for part in before.segments]
    assert [part.outputs for part in after.segments] == [part.outputs for part in before.segments]


def test_the_facts_say_what_was_done() -> None:
    graph = _backbone("mobilenet_v2")
    (stem,) = transformed(graph, SpaceToDepthTransform(), IMAGENET).stems
    assert (stem.kernel, stem.stride, stem.padding, stem.taps, stem.taps_after) == ((3, 3), (2, 2), (1, 1), 27, 48)
    (planes,) = transformed(graph, Yuv420Transform(), IMAGENET).stems
    assert (planes.taps_after, planes.bytes_before, planes.bytes_after) == (24, 3 * 64 * 96, 3 * 64 * 96 // 2)
    assert str(planes) == (
        "features.0.0: 3×3 stride 2 pad 1, 27 taps → 2×2 stride 1 pads 1,0,1,0 on 6 channels, 24 taps; "
        "18432 → 9216 bytes a frame; exact for replicated chroma"
    )
    (low,) = transformed(graph, HaarTransform(bands="low"), IMAGENET).stems
    assert low.taps_after == 12
    assert low.certificate is not None
    largest = float(low.certificate.bound().max())
    assert str(low).endswith(f"without h, v, d off by {rounded_up(largest)} at most on any picture")
    assert largest <= float(rounded_up(largest)) <= 1.1 * largest


def test_exact_transforms_are_those_that_fold() -> None:
    by_name = {name: exact_transforms(_backbone(name), planes=True) for name in ("resnet18", "convnext_tiny")}
    rgb, two, four, planes = (
        RgbTransform(),
        SpaceToDepthTransform(),
        SpaceToDepthTransform(block=4),
        Yuv420Transform(),
    )
    assert by_name["resnet18"] == (rgb, two, planes)
    assert by_name["convnext_tiny"] == (rgb, two, four, planes)
    assert exact_transforms(_backbone("resnet18"), planes=False) == (rgb, two)
    assert exact_transforms(_small(3, 1, 1), planes=True) == (rgb,)


class _Reads(nn.Module):
    """What a function makes of the picture, and a convolution of stride 2 of it."""

    def __init__(self, function: Callable[[Tensor], Tensor], **settings: object) -> None:
        super().__init__()
        self.function = function
        self.first = nn.Conv2d(3, 3, 3, 2, 1, **settings)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"first": self.first(x), "other": self.function(x)}


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        (_Reads(lambda x: x.mean((2, 3))), (32, 64), r"net \(mean\) reads the picture"),
        (_Reads(lambda x: x), (32, 64), "the picture itself is an answer"),
        (_Reads(lambda x: x[:, :2] * 2), (32, 64), r"\(slice\) reads the picture"),
        (_Reads(lambda x: nn.functional.conv2d(x, x)), (3, 3), "sides that are multiples of 2"),
        (_Reads(lambda x: nn.functional.conv2d(x, x)), (4, 4), r"net \(conv2d\) is no plain convolution"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1, groups=3)), (32, 64), r"net/0 \(conv2d\) has groups 3 and dilation 1"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1, dilation=2)), (32, 64), "dilation 2"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding="same")), (32, 64), r"net/0 \(conv2d\) has stride 1"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, (2, 1))), (32, 64), "has stride 2×1"),
        (nn.Sequential(nn.ConvTranspose2d(3, 3, 2, 2)), (32, 64), r"\(conv_transpose2d\) reads the picture"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1)), (31, 64), "multiples of 2, the network's input is 64x31"),
    ],
)
def test_what_cannot_be_folded_is_refused(network: nn.Module, size: tuple[int, int], message: str) -> None:
    graph = capture(network.eval(), torch.zeros(1, 3, *size), "net")
    for transform in (SpaceToDepthTransform(), Yuv420Transform()):
        with pytest.raises(TransformError, match=message):
            transformed(graph, transform, IMAGENET)
    assert exact_transforms(graph, planes=True) == (RgbTransform(),)


def test_only_one_colour_picture_is_transformed() -> None:
    grey = capture(nn.Conv2d(1, 3, 3, 2), torch.zeros(1, 1, 8, 8), "net")
    with pytest.raises(TransformError, match=r"shape \(N, 3, height, width\)"):
        transformed(grey, SpaceToDepthTransform(), IMAGENET)
    planes = transformed(_small(), Yuv420Transform(), IMAGENET).graph
    with pytest.raises(TransformError, match=r"not input\.y, input\.u, input\.v"):
        transformed(planes, SpaceToDepthTransform(), IMAGENET)


def test_auto_is_chosen_elsewhere() -> None:
    with pytest.raises(TransformError, match="auto"):
        transformed(_small(), AutoTransform(), IMAGENET)


def test_names_that_are_taken_are_left_to_their_owners() -> None:
    graph = _small()
    owner = graph.outputs["net"]
    nodes = tuple(replace(node, name="space_to_depth") if node.name == owner else node for node in graph.nodes)
    taken = replace(graph, nodes=nodes, outputs={"net": "space_to_depth"})
    found = transformed(taken, SpaceToDepthTransform(), IMAGENET).graph
    assert found.outputs == {"net": "space_to_depth"}
    assert Value("input") in found.by_name["space_to_depth_"].args


@pytest.mark.parametrize("transform", [SpaceToDepthTransform(block=4), HaarTransform(levels=2, bands="low")])
def test_no_segment_does_nothing_but_rearrange_the_picture(transform: Any) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 2, 2))
    made = transformed(capture(network.eval(), torch.zeros(1, 3, 64, 96), ""), transform, IMAGENET)
    for segment in cut(made.graph).segments:
        assert any(node.kind == "conv2d" for node in segment.graph.nodes)
