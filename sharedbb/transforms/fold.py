"""Folding: the weights with which a convolution reads another form of the same picture, to the same result.

Along one axis, a convolution of kernel k, stride s and padding p computes ``y[u] = Σ_i w[i] · x[s·u + i - p]``. Where
the picture is ``x[t] = Σ_m z[m] · g[t + lead - b·m]``, b dividing s, that is ``Σ_d B[d] · z[(s/b)·u + d - P]`` with
``B[d] = Σ_i w[i] · g[i - p + lead - b·(d - P)]`` and ``P = ⌈p/b⌉``: a convolution of stride s/b on the coefficients.
All arithmetic is float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedbb.errors import TransformError
from sharedbb.transforms.bands import Bands, phases

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A convolution without bias that reads coefficients.

    ``weight``: [outputs, channels, height, width] float64. ``stride``: (y, x). ``pads``: zeros before and after the
    coefficients, (left, right, top, bottom) as ``constant_pad_nd`` takes them, for a picture whose sides are multiples
    of the unfolded stride; negative where coefficients at the end are not to be read.
    """

    weight: Tensor
    stride: Pair
    pads: tuple[int, int, int, int]

    @property
    def kernel(self) -> Pair:
        """Height and width of the kernel in coefficients."""
        return int(self.weight.shape[2]), int(self.weight.shape[3])

    @property
    def taps(self) -> int:
        """Multiply-adds for one output."""
        return self.weight[0].numel()

    def fitted(self, coefficients: Pair, outputs: Pair) -> Folded:
        """The same, padded so that so many coefficients (y, x) give so many outputs."""
        left, _, top, _ = self.pads
        bottom, right = map(_after, outputs, self.stride, self.kernel, (top, left), coefficients)
        return replace(self, pads=(left, right, top, bottom))


def fold_blocks(weight: Tensor, stride: Pair, padding: Pair, block: int) -> Folded:
    """Fold a convolution to read ``pixel_unshuffle(picture, block)``.

    ``weight``: [outputs, channels, height, width]. The result's channel ``c·block² + r·block + q`` is row r and column
    q of the blocks of channel c. Raises TransformError where ``block`` does not divide the stride.
    """
    return fold_bands(weight, stride, padding, phases(block).kept[0])


def fold_bands(weight: Tensor, stride: Pair, padding: Pair, bands: Bands) -> Folded:
    """Fold a convolution to read some bands of a picture; what it makes of several groups of bands adds up.

    ``weight``: [outputs, channels, height, width]. The result's channel ``c·n + i`` is the i-th of n bands of channel
    c. Raises TransformError where the bands' blocks do not divide the stride.
    """
    for step in stride:
        if step % bands.block:
            raise TransformError(
                f"a convolution of stride {step} cannot read blocks of {bands.block} pixels: "
                f"the block must divide the stride"
            )
    wide = weight.detach().cpu().to(torch.float64)
    rows, columns = (
        torch.from_numpy(_placed(filters, size, pad, bands))
        for filters, size, pad in zip(bands.synthesis, wide.shape[2:], padding, strict=True)
    )
    weight_on_bands = torch.einsum("ocij,nid,nje->ocnde", wide, rows, columns).flatten(1, 2)
    axes = list(zip(wide.shape[2:], stride, padding, strict=True))
    top, left = (-_span(size, pad, bands)[0] for size, _, pad in axes)
    folded = Folded(weight_on_bands, (stride[0] // bands.block, stride[1] // bands.block), (left, 0, top, 0))
    # Sides for which the kernel has room; any other multiple of the stride is padded by as much.
    height, width = (step * (size + 2 * pad) for size, step, pad in axes)
    outputs = [
        (side + 2 * pad - size) // step + 1 for side, (size, step, pad) in zip((height, width), axes, strict=True)
    ]
    return folded.fitted((bands.count(height), bands.count(width)), (outputs[0], outputs[1]))


def _span(size: int, padding: int, bands: Bands) -> Pair:
    """The first and the last coefficient, relative to an output's own, that one axis of a kernel reads."""
    return -padding // bands.block, (size - 1 - padding + bands.lead) // bands.block


def _placed(filters: NDArray[np.float64], size: int, padding: int, bands: Bands) -> NDArray[np.float64]:
    """How much of tap i each coefficient d makes up, [bands, taps, coefficients]."""
    first, last = _span(size, padding, bands)
    taps, coefficients = np.arange(size)[:, None], np.arange(first, last + 1)[None, :]
    at = taps - padding + bands.lead - bands.block * coefficients
    inside = (at >= 0) & (at < bands.length)
    placed: NDArray[np.float64] = filters[:, np.where(inside, at, 0)] * inside
    return placed


def _after(outputs: int, stride: int, kernel: int, before: int, coefficients: int) -> int:
    """Zeros after one axis of the coefficients; what is left over there and gives no output need not be cut off."""
    after = (outputs - 1) * stride + kernel - before - coefficients
    return after if after <= -stride else max(after, 0)


def fold_colour(weight: Tensor, matrix: NDArray[np.float64]) -> Tensor:
    """The weight [outputs, 3, height, width] float64 that reads other colours, where ``rgb = matrix @ colours``."""
    wide = weight.detach().cpu().to(torch.float64)
    return torch.einsum("ockl,cy->oykl", wide, torch.from_numpy(matrix))


def fold_planes(weight: Tensor, stride: Pair, padding: Pair, matrix: NDArray[np.float64]) -> Folded:
    """Fold a convolution on RGB to read Y'CbCr planes, chroma at half the size, every sample of it for 2×2 pixels.

    ``weight``: [outputs, 3, height, width]. ``matrix``: [3, 3], what the network reads of each colour for one level of
    Y, Cb and Cr. The result's six channels: the phases of Y as ``pixel_unshuffle(y, 2)`` orders them, then Cb, Cr.

    Raises TransformError where the stride is odd.
    """
    folded = fold_blocks(fold_colour(weight, matrix), stride, padding, 2)
    by_phase = folded.weight.reshape(len(weight), 3, 4, *folded.kernel)
    six = torch.cat([by_phase[:, 0], by_phase[:, 1:].sum(2)], dim=1)
    return Folded(six, folded.stride, folded.pads)
