"""Boxes with classes, and making them from an anchor-free detector's scores and distances."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import GraphError, SharedBBError
from sharedbb.outputs.raw import Raw, part, plain, sigmoid
from sharedbb.types import Geometry, Size

MOST_CANDIDATES = 1000
"""Only so many of the highest scores go into suppression, or ``max_detections`` where that is more."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Boxes in source pixels, best score first.

    ``boxes``: float32 [N, 4] as left, top, right, bottom; ``scores``: float32 [N] in 0–1; ``classes``: int64 [N],
    indices into ``names``.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Detections({len(self)} boxes of {len(self.names)} classes)"

    @property
    def labels(self) -> tuple[str, ...]:
        """The class name of every box."""
        return tuple(self.names[index] for index in self.classes.tolist())

    def only(self, *names: str) -> Detections:
        """The boxes of the classes named. Raises KeyError for an unknown name."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise KeyError(f"no class {unknown[0]!r}; these detections have {', '.join(self.names)}")
        keep = np.isin(self.classes, [self.names.index(name) for name in names])
        return Detections(self.boxes[keep], self.scores[keep], self.classes[keep], self.names)

    def partners(self, truth: Detections, iou: float = 0.5) -> NDArray[np.int64]:
        """int64 [N]: which box of ``truth`` each box matches, −1 for none; no two match the same one.

        Best score first, every box takes the one of its class that it overlaps most among those still free, if their
        IoU is ``iou`` or more.
        """
        overlaps = intersection_over_union(self.boxes, truth.boxes)
        overlaps[self.classes[:, None] != truth.classes] = 0.0
        partners = np.full(len(self), -1, np.int64)
        hopeful: NDArray[np.bool_] = np.asarray((overlaps >= iou).any(axis=1))
        for row in np.argsort(-self.scores, kind="stable"):
            if hopeful[row]:
                best = int(overlaps[row].argmax())
                if overlaps[row, best] >= iou:
                    partners[row] = best
                    overlaps[:, best] = 0.0
        return partners

    def changed(self, dense: Detections) -> float:
        """1 − 2·matches / (boxes here + boxes in ``dense``), 0–1: what does not match the answer computed in full.

        Boxes match within a class at an IoU of 0.5, best score first. Two empty answers are the same.
        """
        both = len(self) + len(dense)
        return 1 - 2 * int(np.count_nonzero(self.partners(dense) >= 0)) / both if both else 0.0

    def carried(self, follow: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Detections:
        """The same boxes elsewhere: ``follow`` maps boxes [N, 4] to where they are now; those without area go."""
        boxes = follow(self.boxes)
        if boxes is self.boxes:
            return self
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        return Detections(boxes[solid], self.scores[solid], self.classes[solid], self.names)

    def to_dict(self) -> dict[str, Any]:
        """One item a box: class name, score, and left, top, right, bottom."""
        rows = zip(self.labels, plain(self.scores, 4), plain(self.boxes, 2), strict=True)
        return {"type": "detections", "items": [{"class": label, "score": s, "box": box} for label, s, box in rows]}

    def to_supervision(self) -> Any:
        """The same as ``supervision.Detections``, class names in ``data["class_name"]``.

        Raises SharedBBError when that package is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise SharedBBError("to_supervision needs a package that is not here: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.classes.copy(),
            data={"class_name": np.array(self.labels, dtype=np.str_)},
        )


class DetectionSpec(Protocol):
    """The fields that decoding needs."""

    taps: tuple[int, ...]
    classes: tuple[str, ...]
    score_threshold: float
    iou_threshold: float
    max_detections: int


@dataclass(frozen=True, slots=True)
class DetectionDecoder:
    """``scores`` [1, L, C] (logits) and ``distances`` [1, L, 4] (in strides) to Detections.

    Candidates are the cell-class pairs whose probability is above ``score_threshold``, the best 1000 if there are more.
    Their boxes are clipped to the picture; those without area then, or with NaN, are dropped. Within each class every
    box that overlaps a better one by more than ``iou_threshold`` goes.
    """

    strides: tuple[int, ...]
    names: tuple[str, ...]
    score_threshold: float
    iou_threshold: float
    max_detections: int

    def __call__(self, raw: Raw, geometry: Geometry) -> Detections:
        """Raises GraphError when the tensors do not fit the strides and classes."""
        points, strides = cell_centres(geometry.network, self.strides)
        scores = part(raw, "scores", None, len(self.names))
        distances = part(raw, "distances", len(scores), 4)
        if len(points) != len(scores):
            expected = f"strides {self.strides} of {geometry.network} have {len(points)} cells"
            raise GraphError(f"{expected}, but the head answers at {len(scores)}")
        flat = scores.reshape(-1)
        candidates = np.flatnonzero(flat > _logit(self.score_threshold))
        most = max(MOST_CANDIDATES, self.max_detections)
        if len(candidates) > most:
            candidates = candidates[np.argpartition(flat[candidates], -most)[-most:]]
        candidates = candidates[np.argsort(-flat[candidates], kind="stable")]
        cells, classes = np.divmod(candidates, len(self.names))
        reach = distances[cells] * strides[cells, None]
        boxes = geometry.to_source(np.concatenate([points[cells] - reach[:, :2], points[cells] + reach[:, 2:]], axis=1))
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, probabilities, classes = boxes[solid], sigmoid(flat[candidates[solid]]), classes[solid]
        kept = suppress(boxes, probabilities, classes, self.iou_threshold)[: self.max_detections]
        return Detections(boxes[kept], probabilities[kept], classes[kept].astype(np.int64), self.names)


def detection_decoder(spec: DetectionSpec) -> DetectionDecoder:
    """The decoder of a detection head."""
    return DetectionDecoder(
        tuple(spec.taps), tuple(spec.classes), spec.score_threshold, spec.iou_threshold, spec.max_detections
    )


def suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int64], iou_threshold: float
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression within each class: indices of the boxes that stay, best score first.

    ``boxes`` [N, 4] as left, top, right, bottom, with area; a box goes when its IoU with a better one of its class that
    stayed is above ``iou_threshold``.
    """
    if len(boxes) == 0:
        return np.empty(0, np.int64)
    corner_and_size = boxes.astype(np.float64)
    corner_and_size[:, 2:] -= corner_and_size[:, :2]
    batched: Any = cv2.dnn.NMSBoxesBatched  # its type stub knows lists only
    kept = batched(corner_and_size, scores, classes.astype(np.int32), -1.0, iou_threshold)
    return np.asarray(kept, np.int64).reshape(-1)


def intersection_over_union(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """IoU of every box [N, 4] with every other [M, 4], left, top, right, bottom: [N, M], 0 for boxes without area."""
    first, second = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    areas = [np.clip(box[..., 2:] - box[..., :2], 0, None).prod(axis=-1) for box in (first, second)]
    union: NDArray[np.float64] = areas[0] + areas[1] - shared
    quotients: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return quotients


@lru_cache(maxsize=32)
def cell_centres(network: Size, strides: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres of all cells in network pixels, [L, 2], x and y, and their strides [L]: levels, rows, columns."""
    centres, widths = [], []
    for stride in strides:
        rows, columns = np.indices((network.height // stride, network.width // stride)).reshape(2, -1)
        centres.append((np.stack([columns, rows], axis=1) + 0.5) * stride)
        widths.append(np.full(len(rows), stride))
    points, sizes = np.concatenate(centres).astype(np.float32), np.concatenate(widths).astype(np.float32)
    points.setflags(write=False)
    sizes.setflags(write=False)
    return points, sizes


def _logit(probability: float) -> float:
    if not 0 < probability < 1:
        return math.inf if probability >= 1 else -math.inf
    return math.log(probability / (1 - probability))
