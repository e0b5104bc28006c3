"""Raw network outputs: taking a checked part out of them, or handing them on as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import GraphError
from sharedbb.types import Geometry

Raw = Mapping[str, NDArray[Any]]
"""What a head computed: part names to float32 arrays of batch 1, those of four dimensions NHWC."""

LISTED = 256
"""Arrays of at most so many elements have their values in ``RawOutput.to_dict``."""

TOLERANCE = 0.01
"""Two numbers are the same answer when they differ by at most this share of their array's largest magnitude."""


def part(raw: Raw, name: str, *sizes: int | None) -> NDArray[np.float32]:
    """One part of a raw output without its batch axis: a view, of shape ``sizes`` where they are given.

    Raises GraphError when the part is missing or of another shape.
    """
    if name not in raw:
        raise GraphError(f"the head computed no {name!r}, only {sorted(raw)}")
    array = raw[name]
    fits = array.ndim == len(sizes) + 1 and array.shape[0] == 1
    if not fits or any(size not in (None, got) for size, got in zip(sizes, array.shape[1:], strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        raise GraphError(f"{name!r} has shape {tuple(array.shape)}, the head's spec asks for (1, {wanted})")
    view: NDArray[np.float32] = np.asarray(array[0], np.float32)
    return view


def owning(decoder: Any) -> Any:
    """The decoder, handed arrays that stay as they are: those of a backend change with the next frame.

    The decoders of sharedbb copy what they keep, and stay themselves.
    """
    if getattr(decoder, "__module__", "").partition(".")[0] == "sharedbb":
        return decoder

    def decode(raw: Raw, geometry: Geometry) -> Any:
        return decoder({name: array.copy() for name, array in raw.items()}, geometry)

    return decode


def plain(values: Any, digits: int) -> Any:
    """Numbers or nested sequences of them as Python floats rounded to ``digits``; ``None`` where not finite."""
    rounded = np.asarray(np.round(np.asarray(values, np.float64), digits))
    finite = np.isfinite(rounded)
    if finite.all():
        return rounded.tolist()
    listed = rounded.astype(np.object_)
    listed[~finite] = None
    return listed.tolist()


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """``1 / (1 + exp(-x))``, without overflow."""
    halved: NDArray[np.float32] = 0.5 * np.tanh(0.5 * logits) + np.float32(0.5)
    return halved


def share_of(holds: NDArray[np.bool_]) -> float:
    """The share (0–1) of an array's elements that hold; 0 of an empty one."""
    return float(np.count_nonzero(holds)) / holds.size if holds.size else 0.0


def numbers_differ(ours: NDArray[np.float32], dense: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which elements differ by more than 1 % of the largest finite magnitude in ``dense``; bool, of its shape.

    NaN equals NaN. Of arrays of different shapes every element differs.
    """
    if ours.shape != dense.shape:
        return np.ones(dense.shape, np.bool_)
    largest = np.abs(dense).max(initial=0.0, where=np.isfinite(dense))
    return ~np.isclose(ours, dense, rtol=0, atol=TOLERANCE * float(largest), equal_nan=True)


@dataclass(frozen=True, slots=True, eq=False)
class RawOutput:
    """A head's tensors by part name, as the network gave them: float32, batch 1, feature maps NCHW."""

    arrays: dict[str, NDArray[np.float32]]

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        try:
            return self.arrays[name]
        except KeyError:
            raise KeyError(f"no part {name!r}; this output has {sorted(self.arrays)}") from None

    def changed(self, dense: RawOutput) -> float:
        """The share (0–1) of elements that differ by more than 1 % of their array's largest magnitude in ``dense``.

        ``dense`` is the answer computed in full. Takes time in proportion to the arrays' sizes.
        """
        differ = [numbers_differ(self[name], array).ravel() for name, array in dense.arrays.items()]
        return share_of(np.concatenate(differ)) if differ else 0.0

    def __repr__(self) -> str:
        return f"RawOutput({', '.join(f'{name} {array.shape}' for name, array in self.arrays.items())})"

    def to_dict(self) -> dict[str, Any]:
        """Shapes, and the values of arrays of up to 256 elements."""
        parts = {name: _described(array) for name, array in self.arrays.items()}
        return {"type": "raw", "arrays": parts}


@dataclass(frozen=True, slots=True)
class RawDecoder:
    """Copies every part, feature maps back to NCHW."""

    def __call__(self, raw: Raw, geometry: Geometry) -> RawOutput:
        """The same numbers in arrays of their own; ``geometry`` is not needed."""
        return RawOutput({name: _owned(array) for name, array in raw.items()})


def raw_decoder() -> RawDecoder:
    """A decoder for networks whose outputs mean something only to their owner."""
    return RawDecoder()


def _owned(array: NDArray[Any]) -> NDArray[np.float32]:
    moved = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    return np.array(moved, np.float32, order="C")


def _described(array: NDArray[np.float32]) -> dict[str, Any]:
    shape = list(array.shape)
    return {"shape": shape, "values": plain(array, 6)} if array.size <= LISTED else {"shape": shape}
