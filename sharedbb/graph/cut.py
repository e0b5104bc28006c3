"""A merged graph in segments: what every head needs, what some need, what one needs; long ones cut by stride.

Nodes that serve the same set of heads form a group (no path leaves a group and comes back, because whatever lies
between two nodes serves at least the heads of the later one). A group is then cut where a single tensor carries
everything on.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from sharedbb.graph.capture import digest, is_random, operator_of
from sharedbb.graph.ir import Graph, Node, Value, Weight, rewrite
from sharedbb.graph.merge import ancestors, prune
from sharedbb.graph.quantization import by_reader, is_rounding
from sharedbb.graph.reach import Reach, reach

Heads = frozenset[str]

# The finest stride after which a group is cut: earlier features are larger than the picture itself.
FINEST_CUT = 4

# The origin of nodes that only bring the picture into another form: a cut after them would part nothing.
REARRANGED = "transform"

# What the picture and a frame's other stages are called: a head of such a name must not be mistaken for one of them.
NAMES_TAKEN = frozenset(
    {
        *("frame", "input", "transform", "plan", "decode", "draw", "write", "jsonl", "trunk", "network"),
        *("observe", "warp", "audit", "certify"),
    }
)


@dataclass(frozen=True)
class Segment:
    """A pure function from feature maps to feature maps, and the heads that need it.

    ``graph`` has one ``input`` node for each of ``inputs`` (features by name; ``input`` is the picture) and gives
    ``outputs`` under their feature names. ``stride`` is the input height over the height of the last output, None when
    that has no height.
    """

    name: str
    graph: Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    heads: Heads
    stride: int | None


@dataclass(frozen=True, eq=False)
class Cut:
    """A graph's segments in execution order; ``answers`` maps each output name to the feature that holds it."""

    graph: Graph
    segments: tuple[Segment, ...]
    answers: Mapping[str, str]

    @property
    def features(self) -> tuple[str, ...]:
        """Everything that some segment hands on, in execution order."""
        return tuple(name for segment in self.segments for name in segment.outputs)


def head_of(answer: str) -> str:
    """The head an output belongs to: ``surface`` of ``surface.logits``."""
    return answer.split(".", 1)[0]


def fold_constants(graph: Graph) -> Graph:
    """The same graph with everything that does not depend on the input computed once and stored as a weight."""
    weights = dict(graph.weights)
    constants: dict[str, object] = {}
    nodes = []
    for node in graph.nodes:

        def known(leaf: object) -> object:
            return constants.get(leaf.name, leaf) if isinstance(leaf, Value) else leaf

        node = replace(node, args=rewrite(node.args, known), kwargs=rewrite(node.kwargs, known))
        if _stays(node) or node.name in graph.outputs.values():
            nodes.append(node)
            continue

        def tensor(leaf: object) -> object:
            return weights[leaf.digest] if isinstance(leaf, Weight) else leaf

        with torch.no_grad():
            found = operator_of(node.op)(*rewrite(node.args, tensor), **dict(rewrite(node.kwargs, tensor)))
        if not isinstance(found, torch.Tensor):
            nodes.append(node)
            continue
        name = digest(found)
        weights[name] = found
        constants[node.name] = Weight(name)
    return prune(Graph(tuple(nodes), graph.inputs, graph.outputs, weights))


def _stays(node: Node) -> bool:
    """Calls that depend on the picture, that give something else each time, or tell a backend what is an integer."""
    return node.op == "input" or bool(node.values) or is_random(node) or is_rounding(node)


def _computed(graph: Graph) -> Graph:
    """The same graph with answers that are the input itself given by a call: some segment must hold them."""
    if not set(graph.inputs).intersection(graph.outputs.values()):
        return graph
    copies = {
        name: replace(graph.by_name[name], name=f"{name}_itself", op="aten.mul.Tensor", args=(Value(name), 1.0))
        for name in graph.inputs
    }
    outputs = {answer: copies[name].name if name in copies else name for answer, name in graph.outputs.items()}
    return prune(Graph((*graph.nodes, *copies.values()), graph.inputs, outputs, graph.weights))


def cut(graph: Graph, together: Sequence[Heads] = ()) -> Cut:
    """Cut a graph into segments. Output names say the heads: ``surface`` or ``surface.logits``.

    Heads of one set of ``together`` always run together: what only they need is not divided among them, but what is
    computed place by place comes apart from what follows on it and looks at the whole picture.
    """
    graph = by_reader(_computed(graph))
    local = _maps(graph) if together else None
    needs = {name: _joined(heads, together) for name, heads in heads_of_nodes(graph).items()}
    everyone = frozenset(head_of(answer) for answer in graph.outputs)
    groups: dict[Heads, list[Node]] = {}
    for node in graph.nodes:
        if node.op != "input" and needs[node.name]:
            groups.setdefault(needs[node.name], []).append(node)
    segments: list[Segment] = []
    for heads, nodes in sorted(groups.items(), key=lambda item: (-len(item[0]), graph.nodes.index(item[1][0]))):
        parts = _split(graph, nodes, needs)
        if local is not None and heads != everyone:
            parts = [piece for part in parts for piece in _without_global(part, local)]
        prefix = "trunk" if heads == everyone else "+".join(sorted(heads, key=list(_order(graph)).index))
        alone = len(parts) == 1 and heads != everyone
        segments.extend(_segment(graph, prefix, part, heads, alone=alone) for part in parts)
    return Cut(graph, _in_order(_unique(segments), graph.inputs), dict(graph.outputs))


def _maps(graph: Graph) -> frozenset[str]:
    """Nodes whose values are feature maps, each place of which depends on a bounded window of the picture.

    What does not depend on the picture at all, such as weights that are rounded, goes with what reads it.
    """
    reached = reach(graph, graph.inputs[0])
    maps = {name for name, found in reached.items() if isinstance(found, Reach) and found.dims == (-2, -1)}
    for node in reversed(graph.nodes):
        if node.op != "input" and node.name not in reached and maps.intersection(graph.users[node.name]):
            maps.add(node.name)
    return frozenset(maps)


def _without_global(nodes: Sequence[Node], local: frozenset[str]) -> list[list[Node]]:
    """Nodes of a group as local ones and others, where there is work among the first."""
    maps = [node for node in nodes if node.name in local]
    others = [node for node in nodes if node.name not in local]
    return [maps, others] if others and _worth(maps) else [list(nodes)]


def _joined(heads: Heads, together: Sequence[Heads]) -> Heads:
    """The set that holds all of these heads, where there is one, or just these."""
    return next((companions for companions in together if heads and heads <= companions), heads)


def whole(parts: Cut, heads: Heads, *, features: bool = False, given: Collection[str] = ()) -> Segment:
    """All that the given heads need, from the picture to their answers, as one segment.

    With ``features`` it hands on every feature that its segments would, not the answers alone. Features that are
    ``given`` are inputs beside the picture and not computed, nor is what only they need.
    """
    graph = parts.graph
    answers = {name: node for name, node in graph.outputs.items() if head_of(name) in heads}
    if given:
        stubs = {name: replace(graph.by_name[name], op="input", args=(), kwargs=()) for name in given}
        graph = replace(graph, nodes=tuple(stubs.get(node.name, node) for node in graph.nodes))
    needed = ancestors(graph, list(answers.values()))
    nodes = [node for node in graph.nodes if node.name in needed]
    inputs = tuple(node.name for node in nodes if node.op == "input")
    weights = {found: graph.weights[found] for node in nodes for found in node.weights}
    handed_on = [name for name in parts.features if name in needed] if features else answers.values()
    outputs = tuple(dict.fromkeys(handed_on))
    part = Graph(tuple(nodes), inputs, {name: name for name in outputs}, weights)
    return Segment(name_of(heads, graph), part, inputs, outputs, heads, None)


def name_of(heads: Heads, graph: Graph) -> str:
    """``network`` for all heads, else the heads joined in the order of the outputs."""
    order = list(_order(graph))
    return "network" if heads == frozenset(order) else "+".join(sorted(heads, key=order.index)) + " (fused)"


def _order(graph: Graph) -> Sequence[str]:
    return tuple(dict.fromkeys(head_of(answer) for answer in graph.outputs))


def heads_of_nodes(graph: Graph) -> dict[str, Heads]:
    """For every node the heads that need it."""
    needs: dict[str, set[str]] = {node.name: set() for node in graph.nodes}
    for answer, name in graph.outputs.items():
        for needed in ancestors(graph, [name]):
            needs[needed].add(head_of(answer))
    for node in graph.nodes:  # the parts of a tuple stay with the call that makes it
        if node.op == "getitem":
            needs[node.name] = needs[node.values[0]]
    return {name: frozenset(heads) for name, heads in needs.items()}


def _split(graph: Graph, nodes: Sequence[Node], needs: Mapping[str, Heads]) -> list[list[Node]]:
    """Cut one group after the best tensor of each stride between its inputs' and its end's.

    What carries everything on is that tensor alone, or with those that it was cut after before.
    """
    tall = graph.by_name[graph.inputs[0]].shape
    members = {node.name for node in nodes}
    tuples = {node.values[0] for node in nodes if node.op == "getitem"}
    read = {name for node in nodes for name in node.values if name not in members}
    coarsest = max((stride_of(tall, graph.by_name[name].shape) or 1 for name in read), default=1)
    final = next((stride for node in reversed(nodes) if (stride := _stride(tall, node))), None)
    coarser_follows = _coarser_follows([_map_stride(tall, node) for node in nodes])
    last_use = {name: max((i for i, n in enumerate(nodes) if name in n.values), default=-1) for name in members}
    best: dict[int, tuple[tuple[bool, int, int], int]] = {}
    open_values: set[str] = set()
    for position, node in enumerate(nodes[:-1]):
        open_values = {name for name in open_values if last_use[name] > position}
        if last_use[node.name] > position:
            open_values.add(node.name)
        stride = _stride(tall, node)
        carried = {nodes[cut_after].name for _, cut_after in best.values()} if _map_stride(tall, node) else set()
        if open_values - carried != {node.name} or node.op == "getitem" or node.name in tuples or stride is None:
            continue
        if stride == final and not coarser_follows[position]:
            continue
        if stride < FINEST_CUT or stride <= coarsest or node.origin == REARRANGED:
            continue
        tapped = any(user not in members for user in graph.users[node.name])
        rank = (tapped, -_elements(node), position)
        if stride not in best or rank > best[stride][0]:
            best[stride] = (rank, position)
    ends = sorted(position for _, position in best.values() if _worth(nodes[position + 1 :]))
    starts = [0, *(end + 1 for end in ends)]
    return [list(nodes[start:end]) for start, end in zip(starts, [*starts[1:], len(nodes)], strict=True)]


def _map_stride(picture: tuple[int, ...], node: Node) -> int:
    """The stride of a map of more than one cell, 0 for anything else."""
    return (_stride(picture, node) or 0) if node.shape[2:] != (1, 1) else 0


def _stride(picture: tuple[int, ...], node: Node) -> int | None:
    """The stride of what a call computes; None for no feature map, and for what is only rounded for its reader."""
    return None if is_rounding(node) else stride_of(picture, node.shape)


def _coarser_follows(strides: Sequence[int]) -> list[bool]:
    """For every position, whether a larger stride comes after it."""
    following = [0, *itertools.accumulate(reversed(strides), max)][-2::-1]
    return [later > stride for stride, later in zip(strides, following, strict=True)]


def _worth(rest: Sequence[Node]) -> bool:
    """A cut pays only when work is left behind it: a few cheap calls stay where they are."""
    return any(node.kind in ("conv2d", "linear", "matmul", "bmm", "scaled_dot_product_attention") for node in rest)


def stride_of(picture: tuple[int, ...], shape: tuple[int, ...]) -> int | None:
    """The input's height over a feature map's, None for values that are no feature map.

    A feature map is coarser by the same stride in height and width, up to what rounding makes of it: other values of
    four dimensions (channels last, attention) are not.
    """
    if len(shape) != 4 or len(picture) != 4 or 0 in shape:
        return None
    sides = tuple(zip(picture[2:], shape[2:], strict=True))
    least = max(side / (cells + 1) for side, cells in sides)
    most = min(side / (cells - 1) if cells > 1 else math.inf for side, cells in sides)
    return round(picture[2] / shape[2]) if least < most else None


def _elements(node: Node) -> int:
    count = 1
    for extent in node.shape:
        count *= extent
    return count


def _segment(graph: Graph, prefix: str, nodes: Sequence[Node], heads: Heads, *, alone: bool) -> Segment:
    members = {node.name for node in nodes}
    inputs = tuple(dict.fromkeys(name for node in nodes for name in node.values if name not in members))
    answers = set(graph.outputs.values())
    outputs = tuple(
        node.name
        for node in nodes
        if node.name in answers or any(user not in members for user in graph.users[node.name])
    )
    stubs = tuple(replace(graph.by_name[name], op="input", args=(), kwargs=()) for name in inputs)
    digests = {found for node in nodes for found in node.weights}
    weights = {key: value for key, value in graph.weights.items() if key in digests}
    part = Graph((*stubs, *nodes), inputs, {name: name for name in outputs}, weights)
    stride = stride_of(graph.by_name[graph.inputs[0]].shape, graph.by_name[outputs[-1]].shape)
    name = prefix if alone and prefix not in NAMES_TAKEN else f"{prefix}/{stride or 'end'}"
    return Segment(name, part, inputs, outputs, heads, stride)


def _unique(segments: Sequence[Segment]) -> list[Segment]:
    """Names made unique: a second ``trunk/32`` becomes ``trunk/32b``."""
    seen: dict[str, int] = {}
    named = []
    for segment in segments:
        count = seen[segment.name] = seen.get(segment.name, 0) + 1
        named.append(segment if count == 1 else replace(segment, name=f"{segment.name}{chr(ord('a') + count - 1)}"))
    return named


def _in_order(segments: Sequence[Segment], inputs: Sequence[str]) -> tuple[Segment, ...]:
    """Segments so that each comes after those it reads."""
    ready, waiting, ordered = set(inputs), list(segments), []
    while waiting:
        runnable = next(segment for segment in waiting if ready.issuperset(segment.inputs))
        waiting.remove(runnable)
        ready.update(runnable.outputs)
        ordered.append(runnable)
    return tuple(ordered)
