"""Cutting: segments in order compute what the uncut graph computes, and each head needs only its own."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from sharedbb.graph.capture import capture
from sharedbb.graph.cut import Cut, cut, fold_constants, head_of, heads_of_nodes, stride_of
from sharedbb.graph.ir import Graph
from sharedbb.graph.lower import run
from sharedbb.graph.quantization import Grid, Scheme, quantized
from sharedbb.nets.backbones import Backbone
from sharedbb.registry import BACKBONE_NAMES, BACKBONES, resolve


class _Taps(nn.Module):
    """A backbone with heads at every stride."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.fine = nn.Conv2d(backbone.channels[4], 5, 1)
        self.middle = nn.Conv2d(backbone.channels[8] + backbone.channels[16], 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        wide = torch.nn.functional.interpolate(features[16], scale_factor=2.0)
        return {
            "fine.logits": self.fine(features[4]),
            "middle": self.middle(torch.cat([features[8], wide], 1)),
            "deep.vector": features[32].mean((2, 3)),
            "deep.map": features[32] * 2,
        }


def _execute(parts: Cut, picture: Tensor, heads: frozenset[str]) -> dict[str, Tensor]:
    features = {"input": picture}
    for segment in parts.segments:
        if segment.heads & heads:
            features.update(run(segment.graph, *(features[name] for name in segment.inputs)))
    return {answer: features[name] for answer, name in parts.answers.items() if head_of(answer) in heads}


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=BACKBONE_NAMES)
def graph(request: pytest.FixtureRequest, picture: Tensor) -> Graph:
    backbone = resolve(BACKBONES[request.param].build)(None)
    return capture(_Taps(backbone).eval(), picture, "")


def test_segments_compute_what_the_graph_computes(graph: Graph, picture: Tensor) -> None:
    parts = cut(fold_constants(graph))
    expected = run(graph, picture)
    got = _execute(parts, picture, frozenset(["fine", "middle", "deep"]))
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_a_head_needs_only_its_own_segments(graph: Graph, picture: Tensor) -> None:
    parts = cut(graph)
    expected = run(graph, picture)
    for head in ("fine", "middle", "deep"):
        for name, value in _execute(parts, picture, frozenset([head])).items():
            assert torch.equal(value, expected[name])
    shallow = [segment for segment in parts.segments if "fine" in segment.heads]
    assert all(segment.stride == 4 for segment in shallow)


def test_the_trunk_is_cut_at_its_taps(graph: Graph) -> None:
    parts = cut(graph)
    (first,) = [segment for segment in parts.segments if len(segment.heads) == 3]
    assert first.name == "trunk/4"
    assert len(first.outputs) == 1
    for segment in parts.segments:
        assert (
            len({graph.by_name[name].shape[2] for name in segment.outputs if len(graph.by_name[name].shape) == 4}) <= 1
        )
    names = [segment.name for segment in parts.segments]
    assert len(set(names)) == len(names)
    assert sum(segment.graph.operators for segment in parts.segments) == graph.operators


@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet18", "efficientnet_b0"])
def test_one_network_alone_is_cut_by_stride(arch: str, picture: Tensor) -> None:
    network = getattr(torchvision.models, arch)().eval()
    parts = cut(capture(network, picture, "only"))
    assert [segment.stride for segment in parts.segments][:3] == [4, 8, 16]
    for before, after in zip(parts.segments, parts.segments[1:], strict=False):
        assert after.inputs == before.outputs
    assert torch.equal(
        _execute(parts, picture, frozenset(["only"]))["only"], run(capture(network, picture), picture)["net"]
    )


def test_values_with_channels_last_are_no_place_to_cut() -> None:
    """ConvNeXt normalises in NHWC; cutting there would transpose the features at every boundary."""
    picture = torch.rand(1, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    parts = cut(capture(torchvision.models.convnext_tiny().eval(), picture, "only"))
    assert [segment.stride for segment in parts.segments][:3] == [4, 8, 16]
    assert {segment.stride for segment in parts.segments} <= {4, 8, 16, 32, None}


@pytest.mark.parametrize(
    ("picture", "shape", "stride"),
    [
        ((1, 3, 384, 640), (1, 24, 96, 160), 4),
        ((1, 3, 300, 300), (1, 64, 19, 19), 16),
        ((1, 3, 40, 896), (1, 64, 2, 28), 20),
        ((1, 3, 384, 640), (1, 64, 1, 1), 384),
        ((1, 3, 384, 640), (1, 48, 80, 192), None),
        ((1, 3, 384, 640), (1, 64), None),
    ],
)
def test_stride_is_the_same_in_height_and_width(
    picture: tuple[int, ...], shape: tuple[int, ...], stride: int | None
) -> None:
    assert stride_of(picture, shape) == stride


@pytest.mark.parametrize("arch", ["shufflenet_v2_x1_0", "googlenet", "swin_t"])
def test_only_tensors_cross_from_segment_to_segment(arch: str) -> None:
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    options = {"aux_logits": False, "init_weights": False} if arch == "googlenet" else {}
    parts = cut(capture(getattr(torchvision.models, arch)(**options).eval(), picture, "only"))
    graph = parts.graph
    assert len(parts.segments) > 2
    for name in parts.features:
        assert not any(graph.by_name[user].op == "getitem" for user in graph.users[name])


def test_constants_are_computed_once(picture: Tensor) -> None:
    class Grid(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = torch.arange(x.shape[2]).float().view(1, 1, -1, 1) / 7
            return x + rows.sin()

    graph = capture(Grid(), picture)
    folded = fold_constants(graph)
    assert folded.operators == 1
    assert torch.equal(run(folded, picture)["net"], run(graph, picture)["net"])


class _Chunks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        left, right = self.stem(x).chunk(2, 1)
        return {"one": self.one(left), "two": self.two(right)}


def test_parts_of_a_tuple_stay_with_the_call_that_makes_it(picture: Tensor) -> None:
    graph = capture(_Chunks(), picture, "")
    needs = heads_of_nodes(graph)
    assert all(needs[node.name] == needs[node.values[0]] for node in graph.nodes if node.op == "getitem")
    got, expected = _execute(cut(graph), picture, frozenset(["one"])), run(graph, picture)
    assert torch.equal(got["one"], expected["one"])


def test_an_answer_that_is_the_input_itself_is_held_by_a_segment(picture: Tensor) -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"same": x, "twice": x * 2}

    parts = cut(capture(Same(), picture, ""))
    answers = _execute(parts, picture, frozenset(["same", "twice"]))
    assert "input" not in parts.answers.values()
    assert torch.equal(answers["same"], picture)
    assert torch.equal(answers["twice"], picture * 2)


def test_a_head_called_like_a_stage_of_the_frame_has_another_segment_name(picture: Tensor) -> None:
    stem, last = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 2, 1)

    class Heads(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"decode": stem(x).relu(), "plan": last(stem(x))}

    names = [segment.name for segment in cut(capture(Heads().eval(), picture, "")).segments]
    assert not {"decode", "plan"} & set(names)
    assert len(set(names)) == len(names)


class _MapAndVector(nn.Module):
    """Two heads that always run together, one of them a vector of what the other is a map of, and a third."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.wide, self.vector = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 5)
        self.fine = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        trunk = self.trunk(x).relu()
        features = self.wide(trunk).relu()
        return {"boxes": features.flatten(2), "tags": self.vector(features.mean((2, 3))), "fine": self.fine(trunk)}


def test_rounded_weights_stay_with_what_reads_them(picture: Tensor) -> None:
    torch.manual_seed(0)
    grid = Grid(torch.tensor(0.01), torch.tensor(0, dtype=torch.int32), -127, 127)
    scheme = Scheme({f"{layer}|0|1": grid for layer in ("trunk|conv2d", "wide|conv2d", "vector|linear")})
    graph = quantized(capture(_MapAndVector().eval(), picture, ""), scheme)
    parts = cut(graph, [frozenset(["boxes", "tags"])])
    assert all(segment.inputs for segment in parts.segments)
    got = _execute(parts, picture, frozenset(["boxes", "tags", "fine"]))
    assert all(torch.equal(got[answer], expected) for answer, expected in run(graph, picture).items())
