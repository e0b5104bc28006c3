"""Quantization-aware training: every pass rounds as the scheme says, gradients pass the rounding unchanged.

Weights are rounded to the grid that just holds them at that moment; batch norms stay apart, since they only scale the
output channels that have a grid each (Jacob et al., 2018; straight-through gradients: Bengio et al., 2013).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sharedbb.compress.calibration import grid_of_weight
from sharedbb.graph.quantization import Grid, Scheme

# What modules call, by the name that the graph's edges have for it. Tensors come first in all of them.
_FUNCTIONS: Mapping[str, tuple[Any, ...]] = {
    "conv2d": (torch.conv2d, F.conv2d),
    "conv_transpose2d": (torch.conv_transpose2d, F.conv_transpose2d),
    "linear": (F.linear,),
    "matmul": (torch.matmul, Tensor.matmul, Tensor.__matmul__),
    "bmm": (torch.bmm, Tensor.bmm),
    "add": (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__),
    "mul": (torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__),
    "cat": (torch.cat, torch.concat),
    "mean": (torch.mean, Tensor.mean),
    "adaptive_avg_pool2d": (F.adaptive_avg_pool2d,),
    "avg_pool2d": (F.avg_pool2d,),
    "max_pool2d": (F.max_pool2d, torch.max_pool2d),
}
_KINDS = {function: kind for kind, functions in _FUNCTIONS.items() for function in functions}


@contextmanager
def rounding(module: nn.Module, scheme: Scheme, bits: Mapping[str, int] | int) -> Iterator[None]:
    """A context in which passes of ``module`` round what the scheme rounds; ``bits`` of the weights, or by module.

    A pass computes what ``graph.quantization.quantized`` does, up to the biases that calibration corrected, where
    weights have a grid for each output channel.
    """
    paths = {part: path for path, part in module.named_modules()}
    calls = _Rounding(scheme, bits)
    hooks = []
    for part in paths:
        hooks.append(part.register_forward_pre_hook(lambda part, _: calls.enter(paths[part])))
        hooks.append(part.register_forward_hook(lambda *_: calls.leave(), always_call=True))
    try:
        with calls:
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Rounding(TorchFunctionMode):
    """Rounds the operands of calls on their way; each call is known by its module and its turn in it."""

    def __init__(self, scheme: Scheme, bits: Mapping[str, int] | int) -> None:
        super().__init__()
        self.scheme, self.bits = scheme, bits
        self.places: list[str] = []
        self.turns: Counter[tuple[str, str]] = Counter()

    def enter(self, path: str) -> None:
        """A module is called; turns begin anew with the outermost."""
        if not self.places:
            self.turns.clear()
        self.places.append(path)

    def leave(self) -> None:
        """The module that was called last has answered, or failed."""
        self.places.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = f"upsample_{kwargs.get('mode')}2d" if func is F.interpolate else _KINDS.get(func)
        if kind is not None and self.places:
            origin = self.places[-1]
            edge = f"{origin}|{kind}|{self.turns[origin, kind]}"
            self.turns[origin, kind] += 1
            place = count()
            args = tuple(self._operands(edge, place, origin, arg) for arg in args)
        return func(*args, **kwargs)

    def _operands(self, edge: str, place: Iterator[int], origin: str, arg: Any) -> Any:
        """An argument, or each of a list, rounded as the scheme says."""
        if isinstance(arg, list | tuple):
            return [self._operands(edge, place, origin, one) for one in arg]
        return self._operand(f"{edge}|{next(place)}", origin, arg)

    def _operand(self, edge: str, origin: str, operand: Any) -> Any:
        grid = self.scheme.grids.get(edge)
        if grid is None or not isinstance(operand, Tensor):
            return operand
        if isinstance(operand, nn.Parameter):
            bits = self.bits if isinstance(self.bits, int) else self.bits.get(origin, 8)
            grid = grid_of_weight(operand.detach(), bits, grid.axis, symmetric=grid.low < 0)
        with torch.autocast(operand.device.type, enabled=False):
            return _on_device(grid, operand.device).rounded(operand.float()).to(operand.dtype)


def _on_device(grid: Grid, device: torch.device) -> Grid:
    if grid.scale.device == device:
        return grid
    return Grid(grid.scale.to(device), grid.zero_point.to(device), grid.low, grid.high, grid.axis)
