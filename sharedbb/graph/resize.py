"""A segment at another size of its inputs: what a crop, or a batch of tiles, runs through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sharedbb.errors import GraphError
from sharedbb.graph.capture import operator_of
from sharedbb.graph.cut import Segment
from sharedbb.graph.ir import Node, Value, Weight, rewrite

BatchSize = tuple[int, int, int]


def resized(segment: Segment, sizes: Mapping[str, BatchSize]) -> Segment:
    """The same segment for inputs of other batch sizes, heights and widths (``sizes``, by input), all shapes anew.

    Raises GraphError where the segment cannot take them, because some operator was captured with a fixed size.
    """
    weights = {digest: tensor.to("meta") for digest, tensor in segment.graph.weights.items()}
    values: dict[str, Any] = {}

    def at_hand(leaf: Any) -> Any:
        if isinstance(leaf, Value):
            return values[leaf.name]
        return weights[leaf.digest] if isinstance(leaf, Weight) else leaf

    nodes = []
    for node in segment.graph.nodes:
        try:
            values[node.name] = _evaluated(node, sizes, at_hand)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            reason = str(error).strip().splitlines()[0]
            raise GraphError(f"segment {segment.name} does not run at another size: {node.name}: {reason}") from error
        first = values[node.name][0] if isinstance(values[node.name], (tuple, list)) else values[node.name]
        nodes.append(replace(node, shape=tuple(first.shape)))
    return replace(segment, graph=replace(segment.graph, nodes=tuple(nodes)))


def _evaluated(node: Node, sizes: Mapping[str, BatchSize], at_hand: Any) -> Any:
    """The node's value without its numbers."""
    if node.op == "input":
        batch, height, width = sizes[node.name]
        return torch.empty((batch, node.shape[1], height, width), dtype=node.dtype, device="meta")
    args = rewrite(node.args, at_hand)
    kwargs = {key: rewrite(value, at_hand) for key, value in node.kwargs}
    return operator_of(node.op)(*map(_listed, args), **{key: _listed(value) for key, value in kwargs.items()})


def _listed(argument: Any) -> Any:
    return [_listed(item) for item in argument] if isinstance(argument, tuple) else argument
