"""A vector that stands for the whole picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sharedbb.outputs.raw import Raw, part, plain
from sharedbb.types import Geometry


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """``vector``: float32 [D], of length one."""

    vector: NDArray[np.float32]

    def similarity(self, other: Embedding) -> float:
        """Cosine of the angle between two embeddings, −1 to 1."""
        return float(self.vector @ other.vector)

    def changed(self, dense: Embedding) -> float:
        """Half of 1 − cosine: 0 for the direction of ``dense``, the answer computed in full, 1 for the opposite one.

        A vector that is not finite, or of no length, has changed wholly.
        """
        ours, true = self.vector.astype(np.float64), dense.vector.astype(np.float64)
        lengths = math.sqrt(float(ours @ ours) * float(true @ true))
        cosine = float(ours @ true) / lengths if lengths else math.nan
        return min(max((1 - cosine) / 2, 0.0), 1.0) if math.isfinite(cosine) else 1.0

    def __repr__(self) -> str:
        return f"Embedding(vector {self.vector.shape})"

    def to_dict(self) -> dict[str, Any]:
        """The vector, to six digits."""
        return {"type": "embedding", "vector": plain(self.vector, 6)}


class EmbeddingSpec(Protocol):
    """The field that decoding needs."""

    dim: int


@dataclass(frozen=True, slots=True)
class EmbeddingDecoder:
    """``vector`` [1, D] to an Embedding."""

    dim: int

    def __call__(self, raw: Raw, geometry: Geometry) -> Embedding:
        """Copy the vector. Raises GraphError when it is of another length."""
        return Embedding(part(raw, "vector", self.dim).copy())


def embedding_decoder(spec: EmbeddingSpec) -> EmbeddingDecoder:
    """The decoder of an embedding head."""
    return EmbeddingDecoder(spec.dim)
