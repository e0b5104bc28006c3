"""Which labels hold for the picture as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sharedbb.outputs.raw import Raw, part, plain, share_of, sigmoid
from sharedbb.types import Geometry


@dataclass(frozen=True, slots=True, eq=False)
class Tags:
    """A probability for every label, each for itself.

    ``probabilities``: float32 [K] in 0–1, in the order of ``names``; a label is present from ``threshold`` on.
    """

    names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    threshold: float

    @property
    def present(self) -> tuple[str, ...]:
        """The labels at or above the threshold, in the order of ``names``."""
        return tuple(name for name, there in zip(self.names, self.answers, strict=True) if there)

    @property
    def answers(self) -> NDArray[np.bool_]:
        """bool [K]: whether each label is present, in the order of ``names``."""
        present: NDArray[np.bool_] = self.probabilities >= self.threshold
        return present

    def changed(self, dense: Tags) -> float:
        """The share (0–1) of labels whose yes or no differs from ``dense``, the answer computed in full."""
        return share_of(self.answers != dense.answers)

    def __getitem__(self, name: str) -> float:
        if name not in self.names:
            raise KeyError(f"no label {name!r}; these tags have {', '.join(self.names)}")
        return float(self.probabilities[self.names.index(name)])

    def __repr__(self) -> str:
        return f"Tags({', '.join(self.present) or 'none'}; {len(self.names)} labels)"

    def to_dict(self) -> dict[str, Any]:
        """The labels present, and the probability of every label (``None`` where it is not a number)."""
        probabilities = dict(zip(self.names, plain(self.probabilities, 4), strict=True))
        return {"type": "tags", "present": list(self.present), "probabilities": probabilities}


class TagsSpec(Protocol):
    """The fields that decoding needs."""

    labels: tuple[str, ...]
    threshold: float


@dataclass(frozen=True, slots=True)
class TagsDecoder:
    """``logits`` [1, K] to Tags."""

    names: tuple[str, ...]
    threshold: float

    def __call__(self, raw: Raw, geometry: Geometry) -> Tags:
        """A sigmoid. Raises GraphError when there is not one logit a label."""
        return Tags(self.names, sigmoid(part(raw, "logits", len(self.names))), self.threshold)


def tags_decoder(spec: TagsSpec) -> TagsDecoder:
    """The decoder of a tags head."""
    return TagsDecoder(tuple(spec.labels), spec.threshold)
