"""What a graph costs: multiply-adds, parameters and the bytes that must move, node by node."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sharedbb.graph.capture import VIEWS
from sharedbb.graph.ir import Graph, Node, Value, Weight
from sharedbb.graph.schema import arguments


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one operator call, or of several together (they add up).

    ``macs``: multiply-adds of convolutions, matrix products and attention (one is two floating-point operations).
    Element-wise operators, norms, pooling and upsampling count 0: they are bound by the bytes they move.
    ``weight_bytes``: all weights read. ``activation_bytes_read`` and ``activation_bytes_written``:
    feature maps read and written as if every call stood alone (fusing saves some of it), in the graph's own dtypes;
    operators that only look at the same memory otherwise (``reshape``, ``permute``, ``chunk``) move nothing.
    ``parameters``: elements of the weights without the running statistics of batch norm, as torch counts them.
    """

    macs: int = 0
    weight_bytes: int = 0
    activation_bytes_read: int = 0
    activation_bytes_written: int = 0
    parameters: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.weight_bytes + other.weight_bytes,
            self.activation_bytes_read + other.activation_bytes_read,
            self.activation_bytes_written + other.activation_bytes_written,
            self.parameters + other.parameters,
        )


def cost(graph: Graph) -> dict[str, Cost]:
    """The cost of every node, for the shapes the graph was captured with, batch included. Inputs cost nothing."""
    return {node.name: _cost(graph, node) for node in graph.nodes}


def total(costs: Iterable[Cost]) -> Cost:
    """The costs together. A weight that several nodes read counts at each of them."""
    return sum(costs, Cost())


def _cost(graph: Graph, node: Node) -> Cost:
    if node.op == "input":
        return Cost()
    call = _Call(graph, node)
    weights = [graph.weights[digest] for digest in node.weights]
    learned = weights
    if node.kind == "batch_norm":
        scale = (call.args["weight"], call.args["bias"])
        learned = [graph.weights[leaf.digest] for leaf in scale if isinstance(leaf, Weight)]
    moves = node.kind not in VIEWS
    count = _MACS.get(node.kind)
    return Cost(
        macs=count(call) if count else 0,
        weight_bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        activation_bytes_read=sum(_bytes(graph.by_name[name]) for name in dict.fromkeys(node.values)) if moves else 0,
        activation_bytes_written=_bytes(node) if moves else 0,
        parameters=sum(weight.numel() for weight in learned),
    )


def _bytes(node: Node) -> int:
    return math.prod(node.shape) * node.dtype.itemsize


class _Call:
    """A call's arguments by name; ``call["weight"]`` is the shape of one that is a tensor."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph = graph
        self.result = node.shape
        self.args = arguments(node)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self.shape(self.args[name])

    def shape(self, operand: Value | Weight) -> tuple[int, ...]:
        """The shape of a value or weight."""
        if isinstance(operand, Weight):
            return tuple(self.graph.weights[operand.digest].shape)
        return self.graph.by_name[operand.name].shape


def _convolution(call: _Call) -> int:
    """Every output is one filter's dot product: the input channels of its group times the taps."""
    if call.args.get("transposed"):
        return _transposed_convolution(call)
    return math.prod(call.result) * math.prod(call["weight"][1:])


def _transposed_convolution(call: _Call) -> int:
    """Every input is spread by one filter: the output channels of its group times the taps."""
    return math.prod(call["self"]) * math.prod(call["weight"][1:])


def _product(call: _Call) -> int:
    """Every element of the result is a dot product over the first operand's last dimension."""
    return math.prod(call.result) * call["self"][-1]


def _added_product(call: _Call) -> int:
    """``addmm`` and ``baddbmm``: the product of the second and third operand."""
    return math.prod(call.result) * call["mat1" if "mat1" in call.args else "batch1"][-1]


def _attention(call: _Call) -> int:
    """Queries times keys, then what they weigh; a mask saves nothing."""
    *batch, queries, width = call["query"]
    keys, depth = call["value"][-2:]
    return math.prod(batch) * queries * keys * (width + depth)


def _einsum(call: _Call) -> int:
    """One multiply-add for every combination of the letters of two operands; other forms are not counted."""
    equation, operands = call.args["equation"].replace(" ", ""), call.args["tensors"]
    terms = equation.split("->")[0].split(",")
    if len(operands) != 2 or "." in equation:
        return 0
    extents: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        extents.update(zip(term, call.shape(operand), strict=True))
    return math.prod(extents.values())


_MACS: dict[str, Callable[[_Call], int]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed_convolution),
    **dict.fromkeys(("linear", "matmul", "mm", "bmm"), _product),
    **dict.fromkeys(("addmm", "baddbmm"), _added_product),
    "scaled_dot_product_attention": _attention,
    "einsum": _einsum,
}
