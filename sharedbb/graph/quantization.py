"""Quantization as part of a graph: which edges carry integers, and the calls that round them.

An edge is one operand of one call. Its value is rounded to a grid, ``scale · (integer − zero_point)``, by a
``fake_quantize`` call in front of the operand; a backend with integer arithmetic computes on the integers themselves,
every other one on the rounded values. Edges are named after the module, the operator and its turn in it, so that a
scheme fits the network wherever it is captured again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sharedbb.errors import GraphError
from sharedbb.graph.capture import digest
from sharedbb.graph.ir import Graph, Node, Value, Weight, leaves, rewrite
from sharedbb.graph.merge import fold_batch_norms

PER_TENSOR = "aten.fake_quantize_per_tensor_affine.default"
PER_CHANNEL = "aten.fake_quantize_per_channel_affine.default"
SMALLEST_SCALE = 1e-8


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A grid of integers ``low``–``high``: value = ``scale · (integer − zero_point)``.

    ``scale`` float32 and ``zero_point`` int32 are scalars (no dimensions), or vectors along ``axis``. With ``dynamic``
    the scale is taken from every picture's own largest value along the last dimension instead (zero point 0).
    """

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int
    axis: int | None = None
    dynamic: bool = False

    def rounded(self, value: Tensor) -> Tensor:
        """``value`` on the grid, beyond its ends the ends."""
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(value, self.scale, self.zero_point, self.low, self.high)
        return torch.fake_quantize_per_channel_affine(
            value, self.scale, self.zero_point, self.axis, self.low, self.high
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """Grids by edge (see ``edges``), and constants that calibration corrected (biases), by edge as well.

    ``partial``: heads of the network that it was made for are left out, and with them perhaps some of the edges.
    """

    grids: Mapping[str, Grid]
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    partial: bool = False


def is_rounding(node: Node) -> bool:
    """Whether a call rounds to a grid."""
    return node.kind.startswith("fake_quantize_per_")


def edges(graph: Graph) -> Iterator[tuple[str, Node, int, Value | Weight]]:
    """Every operand that is a tensor: its edge, the call, its place among the call's leaves, and the operand.

    Only of calls that depend on the picture, so that edges are the same before and after constants are computed.
    """
    seen: Counter[tuple[str, str]] = Counter()
    live = set(graph.inputs)
    for node in graph.nodes:
        if live.isdisjoint(node.values):
            continue
        live.add(node.name)
        if is_rounding(node):
            continue
        turn = seen[node.origin, node.kind]
        seen[node.origin, node.kind] += 1
        for place, leaf in enumerate(leaves(node.args)):
            if isinstance(leaf, Value | Weight):
                yield f"{node.origin}|{node.kind}|{turn}|{place}", node, place, leaf


def quantized(graph: Graph, scheme: Scheme) -> Graph:
    """The graph, batch norms folded, with every edge of the scheme rounded and its constants in place.

    Where the graph lacks a head of the scheme's, or that is ``partial``, edges that are not there are passed over: a
    head, and what only it needed, was left out. Otherwise GraphError is raised for them, as the scheme belongs to
    another network, and for a grid or a constant that does not fit its operand.
    """
    graph = fold_batch_norms(graph)
    wanted = {*scheme.grids, *scheme.constants}
    operands: dict[str, dict[int, str]] = {}
    for name, node, place, _ in edges(graph):
        if name in wanted:
            wanted.discard(name)
            operands.setdefault(node.name, {})[place] = name
    if wanted and not scheme.partial and _heads(wanted) <= _heads(node.origin for node in graph.nodes):
        raise GraphError(f"the quantization scheme rounds {min(wanted)!r}, which this network does not compute")
    nodes: list[Node] = []
    weights = dict(graph.weights)
    for node in graph.nodes:
        put = operands.get(node.name, {})
        changed: dict[int, Any] = {}
        for place, leaf in enumerate(leaves(node.args)):
            if place not in put:
                continue
            if (constant := scheme.constants.get(put[place])) is not None:
                if (shape := _shape(leaf, graph, weights)) != constant.shape:
                    got = tuple(constant.shape)
                    raise GraphError(f"edge {put[place]!r} has a constant of shape {got}, the network one of {shape}")
                leaf = _weight(constant, weights)
            if (grid := scheme.grids.get(put[place])) is not None:
                calls = (_by_picture if grid.dynamic else _rounding)(
                    f"{node.name}_grid{place}", leaf, grid, node, graph, weights
                )
                nodes.extend(calls)
                leaf = Value(calls[-1].name)
            changed[place] = leaf
        nodes.append(_with_operands(node, changed))
    used = {found for node in nodes for found in node.weights}
    return Graph(tuple(nodes), graph.inputs, graph.outputs, {name: weights[name] for name in weights if name in used})


def _heads(places: Iterable[str]) -> set[str]:
    """The heads that modules or edges belong to: ``surface`` of ``heads.surface.predict``."""
    return {place.split("|")[0].split(".")[1] for place in places if place.startswith("heads.")}


def by_reader(graph: Graph) -> Graph:
    """The same graph with a rounding call of its own for every reader, directly in front of it.

    So a cut hands on what was not rounded yet, and each segment rounds what it reads.
    """
    roundings = {node.name: node for node in graph.nodes if is_rounding(node)}
    if not roundings:
        return graph
    answers = set(graph.outputs.values())
    nodes: list[Node] = []

    def put(node: Node) -> None:
        """The call, and before it what it reads rounded."""
        moved = {}
        for name in dict.fromkeys(node.values):
            if name in roundings:
                moved[name] = f"{name}_of_{node.name}"
                put(replace(roundings[name], name=moved[name]))
        nodes.append(_renamed_operands(node, moved))

    for node in graph.nodes:
        if node.name not in roundings or node.name in answers:
            put(node)
    return Graph(tuple(nodes), graph.inputs, graph.outputs, graph.weights)


def unsigned(graph: Graph) -> Graph:
    """The same graph with activations of both signs rounded to the same steps counted from 0 up.

    Only what lies below the lowest step differs: there is one more. Weights stay as they are.
    """
    nodes = []
    for node in graph.nodes:
        if str(node.op) == PER_TENSOR and isinstance(node.args[0], Value) and node.args[3] < 0:
            source, scale, zero_point, low, high = node.args
            count = 1 << (high - low).bit_length()
            node = replace(node, args=(source, scale, zero_point + count // 2, 0, count - 1))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def unrounded(graph: Graph) -> Graph:
    """The same graph without activations being rounded; weights stay on their grids."""
    source: dict[str, Any] = {}
    nodes, weights = [], dict(graph.weights)
    for node in graph.nodes:

        def straight(leaf: Any) -> Any:
            return source.get(leaf.name, leaf) if isinstance(leaf, Value) else leaf

        node = replace(node, args=rewrite(node.args, straight), kwargs=rewrite(node.kwargs, straight))
        if not is_rounding(node) or node.name in graph.outputs.values():
            nodes.append(node)
        elif isinstance(node.args[0], Weight):
            source[node.name] = _weight(_grid_of(node, weights).rounded(weights[node.args[0].digest]), weights)
        else:
            source[node.name] = node.args[0]
    used = {found for node in nodes for found in node.weights}
    return Graph(tuple(nodes), graph.inputs, graph.outputs, {name: weights[name] for name in weights if name in used})


def _grid_of(node: Node, weights: Mapping[str, Tensor]) -> Grid:
    """The grid that a rounding call rounds to."""
    if node.op == PER_TENSOR:
        _, scale, zero_point, low, high = node.args
        return Grid(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), low, high)
    _, scale, zero_point, axis, low, high = node.args
    return Grid(weights[scale.digest], weights[zero_point.digest], low, high, axis)


def _rounding(
    name: str, leaf: Value | Weight, grid: Grid, reader: Node, graph: Graph, weights: dict[str, Tensor]
) -> list[Node]:
    """The call that rounds an operand to a grid that is known."""
    shape = _shape(leaf, graph, weights)
    if grid.axis is not None and (grid.axis >= len(shape) or grid.scale.numel() != shape[grid.axis]):
        raise GraphError(
            f"{name}: {grid.scale.numel()} scales along axis {grid.axis} do not fit an operand of shape {shape}"
        )
    args: tuple[Any, ...]
    if grid.axis is None:
        op, args = PER_TENSOR, (leaf, float(grid.scale), int(grid.zero_point), grid.low, grid.high)
    else:
        op = PER_CHANNEL
        args = (leaf, _weight(grid.scale, weights), _weight(grid.zero_point, weights), grid.axis, grid.low, grid.high)
    return [Node(name, op, args, (), shape, torch.float32, reader.origin)]


def _by_picture(
    name: str, leaf: Value | Weight, grid: Grid, reader: Node, graph: Graph, weights: dict[str, Tensor]
) -> list[Node]:
    """The calls that round an operand to a grid taken from its own largest value along the last dimension."""
    if not isinstance(leaf, Value):
        raise GraphError(f"{name}: a weight does not change from picture to picture; give it a grid that is known")
    shape = graph.by_name[leaf.name].shape
    calls: list[Node] = []

    def call(op: str, *args: Any, of: tuple[int, ...] = shape) -> Value:
        calls.append(Node(f"{name}_{len(calls)}", f"aten.{op}", args, (), of, torch.float32, reader.origin))
        return Value(calls[-1].name)

    row = (*shape[:-1], 1)
    largest = call("amax.default", call("abs.default", leaf), (-1,), True, of=row)
    scale = call("clamp_min.default", call("div.Tensor", largest, float(grid.high), of=row), SMALLEST_SCALE, of=row)
    level = call("clamp.default", call("round.default", call("div.Tensor", leaf, scale)), grid.low, grid.high)
    call("mul.Tensor", level, scale)
    return calls


def _shape(leaf: Value | Weight, graph: Graph, weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    return graph.by_name[leaf.name].shape if isinstance(leaf, Value) else tuple(weights[leaf.digest].shape)


def _weight(tensor: Tensor, weights: dict[str, Tensor]) -> Weight:
    found = Weight(digest(tensor))
    weights[found.digest] = tensor
    return found


def _with_operands(node: Node, changed: Mapping[int, Any]) -> Node:
    """The call with some of its leaves, by place, replaced."""
    if not changed:
        return node
    places = iter(range(sum(1 for _ in leaves(node.args))))
    return replace(node, args=rewrite(node.args, lambda leaf: changed.get(next(places), leaf)))


def _renamed_operands(node: Node, names: Mapping[str, str]) -> Node:
    def rename(leaf: Any) -> Any:
        return Value(names.get(leaf.name, leaf.name)) if isinstance(leaf, Value) else leaf

    return replace(node, args=rewrite(node.args, rename), kwargs=rewrite(node.kwargs, rename)) if names else node
