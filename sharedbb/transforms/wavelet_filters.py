"""The filters of PyWavelets' discrete wavelets, as taps, and what can be asked of them: names, modes, levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import pywt

from sharedbb.errors import TransformError

# Signal extension modes, under PyWavelets' names.
MODES = (
    "zero",
    "constant",
    "symmetric",
    "periodic",
    "smooth",
    "periodization",
    "reflect",
    "antisymmetric",
    "antireflect",
)


@dataclass(frozen=True, slots=True)
class Taps:
    """A low-pass and a high-pass filter of the same even length."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def length(self) -> int:
        """Number of taps of each filter."""
        return len(self.low)


@dataclass(frozen=True, slots=True)
class FilterBank:
    """One wavelet: what analysis correlates with, what synthesis spreads.

    ``low[k] = sum_m analysis.low[m] * signal[2k + m]`` on the extended signal, and the signal is the sum over k of
    ``low[k] * synthesis.low`` shifted by 2k, plus the same for the high band.
    """

    name: str
    analysis: Taps
    synthesis: Taps

    @property
    def length(self) -> int:
        """Number of taps of each filter, zeros at the ends included, as PyWavelets' ``dec_len``."""
        return self.analysis.length


def filter_bank(wavelet: Any) -> FilterBank:
    """Filters of a discrete wavelet, by PyWavelets' name (upper or lower case) or as a ``pywt.Wavelet``.

    Raises TransformError for a name that PyWavelets does not know and for a continuous wavelet.
    """
    if isinstance(wavelet, pywt.Wavelet):
        found = wavelet
    elif isinstance(wavelet, pywt.ContinuousWavelet):
        raise TransformError(f"wavelet {wavelet.name} is continuous: a filter bank takes a discrete one, such as db2")
    elif isinstance(wavelet, str):
        found = _by_name(wavelet)
    else:
        raise TransformError(f"wavelet is a {type(wavelet).__name__}: it takes a name, such as db2, or a pywt.Wavelet")
    return FilterBank(
        name=found.name,
        analysis=Taps(tuple(reversed(found.dec_lo)), tuple(reversed(found.dec_hi))),
        synthesis=Taps(tuple(found.rec_lo), tuple(found.rec_hi)),
    )


@lru_cache(maxsize=128)
def _by_name(name: str) -> pywt.Wavelet:
    discrete = pywt.wavelist(kind="discrete")
    lower = name.lower()
    if lower in discrete:
        return pywt.Wavelet(lower)
    if lower.startswith(tuple(pywt.wavelist(kind="continuous"))):
        raise TransformError(f"wavelet {name} is continuous: a filter bank takes a discrete one, such as db2")
    near = get_close_matches(lower, discrete, n=4, cutoff=0.5) or ["haar", "db2", "sym4", "bior4.4"]
    raise TransformError(f"wavelet {name!r} is not among PyWavelets' {len(discrete)} discrete ones; near: {near}")


def pair(setting: Any) -> tuple[Any, Any]:
    """A setting for both axes, or one for each, as PyWavelets takes wavelets and modes."""
    if isinstance(setting, Sequence) and not isinstance(setting, str):
        if len(setting) != 2:
            raise TransformError(f"{len(setting)} settings for the two axes: give one for both, or two")
        return setting[0], setting[1]
    return setting, setting


def check_mode(mode: Any) -> str:
    """The name of a signal extension mode; raises TransformError for others."""
    if mode not in MODES:
        raise TransformError(f"extension mode {mode!r} is none of {', '.join(MODES)}")
    return str(mode)


def deepest(sizes: Sequence[int], banks: Sequence[FilterBank]) -> int:
    """The most levels that make sense, at least 1.

    One level is defined for every size. Each further one needs a coefficient that the borders do not reach
    (``pywt.dwt_max_level``).
    """
    levels: list[int] = [pywt.dwt_max_level(size, bank.length) for size, bank in zip(sizes, banks, strict=True)]
    return max(1, min(levels))
