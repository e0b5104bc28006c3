"""Calibration by torchao's PT2E: the one module that imports it.

It places roundings for Inductor's x86 integer kernels; https://github.com/pytorch/ao.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from sharedbb.compress.calibration import exported, read_back
from sharedbb.errors import CompressionError
from sharedbb.graph.ir import Graph
from sharedbb.graph.quantization import Grid, edges

# What the quantizer knows operators by: the function of torch that a network called.
_SOURCES: Mapping[str, Any] = {
    "aten.conv2d.default": F.conv2d,
    "aten.linear.default": F.linear,
    "aten.relu.default": F.relu,
    "aten.hardswish.default": F.hardswish,
    "aten.hardtanh.default": F.hardtanh,
    "aten.silu.default": F.silu,
    "aten.add.Tensor": operator.add,
}


def calibrated(
    graph: Graph, images: Sequence[Tensor], alone: frozenset[str], *, symmetric: bool
) -> tuple[dict[str, Grid], dict[str, Tensor]]:
    """Grids of the activations by edge of a ``prepared`` graph, and no biases: PT2E does not correct them.

    ``images``: normalised float32 [1, 3, H, W]. ``alone``: calls that stay in floating point. The x86 kernels that it
    calibrates for take activations with a zero point, so ``symmetric`` is refused.
    """
    try:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )
    except ImportError:
        raise CompressionError("tool 'pt2e' needs torchao: pip install 'sharedbb[compress]'") from None
    if symmetric:
        raise CompressionError("tool 'pt2e' rounds activations with a zero point: give symmetric=False, or tool='nncf'")
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        watched: Any = prepare_pt2e(_with_sources(exported(graph)), quantizer)
        for image in images:
            watched(image)
        rounded = convert_pt2e(watched, fold_quantize=False)
    grids, _ = read_back(graph, rounded)
    readers = {edge: (node.name, place) for edge, node, place, _ in edges(graph)}
    weights = {edge for edge, node, place, leaf in edges(graph) if place and type(leaf).__name__ == "Weight"}
    return {edge: grid for edge, grid in grids.items() if readers[edge][0] not in alone and edge not in weights}, {}


def _with_sources(module: fx.GraphModule) -> fx.GraphModule:
    """The module, its calls marked with the functions that they stand for (export saw only the operators)."""
    for node in module.graph.nodes:
        if (source := _SOURCES.get(str(node.target))) is not None:
            node.meta["source_fn_stack"] = [(node.name, source)]
    return module
