"""Changes to one layer of a graph: what pruning, quantizing or clustering it alone would make of its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharedbb.compress.kmeans import kmeans, nearest
from sharedbb.compress.replay import Call
from sharedbb.graph.capture import operator_of
from sharedbb.graph.cost import Cost, cost
from sharedbb.graph.ir import Graph, Node, Value, Weight
from sharedbb.graph.quantization import Grid

LAYERS = ("conv2d", "linear")
"""Operators that are layers with weights; the weight's first axis is that of the outputs."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with weights: its module's path, operator, number of weights, and multiply-adds for a picture."""

    name: str
    kind: str
    parameters: int
    macs: int


@dataclass(frozen=True, slots=True)
class Site:
    """Where a layer stands in a graph: its weight, and its calls (a module that several scales share has several)."""

    layer: Layer
    weight: Tensor
    calls: tuple[Node, ...]


def sites(graph: Graph) -> dict[str, Site]:
    """The layers of a graph by name, in the order in which they run; their batch norms are calls of their own."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if node.kind in LAYERS and isinstance(node.args[1], Weight):
            found.setdefault(node.origin or node.name, []).append(node)
    costs = cost(graph)
    return {name: _site(name, calls, graph, costs) for name, calls in found.items()}


def _site(name: str, calls: Sequence[Node], graph: Graph, costs: Mapping[str, Cost]) -> Site:
    weight = graph.weights[calls[0].args[1].digest]
    macs = sum(costs[node.name].macs for node in calls)
    return Site(Layer(name, calls[0].kind, weight.numel(), macs), weight, tuple(calls))


def changed(graph: Graph, site: Site, method: str, strength: float) -> dict[str, Call]:
    """What to call instead of some nodes: ``prune`` a share of the outputs, ``quantize`` or ``cluster`` to bits."""
    match method:
        case "prune":
            return _pruned(graph, site, strength)
        case "quantize":
            bits = int(strength)
            return _with_weight(site, symmetric_grid(site.weight, bits).rounded(site.weight), bits)
        case "cluster":
            return _with_weight(site, clustered(site.weight, int(strength)))
    raise ValueError(method)


def _with_weight(site: Site, weight: Tensor, bits: int | None = None) -> dict[str, Call]:
    """The layer with another weight; with ``bits``, what it reads is rounded as well."""

    def call(operator: Any, value: Tensor, _: Tensor, *rest: Any, **named: Any) -> Any:
        given = value if bits is None else range_grid(value, bits).rounded(value)
        return operator(given, weight, *rest, **named)

    return {node.name: _bound(call, node) for node in site.calls}


def _pruned(graph: Graph, site: Site, share: float) -> dict[str, Call]:
    """The layer with the outputs of the least norm 0, behind the batch norm where there is one."""
    norms = site.weight.flatten(1).norm(dim=1)
    ends = [_end(graph, node) for node in site.calls]
    if ends[0].kind == "batch_norm" and isinstance(ends[0].args[1], Weight):
        scale, variance = (graph.weights[ends[0].args[place].digest] for place in (1, 4))
        norms = norms * scale.abs() * (variance + float(ends[0].args[7])).rsqrt()
    lost = norms.argsort(stable=True)[: int(share * len(norms))]

    def call(operator: Any, *args: Any, **named: Any) -> Any:
        value = operator(*args, **named)
        return value.index_fill(1 if value.ndim == 4 else -1, lost, 0.0)

    return {node.name: _bound(call, node) for node in ends}


def _bound(call: Call, node: Node) -> Call:
    operator = operator_of(node.op)
    return lambda *args, **named: call(operator, *args, **named)


def _end(graph: Graph, node: Node) -> Node:
    """The batch norm that alone reads a layer, or the layer itself."""
    users = graph.users[node.name]
    after = graph.by_name[users[0]] if len(users) == 1 and node.name not in graph.outputs.values() else node
    return after if after.kind == "batch_norm" and after.args[0] == Value(node.name) else node


def symmetric_grid(weight: Tensor, bits: int) -> Grid:
    """The grid of 2**bits − 1 levels around 0 that holds each output's largest weight."""
    high = 2 ** (bits - 1) - 1
    largest = weight.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny * high)
    return Grid(largest / high, torch.zeros(len(largest), dtype=torch.int32), -high, high, 0)


def range_grid(value: Tensor, bits: int) -> Grid:
    """The grid of 2**bits levels over the range of ``value``, 0 among them."""
    levels = 2**bits - 1
    low, high = min(0.0, float(value.min())), max(0.0, float(value.max()))
    scale = torch.tensor((high - low) / levels or 1.0)
    zero_point = torch.tensor(round(-low / float(scale)), dtype=torch.int32)
    return Grid(scale, zero_point, 0, levels)


def clustered(weight: Tensor, bits: int) -> Tensor:
    """The weight with every value moved to the nearest of 2**bits cluster means."""
    values = weight.numpy()
    centres = kmeans(values, 2**bits)
    return torch.from_numpy(centres[nearest(values, centres)])
