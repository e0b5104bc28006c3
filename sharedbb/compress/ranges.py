"""Calibration without a tool: the range of every edge over some pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from sharedbb.compress.calibration import ROUNDED, grid_of_range
from sharedbb.graph.ir import Graph, Value
from sharedbb.graph.lower import to_module
from sharedbb.graph.quantization import Grid, edges

CLIPPED = 1e-4
"""Share of an activation's values beyond each end of its grid: a lone outlier is not worth the others' resolution."""

SAMPLED = 65_536
"""Values of one activation of one picture that its percentiles are taken over, at most."""


def calibrated(
    graph: Graph, images: Sequence[Tensor], alone: frozenset[str], *, symmetric: bool, bits: int = 8
) -> tuple[dict[str, Grid], dict[str, Tensor]]:
    """Grids of what the rounded calls read, by edge of a ``prepared`` graph, and no biases.

    The ends are the widest over ``images`` (normalised float32 [1, 3, H, W]) of each one's CLIPPED percentiles.
    """
    wanted = {
        edge: leaf.name
        for edge, node, place, leaf in edges(graph)
        if isinstance(leaf, Value) and place < 2 and node.kind in ROUNDED and node.name not in alone
    }
    watch = _Ranges(to_module(graph), [node.name for node in graph.nodes], set(wanted.values()))
    with torch.no_grad():
        for image in images:
            watch.run(image)
    return {
        edge: grid_of_range(*watch.ends[name], bits, None, symmetric=symmetric) for edge, name in wanted.items()
    }, {}


class _Ranges(fx.Interpreter):
    """Runs a graph and remembers the ends of some of its values."""

    def __init__(self, module: Any, names: Sequence[str], watched: set[str]) -> None:
        super().__init__(module)
        calls = [node for node in module.graph.nodes if node.op in ("placeholder", "call_function")]
        self.name_of = {call: name for call, name in zip(calls, names, strict=True) if name in watched}
        self.ends: dict[str, tuple[Tensor, Tensor]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """One call, its value watched."""
        value = super().run_node(n)
        if (name := self.name_of.get(n)) is not None:
            flat = value.detach().float().flatten()
            step = max(1, flat.numel() // SAMPLED)
            low, high = torch.quantile(flat[::step][:SAMPLED], torch.tensor([CLIPPED, 1 - CLIPPED]))
            if name in self.ends:
                low, high = torch.minimum(low, self.ends[name][0]), torch.maximum(high, self.ends[name][1])
            self.ends[name] = (low, high)
        return value
