"""A graph as plain values: what every operator multiplies and moves, at this and at any other width and resolution.

Another width or another size is a list of operators made from a list of operators; nothing is built, captured or run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sharedbb.errors import CompressionError
from sharedbb.graph.capture import VIEWS
from sharedbb.graph.cost import cost
from sharedbb.graph.ir import Graph, Node
from sharedbb.graph.quantization import unrounded
from sharedbb.graph.schema import arguments

CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "convolution"} | {f"conv_transpose{n}d" for n in (1, 2, 3)})
PRODUCTS = frozenset({"linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product_attention", "einsum"})

FUSED = frozenset(
    {"relu", "hardtanh", "relu6", "clamp", "hardswish", "silu", "sigmoid", "hardsigmoid", "gelu", "elu", "leaky_relu"}
    | {"tanh", "softplus", "exp", "add", "sub", "mul", "div"}
)
"""Element-wise calls that backends run inside the convolution or product whose result they read."""

RESAMPLING = ("upsample", "pool", "mean", "amax", "grid_sampler")
"""Words by which calls are known that read windows without weights."""

MULTIPLYING = ("stem", "dense", "pointwise", "depthwise", "grouped", "product")
"""Kinds of operators that multiply, the stem being a convolution of the picture itself."""

MOVING = ("elementwise", "resample", "fused")
"""Kinds that only move what they read; what is fused moves its second operand alone."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One call, as far as its time depends on it.

    It reads ``read`` places of ``inputs`` channels and writes ``written`` places of ``outputs`` (places: pixels of a
    map times the batch). ``taps`` and ``groups`` are a convolution's. ``fixed``: whether the channels read and written
    are a picture's or an answer's, which do not follow the network's width.
    """

    kind: str
    inputs: int
    outputs: int
    read: int
    written: int
    taps: int = 1
    groups: int = 1
    fixed: tuple[bool, bool] = (False, False)

    @property
    def parameters(self) -> int:
        """Elements of its weights, biases not counted."""
        return self.outputs * self.taps * self.inputs // self.groups if self.kind in MULTIPLYING else 0

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.written * self.parameters


def macs(operators: Iterable[Operator]) -> int:
    """Multiply-adds of all of them."""
    return sum(operator.macs for operator in operators)


def operators(graph: Graph) -> dict[str, Operator]:
    """The operators of a graph with batch norms folded, by node, in order; calls that cost nothing are left out.

    Maps are NCHW and vectors NC, the values of linear layers have their channels last, others are taken as one channel.
    Calls that round to a grid run inside their readers.
    """
    graph = unrounded(graph)
    reader = _Reader(graph)
    found = {node.name: reader.operator(node) for node in graph.nodes}
    return {name: operator for name, operator in found.items() if operator is not None}


class _Reader:
    """Reads nodes of one graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._macs = {name: found.macs for name, found in cost(graph).items()}
        self._pictures = self._reached(graph.nodes, set(graph.inputs))
        self._answers = self._leading_to(set(graph.outputs.values()))

    def operator(self, node: Node) -> Operator | None:
        """What a call does; None where it does nothing that takes time."""
        if node.op in ("input", "getitem") or not node.values:
            return None
        if node.kind in CONVOLUTIONS:
            return self._convolution(node)
        if node.kind in PRODUCTS:
            return self._product(node)
        if node.kind in VIEWS and node.kind != "transpose":
            return None
        return self._moving(node)

    def _convolution(self, node: Node) -> Operator:
        (inputs, read), (outputs, written) = self._extent(node.values[0]), self._extent(node.name)
        groups = int(arguments(node).get("groups", 1))
        taps = max(1, round(self._macs[node.name] * groups / (outputs * written * inputs)))
        pictured = node.values[0] in self._pictures
        if groups > 1:
            kind = "depthwise" if groups == inputs else "grouped"
        elif pictured:
            kind = "stem"
        else:
            kind = "pointwise" if taps == 1 else "dense"
        return Operator(kind, inputs, outputs, read, written, taps, groups, (pictured, node.name in self._answers))

    def _product(self, node: Node) -> Operator:
        outputs = node.shape[-1] if node.shape else 1
        written = math.prod(node.shape) // max(1, outputs)
        inputs = max(1, self._macs[node.name] // max(1, outputs * written))
        read = math.prod(self._graph.by_name[node.values[0]].shape) // inputs
        return Operator("product", inputs, outputs, max(1, read), written, fixed=(False, node.name in self._answers))

    def _moving(self, node: Node) -> Operator:
        channels, written = self._extent(node.name)
        values = [math.prod(self._graph.by_name[name].shape) for name in node.values]
        kind = "resample" if any(word in node.kind for word in RESAMPLING) else "elementwise"
        if node.kind in FUSED and (host := self._host(node)) is not None:
            kind = "fused"
            values.remove(math.prod(self._graph.by_name[host].shape))
        fixed = node.name in self._answers
        return Operator(kind, channels, channels, round(sum(values) / channels), written, fixed=(fixed, fixed))

    def _host(self, node: Node) -> str | None:
        """The operand that a convolution or product gives to this call alone, perhaps through others like it."""
        for name in node.values:
            before = self._graph.by_name[name]
            if len(self._graph.users[name]) > 1 or name in self._graph.outputs.values():
                continue
            if before.kind in CONVOLUTIONS | PRODUCTS or (before.kind in FUSED and self._host(before) is not None):
                return name
        return None

    def _extent(self, name: str) -> tuple[int, int]:
        """Channels and places of a value."""
        shape = self._graph.by_name[name].shape
        channels = shape[1] if len(shape) in (2, 4) else 1
        return max(1, channels), math.prod(shape) // max(1, channels)

    def _reached(self, nodes: Iterable[Node], start: set[str]) -> set[str]:
        """Nodes that only bring ``start`` into another form."""
        for node in nodes:
            if node.kind not in CONVOLUTIONS | PRODUCTS and start.intersection(node.values):
                start.add(node.name)
        return start

    def _leading_to(self, answers: set[str]) -> set[str]:
        """Answers and the nodes whose channels are theirs."""
        for node in reversed(self._graph.nodes):
            if node.name in answers and node.kind not in CONVOLUTIONS | PRODUCTS:
                answers.update(node.values)
        return answers


def narrowed(operators: Sequence[Operator], amount: float, round_to: int = 8) -> tuple[Operator, ...]:
    """As in a network whose channels are pruned evenly until ``amount`` (0–1) of its multiply-adds is gone.

    Widths become multiples of ``round_to``; channels of the picture and of answers stay. Raises CompressionError for an
    amount outside 0–1.
    """
    if not 0 <= amount < 1:
        raise CompressionError(f"the share of multiply-adds to prune must be from 0 to below 1, got {amount}")
    if not amount:
        return tuple(operators)
    target, low, high = (1 - amount) * macs(operators), 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        if macs(at_width(operators, middle, round_to)) < target:
            low = middle
        else:
            high = middle
    return at_width(operators, high, round_to)


def at_width(operators: Sequence[Operator], width: float, round_to: int = 8) -> tuple[Operator, ...]:
    """As in a network of ``width`` times as many channels everywhere, but for the picture's and the answers'."""
    return tuple(_narrow(operator, width, round_to) for operator in operators)


def _narrow(operator: Operator, width: float, round_to: int) -> Operator:
    def kept(count: int, fixed: bool) -> int:
        return count if fixed or count <= round_to else max(round_to, round(count * width / round_to) * round_to)

    if operator.groups > 1:  # groups keep their widths; there are fewer of them
        groups = operator.groups if any(operator.fixed) else max(1, round(operator.groups * width))
        if operator.kind == "depthwise":
            groups = kept(operator.groups, any(operator.fixed))
        inputs, outputs = (groups * count // operator.groups for count in (operator.inputs, operator.outputs))
        return replace(operator, inputs=inputs, outputs=outputs, groups=groups)
    inputs, outputs = map(kept, (operator.inputs, operator.outputs), operator.fixed)
    return replace(operator, inputs=inputs, outputs=outputs)


def resized(operators: Sequence[Operator], share: float) -> tuple[Operator, ...]:
    """As for a picture of ``share`` times as many pixels: maps follow, what was pooled to one place stays."""

    def places(count: int) -> int:
        return count if count <= 1 else max(1, round(count * share))

    return tuple(replace(one, read=places(one.read), written=places(one.written)) for one in operators)


def of_nodes(found: Mapping[str, Operator], names: Iterable[str]) -> tuple[Operator, ...]:
    """Of a graph's operators those of some nodes, as a segment has them."""
    return tuple(found[name] for name in names if name in found)
