"""Sharing is hash-consing: two nodes are one when operator, arguments and the content of their weights are equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from sharedbb.errors import GraphError
from sharedbb.graph.capture import digest, is_random
from sharedbb.graph.ir import Graph, Node, Value, Weight, leaves, rewrite

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two networks stop being one, and the first thing that differs.

    ``origin`` and ``other`` name the modules (``net/path``); ``reason`` is one line for people.
    """

    network: str
    other_network: str
    origin: str
    other: str
    reason: str


@dataclass(frozen=True)
class Merged:
    """One graph for several networks.

    ``networks`` maps each network to the merged nodes that it needs; ``separate`` counts the operators of the networks
    one by one; ``partings`` tells for each network where it left the network before it that it shares most with.
    """

    graph: Graph
    networks: Mapping[str, frozenset[str]]
    separate: int
    partings: tuple[Parting, ...]


def merge(graphs: Mapping[str, Graph]) -> Merged:
    """Merge graphs that read the same input into one; outputs keep their names, equal computations become one node.

    A convolution followed by batch norm equals the convolution with the norm folded in: networks saved in either form
    meet. What stands in the merged graph is then the form of the first, untouched, so every network whose own form it
    is computes bit for bit what it computed alone.

    Raises GraphError when the inputs differ in shape or dtype.
    """
    _require_one_input(graphs)
    builder = _Builder()
    mapped = {name: builder.add(graph) for name, graph in graphs.items()}
    outputs = {answer: mapped[name][node] for name, graph in graphs.items() for answer, node in graph.outputs.items()}
    merged = prune(Graph(tuple(builder.nodes), ("input",), outputs, builder.weights))
    alive = merged.by_name.keys()
    networks = {
        name: frozenset(ancestors(merged, [mapped[name][node] for node in graph.outputs.values()]) & alive)
        for name, graph in graphs.items()
    }
    partings = _partings(graphs, mapped, networks)
    return Merged(merged, networks, sum(graph.operators for graph in graphs.values()), partings)


def _require_one_input(graphs: Mapping[str, Graph]) -> None:
    if not graphs:
        raise GraphError("nothing to merge: give at least one network")
    described = {}
    for name, graph in graphs.items():
        node = graph.by_name[graph.inputs[0]]
        described[name] = (node.shape, node.dtype)
    if len(set(described.values())) > 1:
        listed = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in described.items())
        raise GraphError(f"networks to merge must read the same input, got {listed}")


class _Builder:
    """Adds graphs one after another; a node whose key is known already becomes the known node."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.weights: dict[str, Tensor] = {}
        self.known: dict[Key, str] = {}
        self.folded: dict[Key, tuple[str, str]] = {}

    def add(self, graph: Graph) -> dict[str, str]:
        """Add one graph; returns where each of its nodes stands now."""
        mapped: dict[str, str] = {}
        for node in graph.nodes:
            moved = _moved(node, mapped)
            key = self._key(graph, node, moved, mapped)
            if key not in self.known:
                name = f"n{len(self.nodes)}" if node.op != "input" else "input"
                self.nodes.append(replace(moved, name=name))
                self.weights.update({found: graph.weights[found] for found in node.weights})
                self.known[key] = name
            mapped[node.name] = self.known[key]
        return mapped

    def _key(self, graph: Graph, node: Node, moved: Node, mapped: Mapping[str, str]) -> Key:
        """What the node computes, with batch norms seen through to the convolution they fold into."""
        convolution = folded_convolution(graph, node)
        if is_random(node):
            return (len(self.nodes),)  # equal to nothing
        if convolution is None:
            return _call_key(moved, moved.args)
        weight, bias = self._fold(graph, convolution, node)
        args = _moved(convolution, mapped).args
        return _call_key(convolution, (args[0], Weight(weight), Weight(bias), *args[3:]))

    def _fold(self, graph: Graph, convolution: Node, norm: Node) -> tuple[str, str]:
        parts = (convolution.args[1:3], norm.args[1:5], norm.args[7])
        if parts not in self.folded:
            weight, bias = fold(graph, convolution, norm)
            self.folded[parts] = (digest(weight), digest(bias))
        return self.folded[parts]


def _call_key(node: Node, args: tuple[Any, ...]) -> Key:
    return (node.op, _comparable(args), _comparable(node.kwargs), node.shape, node.dtype)


def _comparable(tree: Any) -> Any:
    """Arguments with their types, so that 1, 1.0 and True stay apart; floats as text, so that 0.0 and -0.0 do."""

    def comparable(leaf: Any) -> Any:
        if isinstance(leaf, Value | Weight):
            return leaf
        return type(leaf).__name__, repr(leaf) if isinstance(leaf, float) else leaf

    return rewrite(tree, comparable)


def _moved(node: Node, mapped: Mapping[str, str]) -> Node:
    def move(leaf: Any) -> Any:
        return Value(mapped[leaf.name]) if isinstance(leaf, Value) else leaf

    return replace(node, args=rewrite(node.args, move), kwargs=rewrite(node.kwargs, move))


def folded_convolution(graph: Graph, norm: Node) -> Node | None:
    """The convolution that ``norm`` (an inference-mode batch norm) can be folded into, if it is there."""
    if norm.kind != "batch_norm" or norm.args[5] is not False or not isinstance(norm.args[0], Value):
        return None
    if not all(isinstance(part, Weight) for part in norm.args[3:5]) or _is_computed(norm.args[1:3]):
        return None
    before = graph.by_name[norm.args[0].name]
    if before.kind != "conv2d" or len(graph.users[before.name]) != 1 or before.name in graph.outputs.values():
        return None
    return None if _is_computed(before.args[1:3]) else before


def _is_computed(parts: tuple[Any, ...]) -> bool:
    """Whether the network works out one of these weights itself."""
    return any(isinstance(part, Value) for part in parts)


def fold(graph: Graph, convolution: Node, norm: Node) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``convolution`` with ``norm`` folded in, as ``torch.nn.utils.fuse_conv_bn_weights`` gives."""

    def tensor(leaf: Any) -> Tensor | None:
        return graph.weights[leaf.digest] if isinstance(leaf, Weight) else None

    bias = tensor(convolution.args[2]) if len(convolution.args) > 2 else None
    scale, shift, mean, variance = (tensor(leaf) for leaf in norm.args[1:5])
    weight = tensor(convolution.args[1])
    assert weight is not None
    assert mean is not None
    assert variance is not None
    with torch.no_grad():
        fused = torch.nn.utils.fusion.fuse_conv_bn_weights(
            weight, bias, mean, variance, float(norm.args[7]), scale, shift
        )
    return fused[0].detach(), fused[1].detach()


def fold_batch_norms(graph: Graph) -> Graph:
    """The same network with every foldable batch norm folded into its convolution (equal up to rounding)."""
    weights = dict(graph.weights)
    nodes: list[Node] = []
    gone: dict[str, str] = {}
    for node in graph.nodes:
        convolution = folded_convolution(graph, node)
        if convolution is None:
            nodes.append(_moved_through(node, gone))
            continue
        weight, bias = fold(graph, convolution, node)
        names = digest(weight), digest(bias)
        weights.update({names[0]: weight, names[1]: bias})
        rest = (convolution.args + (None,) * (3 - len(convolution.args)))[3:]
        source = _moved_through(convolution, gone).args[0]
        args = (source, Weight(names[0]), Weight(names[1]), *rest)
        nodes.append(replace(convolution, name=node.name, args=args, origin=convolution.origin))
        gone[convolution.name] = node.name
    return prune(Graph(tuple(nodes), graph.inputs, graph.outputs, weights))


def _moved_through(node: Node, gone: Mapping[str, str]) -> Node:
    def move(leaf: Any) -> Any:
        return Value(gone.get(leaf.name, leaf.name)) if isinstance(leaf, Value) else leaf

    return replace(node, args=rewrite(node.args, move), kwargs=rewrite(node.kwargs, move))


def ancestors(graph: Graph, names: list[str]) -> set[str]:
    """The given nodes and everything that they depend on."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph.by_name[name].values)
    return found


def prune(graph: Graph) -> Graph:
    """The same graph without nodes that no output needs and weights that no node reads."""
    alive = ancestors(graph, list(graph.outputs.values())) | set(graph.inputs)
    nodes = tuple(node for node in graph.nodes if node.name in alive)
    used = {found for node in nodes for found in node.weights}
    return Graph(nodes, graph.inputs, graph.outputs, {key: graph.weights[key] for key in graph.weights if key in used})


def _partings(
    graphs: Mapping[str, Graph], mapped: Mapping[str, Mapping[str, str]], networks: Mapping[str, frozenset[str]]
) -> tuple[Parting, ...]:
    """For every network after the first: where and why it leaves the earlier one that it shares most with."""
    found = []
    names = list(graphs)
    for position, name in enumerate(names[1:], 1):
        other = max(names[:position], key=lambda earlier: len(networks[earlier] & networks[name]))
        parting = _parting(name, graphs[name], mapped[name], other, graphs[other], mapped[other])
        if parting is not None:
            found.append(parting)
    return tuple(found)


def _parting(
    name: str, graph: Graph, mapped: Mapping[str, str], other: str, reference: Graph, placed: Mapping[str, str]
) -> Parting | None:
    """Compare the first node of ``graph`` that is not shared with what ``reference`` computes from the same values."""
    stands, mine = set(placed.values()), set(mapped.values())
    for node in graph.nodes:
        if mapped[node.name] in stands or _leads_only_into_fold(graph, node):
            continue
        reads = [mapped[value] for value in _start(graph, node).values]
        rivals = [
            rival
            for rival in reference.nodes
            if rival.values
            and not _leads_only_into_fold(reference, rival)
            and [placed[value] for value in _start(reference, rival).values] == reads
        ]
        rivals = [rival for rival in rivals if placed[rival.name] not in mine] or rivals
        if not rivals:
            return Parting(name, other, node.origin, "", f"{other} computes nothing more from what {name} reads here")
        rival = next((rival for rival in rivals if _start(reference, rival).op == _start(graph, node).op), rivals[0])
        return Parting(name, other, node.origin, rival.origin, _difference(graph, node, reference, rival))
    return None


def _start(graph: Graph, node: Node) -> Node:
    """The convolution that a batch norm folds into, or the node itself: what to compare two networks by."""
    return folded_convolution(graph, node) or node


def _leads_only_into_fold(graph: Graph, node: Node) -> bool:
    """A convolution that only its batch norm reads is compared together with that norm."""
    return any(folded_convolution(graph, graph.by_name[user]) is node for user in graph.users[node.name])


def _difference(graph: Graph, node: Node, reference: Graph, rival: Node) -> str:
    pairs = [(_start(graph, node), _start(reference, rival))]
    if pairs[0][0].op != pairs[0][1].op:
        return f"operator {pairs[0][0].kind} against {pairs[0][1].kind}"
    if pairs[0] != (node, rival) and node.op == rival.op:
        pairs.append((node, rival))
    for a, b in pairs:
        for which, one, two in _arguments(a, b):
            if isinstance(one, Weight) and isinstance(two, Weight):
                if one != two:
                    return _weight_difference(a, graph.weights[one.digest], reference.weights[two.digest])
            elif not isinstance(one, Value) and not isinstance(two, Value) and one != two:
                return f"{a.kind}: argument {which} is {_plain(one)} against {_plain(two)}"
    if node.shape != rival.shape:
        return f"{node.kind}: result of shape {node.shape} against {rival.shape}"
    return f"{node.kind}: reads other values"


def _arguments(a: Node, b: Node) -> Iterator[tuple[int | str, Any, Any]]:
    """The arguments of two calls side by side, by position and by name; None where one of them has none."""
    for position, (one, two) in enumerate(zip_longest(leaves(a.args), leaves(b.args))):
        yield position, one, two
    named, others = dict(a.kwargs), dict(b.kwargs)
    for name in sorted({*named, *others}):
        yield name, named.get(name), others.get(name)


def _plain(leaf: Any) -> str:
    return "a weight" if isinstance(leaf, Weight) else repr(leaf)


def _weight_difference(node: Node, one: Tensor, two: Tensor) -> str:
    if one.shape != two.shape or one.dtype != two.dtype:
        return f"{node.kind}: weight of shape {tuple(one.shape)} {one.dtype} against {tuple(two.shape)} {two.dtype}"
    apart = (one.double() - two.double()).abs()
    share = (apart > 0).double().mean().item()
    return (
        f"{node.kind}: weights of shape {tuple(one.shape)} differ in {share:.1%} of values, by up to {apart.max():.3g}"
    )
