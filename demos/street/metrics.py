"""How good: mean IoU, average precision of boxes, F1 of boundaries and of tags. Plain NumPy, one picture at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from street.labels import VOID, Boxes, LabelMap

EDGE_TOLERANCE = 4.0


@dataclass(slots=True)
class Confusion:
    """Pixels by true class (rows) and predicted class (columns), void left out."""

    classes: int
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.classes, self.classes), dtype=np.int64)

    def add(self, truth: LabelMap, predicted: LabelMap) -> None:
        """One picture: two maps HW uint8 of equal size."""
        known = truth != VOID
        pairs = truth[known].astype(np.int64) * self.classes + predicted[known]
        self.counts += np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class; NaN for one that neither is there nor was predicted."""
        hit = np.diag(self.counts).astype(float)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - hit
        return np.divide(hit, union, out=np.full(self.classes, np.nan), where=union > 0)

    def mean_iou(self) -> float:
        """Mean over the classes that occur."""
        return float(np.nanmean(self.iou()))

    def accuracy(self) -> float:
        """Share of the known pixels that are right."""
        return float(np.diag(self.counts).sum() / max(1, self.counts.sum()))


@dataclass(slots=True)
class BoxPrecision:
    """Average precision at one IoU threshold, class by class, over all pictures added."""

    classes: int
    threshold: float = 0.5
    hits: list[tuple[int, float, bool]] = field(default_factory=list)
    wanted: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.wanted = np.zeros(self.classes, dtype=np.int64)

    def add(
        self, truth: Boxes, xyxy: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int64]
    ) -> None:
        """One picture's detections: ``xyxy`` [n, 4], ``scores`` [n], ``classes`` [n].

        By falling score, each takes the free true box of its class with the largest IoU of at least ``threshold``; one
        that finds none, and lies to half of its area or more in an ignored box of its class, does not count.
        """
        for index in range(self.classes):
            true = truth.xyxy[(truth.classes == index) & ~truth.ignored]
            ignored = truth.xyxy[(truth.classes == index) & truth.ignored]
            self.wanted[index] += len(true)
            mine = np.flatnonzero(classes == index)
            mine = mine[np.argsort(-scores[mine], kind="stable")]
            free = np.ones(len(true), dtype=bool)
            for one in mine:
                overlap = np.where(free, iou(xyxy[one], true), 0.0)
                best = int(overlap.argmax()) if len(true) else -1
                hit = best >= 0 and overlap[best] >= self.threshold
                if hit:
                    free[best] = False
                elif len(ignored) and covered(xyxy[one], ignored).max() >= 0.5:
                    continue
                self.hits.append((index, float(scores[one]), bool(hit)))

    def average_precision(self) -> NDArray[np.float64]:
        """Area under the precision envelope for each class (every point interpolated); NaN without true boxes."""
        return np.array([self._area(index) for index in range(self.classes)])

    def mean(self) -> float:
        """Mean over the classes that have true boxes: mAP."""
        return float(np.nanmean(self.average_precision()))

    def _area(self, index: int) -> float:
        if self.wanted[index] == 0:
            return float("nan")
        ordered = sorted(((score, hit) for cls, score, hit in self.hits if cls == index), key=lambda pair: -pair[0])
        hits = np.cumsum([hit for _, hit in ordered])
        if len(hits) == 0:
            return 0.0
        recall = np.concatenate(([0.0], hits / self.wanted[index]))
        precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        return float((np.diff(recall) * precision).sum())


@dataclass(slots=True)
class BoundaryF1:
    """F1 of boundary pixels within EDGE_TOLERANCE pixels, over all pictures added.

    Precision: the share of predicted pixels with a true one that near. Recall: the share of true pixels with a
    predicted one that near. Predicted pixels on void do not count.
    """

    tolerance: float = EDGE_TOLERANCE
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(4, dtype=np.int64))

    def add(self, truth: NDArray[np.bool_], predicted: NDArray[np.bool_], void: NDArray[np.bool_]) -> None:
        """One picture: three masks HW."""
        predicted = predicted & ~void
        self.counts += [
            int((predicted & (_distance(truth) <= self.tolerance)).sum()),
            int(predicted.sum()),
            int((truth & (_distance(predicted) <= self.tolerance)).sum()),
            int(truth.sum()),
        ]

    def scores(self) -> tuple[float, float, float]:
        """Precision, recall and F1."""
        right, predicted, found, true = (float(count) for count in self.counts)
        precision, recall = right / max(1.0, predicted), found / max(1.0, true)
        return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


@dataclass(slots=True)
class TagF1:
    """F1 of each tag over all pictures added, and their mean."""

    tags: int
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((3, self.tags), dtype=np.int64)

    def add(self, truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> None:
        """One picture: which tags hold and which were answered, bool [tags]."""
        self.counts += np.stack((truth & predicted, predicted, truth))

    def f1(self) -> NDArray[np.float64]:
        """2 hits / (answered + true) of each tag; NaN for one that never was either."""
        hit, answered, true = self.counts.astype(float)
        return np.divide(2 * hit, answered + true, out=np.full(self.tags, np.nan), where=answered + true > 0)

    def mean(self) -> float:
        """Mean over the tags that occur (macro F1)."""
        return float(np.nanmean(self.f1()))


def iou(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of one xyxy box with ``others`` [n, 4]: [n]."""
    shared = _intersection(box, others)
    return shared / np.maximum(_area(box) + _area(others) - shared, 1e-9)


def covered(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of one xyxy box that lies in each of ``others`` [n, 4]: [n]."""
    return _intersection(box, others) / np.maximum(_area(box), 1e-9)


def _intersection(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return np.clip(sides, 0, None).prod(axis=1)


def _area(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    return (xyxy[..., 2] - xyxy[..., 0]) * (xyxy[..., 3] - xyxy[..., 1])


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of each pixel to the nearest one in ``mask``, HW float32; far beyond any tolerance without one."""
    if not mask.any():
        return np.full(mask.shape, 1e9, dtype=np.float32)
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
