"""Discrete wavelet decomposition of pictures and back, on NumPy arrays and torch tensors, equal to PyWavelets.

    cA, (cH, cV, cD) = dwt2(picture, "haar")
    cA2, (cH2, cV2, cD2), (cH1, cV1, cD1) = dwt2(picture, "db2", level=2)
    picture = idwt2(dwt2(picture, "db2", level=2), "db2")

PyWavelets (Lee et al., 2019, doi:10.21105/joss.01237) supplies the filters, the names and the meaning of the modes.
S. Mallat, A theory for multiresolution signal decomposition, 1989, is the method.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedbb.errors import TransformError
from sharedbb.transforms.wavelet_bank import Axes, Bands, analyse, synthesise
from sharedbb.transforms.wavelet_filters import FilterBank, check_mode, deepest, filter_bank, pair

__all__ = ["dwt2", "idwt2"]

T = TypeVar("T", NDArray[Any], Tensor)
Details = tuple[T, T, T]

_KEPT = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_HALF = (torch.float16, torch.bfloat16)


def dwt2(
    x: T,
    wavelet: Any,
    level: int = 1,
    mode: str | tuple[str, str] = "symmetric",
    axes: tuple[int, int] = (-2, -1),
) -> tuple[T, Details[T]] | list[T | Details[T]]:
    """Wavelet coefficients of a picture, or of each of many.

    ``x`` has rows along ``axes[0]`` and columns along ``axes[1]``, by default the last two: ``[H, W]``,
    ``[..., H, W]``. A frame ``[H, W, C]`` takes ``axes=(0, 1)``. All other axes are carried along.

    ``wavelet`` is a name of PyWavelets' (``haar``, ``db2``, ``bior4.4``, ...) or a ``pywt.Wavelet``; ``mode`` says how
    the picture goes on beyond its borders: ``zero``, ``constant``, ``symmetric``, ``periodic``, ``smooth``,
    ``periodization``, ``reflect``, ``antisymmetric`` or ``antireflect``. Each may be a pair, one for each axis.

    One level gives ``(cA, (cH, cV, cD))``, as ``pywt.dwt2``; n > 1 levels give
    ``[cA_n, (cH_n, cV_n, cD_n), ..., (cH_1, cV_1, cD_1)]``, as ``pywt.wavedec2``. ``cA, *details`` unpacks both.
    ``cA`` is low-pass along both axes, ``cH`` high-pass along ``axes[0]`` (edges that lie horizontally), ``cV`` along
    ``axes[1]``, ``cD`` along both. N samples become floor((N + F - 1) / 2) with filters of F taps, ceil(N / 2) with
    ``periodization``.

    Arrays give arrays, tensors give tensors on the same device, differentiable. As in PyWavelets, float32, float64 and
    complex stay, float16 (and bfloat16) becomes float32, everything else float64: cast a uint8 frame to float32
    first if that is precise enough. The input is never written to.

    Raises TransformError for unknown or continuous wavelets, unknown modes, axes that are not there, empty pictures,
    ``reflect`` and ``antireflect`` along an axis of one sample, and more levels than the size allows (PyWavelets
    warns). A single level is allowed at every size, as in PyWavelets.
    """
    (low,), as_given = _read([x])
    places = _axes(low.ndim, axes)
    banks, modes = _settings(wavelet, mode)
    _check_level(level, low, places, banks)
    details: list[Details[T]] = []
    with nullcontext() if isinstance(x, Tensor) else torch.inference_mode():
        for _ in range(level):
            low, horizontal, vertical, diagonal = analyse(low, banks, modes, places)
            details.insert(0, (as_given(horizontal), as_given(vertical), as_given(diagonal)))
    if level == 1:
        return as_given(low), details[0]
    return [as_given(low), *details]


def idwt2(
    coefficients: Sequence[Any],
    wavelet: Any,
    mode: str | tuple[str, str] = "symmetric",
    axes: tuple[int, int] = (-2, -1),
    size: tuple[int, int] | None = None,
) -> Any:
    """The picture whose coefficients ``dwt2`` gave, in either structure, with the same wavelet, mode and axes.

    Where the height or width was odd, one row or column more comes out, as in PyWavelets; ``size=(height, width)``
    cuts it off. A band that is ``None`` counts as zeros; with at least one band given in each level. Bands of different
    types become float64 or the wider of them, as in PyWavelets.

    Raises TransformError as ``dwt2`` does, and for coefficients of another structure or of sizes that do not fit.
    """
    low, details = _structure(coefficients)
    bands, as_given = _read([low, *(band for level in details for band in level)])
    banks, modes = _settings(wavelet, mode)
    given = iter(bands)
    places = _axes(bands[0].ndim, axes)
    picture = next(given) if low is not None else None
    for number, level in zip(range(len(details), 0, -1), details, strict=True):
        high = [None if band is None else next(given) for band in level]
        picture = synthesise(_matched(picture, high, number, places, banks, modes), banks, modes, places)
    assert picture is not None  # there is at least one level
    return as_given(picture if size is None else _cut(picture, size, places))


# ---- reading what was given


def _read(given: Sequence[Any]) -> tuple[list[Tensor], Callable[[Tensor], Any]]:
    """Tensors of one floating type, None left out, and what turns a result back into what was given."""
    there = [item for item in given if item is not None]
    if not there:
        raise TransformError("nothing to decompose: give a picture, an array or a tensor")
    tensors = [isinstance(item, Tensor) for item in there]
    if any(tensors) != all(tensors):
        raise TransformError("coefficients are partly arrays and partly tensors: give one kind")
    if all(tensors):
        read = [_floating(item) for item in there]
    else:
        read = [_from_numpy(item) for item in there]
    places = {item.device for item in read}
    if len(places) > 1:
        raise TransformError(f"coefficients lie on {' and '.join(sorted(map(str, places)))}: move them to one device")
    if len({item.dtype for item in read}) > 1:
        wide = torch.complex128 if any(item.is_complex() for item in read) else torch.float64
        read = [item.to(wide) for item in read]
    return read, (lambda tensor: tensor) if all(tensors) else Tensor.numpy


def _floating(tensor: Tensor) -> Tensor:
    if tensor.dtype in _KEPT:
        return tensor
    return tensor.to(torch.float32 if tensor.dtype in _HALF else torch.float64)


def _from_numpy(given: Any) -> Tensor:
    """A tensor on the array's own memory where torch can have that, of PyWavelets' type."""
    array = np.asarray(given)
    if array.dtype.kind not in "biufc":
        raise TransformError(f"a picture of numbers is wanted, not a {type(given).__name__} of {array.dtype}")
    if array.dtype not in (np.float32, np.float64, np.complex64, np.complex128):
        wide = np.complex128 if array.dtype.kind == "c" else np.float64
        array = array.astype(np.float32 if array.dtype == np.float16 else wide)
    if not array.flags.writeable or any(step < 0 or step % array.itemsize for step in array.strides):
        array = array.copy(order="C")
    return torch.from_numpy(array)


def _whole(number: Any) -> int | None:
    """The number as Python's own, of whatever library it is; None where it is not whole."""
    try:
        return None if isinstance(number, bool) else operator.index(number)
    except TypeError:
        return None


def _axes(dimensions: int, axes: Any) -> Axes:
    """Rows and columns counted from the last axis."""
    given = [_whole(axis) for axis in axes] if isinstance(axes, Sequence) else []
    if len(given) != 2 or given[0] is None or given[1] is None:
        raise TransformError(f"axes are {axes!r}: give two numbers, rows and columns")
    axes = given[0], given[1]
    if dimensions < 2:
        raise TransformError(f"a picture needs at least 2 dimensions, not {dimensions}")
    if any(not -dimensions <= axis < dimensions for axis in axes):
        raise TransformError(f"axes {tuple(axes)} are not both among the {dimensions} of the picture")
    rows, columns = (axis - dimensions if axis >= 0 else axis for axis in axes)
    if rows == columns:
        raise TransformError(f"axes {tuple(axes)} are the same one: give rows and columns")
    return rows, columns


def _settings(wavelet: Any, mode: Any) -> tuple[list[FilterBank], list[str]]:
    return [filter_bank(one) for one in pair(wavelet)], [check_mode(one) for one in pair(mode)]


def _check_level(level: Any, x: Tensor, axes: Axes, banks: list[FilterBank]) -> None:
    height, width = x.shape[axes[0]], x.shape[axes[1]]
    if not height or not width:
        raise TransformError(f"a picture of {height}x{width} has nothing to decompose")
    most = deepest((height, width), banks)
    names = " and ".join(dict.fromkeys(bank.name for bank in banks))
    if _whole(level) is None or level < 1:
        raise TransformError(f"level is {level!r}: {names} on {height}x{width} takes 1 to {most}")
    if level > most:
        frame = x.ndim > 2 and axes == (-2, -1) and width <= 4
        hint = "; a frame [H, W, C] takes axes=(0, 1)" if frame else ""
        raise TransformError(f"level {level} is too deep for {height}x{width} with {names}: at most {most}{hint}")


# ---- structure of coefficients


def _structure(coefficients: Any) -> tuple[Any, list[Details[Any]]]:
    """Approximation and details of every level, deepest first."""
    wanted = "coefficients are (cA, (cH, cV, cD)) or [cA_n, (cH_n, cV_n, cD_n), ..., (cH_1, cV_1, cD_1)]"
    if not isinstance(coefficients, (list, tuple)) or len(coefficients) < 2:
        raise TransformError(f"{wanted}, not {_described(coefficients)}")
    low, *details = coefficients
    for number, level in zip(range(len(details), 0, -1), details, strict=True):
        if not isinstance(level, (list, tuple)) or len(level) != 3:
            raise TransformError(f"{wanted}; the details of level {number} are {_described(level)}")
        if all(band is None for band in (*level, low if number == len(details) else None)):
            raise TransformError(f"no band of level {number} is given: leave out at most three of four, or give zeros")
    return low, details


def _described(given: Any) -> str:
    length = f" of {len(given)}" if isinstance(given, (list, tuple)) else ""
    return f"a {type(given).__name__}{length}"


def _matched(
    low: Tensor | None,
    high: Sequence[Tensor | None],
    number: int,
    axes: Axes,
    banks: list[FilterBank],
    modes: list[str],
) -> Bands:
    """Four bands of one size: the low one loses the row or column that an odd size gained one level deeper."""
    shapes = {tuple(band.shape) for band in high if band is not None}
    if len(shapes) > 1:
        raise TransformError(f"details of level {number} have sizes {sorted(shapes)}: they must be equal")
    like = next((band for band in high if band is not None), low)
    assert like is not None  # _structure has seen to it
    if low is not None and shapes:
        for axis in axes:
            if low.ndim == like.ndim and low.shape[axis] == like.shape[axis] + 1:
                low = low.narrow(axis, 0, like.shape[axis])
        if low.shape != like.shape:
            raise TransformError(
                f"level {number}: details {tuple(like.shape)} do not go with an approximation {tuple(low.shape)}"
            )
    for axis, bank, mode in zip(axes, banks, modes, strict=True):
        least = 1 if mode == "periodization" else bank.length // 2
        if like.shape[axis] < least:
            raise TransformError(
                f"level {number}: {like.shape[axis]} coefficients along an axis; {bank.name} has at least {least}"
            )
    return cast(Bands, tuple(torch.zeros_like(like) if band is None else band for band in (low, *high)))


def _cut(picture: Tensor, size: Any, axes: Axes) -> Tensor:
    """The picture without the last row or column that an odd size gained."""
    got = tuple(picture.shape[axis] for axis in axes)
    if not isinstance(size, Sequence) or len(size) != 2 or any(_whole(side) is None for side in size):
        raise TransformError(f"size is {size!r}: give (height, width)")
    if any(have - want not in (0, 1) for have, want in zip(got, size, strict=True)):
        raise TransformError(f"size {tuple(size)} does not go with these coefficients: they make {got}, or one less")
    for axis, want in zip(axes, size, strict=True):
        picture = picture.narrow(axis, 0, want)
    return picture
