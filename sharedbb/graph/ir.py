"""The graph that everything works on: ATen calls in order, each with its value's shape, weights by content.

A ``Graph`` is immutable. Nodes are stored in an order in which every argument comes before its use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Value:
    """An argument that is another node's result, by that node's name."""

    name: str


@dataclass(frozen=True, slots=True)
class Weight:
    """An argument that is a constant tensor, by the SHA-256 of its dtype, shape and bytes."""

    digest: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operator call, ``aten.conv2d.default(args)``, or the graph's ``input``.

    ``shape`` and ``dtype`` describe its result (NCHW for feature maps); of operators that return a tuple, those
    of the first part (``getitem`` nodes follow). ``origin`` says which module of which network it came from.
    """

    name: str
    op: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    origin: str = ""

    @property
    def kind(self) -> str:
        """The operator's short name: ``conv2d`` of ``aten.conv2d.default``."""
        parts = self.op.split(".")
        return parts[1] if parts[0] == "aten" and len(parts) > 1 else self.op

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the nodes this one reads, in argument order, duplicates kept."""
        return tuple(leaf.name for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Value))

    @property
    def weights(self) -> tuple[str, ...]:
        """Digests of the weights this one reads."""
        return tuple(leaf.digest for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Weight))


def leaves(tree: Any) -> Iterator[Any]:
    """Every leaf of nested tuples, depth first."""
    if isinstance(tree, tuple):
        for branch in tree:
            yield from leaves(branch)
    else:
        yield tree


def rewrite(tree: Any, replace: Callable[[Any], Any]) -> Any:
    """The same nested tuples with ``replace`` applied to every leaf."""
    if isinstance(tree, tuple):
        return tuple(rewrite(branch, replace) for branch in tree)
    return replace(tree)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in execution order, named inputs and outputs, and the weights by digest.

    ``inputs`` are node names (op ``input``). ``outputs`` maps an answer's name to the node that computes it; names are
    ``head`` for a network with one output and ``head.part`` for one with several.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: Mapping[str, str]
    weights: Mapping[str, Tensor] = field(repr=False)

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def users(self) -> dict[str, tuple[str, ...]]:
        """For each node, the nodes that read it (graph outputs not counted)."""
        found: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.values):
                found[name].append(node.name)
        return {name: tuple(users) for name, users in found.items()}

    @property
    def operators(self) -> int:
        """Number of operator calls: inputs and ``getitem`` not counted."""
        return sum(node.op not in ("input", "getitem") for node in self.nodes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the graph computes; weights enter by their own digests."""
        text = repr((self.nodes, self.inputs, sorted(self.outputs.items())))
        return hashlib.sha256(text.encode()).hexdigest()

    def __repr__(self) -> str:
        answers = {name: self.by_name[node].shape for name, node in self.outputs.items()}
        return f"Graph({self.operators} operators, {len(self.weights)} weights, outputs {answers})"
