"""Rounding to a grid as ONNX has it: QuantizeLinear and DequantizeLinear, weights stored as integers."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharedbb.graph.capture import digest
from sharedbb.graph.ir import Graph, Weight
from sharedbb.graph.merge import prune
from sharedbb.graph.quantization import PER_CHANNEL, Grid

DEQUANTIZE = "quantized_decomposed.dequantize_per_channel.default"

_TYPES = {np.uint8: 2, np.int8: 3}  # as onnx.TensorProto numbers them


def with_integer_weights(graph: Graph) -> Graph:
    """The same graph with weights that are rounded by channel stored as those integers, of a byte each."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # which defines DEQUANTIZE
    weights = dict(graph.weights)
    nodes = []
    for node in graph.nodes:
        if node.op == PER_CHANNEL and isinstance(node.args[0], Weight):
            weight, scale, zero_point, axis, low, high = node.args
            grid = Grid(weights[scale.digest], weights[zero_point.digest], low, high, axis)
            integers = _integers(weights[weight.digest], grid)
            weights[name := digest(integers)] = integers
            args = (Weight(name), scale, zero_point, axis, low, high, integers.dtype)
            node = replace(node, op=DEQUANTIZE, args=args)
        nodes.append(node)
    return prune(Graph(tuple(nodes), graph.inputs, graph.outputs, weights))


def _integers(weight: Tensor, grid: Grid) -> Tensor:
    """The integers that rounding gives: int8, or uint8 where none is below 0."""
    assert grid.axis is not None
    shape = [-1 if axis == grid.axis else 1 for axis in range(weight.ndim)]
    exact = grid.rounded(weight) / grid.scale.reshape(shape) + grid.zero_point.reshape(shape)
    return exact.round().to(torch.int8 if grid.low < 0 else torch.uint8)


def translations() -> dict[Any, Callable[..., Any]]:
    """What ``torch.onnx.export`` is to write for the calls that round, by operator."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    return {
        torch.ops.aten.fake_quantize_per_tensor_affine.default: _by_tensor,
        torch.ops.aten.fake_quantize_per_channel_affine.default: _by_channel,
        torch.ops.quantized_decomposed.dequantize_per_channel.default: _stored,
    }


def _by_tensor(value: Any, scale: float, zero_point: int, low: int, high: int) -> Any:
    op = _operators()
    return _rounded(value, op.Constant(value_float=scale), op.Constant(value_int=zero_point), low, high)


def _by_channel(value: Any, scale: Any, zero_point: Any, axis: int, low: int, high: int) -> Any:
    return _rounded(value, scale, zero_point, low, high, axis=axis)


def _stored(value: Any, scale: Any, zero_point: Any, axis: int, low: int, high: int, dtype: Any, **_: Any) -> Any:
    op = _operators()
    return op.DequantizeLinear(value, scale, op.Cast(zero_point, to=_TYPES[_kind(low)]), axis=axis)


def _rounded(value: Any, scale: Any, zero_point: Any, low: int, high: int, **axis: int) -> Any:
    """To integers and back, clipped where the grid has fewer levels than a byte."""
    op, kind = _operators(), _kind(low)
    zero = op.Cast(zero_point, to=_TYPES[kind])
    integers = op.QuantizeLinear(value, scale, zero, **axis)
    if (low, high) != (np.iinfo(kind).min, np.iinfo(kind).max):
        ends = (op.Cast(op.Constant(value_int=end), to=_TYPES[kind]) for end in (low, high))
        integers = op.Clip(integers, *ends)
    return op.DequantizeLinear(integers, scale, zero, **axis)


def _kind(low: int) -> type[np.int8] | type[np.uint8]:
    return np.int8 if low < 0 else np.uint8


def _operators() -> Any:
    return importlib.import_module("onnxscript").opset20
