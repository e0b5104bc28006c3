"""A quantization scheme as plain values and tensors, to be stored and read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sharedbb.errors import GraphError
from sharedbb.graph.quantization import SMALLEST_SCALE, Grid, Scheme

WIDEST = 16  # bits of a grid


def described(scheme: Scheme) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain values and tensors of a scheme: ``restored`` gives it back."""
    tensors: dict[str, Tensor] = {}
    grids = {}
    for edge, grid in sorted(scheme.grids.items()):
        grids[edge] = {"low": grid.low, "high": grid.high, "axis": grid.axis, "dynamic": grid.dynamic}
        tensors[f"{edge}.scale"] = grid.scale.float().contiguous()
        tensors[f"{edge}.zero_point"] = grid.zero_point.int().contiguous()
    tensors |= {f"{edge}.constant": tensor.contiguous() for edge, tensor in sorted(scheme.constants.items())}
    return {"grids": grids, "constants": sorted(scheme.constants)}, tensors


def restored(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Scheme:
    """The scheme of ``described``. Raises GraphError for values that are damaged or impossible."""
    try:
        grids = {str(edge): _grid(str(edge), values, tensors) for edge, values in told["grids"].items()}
        constants = {str(edge): _constant(str(edge), tensors) for edge in told["constants"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GraphError(f"the quantization scheme is damaged: {error}") from error
    return Scheme(grids, constants)


def _constant(edge: str, tensors: Mapping[str, Tensor]) -> Tensor:
    found = tensors[f"{edge}.constant"]
    if found.dtype != torch.float32 or not bool(torch.isfinite(found).all()):
        raise ValueError(f"the constant of edge {edge!r} must be finite float32 numbers")
    return found


def _grid(edge: str, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Grid:
    low, high, axis, dynamic = (values[name] for name in ("low", "high", "axis", "dynamic"))
    scale, zero_point = tensors[f"{edge}.scale"], tensors[f"{edge}.zero_point"]
    sound = (
        type(low) is int
        and type(high) is int
        and 0 < high - low < 2**WIDEST
        and (axis is None or (type(axis) is int and 0 <= axis < 4))
        and type(dynamic) is bool
        and (not dynamic or (axis is None and low == -high))
        and scale.dtype == torch.float32
        and zero_point.dtype == torch.int32
        and scale.shape == zero_point.shape
        and scale.ndim == (axis is not None)
        and bool((torch.isfinite(scale) & (scale >= SMALLEST_SCALE)).all())
        and bool(((zero_point >= low) & (zero_point <= high)).all())
    )
    if not sound:
        raise ValueError(f"edge {edge!r} has an impossible grid {dict(values)}")
    return Grid(scale, zero_point, low, high, axis, dynamic)
