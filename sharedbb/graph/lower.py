"""From a Graph back to something torch can run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sharedbb.graph.capture import operator_of
from sharedbb.graph.ir import Graph, Value, Weight
from sharedbb.graph.quantization import is_rounding


class GraphModule(torch.fx.GraphModule):
    """A Graph as a torch module: tensors in (the order of ``graph.inputs``), a dict of tensors out."""


def to_module(graph: Graph) -> nn.Module:
    """A module that runs the graph node by node: ``module(*inputs) -> dict[output name, Tensor]``.

    The weights are the graph's own tensors, not copies; each is a buffer named after its digest. What several calls
    round to the same grid is rounded once.
    """
    root = nn.Module()
    written = torch.fx.Graph()
    built: dict[str, torch.fx.Node] = {name: written.placeholder(name.replace(".", "_")) for name in graph.inputs}
    names: dict[str, torch.fx.Node] = {}

    def weight(digest: str) -> torch.fx.Node:
        if digest not in names:
            attribute = f"w_{digest[:24]}"
            root.register_buffer(attribute, graph.weights[digest])
            names[digest] = written.get_attr(attribute)
        return names[digest]

    def convert(tree: Any) -> Any:
        if isinstance(tree, tuple):
            return [convert(branch) for branch in tree]
        if isinstance(tree, Value):
            return built[tree.name]
        return weight(tree.digest) if isinstance(tree, Weight) else tree

    for digest in sorted({digest for node in graph.nodes for digest in node.weights}):
        weight(digest)
    rounded: dict[Any, torch.fx.Node] = {}
    for node in graph.nodes:
        if node.op == "input":
            continue
        call_of = (node.op, node.args, node.kwargs)
        if is_rounding(node) and call_of in rounded:
            built[node.name] = rounded[call_of]
            continue
        kwargs = {key: convert(value) for key, value in node.kwargs}
        call = written.call_function(operator_of(node.op), tuple(convert(arg) for arg in node.args), kwargs)
        built[node.name] = call
        if is_rounding(node):
            rounded[call_of] = call
    written.output({name: built[node] for name, node in graph.outputs.items()})
    return GraphModule(root, written)


def run(graph: Graph, *inputs: Tensor) -> dict[str, Tensor]:
    """Run the graph once, eagerly, without gradients: the reference for everything else."""
    with torch.no_grad():
        answers: dict[str, Tensor] = to_module(graph)(*inputs)
    return answers
