"""One level of a separable two-channel filter bank on torch tensors: extend, filter, keep every other sample; and back.

A strided convolution with few taps is memory traffic, so it is computed tap by tap, as a weighted sum of shifted views:
for Haar faster on a CPU than the general convolution, exact on CUDA, where that may round to TF32, and under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from sharedbb.errors import TransformError
from sharedbb.transforms.wavelet_filters import FilterBank, Taps

Axes = tuple[int, int]  # negative: counted from the last
Bands = tuple[Tensor, Tensor, Tensor, Tensor]  # low-low, high-low, low-high, high-high; rows first


def analyse(x: Tensor, banks: Sequence[FilterBank], modes: Sequence[str], axes: Axes) -> Bands:
    """One level of analysis along two axes: PyWavelets' ``cA, cH, cV, cD``.

    An axis of N samples gives floor((N + F - 1) / 2) coefficients with F taps, or ceil(N / 2) with ``periodization``.
    """
    for axis, bank, mode in zip(axes, banks, modes, strict=True):
        if x.shape[axis] == 1 and mode in ("reflect", "antireflect"):
            raise TransformError(f"mode {mode} mirrors at a sample and needs 2 along each axis; one has 1")
        x = extend(x, axis, *_analysis_margins(x.shape[axis], bank.length, mode), mode)
    return cast(Bands, _apply(_Analysis, x, _Filters(banks[0].analysis, banks[1].analysis, axes)))


def synthesise(bands: Bands, banks: Sequence[FilterBank], modes: Sequence[str], axes: Axes) -> Tensor:
    """The inverse of ``analyse``; K coefficients give 2K - F + 2 samples, or 2K with ``periodization``."""
    extended, kept = list(bands), []
    for axis, bank, mode in zip(axes, banks, modes, strict=True):
        start, count = 0, 2 * bands[0].shape[axis] - bank.length + 2
        if mode == "periodization":
            before = bank.length // 4
            start = 1 - bank.length // 2 % 2
            count = 2 * bands[0].shape[axis]
            after = bank.length // 2 - 1 - before + start
            extended = [extend(band, axis, before, after, "periodic") for band in extended]
        kept.append((axis, start, count))
    x = cast(Tensor, _apply(_Synthesis, *extended, _Filters(banks[0].synthesis, banks[1].synthesis, axes)))
    for axis, start, count in kept:
        x = x.narrow(axis, start, count)
    return x


def _analysis_margins(size: int, length: int, mode: str) -> tuple[int, int]:
    """Samples to add before and after, such that the filters end exactly on the last one."""
    inside = length // 2 - 1 if mode == "periodization" else length - 2
    return inside, inside + size % 2


# ---- extension


def extend(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """``x`` with samples added at both ends of an axis, as many as wanted, by PyWavelets' rule for the mode."""
    parts = [x]
    if before:
        parts.insert(0, _strip(x, axis, -before, before, mode))
    if after:
        parts.append(_strip(x, axis, x.shape[axis], after, mode))
    return torch.cat(parts, axis) if before or after else x


def _strip(x: Tensor, axis: int, first: int, count: int, mode: str) -> Tensor:
    """The samples at positions ``first`` to ``first + count - 1`` of the endless signal."""
    shape = list(x.shape)
    if mode == "zero":
        shape[axis] = count
        return x.new_zeros(shape)
    real = x.real.dtype if x.is_complex() else x.dtype
    rule = _rule(shape[axis], first, count, mode, axis, x.device, real)
    gathered = x.index_select(axis, rule[0])
    if mode not in ("antisymmetric", "smooth", "antireflect"):
        return gathered
    gathered = gathered * rule[1]
    if mode == "antisymmetric":
        return gathered
    return gathered + rule[2] * x.narrow(axis, 0, 1) + rule[3] * x.narrow(axis, shape[axis] - 1, 1)


@lru_cache(maxsize=512)
def _rule(
    size: int, first: int, count: int, mode: str, axis: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which samples make up a strip: source index, its weight, the weights of the first and of the last sample.

    Kept, so that nothing is sent to a device again when pictures of one size follow each other.
    """
    index, *weights = zip(*(_origin(first + i, size, mode) for i in range(count)), strict=True)
    shape = (count,) + (1,) * (-1 - axis)
    with torch.inference_mode(False):
        source = torch.tensor(index, device=device)
        own, start, end = (torch.tensor(weight, dtype=dtype, device=device).view(shape) for weight in weights)
    return source, own, start, end


def _origin(at: int, size: int, mode: str) -> tuple[int, int, int, int]:
    """Position ``at`` outside a signal: ``(source, weight, weight of the first, weight of the last sample)``."""
    last = size - 1
    if mode == "constant" or (mode == "smooth" and not last):
        return min(max(at, 0), last), 1, 0, 0
    if mode == "periodic":
        return at % size, 1, 0, 0
    if mode == "periodization":  # an odd signal repeats its last sample first
        return min(at % (size + size % 2), last), 1, 0, 0
    if mode == "smooth":  # straight on, by the slope at the border
        distance = -at if at < 0 else at - last
        return (1, -distance, 1 + distance, 0) if at < 0 else (last - 1, -distance, 0, 1 + distance)
    if mode in ("symmetric", "antisymmetric"):  # mirrored between samples
        within = at % (2 * size)
        if within < size:
            return within, 1, 0, 0
        return 2 * size - 1 - within, -1 if mode == "antisymmetric" else 1, 0, 0
    periods, within = divmod(at, 2 * last)  # mirrored at the border samples
    mirrored = within > last
    source = 2 * last - within if mirrored else within
    if mode == "reflect":
        return source, 1, 0, 0
    return source, -1 if mirrored else 1, -2 * periods, 2 * (periods + mirrored)


# ---- filtering


@dataclass(frozen=True, slots=True)
class _Filters:
    """What both directions filter with and along: one thing for torch's transforms, which take tuples apart."""

    rows: Taps
    columns: Taps
    axes: Axes


class _Analysis(torch.autograd.Function):
    """Correlate with both filters along both axes, keep every other result: ``2(K - 1) + F`` samples give K."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, by: _Filters) -> Bands:
        bands = {}
        for i, (part, scale) in enumerate(_correlate(x, by.rows, by.axes[0])):
            for j, (band, more) in enumerate(_correlate(part, by.columns, by.axes[1])):
                bands[i, j] = band.mul_(scale * more)
        return bands[0, 0], bands[1, 0], bands[0, 1], bands[1, 1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.by = inputs[1]

    @staticmethod
    def backward(ctx: Any, *bands: Tensor) -> tuple[Tensor | None, ...]:
        widened = [_widen(band, ctx.by, lambda taps: taps.length // 2 - 1) for band in bands]
        return _apply(_Synthesis, *widened, ctx.by), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Bands:
        return cast(Bands, _apply(_Analysis, tangent, ctx.by))


class _Synthesis(torch.autograd.Function):
    """Spread every coefficient by the filters along both axes; of K, the ``2K - F + 2`` samples that all taps reach."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        low_low, high_low, low_high, high_high, by = inputs
        low = _spread(low_low, low_high, by.columns, by.axes[1])
        return _spread(low, _spread(high_low, high_high, by.columns, by.axes[1]), by.rows, by.axes[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.by = inputs[4]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        widened = _widen(gradient, ctx.by, lambda taps: taps.length - 2)
        return *_apply(_Analysis, widened, ctx.by), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return cast(Tensor, _apply(_Synthesis, *tangents[:4], ctx.by))


def _apply(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """The result with its derivatives; in inference mode, where there are none, without the cost of preparing them."""
    if torch.is_inference_mode_enabled():
        return function.forward(*inputs)
    return function.apply(*inputs)


def _widen(x: Tensor, by: _Filters, margin: Callable[[Taps], int]) -> Tensor:
    """Zeros around a gradient: what the transposed operator sees outside."""
    for axis, taps in zip(by.axes, (by.rows, by.columns), strict=True):
        x = extend(x, axis, margin(taps), margin(taps), "zero")
    return x


def _correlate(x: Tensor, taps: Taps, axis: int) -> Iterator[tuple[Tensor, float]]:
    """Both bands along one axis, each as a tensor of its own and the factor that it still lacks.

    One after the other, so that each is used while it is in the processor's cache.
    """
    count = (x.shape[axis] - taps.length) // 2 + 1
    even_odd = [_every_other(x, axis, phase, gather=taps.length > 2) for phase in (0, 1)]
    views = [even_odd[tap % 2].narrow(axis, tap // 2, count) for tap in range(taps.length)]
    return (_weighted_sum(views, band) for band in (taps.low, taps.high))


def _spread(low: Tensor, high: Tensor, taps: Taps, axis: int) -> Tensor:
    """Both bands back into one signal: even and odd samples separately, then in turns."""
    count = low.shape[axis] - taps.length // 2 + 1
    views = [band.narrow(axis, step, count) for band in (low, high) for step in range(taps.length // 2)]
    phases = []
    for phase in (0, 1):
        total, scale = _weighted_sum(views, (*taps.low[phase::2][::-1], *taps.high[phase::2][::-1]))
        phases.append(total.mul_(scale))
    shape = list(low.shape)
    shape[axis] = 2 * count
    return torch.stack(phases, axis).reshape(shape)


def _every_other(x: Tensor, axis: int, phase: int, gather: bool) -> Tensor:
    """Samples phase, phase + 2, ... of an axis; gathered, on request, if reading them in short steps is slow."""
    index = [slice(None)] * x.ndim
    index[axis] = slice(phase, None, 2)
    view = x[tuple(index)]
    return view.contiguous() if gather and x.stride(axis) < 32 else view


def _weighted_sum(views: Sequence[Tensor], weights: Sequence[float]) -> tuple[Tensor, float]:
    """Sum of views by weights, divided by the largest weight, and that weight; zero weights cost nothing."""
    used = [(weight, view) for weight, view in zip(weights, views, strict=True) if weight]
    if not used:
        return torch.zeros_like(views[0]), 1.0
    used.sort(key=lambda term: -abs(term[0]))
    (scale, largest), *rest = used
    if not rest:
        return largest.clone(), scale
    total = torch.add(largest, rest[0][1], alpha=rest[0][0] / scale)
    for weight, view in rest[1:]:
        total.add_(view, alpha=weight / scale)
    return total, scale
