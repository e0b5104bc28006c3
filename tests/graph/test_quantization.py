"""Rounding in a graph: against rounding by hand, and through everything that is done to graphs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharedbb.errors import GraphError
from sharedbb.graph.capture import capture, digest
from sharedbb.graph.cost import cost, total
from sharedbb.graph.cut import Cut, cut, fold_constants
from sharedbb.graph.ir import Graph, Node, Value, Weight
from sharedbb.graph.lower import run, to_module
from sharedbb.graph.merge import fold_batch_norms, merge
from sharedbb.graph.quantization import (
    PER_CHANNEL,
    PER_TENSOR,
    Grid,
    Scheme,
    by_reader,
    edges,
    is_rounding,
    quantized,
    unrounded,
    unsigned,
)
from sharedbb.graph.reach import Global, Reach, reach
from sharedbb.nets import backbones

PICTURE = (1, 3, 64, 96)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Two(nn.Module):
    """Two convolutions, a batch norm behind the first; what the second adds is computed from constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3)
        self.shift = nn.Parameter(torch.tensor([0.25]))
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.uniform_(self.norm.running_mean, -1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        shift = self.shift + 1.0
        return self.second(self.norm(self.first(x)).relu()) + shift


@pytest.fixture(scope="module")
def two() -> Two:
    torch.manual_seed(0)
    return Two().eval()


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.randn(PICTURE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def graph(two: Two, picture: Tensor) -> Graph:
    return capture(two, picture, "")


def grid(scale: float | list[float], zero: int | list[int] = 0, low: int = -127, high: int = 127, **more: int) -> Grid:
    return Grid(torch.tensor(scale), torch.tensor(zero, dtype=torch.int32), low, high, **more)


def by_hand(value: Tensor, scale: Tensor | float, zero: Tensor | int, low: int, high: int) -> Tensor:
    """The definition: to the nearest integer, to the ends beyond them, and back."""
    return (((value / scale).round() + zero).clamp(low, high) - zero) * scale


def whole_scheme(graph: Graph) -> Scheme:
    """Eight bits for everything that convolutions read, but for the picture: activations alike, weights by channel."""
    grids = {}
    for edge, node, place, leaf in edges(fold_batch_norms(graph)):
        if node.kind != "conv2d" or place > 1 or graph.inputs[0] in node.values:
            continue
        if isinstance(leaf, Value):
            grids[edge] = grid(0.02, 64, 0, 255)
        else:
            largest = fold_batch_norms(graph).weights[leaf.digest].abs().amax((1, 2, 3))
            grids[edge] = Grid(largest / 127, torch.zeros(len(largest), dtype=torch.int32), -127, 127, 0)
    return Scheme(grids)


def test_an_edge_is_named_by_module_operator_turn_and_place(graph: Graph) -> None:
    named = [name for name, *_ in edges(fold_batch_norms(graph))]
    assert named == [
        *("first|conv2d|0|0", "first|conv2d|0|1", "first|conv2d|0|2"),
        "|relu|0|0",
        *("second|conv2d|0|0", "second|conv2d|0|1", "second|conv2d|0|2"),
        *("|add|0|0", "|add|0|1"),
    ]


def test_edges_are_the_same_when_constants_were_computed(graph: Graph) -> None:
    before = [name for name, *_ in edges(fold_batch_norms(graph))]
    assert [name for name, *_ in edges(fold_constants(fold_batch_norms(graph)))] == before


def test_what_a_graph_answers_is_plain_rounding(two: Two, graph: Graph, picture: Tensor) -> None:
    scales = torch.tensor([0.01, 0.02, 0.015, 0.004, 0.03])
    scheme = Scheme(
        {
            "first|conv2d|0|0": grid(0.031, 3, -128, 127),
            "first|conv2d|0|1": grid(0.05, 0, -7, 7),
            "second|conv2d|0|0": grid(0.013, 0, 0, 255),
            "second|conv2d|0|1": Grid(scales, torch.tensor([0, 1, -2, 0, 5], dtype=torch.int32), -127, 127, 0),
        },
        {"second|conv2d|0|2": torch.linspace(-1, 1, 5)},
    )
    norm = two.norm
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = two.first.weight * factor.view(-1, 1, 1, 1)
    x = F.conv2d(
        by_hand(picture, 0.031, 3, -128, 127),
        by_hand(folded, 0.05, 0, -7, 7),
        norm.bias - norm.running_mean * factor,
    )
    zeros = torch.tensor([0, 1, -2, 0, 5]).view(-1, 1, 1, 1)
    weight = by_hand(two.second.weight, scales.view(-1, 1, 1, 1), zeros, -127, 127)
    want = F.conv2d(by_hand(x.relu(), 0.013, 0, 0, 255), weight, torch.linspace(-1, 1, 5)) + two.shift + 1
    (got,) = run(quantized(graph, scheme), picture).values()
    flipped = (got - want).abs() > 1e-4
    assert flipped.float().mean() < 1e-2  # where float32 falls on the other side of a half
    assert (got - want).abs().max() < 0.013 * 2


def test_by_the_picture_every_row_has_the_scale_of_its_largest_value() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 3, bias=False)
    values = torch.tensor([[0.1, -0.2, 0.3, 0.0, 1.0, -127.0], [1e-4, 2e-4, -5e-5, 0.0, 3e-5, 0.0], [0.0] * 6])
    scheme = Scheme({"|linear|0|0": grid(1.0, 0, -127, 127, dynamic=True)})
    (got,) = run(quantized(capture(layer, values, ""), scheme), values).values()
    scale = values.abs().amax(-1, keepdim=True).div(127).clamp(min=1e-8)
    assert torch.allclose(got, layer(by_hand(values, scale, 0, -127, 127)), atol=1e-6)
    (doubled,) = run(quantized(capture(layer, values, ""), scheme), values * 2).values()
    assert torch.equal(doubled[:2], got[:2] * 2)


def test_a_weight_has_no_grid_by_the_picture(graph: Graph) -> None:
    with pytest.raises(GraphError, match="a weight does not change from picture to picture"):
        quantized(graph, Scheme({"second|conv2d|0|1": grid(1.0, dynamic=True)}))


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (Scheme({"third|conv2d|0|0": grid(0.1)}), "rounds 'third.conv2d.0.0', which this network does not compute"),
        (Scheme({}, {"second|conv2d|1|2": torch.zeros(5)}), "which this network does not compute"),
        (Scheme({"second|conv2d|0|1": grid([0.1] * 4, [0] * 4, axis=0)}), "4 scales along axis 0 do not fit"),
        (Scheme({"second|conv2d|0|1": grid([], [], axis=3)}), "0 scales along axis 3 do not fit"),
        (
            Scheme({"|add|0|1": grid([0.1], [0], axis=1)}),
            r"1 scales along axis 1 do not fit an operand of shape \(1,\)",
        ),
        (Scheme({}, {"second|conv2d|0|2": torch.zeros(4)}), r"constant of shape \(4,\), the network one of \(5,\)"),
    ],
)
def test_a_scheme_of_another_network_is_refused(graph: Graph, scheme: Scheme, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        quantized(graph, scheme)


class Heads(nn.Module):
    """A trunk and heads, as networks of pipelines name them."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 4, 3)
        self.heads = nn.ModuleDict({name: nn.Conv2d(4, 2, 1) for name in names})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


def test_edges_of_heads_that_were_left_out_are_passed_over(picture: Tensor) -> None:
    torch.manual_seed(0)
    both = Heads("a", "b").eval()
    one = Heads("a").eval()
    one.load_state_dict({name: value for name, value in both.state_dict().items() if "heads.b" not in name})
    scheme = Scheme({f"heads.{name}|conv2d|0|0": grid(0.1) for name in "ab"} | {"trunk|conv2d|0|1": grid(0.01)})
    found = run(quantized(capture(one, picture, ""), scheme), picture)
    assert torch.equal(found["a"], run(quantized(capture(both, picture, ""), scheme), picture)["a"])
    needed = Scheme({"trunk|conv2d|0|1": grid(0.01), "neck.b|conv2d|0|0": grid(0.1)})  # b itself is not rounded
    with pytest.raises(GraphError, match=r"neck\.b"):
        quantized(capture(one, picture, ""), needed)
    assert run(quantized(capture(one, picture, ""), replace(needed, partial=True)), picture).keys() == {"a"}
    stray = Scheme({**scheme.grids, "heads.a|conv2d|1|0": grid(0.1)})
    with pytest.raises(GraphError, match=r"heads\.a"):
        quantized(capture(both, picture, ""), stray)


@pytest.fixture(scope="module", params=["resnet18", "mobilenet_v3_small"])
def float_graph(request: pytest.FixtureRequest) -> Graph:
    backbone = getattr(backbones, request.param)()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.backbone = backbone
            self.fine = nn.Conv2d(backbone.channels[8], 3, 1)
            self.deep = nn.Linear(backbone.channels[32], 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            features = self.backbone(x)
            return {"fine": self.fine(features[8]), "deep": self.deep(features[32].mean((2, 3)))}

    return capture(Network().eval(), torch.zeros(PICTURE), "")


@pytest.fixture(scope="module")
def rounded_graph(float_graph: Graph) -> Graph:
    return quantized(float_graph, whole_scheme(float_graph))


def _in_segments(parts: Cut, picture: Tensor) -> dict[str, Tensor]:
    features = {"input": picture}
    for segment in parts.segments:
        features.update(run(segment.graph, *(features[name] for name in segment.inputs)))
    return {answer: features[name] for answer, name in parts.answers.items()}


def test_the_cut_hands_on_the_same_features_unrounded(float_graph: Graph, rounded_graph: Graph) -> None:
    plain, parts = cut(fold_constants(fold_batch_norms(float_graph))), cut(fold_constants(rounded_graph))
    assert [(one.name, one.inputs, one.outputs, one.stride) for one in parts.segments] == [
        (one.name, one.inputs, one.outputs, one.stride) for one in plain.segments
    ]
    assert len(parts.segments) > 3
    assert not any(is_rounding(parts.graph.by_name[name]) for name in parts.features)


def test_segments_one_after_another_answer_as_the_whole(rounded_graph: Graph, picture: Tensor) -> None:
    found = _in_segments(cut(fold_constants(rounded_graph)), picture)
    expected = run(rounded_graph, picture)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_merging_shares_roundings_and_the_cut_parts_them_again(
    float_graph: Graph, rounded_graph: Graph, picture: Tensor
) -> None:
    merged = merge({"one": rounded_graph}).graph
    assert sum(map(is_rounding, merged.nodes)) < sum(map(is_rounding, rounded_graph.nodes))
    parts = cut(fold_constants(merged))
    plain = cut(fold_constants(merge({"one": fold_batch_norms(float_graph)}).graph))
    assert [(one.name, one.stride) for one in parts.segments] == [(one.name, one.stride) for one in plain.segments]
    assert not any(is_rounding(parts.graph.by_name[name]) for name in parts.features)
    found, expected = _in_segments(parts, picture), run(rounded_graph, picture)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_rounding_costs_no_multiply_adds_and_keeps_the_shapes(float_graph: Graph, rounded_graph: Graph) -> None:
    assert sum(map(is_rounding, rounded_graph.nodes)) > 20
    assert total(cost(rounded_graph).values()).macs == total(cost(float_graph).values()).macs


def test_equal_quantized_networks_merge_into_one(rounded_graph: Graph, float_graph: Graph) -> None:
    twin = quantized(float_graph, whole_scheme(float_graph))
    twin = replace(twin, outputs={f"twin.{name}": node for name, node in twin.outputs.items()})
    merged = merge({"one": rounded_graph, "twin": twin})
    assert merged.graph.operators == merge({"one": rounded_graph}).graph.operators
    assert merged.networks["one"] == merged.networks["twin"]


def test_other_grids_part_networks(graph: Graph) -> None:
    def rounded(name: str, scale: float) -> Graph:
        found = quantized(graph, Scheme({"second|conv2d|0|0": grid(scale)}))
        (answer,) = found.outputs.values()
        return replace(found, outputs={name: answer})

    merged = merge({"one": rounded("one", 0.1), "other": rounded("other", 0.2)})
    shared = merged.networks["one"] & merged.networks["other"]
    assert {"conv2d", "relu"} <= {merged.graph.by_name[name].kind for name in shared}
    assert not any(is_rounding(merged.graph.by_name[name]) for name in shared)
    assert any("fake_quantize" in parting.reason for parting in merged.partings)


def test_rounding_leaves_the_reach_of_everything_as_it_is(float_graph: Graph, rounded_graph: Graph) -> None:
    plain, found = reach(fold_batch_norms(float_graph)), reach(rounded_graph)
    assert plain.keys() == found.keys() & plain.keys()
    for name, expected in plain.items():
        if isinstance(expected, Global):
            assert isinstance(found[name], Global)
        else:
            assert found[name] == expected
    for node in rounded_graph.nodes:
        if is_rounding(node) and node.values:
            assert found[node.name] == found[node.values[0]] or isinstance(found[node.name], Global)


@pytest.mark.parametrize(("axis", "local"), [(1, True), (-3, True), (2, False), (-1, False)])
def test_scales_along_the_picture_are_no_local_matter(axis: int, local: bool) -> None:
    size = PICTURE[axis]
    scale, zero = torch.ones(size), torch.zeros(size, dtype=torch.int32)
    names = digest(scale), digest(zero)
    args = (Value("input"), Weight(names[0]), Weight(names[1]), axis, -127, 127)
    nodes = (Node("input", "input", shape=PICTURE), Node("rounded", PER_CHANNEL, args, shape=PICTURE))
    made = Graph(nodes, ("input",), {"rounded": "rounded"}, {names[0]: scale, names[1]: zero})
    assert isinstance(reach(made)["rounded"], Reach) is local


def _chain(*scales: float, readers: int = 1) -> Graph:
    """The picture rounded several times in a row, then read by some calls."""
    nodes = [Node("input", "input", shape=PICTURE)]
    for index, scale in enumerate(scales):
        args = (Value(nodes[-1].name), scale, 0, -127, 127)
        nodes.append(Node(f"rounded{index}", PER_TENSOR, args, shape=PICTURE))
    last = Value(nodes[-1].name)
    nodes += [Node(f"out{index}", "aten.mul.Tensor", (last, 2.0 + index), shape=PICTURE) for index in range(readers)]
    return Graph(tuple(nodes), ("input",), {node.name: node.name for node in nodes[-readers:]}, {})


def test_every_reader_gets_roundings_of_its_own_also_in_a_row(picture: Tensor) -> None:
    made = _chain(0.3, 0.2, readers=2)
    apart = by_reader(made)
    assert [node.kind for node in apart.nodes if node.op != "input"].count("fake_quantize_per_tensor_affine") == 4
    found, expected = run(apart, picture), run(made, picture)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(expected["out0"], run(_chain(0.3, readers=1), picture)["out0"])


def test_an_answer_that_is_rounded_stays_an_answer(picture: Tensor) -> None:
    made = replace(_chain(0.3), outputs={"rounded": "rounded0", "out": "out0"})
    found = run(by_reader(made), picture)
    assert torch.equal(found["rounded"], by_hand(picture, 0.3, 0, -127, 127))
    assert torch.equal(found["out"], found["rounded"] * 2)


def test_a_module_rounds_once_what_is_rounded_alike() -> None:
    module = to_module(by_reader(_chain(0.3, readers=3)))
    assert sum("fake_quantize" in str(node.target) for node in module.graph.nodes) == 1
    two_grids = _chain(0.3, readers=1)
    other = replace(two_grids.by_name["rounded0"], name="other", args=(Value("input"), 0.4, 0, -127, 127))
    nodes = (*two_grids.nodes, other)
    module = to_module(replace(two_grids, nodes=nodes, outputs={"a": "out0", "b": "other"}))
    assert sum("fake_quantize" in str(node.target) for node in module.graph.nodes) == 2


def test_unrounded_keeps_the_weights_on_their_grids(float_graph: Graph, rounded_graph: Graph, picture: Tensor) -> None:
    bare = unrounded(rounded_graph)
    assert not any(map(is_rounding, bare.nodes))
    by_weights = whole_scheme(float_graph).grids.items()
    only = Scheme({edge: one for edge, one in by_weights if one.axis is not None})
    found, expected = run(bare, picture), run(quantized(float_graph, only), picture)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_unrounded_sees_operands_by_name_too(picture: Tensor) -> None:
    made = _chain(0.3)
    named = replace(made.by_name["out0"], args=(Value("input"),), kwargs=(("other", Value("rounded0")),))
    found = unrounded(replace(made, nodes=(*made.nodes[:-1], named)))
    assert torch.equal(run(found, picture)["out0"], picture * picture)


def test_computing_constants_leaves_rounded_weights_to_the_backend(rounded_graph: Graph) -> None:
    count = sum(map(is_rounding, rounded_graph.nodes))
    assert sum(map(is_rounding, fold_constants(rounded_graph).nodes)) == count


def test_unsigned_grids_round_as_signed_ones_do(picture: Tensor) -> None:
    network = Heads("a").eval()
    graph = capture(network, picture, "")
    scheme = Scheme(
        {
            "trunk|conv2d|0|0": Grid(torch.tensor(0.05), torch.tensor(0, dtype=torch.int32), -127, 127),
            "trunk|conv2d|0|1": Grid(torch.tensor(0.01), torch.tensor(0, dtype=torch.int32), -127, 127),
            "heads.a|conv2d|0|0": Grid(torch.tensor(0.02), torch.tensor(3, dtype=torch.int32), 0, 255),
        }
    )
    rounded = quantized(graph, scheme)
    changed = unsigned(rounded)
    grids = {node.name: node.args[2:] for node in changed.nodes if is_rounding(node)}
    assert sorted(grids.values()) == [(0, -127, 127), (3, 0, 255), (128, 0, 255)]  # the weight keeps its signs
    centred = picture - 0.5
    assert torch.equal(run(changed, centred)["a"], run(rounded, centred)["a"])
    low = torch.full_like(picture, -100.0)  # below the lowest step, of which there is one more
    assert not torch.equal(run(changed, low)["a"], run(rounded, low)["a"])
