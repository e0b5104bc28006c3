"""What leaving bands out does to a stem: an upper bound of its error, an estimate of its root mean square.

A stem that is not given coefficients z misses ``e[o, u] = Σ_band Σ_c Σ_d B[o, c, band, d] · z[c, band, u + d]``, so
that ``|e[o]| ≤ Σ_band Σ_c ‖B[o, c, band]‖₁ · max|z[c, band]|``. Were the coefficients of neighbouring places not
correlated, its mean square would be ``Σ_band Σ_c,c' ⟨B[o, c, band], B[o, c', band]⟩ · E[z[c, band] · z[c', band]]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import TransformError
from sharedbb.transforms.bands import Array, Bands
from sharedbb.types import Normalization

# Of a band's range: by how much a measured coefficient may be off in single precision.
ROUNDING = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class BandLevels:
    """How much there is in bands of one picture, as the network would have read it (normalised).

    ``largest``: [channels, bands], the largest absolute values. ``energy``: [bands, channels, channels], mean products
    of the channels' coefficients: mean squares on the diagonal.
    """

    largest: Array
    energy: Array


@dataclass(frozen=True, eq=False)
class Certificate:
    """How wrong a stem's outputs can be, before their activation, when it is not given some bands of the picture.

    It speaks of exact arithmetic on an RGB picture of uint8; a backend's own precision comes on top. ``bands``: those
    left out, by resolution. ``norms``: [outputs, channels, bands], the 1-norms of the weights that would have read
    them; ``products``: [outputs, bands, channels, channels], the inner products between channels of these weights.
    """

    bands: tuple[Bands, ...]
    normalization: Normalization
    norms: Array
    products: Array

    @classmethod
    def of(cls, left_out: Sequence[tuple[Bands, Array]], normalization: Normalization) -> Certificate:
        """From the bands of each resolution and the folded weight [outputs, channels·bands, height, width] on them."""
        split = [weight.reshape(len(weight), -1, len(bands.names), *weight.shape[2:]) for bands, weight in left_out]
        norms = np.concatenate([np.abs(weight).sum((3, 4)) for weight in split], axis=2)
        products = np.concatenate([np.einsum("ocnij,odnij->oncd", weight, weight) for weight in split], axis=1)
        return cls(tuple(bands for bands, _ in left_out), normalization, norms, products)

    def __repr__(self) -> str:
        return f"Certificate(without {', '.join(self.names)}; at most {self.bound().max():.3g})"

    @property
    def names(self) -> tuple[str, ...]:
        """The bands left out, in the order of all arrays."""
        return tuple(name for bands in self.bands for name in bands.names)

    def bound(self, levels: BandLevels | None = None) -> Array:
        """The largest absolute error of each output of the stem, [outputs]: on one picture, or without one on any."""
        ranges = self.ranges
        largest = ranges if levels is None else np.minimum(levels.largest + ROUNDING * ranges, ranges)
        bound: Array = np.einsum("ocn,cn->o", self.norms, largest)
        return bound

    def rms(self, levels: BandLevels) -> Array:
        """An estimate of each output's root mean square error on one picture, [outputs]; no bound."""
        squares: Array = np.einsum("oncd,ncd->o", self.products, levels.energy)
        return np.sqrt(np.maximum(squares, 0.0))

    @cached_property
    def ranges(self) -> Array:
        """The largest absolute value that a coefficient of any picture can have, [channels, bands]."""
        mean, std = np.array(self.normalization.mean), np.array(self.normalization.std)
        low, high = np.minimum(-mean / std, 0.0)[:, None], np.maximum((255 - mean) / std, 0.0)[:, None]
        plus = np.array([kernel[kernel > 0].sum() for bands in self.bands for kernel in bands.kernels])
        minus = np.array([-kernel[kernel < 0].sum() for bands in self.bands for kernel in bands.kernels])
        ranges: Array = np.maximum(high * plus - low * minus, high * minus - low * plus)
        return ranges

    def measure(self, picture: NDArray[np.uint8]) -> BandLevels:
        """What is in the bands left out of a picture, uint8 [height, width, 3] RGB at the network's size.

        Raises TransformError for a picture of another kind, or whose sides are no multiples of the bands' blocks.
        """
        block = max(bands.block for bands in self.bands)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise TransformError(f"bands are measured on uint8 [height, width, 3], got {picture.dtype} {picture.shape}")
        if picture.shape[0] % block or picture.shape[1] % block:
            raise TransformError(f"sides must be multiples of {block}, got {picture.shape[1]}x{picture.shape[0]}")
        largest, energy = [], []
        for bands in self.bands:
            for found in _coefficients(picture, bands, self.normalization):
                largest.append(np.maximum(found.max(1), -found.min(1)))
                energy.append(found @ found.T / found.shape[1])
        return BandLevels(np.stack(largest, axis=1).astype(np.float64), np.stack(energy).astype(np.float64))

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return {
            "bands": [[one.names, one.block, one.lead, one.analysis.tolist()] for one in self.bands],
            "synthesis": [one.synthesis.tolist() for one in self.bands],
            "normalization": [self.normalization.mean, self.normalization.std],
            "norms": self.norms.tolist(),
            "products": self.products.tolist(),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Certificate:
        """What ``to_dict`` gave. Raises KeyError, TypeError or ValueError where it is something else."""
        bands = tuple(
            Bands(tuple(names), block, lead, np.array(analysis), np.array(synthesis))
            for (names, block, lead, analysis), synthesis in zip(stored["bands"], stored["synthesis"], strict=True)
        )
        mean, std = (tuple(levels) for levels in stored["normalization"])
        return cls(bands, Normalization(mean, std), np.array(stored["norms"]), np.array(stored["products"]))


def _coefficients(
    picture: NDArray[np.uint8], bands: Bands, normalization: Normalization
) -> Iterator[NDArray[np.float32]]:
    """Every band of a normalised picture, [3, coefficients].

    Filters run over whole rows first; what they give is split into its phases, so that columns need no strides.
    """
    pixels, filters, scale = _scaled(picture, bands, normalization)
    (rows, columns), block = filters, bands.block
    down, right = (bands.count(side) for side in picture.shape[:2])
    phases: dict[bytes, Sequence[NDArray[Any]]] = {}
    for row, column, factor in zip(rows, columns, scale, strict=True):
        if row.tobytes() not in phases:
            filtered = _sum(row, [pixels[at : at + block * (down - 1) + 1 : block] for at in range(bands.length)])
            phases[row.tobytes()] = cv2.split(filtered.reshape(down, -1, 3 * block))
        planes = phases[row.tobytes()]
        shifts = [divmod(at, block) for at in range(bands.length)]
        found = [
            _sum(column, [planes[3 * phase + channel][:, skip : skip + right] for skip, phase in shifts])
            for channel in range(3)
        ]
        yield np.stack(found).reshape(3, -1).astype(np.float32) * factor[:, None]


def _sum(taps: NDArray[Any], values: Sequence[NDArray[Any]]) -> NDArray[Any]:
    total: NDArray[Any] = taps[0] * values[0]
    for tap, value in zip(taps[1:], values[1:], strict=True):
        total += tap * value
    return total


def _scaled(
    picture: NDArray[np.uint8], bands: Bands, normalization: Normalization
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]:
    """The picture and the filters that are run over it, and what scales each band's channels, [bands, 3]."""
    height, width, _ = picture.shape
    std = np.array(normalization.std, np.float32)
    if _counts_in_whole_numbers(bands):
        factors = np.abs(bands.analysis[0, :, :1] * bands.analysis[1, :, :1])
        return picture.astype(np.int16), np.sign(bands.analysis).astype(np.int16), (factors / std).astype(np.float32)
    sides = (bands.block * (bands.count(side) - 1) + bands.length for side in (height, width))
    room = np.zeros((*(-(-side // bands.block) * bands.block for side in sides), 3), np.float32)
    mean = np.array(normalization.mean, np.float32)
    room[bands.lead : bands.lead + height, bands.lead : bands.lead + width] = picture - mean
    return room, bands.analysis.astype(np.float32), np.broadcast_to(1 / std, (len(bands.names), 3))


def _counts_in_whole_numbers(bands: Bands) -> bool:
    """Whether all taps are ±1 up to a factor, as Haar's are, and the picture's mean and border do not matter."""
    sizes = np.abs(bands.analysis)
    without_mean = (np.abs(bands.analysis.sum(axis=2)) < 1e-12).any(axis=0).all()
    return bands.lead == 0 and bool(without_mean) and bool(np.ptp(sizes, axis=2).max() < 1e-12)
