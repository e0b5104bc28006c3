"""Bands: what a block transform or a wavelet decomposition makes of a picture, as filters along each axis.

Along one axis, coefficient m of a band is ``z[m] = Σ_i analysis[i] · x[block · m + i - lead]``, and the picture is
``x[t] = Σ_bands Σ_m z[m] · synthesis[t + lead - block · m]``, x being zero outside: PyWavelets' mode ``zero``. A band
of a picture takes one such filter along y and one along x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import TransformError

Array = NDArray[np.float64]
Layout = Literal["mallat", "packet"]
Keep = Literal["all", "low", "low_and_edges"]

# Filters that give a picture back no better than this are refused; those of PyWavelets do to 1e-9, save one.
INEXACT = 1e-6

# Along y and x, each letter of a band's path takes the low-pass (0) or the high-pass (1) filter: approximation,
# horizontal, vertical and diagonal detail, as PyWavelets names them.
_LETTERS = {"a": (0, 0), "h": (1, 0), "v": (0, 1), "d": (1, 1)}


@dataclass(frozen=True, slots=True, eq=False)
class Bands:
    """Bands of one resolution: each a value for every ``block × block`` pixels.

    ``analysis`` and ``synthesis``: [2, bands, length] float64, the filters along y and along x.
    """

    names: tuple[str, ...]
    block: int
    lead: int
    analysis: Array
    synthesis: Array

    def __post_init__(self) -> None:
        if self.analysis.shape != self.synthesis.shape or self.analysis.shape[:2] != (2, len(self.names)):
            raise TransformError(
                f"{len(self.names)} bands need filters [2, {len(self.names)}, length], got {self.analysis.shape} "
                f"and {self.synthesis.shape}"
            )

    def __repr__(self) -> str:
        return f"Bands({', '.join(self.names)}; blocks of {self.block}, {self.length} taps)"

    @property
    def length(self) -> int:
        """Taps of a filter along one axis."""
        return int(self.analysis.shape[2])

    @property
    def kernels(self) -> Array:
        """The analysis as two-dimensional kernels, [bands, length, length]."""
        rows, columns = self.analysis
        kernels: Array = rows[:, :, None] * columns[:, None, :]
        return kernels

    @property
    def are_phases(self) -> bool:
        """Whether they are all pixels of a block, row by row."""
        pixels = self.block**2
        return self.length == self.block and np.array_equal(self.kernels.reshape(-1, pixels), np.eye(pixels))

    @property
    def are_means(self) -> bool:
        """Whether there is only one, the mean of every block up to a factor."""
        return len(self.names) == 1 and self.length == self.block and bool(np.ptp(self.kernels) <= 1e-12)

    def count(self, side: int) -> int:
        """Coefficients along an axis of ``side`` pixels: all that some pixel takes part in."""
        return (side - 1 + self.lead) // self.block + 1

    def only(self, kept: Sequence[str]) -> Bands:
        """Those of the bands that are named, in their own order."""
        rows = [at for at, name in enumerate(self.names) if name in kept]
        names = tuple(self.names[at] for at in rows)
        return Bands(names, self.block, self.lead, self.analysis[:, rows], self.synthesis[:, rows])


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """A picture as bands: those that the network reads and those left out, grouped by resolution, finest first."""

    name: str
    kept: tuple[Bands, ...]
    dropped: tuple[Bands, ...] = ()

    @property
    def block(self) -> int:
        """Side of the largest block in pixels: the picture's sides must be multiples of it."""
        return max(bands.block for bands in (*self.kept, *self.dropped))

    @property
    def exact(self) -> bool:
        """Whether the whole picture is in the bands that are kept."""
        return not self.dropped


def phases(block: int) -> Decomposition:
    """Space to depth: every pixel of a block is a band, row by row, as ``pixel_unshuffle`` orders them."""
    identity = np.eye(block)
    filters = np.stack([np.repeat(identity, block, axis=0), np.tile(identity, (block, 1))])
    names = tuple(f"{row},{column}" for row in range(block) for column in range(block))
    return Decomposition(f"blocks of {block}", (Bands(names, block, 0, filters, filters),))


def wavelet_bands(wavelet: str, levels: int = 1, layout: Layout = "mallat", keep: Keep = "all") -> Decomposition:
    """A wavelet decomposition with PyWavelets' filters, orders and signs, in its mode ``zero``.

    ``mallat``: every level splits the approximation of the level before; ``packet``: every level splits all bands.
    Bands are named by their paths: ``a`` approximation, ``h``, ``v`` and ``d`` horizontal, vertical and diagonal
    detail, the first level first (``av``: the vertical detail of the approximation). ``low`` keeps the last
    approximation alone, ``low_and_edges`` leaves out what is diagonal at some level.

    Raises TransformError for a wavelet that PyWavelets does not have, or whose filters do not give the picture back.
    """
    filters = _filters(wavelet)
    paths = _packet(levels) if layout == "packet" else _mallat(levels)
    depths = sorted({len(path) for path in paths})
    groups = [_bands(filters, [path for path in paths if len(path) == depth]) for depth in depths]
    kept = [path for path in paths if _is_kept(path, keep, levels)]
    left_out = [path for path in paths if path not in kept]
    return Decomposition(f"{wavelet} {levels} {layout} {keep}", _those(groups, kept), _those(groups, left_out))


def _those(groups: Sequence[Bands], names: Sequence[str]) -> tuple[Bands, ...]:
    found = (group.only(names) for group in groups)
    return tuple(group for group in found if group.names)


def _is_kept(path: str, keep: Keep, levels: int) -> bool:
    return keep == "all" or (path == "a" * levels if keep == "low" else "d" not in path)


def _mallat(levels: int) -> list[str]:
    last = levels - 1
    return ["a" * level + letter for level in range(levels) for letter in ("ahvd" if level == last else "hvd")]


def _packet(levels: int) -> list[str]:
    return reduce(lambda paths, _: [path + letter for path in paths for letter in _LETTERS], range(levels), [""])


def _bands(filters: tuple[Array, Array], paths: Sequence[str]) -> Bands:
    """Bands of paths of one length. ``filters``: analysis and synthesis, each [low or high, length]."""
    depth = len(paths[0])
    built = [
        np.array([[_cascade(bank, [_LETTERS[letter][axis] for letter in path]) for path in paths] for axis in (0, 1)])
        for bank in filters
    ]
    lead = (2**depth - 1) * (filters[0].shape[1] - 2)
    return Bands(tuple(paths), 2**depth, lead, built[0][..., ::-1], built[1])


def _cascade(bank: Array, path: Sequence[int]) -> Array:
    """One filter that does what the filters of all levels do one after the other: Σ_j g₂[j] · g₁[i - 2j] and so on."""
    composed = np.ones(1)
    for choice in reversed(path):
        spread = np.zeros(2 * composed.size - 1)
        spread[::2] = composed
        composed = np.convolve(spread, bank[choice])
    return composed


def _filters(wavelet: str) -> tuple[Array, Array]:
    """Analysis and synthesis filters, each [low and high, length], to convolve with; Haar's need no library."""
    if wavelet == "haar":
        half = np.sqrt(0.5)
        return np.array([[half, half], [-half, half]]), np.array([[half, half], [half, -half]])
    from sharedbb.transforms.wavelet_filters import filter_bank

    bank = filter_bank(wavelet)
    analysis = np.array([bank.analysis.low[::-1], bank.analysis.high[::-1]])
    synthesis = np.array([bank.synthesis.low, bank.synthesis.high])
    error = _miss(analysis, synthesis)
    if error > INEXACT:
        raise TransformError(
            f"the filters of {wavelet!r} do not give the picture back (off by {error:.1g}): none folds"
        )
    return analysis, synthesis


def _miss(analysis: Array, synthesis: Array) -> float:
    """By how much analysis and synthesis of an impulse differ from it, for an even and an odd place at most."""
    length = analysis.shape[1]
    again = sum(np.convolve(one, other) for one, other in zip(analysis, synthesis, strict=True))
    aliased = sum(
        np.convolve(one * (-1.0) ** np.arange(length), other) for one, other in zip(analysis, synthesis, strict=True)
    )
    wanted = np.zeros(2 * length - 1)
    wanted[length - 1] = 2.0
    return float(max(np.abs(again - wanted).max(), np.abs(aliased).max()) / 2)
