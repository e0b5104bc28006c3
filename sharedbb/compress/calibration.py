"""What the quantizing tools share: pictures as they take them, and their results read back as grids of our edges."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from sharedbb.errors import CompressionError
from sharedbb.graph.cut import fold_constants
from sharedbb.graph.ir import Graph, Node, Weight, leaves, rewrite
from sharedbb.graph.lower import to_module
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.graph.quantization import SMALLEST_SCALE, Grid, edges

ROUNDED = frozenset({"conv2d", "conv_transpose2d", "linear", "matmul", "bmm"})
"""Operators that integers make faster: both their operands are rounded."""


def prepared(graph: Graph) -> Graph:
    """The graph as tools take it: batch norms folded, constants computed, every call with weights of its own.

    (A tool that quantizes a weight does it once, and would take the second call's for floating-point numbers.)
    """
    graph = fold_constants(fold_batch_norms(graph))
    weights: dict[str, Tensor] = {}
    nodes = []
    for node in graph.nodes:
        place = iter(range(sum(1 for _ in leaves(node.args))))

        def own(leaf: Any, node: Node = node, place: Iterator[int] = place) -> Any:
            at = next(place)
            if not isinstance(leaf, Weight):
                return leaf
            name = hashlib.sha256(f"{node.name}.{at}".encode()).hexdigest()
            weights[name] = graph.weights[leaf.digest]
            return Weight(name)

        named = [leaf.digest for leaf in leaves(node.kwargs) if isinstance(leaf, Weight)]
        weights.update({name: graph.weights[name] for name in named})
        nodes.append(replace(node, args=rewrite(node.args, own)))
    return Graph(tuple(nodes), graph.inputs, graph.outputs, weights)


def exported(graph: Graph) -> fx.GraphModule:
    """The prepared graph as a module that ``torch.export`` made, which is what the tools work on."""
    example = tuple(torch.zeros(graph.by_name[name].shape) for name in graph.inputs)
    with torch.no_grad():
        module: Any = torch.export.export(to_module(graph), example, strict=False).module()
    return module  # type: ignore[no-any-return]


def stems(graph: Graph) -> frozenset[str]:
    """The calls that read the picture itself: they stay in floating point.

    Their few input channels fill no integer unit, and they are what an input transform rewrites.
    """
    return frozenset(node.name for node in graph.nodes if set(node.values) & set(graph.inputs))


def left_alone(graph: Graph, ignore: Sequence[str]) -> frozenset[str]:
    """The calls of the modules that ``ignore`` names, and the stems. Raises CompressionError for a name of nothing."""
    found = set(stems(graph))
    for name in ignore:
        calls = [node.name for node in graph.nodes if node.origin == name or node.origin.startswith(f"{name}.")]
        if not calls:
            raise CompressionError(f"nothing to leave alone is called {name!r}; name a module, such as 'heads.surface'")
        found.update(calls)
    return frozenset(found)


def calls_of(module: fx.GraphModule) -> list[fx.Node]:
    """The calls that compute with the picture, in order, without those that round."""
    live: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder" or not live.isdisjoint(node.all_input_nodes):
            live.add(node)
    return [node for node in module.graph.nodes if node in live and node.op == "call_function" and not _rounds(node)]


def read_back(graph: Graph, module: fx.GraphModule) -> tuple[dict[str, Grid], dict[str, Tensor]]:
    """Grids by edge, and changed biases by edge, of a graph that a tool gave back with quantize calls in it.

    ``graph`` is what ``exported`` was made from. Raises CompressionError when the tool changed the order of calls.
    """
    theirs, ours = calls_of(module), [node for node in graph.nodes if node.op != "input"]
    if [_name(call) for call in theirs] != [node.op.removeprefix("aten.") for node in ours]:
        raise CompressionError(
            f"the tool gave back {len(theirs)} calls for {len(ours)}, or in another order; "
            f"use tool='own', or a version of it that this one was tested with"
        )
    call_of = {node.name: call for node, call in zip(ours, theirs, strict=True)}
    grids: dict[str, Grid] = {}
    biases: dict[str, Tensor] = {}
    for edge, node, place, leaf in edges(graph):
        operand = list(_flat(call_of[node.name].args))[place]
        if isinstance(operand, fx.Node) and _rounds(operand):
            grids[edge] = _grid(module, operand)
        elif isinstance(leaf, Weight) and place == 2 and isinstance(operand, fx.Node) and operand.op == "get_attr":
            bias = _attribute(module, operand).float().reshape(graph.weights[leaf.digest].shape)
            if not torch.equal(bias, graph.weights[leaf.digest]):
                biases[edge] = bias.clone()
    return grids, biases


def weight_grids(
    graph: Graph, alone: frozenset[str], bits: Mapping[str, int] | int, *, symmetric: bool, per_channel: bool
) -> dict[str, Grid]:
    """Grids of the weights of all rounded calls but those left alone; ``bits`` for all, or by module."""
    grids = {}
    for edge, node, place, leaf in edges(graph):
        if isinstance(leaf, Weight) and place == 1 and node.kind in ROUNDED and node.name not in alone:
            count = bits if isinstance(bits, int) else bits.get(node.origin, 8)
            weight = graph.weights[leaf.digest]
            axis = _outputs_axis(node.kind, weight) if per_channel else None
            grids[edge] = grid_of_weight(weight, count, axis, symmetric=symmetric)
    return grids


def _outputs_axis(kind: str, weight: Tensor) -> int | None:
    """Where a weight has its output channels; a scale along any other axis would not come out of the sums."""
    if kind in ("matmul", "bmm"):
        return weight.ndim - 1 if weight.ndim > 1 else None
    return int(kind == "conv_transpose2d")


def grid_of_weight(weight: Tensor, bits: int, axis: int | None, *, symmetric: bool) -> Grid:
    """The grid of ``2 ** bits`` levels (one less when symmetric) that just holds a weight, by channel of ``axis``.

    Symmetric ones have as many integers below zero as above, also where no weight is negative.
    """
    if axis is None:
        low, high = weight.min().reshape(()), weight.max().reshape(())
    else:
        rows = weight.detach().movedim(axis, 0).flatten(1)
        low, high = rows.amin(1), rows.amax(1)
    if symmetric:
        return _centred(torch.maximum(-low, high), bits, axis)
    return grid_of_range(low, high, bits, axis, symmetric=False)


def grid_of_range(low: Tensor, high: Tensor, bits: int, axis: int | None, *, symmetric: bool) -> Grid:
    """The grid of ``bits`` bits that holds values between ``low`` and ``high``.

    Symmetric: integers −(2^(b−1)−1)…2^(b−1)−1, zero point 0, or 0…2^b−1 where nothing is negative. Asymmetric: 0…2^b−1
    with zero on the grid, ``scale = (high − low) / (2^b − 1)``, ``zero_point = round(−low / scale)``
    (Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018).
    """
    low, high = low.float().clamp(max=0.0), high.float().clamp(min=0.0)
    levels = 2**bits - 1
    if symmetric and bool((low < 0).any()):
        return _centred(torch.maximum(-low, high), bits, axis)
    scale = ((high - low) / levels).clamp(min=SMALLEST_SCALE)
    zero_point = (-low / scale).round().clamp(0, levels).to(torch.int32)
    return Grid(scale, zero_point, 0, levels, axis)


def _centred(largest: Tensor, bits: int, axis: int | None) -> Grid:
    """The grid of ``bits`` bits with zero in the middle that holds values up to ``largest`` either way."""
    top = 2 ** (bits - 1) - 1
    scale = (largest.float() / top).clamp(min=SMALLEST_SCALE)
    return Grid(scale, torch.zeros_like(scale, dtype=torch.int32), -top, top, axis)


def _rounds(node: fx.Node) -> bool:
    return "quantize_per_" in str(node.target)


def _name(call: fx.Node) -> str:
    return "getitem" if call.target is operator.getitem else str(call.target).removeprefix("aten.")


def _flat(tree: Any) -> Iterator[Any]:
    if isinstance(tree, tuple | list):
        for branch in tree:
            yield from _flat(branch)
    else:
        yield tree


def _attribute(module: fx.GraphModule, node: fx.Node) -> Tensor:
    found: Any = module
    for part in str(node.target).split("."):
        found = getattr(found, part)
    assert isinstance(found, Tensor)
    return found.detach()


def _grid(module: fx.GraphModule, dequantize: fx.Node) -> Grid:
    """What a dequantize call multiplies by."""

    def tensor(value: Any, dtype: torch.dtype) -> Tensor:
        found = _attribute(module, value) if isinstance(value, fx.Node) else torch.tensor(value)
        return found.to(dtype)

    told: list[Any] = list(dequantize.args[1:])
    scale, zero_point = tensor(told[0], torch.float32).clamp(min=SMALLEST_SCALE), tensor(told[1], torch.int32)
    if "per_channel" in str(dequantize.target):
        axis, low, high = told[2:5]
        return Grid(scale.flatten(), zero_point.flatten(), low, high, axis)
    low, high = told[2:4]
    return Grid(scale.reshape(()), zero_point.reshape(()), low, high)
