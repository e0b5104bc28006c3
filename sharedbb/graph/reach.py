"""Which outputs a changed pixel can touch, computed for every node of a graph from what each operator reads.

For a chain of kernels kᵢ, strides sᵢ and paddings pᵢ (Sᵢ = ∏ s): S = ∏ s, L = Σ pᵢ · Sᵢ₋₁, R = Σ (kᵢ − 1 − pᵢ) · Sᵢ₋₁.
Branches take the widest. What is not proved local is global, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping

from sharedbb.errors import GraphError
from sharedbb.graph.axis import Axis, Crop, Global, Reach, crop, dirty, needed, valid
from sharedbb.graph.ir import Graph, Node
from sharedbb.graph.rules import apply
from sharedbb.graph.rules.call import Call

__all__ = ["Axis", "Crop", "Global", "Reach", "crop", "dirty", "needed", "reach", "valid"]


def reach(graph: Graph, source: str | None = None, dims: tuple[int, int] = (-2, -1)) -> dict[str, Reach | Global]:
    """The reach of every node that depends on ``source`` (a node's name; by default the graph's one input).

    ``dims`` says where y and x lie in the source's shape, counted from the end: (-2, -1) for NCHW, (-3, -2) for NHWC.
    Nodes that do not depend on the source are absent. Local means: the same function at every place, of a bounded
    window, so that a crop can be recomputed alone; a constant that differs from place to place makes a value global.
    Padding does not: it is what ``valid`` accounts for.

    Raises GraphError for an unknown source, or for none given where the graph has several inputs.
    """
    source = _source(graph, source)
    if len(graph.by_name[source].shape) < -min(dims):
        start: Reach | Global = Global(f"{source} has shape {graph.by_name[source].shape}: no axes of a picture")
    else:
        start = Reach(dims=dims)
    constants = _constants(graph)
    found: dict[str, Reach | Global] = {source: start}
    for node in graph.nodes:
        if any(name in found for name in node.values):
            found[node.name] = _of_call(graph, node, found, constants)
    return found


def _source(graph: Graph, source: str | None) -> str:
    if source is None:
        if len(graph.inputs) != 1:
            raise GraphError(f"the graph has {len(graph.inputs)} inputs; say which, one of {', '.join(graph.inputs)}")
        return graph.inputs[0]
    if source not in graph.by_name:
        raise GraphError(f"no node named {source!r} to start from")
    return source


def _constants(graph: Graph) -> frozenset[str]:
    """Nodes that depend on no input."""
    constants: set[str] = set()
    for node in graph.nodes:
        if node.op != "input" and constants.issuperset(node.values):
            constants.add(node.name)
    return frozenset(constants)


def _of_call(
    graph: Graph, node: Node, found: Mapping[str, Reach | Global], constants: frozenset[str]
) -> Reach | Global:
    read: dict[str, Reach] = {}
    for name in node.values:
        known = found.get(name)
        if isinstance(known, Global):
            return known
        if known is not None:
            read[name] = known
    return apply(Call(graph, node, read, constants))
