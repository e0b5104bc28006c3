"""What a coding says, and what the header says of a weight: read from plain values, checked, never trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharedbb.errors import ArtifactError

MAX_DECODED_BYTES = 2**31
"""Weights of more bytes than this, decoded, are refused."""

MAX_RATIO, UNSUSPICIOUS_BYTES = 200, 2**26
"""Weights of more bytes than the second are refused where they are more than the first times what they take packed."""

FLOAT = np.dtype("<f4")
DTYPES: Mapping[str, np.dtype[Any]] = {
    "f64": np.dtype("<f8"),
    "f32": FLOAT,
    "f16": np.dtype("<f2"),
    "i64": np.dtype("<i8"),
    "i32": np.dtype("<i4"),
    "i16": np.dtype("<i2"),
    "i8": np.dtype("i1"),
    "u8": np.dtype("u1"),
    "bool": np.dtype("?"),
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_RANK = 8
_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"dtype": None},
    "uniform": {"bits": 8, "axis": 0, "symmetric": True},
    "codebook": {"bits": 4, "group": None},
}


@dataclass(frozen=True, slots=True)
class Coding:
    """A coding, every field of the right type; what its type does not use stands at the default."""

    type: str = "plain"
    sparse: bool = False
    dtype: str | None = None
    bits: int = 8
    axis: int | None = None
    symmetric: bool = True
    group: str | None = None

    @classmethod
    def parse(cls, name: str, told: Mapping[str, Any]) -> Coding:
        """The coding of weight ``name``. Raises ArtifactError naming the weight and the field."""
        kind = told.get("type")
        if not isinstance(kind, str) or kind not in _FIELDS:
            raise ArtifactError(f"weight {name!r}: no coding is called {kind!r} (known: {', '.join(_FIELDS)})")
        known = {"type": kind, "sparse": False, **_FIELDS[kind]}
        if unknown := sorted(told.keys() - known.keys()):
            raise ArtifactError(f"weight {name!r}: a {kind} coding has no {unknown[0]!r} (it has: {', '.join(known)})")
        found = cls(**{**known, **told})
        least = 1 if kind == "codebook" else 2
        right = {
            "sparse": (type(found.sparse) is bool, "true or false"),
            "dtype": (found.dtype in (None, "f16", "f32"), "f16 or f32"),
            "bits": (type(found.bits) is int and least <= found.bits <= 8, f"{least} to 8"),
            "axis": (found.axis is None or (type(found.axis) is int and found.axis == 0), "0 or None"),
            "symmetric": (type(found.symmetric) is bool, "true or false"),
            "group": (found.group is None or isinstance(found.group, str), "a name"),
        }
        for field, (fits, wanted) in right.items():
            if not fits:
                got = getattr(found, field)
                raise ArtifactError(f"weight {name!r}: {field} of a {kind} coding is {got!r}; it must be {wanted}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values: what a coding of this type has and what is not left open."""
        fields = {field: getattr(self, field) for field in _FIELDS[self.type]}
        left_open = () if self.type == "uniform" else ("dtype", "group")
        told = {field: value for field, value in fields.items() if value is not None or field not in left_open}
        return {"type": self.type, **told, **({"sparse": True} if self.sparse else {})}

    def check(self, name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        """Raises ArtifactError when a weight of that shape and type cannot be coded so."""
        if self != AS_IT_IS and dtype != FLOAT:
            raise ArtifactError(
                f"weight {name!r} is {dtype}; only float32 weights can have the coding {self.to_dict()}"
            )
        if self.type == "uniform" and self.axis is not None and not shape:
            raise ArtifactError(f"weight {name!r} is a scalar and has no axis 0; use axis None")

    def book(self, name: str) -> str:
        """The group whose codebook weight ``name`` uses."""
        return name if self.group is None else self.group


AS_IT_IS = Coding()


@dataclass(frozen=True, slots=True)
class Entry:
    """What the header says of one weight; ``runs``: how many runs of zeros it has, None where it is not sparse."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    coding: Coding
    runs: int | None = None

    @classmethod
    def parse(cls, name: str, told: Mapping[str, Any]) -> Entry:
        """Raises ArtifactError, KeyError, TypeError, ValueError or AttributeError for a wrong entry."""
        shape, runs = tuple(told["shape"]), told.get("runs")
        coding = Coding.parse(name, told["coding"]) if "coding" in told else AS_IT_IS
        if not all(type(side) is int and side >= 0 for side in shape) or len(shape) > _MAX_RANK:
            raise ArtifactError(f"weight {name!r}: {list(shape)} is no shape")
        if (type(runs) is int and runs >= 0) is not coding.sparse:
            raise ArtifactError(f"weight {name!r}: {runs!r} runs of zeros do not fit its coding")
        entry = cls(shape, DTYPES[told["dtype"]], coding, runs)
        coding.check(name, shape, entry.dtype)
        return entry

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the header."""
        told: dict[str, Any] = {"shape": list(self.shape), "dtype": DTYPE_NAMES[self.dtype]}
        if self.coding != AS_IT_IS:
            told["coding"] = self.coding.to_dict()
        return told if self.runs is None else {**told, "runs": self.runs}

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes when decoded; a side of 0 counts as 1, so that no other side can be beyond reason."""
        return math.prod(max(1, side) for side in self.shape) * self.dtype.itemsize
