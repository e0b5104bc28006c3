"""What the heads of a teacher answer, and what its network computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from sharedbb.errors import GraphError
from sharedbb.outputs import DepthMap, Detections, Embedding, Keypoints, SegmentationMap, Tags
from sharedbb.types import Output

Precision = Literal["f32", "bf16", "f16", "int8"]

Arrays = Mapping[str, NDArray[Any]]
"""What a network computed for one picture: arrays by name, with the batch axis of 1 that they have."""

TYPES: Mapping[type, str] = {
    SegmentationMap: "segmentation",
    Detections: "detection",
    DepthMap: "depth",
    Tags: "tags",
    Keypoints: "keypoints",
    Embedding: "embedding",
}
"""The type of head, as pipelines call it, by what it answers."""


@dataclass(frozen=True, slots=True)
class TeacherHead:
    """What one head of a teacher answers: its ``type`` as of a pipeline's head, and about which classes or points.

    ``threshold``: its operating point, the lowest score or probability that counts; None where there is none.
    ``length``: how many numbers an embedding has, 0 of other types. ``own``: what the teacher itself calls it.
    """

    type: str
    names: tuple[str, ...] = ()
    threshold: float | None = None
    own: str = field(default="", compare=False)
    length: int = 0

    @classmethod
    def of(cls, own: str, answer: Output, threshold: float | None) -> TeacherHead:
        """The head that gave this answer. Raises GraphError for answers that nothing can be learnt from."""
        kind = TYPES.get(type(answer))
        if kind is None:
            known = ", ".join(one.__name__ for one in TYPES)
            raise GraphError(f"{own!r} answers with {type(answer).__name__}; what can be learnt is {known}")
        point = threshold if isinstance(answer, Detections | Tags) else None
        length = len(answer.vector) if isinstance(answer, Embedding) else 0
        return cls(kind, tuple(getattr(answer, "names", ())), point, own, length)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        told = {"type": self.type, "names": list(self.names), "threshold": self.threshold, "own": self.own}
        return told | ({"length": self.length} if self.length else {})


def shapes(raw: Arrays) -> str:
    """``scores (1, 4420, 2), boxes (1, 4420, 4)``."""
    return ", ".join(f"{name} {tuple(array.shape)}" for name, array in raw.items()) or "nothing"
