"""A graph run on one picture with every value kept, so that a change costs only what follows on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sharedbb.graph.capture import operator_of
from sharedbb.graph.ir import Graph, Node, Value, Weight, rewrite

Call = Callable[..., Any]


class Replay:
    """Runs ``graph`` node by node, eagerly; equal calls give bit-equal values.

    All values of one picture are kept at a time: some hundred megabytes for a network of the usual size.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._values: dict[str, Any] = {}

    @torch.no_grad()
    def whole(self, image: Tensor) -> dict[str, Tensor]:
        """The answers to a picture (normalised float32 NCHW); its values are kept for ``again``."""
        self._values = {self.graph.inputs[0]: image}
        return self._answers(self._values, (node for node in self.graph.nodes if node.op != "input"), {})

    @torch.no_grad()
    def again(self, calls: Mapping[str, Call]) -> dict[str, Tensor]:
        """The answers to the picture of the last ``whole``, with some nodes' operators replaced.

        ``calls``: node name to what is called instead, with the node's own arguments.
        """
        following = self.following(calls)
        return self._answers(dict(self._values), (node for node in self.graph.nodes if node.name in following), calls)

    def following(self, names: Iterable[str]) -> set[str]:
        """The nodes of these names and all that depends on them."""
        found = set(names)
        for node in self.graph.nodes:
            if not found.isdisjoint(node.values):
                found.add(node.name)
        return found

    def _answers(self, values: dict[str, Any], nodes: Iterable[Node], calls: Mapping[str, Call]) -> dict[str, Tensor]:
        def known(leaf: Any) -> Any:
            if isinstance(leaf, Value):
                return values[leaf.name]
            return self.graph.weights[leaf.digest] if isinstance(leaf, Weight) else leaf

        for node in nodes:
            call = calls.get(node.name) or operator_of(node.op)
            values[node.name] = call(*rewrite(node.args, known), **dict(rewrite(node.kwargs, known)))
        return {answer: values[name] for answer, name in self.graph.outputs.items()}
