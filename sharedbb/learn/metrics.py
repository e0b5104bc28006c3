"""How good against labels: mean IoU, precision of boxes and tags, F1 of boundaries and tags, accuracy of distances.

Each metric takes one picture at a time in plain NumPy. What never occurs is NaN and is left out of means.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import CompressionError
from sharedbb.learn.labels import VOID, Boxes, LabelMap
from sharedbb.outputs.agreement import average_precision
from sharedbb.outputs.detections import intersection_over_union

EDGE_TOLERANCE = 4.0
DELTA = 1.25


def mean_known(values: NDArray[np.float64]) -> float:
    """The mean without NaN; NaN when there is nothing else."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


@dataclass(slots=True)
class Confusion:
    """Pixels by true class (rows) and predicted class (columns), void left out."""

    classes: int
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.classes, self.classes), dtype=np.int64)

    def add(self, truth: LabelMap, predicted: LabelMap) -> None:
        """One picture: two maps HW uint8 of equal size; ``predicted`` has no void."""
        known = truth != VOID
        pairs = truth[known].astype(np.int64) * self.classes + predicted[known]
        self.counts += np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class; NaN for one that neither is there nor was predicted."""
        hit = np.diag(self.counts)
        return _ratio(hit, self.counts.sum(axis=0) + self.counts.sum(axis=1) - hit)

    def mean_iou(self) -> float:
        """Mean over the classes that are there or were predicted."""
        return mean_known(self.iou())

    def accuracy(self) -> float:
        """Share of the known pixels that are right."""
        return float(_ratio(np.diag(self.counts).sum(), self.counts.sum()))


@dataclass(slots=True)
class BoxPrecision:
    """Average precision at one IoU threshold, class by class, over all pictures added."""

    classes: int
    threshold: float = 0.5
    scores: list[list[float]] = field(init=False)
    found: list[list[bool]] = field(init=False)
    wanted: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.scores = [[] for _ in range(self.classes)]
        self.found = [[] for _ in range(self.classes)]
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
            overlaps = intersection_over_union(xyxy[mine], true)
            dropped = covered(xyxy[mine], ignored).max(axis=1, initial=0) >= 0.5
            for place, one in enumerate(mine.tolist()):
                best = int(overlaps[place].argmax()) if len(true) else -1
                hit = best >= 0 and bool(overlaps[place, best] >= self.threshold)
                if hit:
                    overlaps[:, best] = 0
                elif dropped[place]:
                    continue
                self.scores[index].append(float(scores[one]))
                self.found[index].append(hit)

    def average_precision(self) -> NDArray[np.float64]:
        """Area under the precision envelope for each class (every point interpolated); NaN without true boxes."""
        return np.array(
            [
                average_precision(np.array(scores), np.array(found, bool), int(wanted)) if wanted else np.nan
                for scores, found, wanted in zip(self.scores, self.found, self.wanted, strict=True)
            ]
        )

    def mean(self) -> float:
        """Mean over the classes that have true boxes: mAP."""
        return mean_known(self.average_precision())


@dataclass(slots=True)
class CocoPrecision:
    """Average precision as the COCO benchmark computes it (pycocotools), class by class, over all pictures added.

    At IoU 0.5 to 0.95 in steps of 0.05, 101 recall points, the best 100 boxes of a picture; ignored boxes are crowds.
    """

    classes: int
    truths: list[dict[str, Any]] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    pictures: int = 0

    def add(
        self, truth: Boxes, xyxy: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int64]
    ) -> None:
        """One picture's detections: ``xyxy`` [n, 4], ``scores`` [n], ``classes`` [n]."""
        self.pictures += 1
        for row, crowd in zip(self._rows(truth.xyxy, truth.classes), truth.ignored.tolist(), strict=True):
            self.truths.append(row | {"id": len(self.truths) + 1, "iscrowd": int(crowd)})
        for row, score in zip(self._rows(xyxy, classes), scores.tolist(), strict=True):
            self.found.append(row | {"id": len(self.found) + 1, "score": score})

    def _rows(self, xyxy: NDArray[np.float32], classes: NDArray[np.int64]) -> list[dict[str, Any]]:
        sizes = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1).astype(np.float64)
        return [
            {"image_id": self.pictures, "category_id": kind + 1, "bbox": box, "area": box[2] * box[3]}
            for box, kind in zip(sizes.tolist(), classes.tolist(), strict=True)
        ]

    @property
    def wanted(self) -> NDArray[np.int64]:
        """How many true boxes of each class there are, [classes]."""
        kinds = [row["category_id"] - 1 for row in self.truths if not row["iscrowd"]]
        return np.bincount(np.array(kinds, np.int64), minlength=self.classes)

    def average_precision(self) -> NDArray[np.float64]:
        """By IoU threshold and class [10, classes]; NaN for classes without true boxes.

        Raises CompressionError where pycocotools is not installed.
        """
        precision = np.full((10, 101, self.classes), -1.0)
        if self.found and self.truths:
            precision = self._evaluated()
        means = precision.mean(axis=1)
        means[:, self.wanted == 0] = np.nan
        return np.where(means < 0, 0.0, means)

    def _evaluated(self) -> NDArray[np.float64]:
        """Precision by IoU threshold, recall and class [10, 101, classes], −1 for classes without true boxes."""
        try:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        except ImportError as error:
            raise CompressionError(
                "average precision of labelled boxes needs pycocotools: pip install 'sharedbb[train]'"
            ) from error
        about = {
            "images": [{"id": number + 1} for number in range(self.pictures)],
            "categories": [{"id": kind + 1} for kind in range(self.classes)],
        }
        with redirect_stdout(io.StringIO()):
            truth, found = COCO(), COCO()
            truth.dataset, found.dataset = about | {"annotations": self.truths}, about | {"annotations": self.found}
            truth.createIndex()
            found.createIndex()
            evaluation = COCOeval(truth, found, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
        return np.asarray(evaluation.eval["precision"][:, :, :, 0, -1], np.float64)


@dataclass(slots=True)
class BoundaryF1:
    """F1 of boundary pixels within ``tolerance`` pixels, over all pictures added.

    Precision: the share of predicted pixels with a true one that near. Recall: the share of true pixels with a
    predicted one that near. Predicted pixels on void do not count.
    """

    tolerance: float = EDGE_TOLERANCE
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(4, dtype=np.int64))

    def add(self, truth: NDArray[np.bool_], predicted: NDArray[np.bool_], void: NDArray[np.bool_]) -> None:
        """One picture: three masks HW."""
        predicted = predicted & ~void
        self.counts += [
            np.count_nonzero(predicted & (_distance(truth) <= self.tolerance)),
            np.count_nonzero(predicted),
            np.count_nonzero(truth & (_distance(predicted) <= self.tolerance)),
            np.count_nonzero(truth),
        ]

    def scores(self) -> tuple[float, float, float]:
        """Precision, recall and F1; a share of nothing is 0, but F1 is NaN with neither true nor predicted pixels."""
        right, predicted, found, true = (float(count) for count in self.counts)
        precision, recall = right / max(1.0, predicted), found / max(1.0, true)
        if predicted + true == 0:
            return precision, recall, float("nan")
        return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)


@dataclass(slots=True)
class TagF1:
    """F1 of each tag over all pictures added, and their mean."""

    tags: int
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((3, self.tags), dtype=np.int64)

    def add(
        self, truth: NDArray[np.bool_], predicted: NDArray[np.bool_], known: NDArray[np.bool_] | None = None
    ) -> None:
        """One picture: which tags hold and which were answered, bool [tags], and of which that is ``known``."""
        counts = np.stack((truth & predicted, predicted, truth))
        self.counts += counts if known is None else counts & known

    def f1(self) -> NDArray[np.float64]:
        """2 hits / (answered + true) of each tag; NaN for one that never was either."""
        hit, answered, true = self.counts
        return _ratio(2 * hit, answered + true)

    def mean(self) -> float:
        """Mean over the tags that occur (macro F1)."""
        return mean_known(self.f1())


@dataclass(slots=True)
class TagPrecision:
    """Average precision of each tag: all pictures added, ranked by the tag's probability."""

    tags: int
    truths: list[NDArray[np.bool_]] = field(default_factory=list)
    probabilities: list[NDArray[np.float32]] = field(default_factory=list)
    knowns: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(
        self,
        truth: NDArray[np.bool_],
        probabilities: NDArray[np.float32],
        known: NDArray[np.bool_] | None = None,
    ) -> None:
        """One picture: which tags hold, how probable each was said to be, and of which it is ``known``, all [tags]."""
        self.truths.append(truth)
        self.probabilities.append(probabilities)
        self.knowns.append(np.ones(self.tags, np.bool_) if known is None else known)

    def average_precision(self) -> NDArray[np.float64]:
        """Area under the precision envelope for each tag; NaN for one that never holds."""
        truths = np.array(self.truths, bool).reshape(-1, self.tags).T
        said = np.array(self.probabilities, np.float64).reshape(-1, self.tags).T
        knowns = np.array(self.knowns, bool).reshape(-1, self.tags).T
        found = []
        for scores, right, known in zip(said, truths, knowns, strict=True):
            true = int(right[known].sum())
            found.append(average_precision(scores[known], right[known], true) if true else np.nan)
        return np.array(found)


@dataclass(slots=True)
class DepthAccuracy:
    """Distances over all pixels of all pictures added, where the true one is known and in ``nearest``–``farthest``."""

    nearest: float = 0.0
    farthest: float = float("inf")
    pixels: int = 0
    near: int = 0
    error: float = 0.0

    def add(self, truth: NDArray[np.float32], predicted: NDArray[np.float32]) -> None:
        """One picture: two maps HW in metres; true ones that are not finite or not above 0 are unknown."""
        known = np.isfinite(truth) & (truth > 0) & (truth >= self.nearest) & (truth <= self.farthest)
        true, said = truth[known], np.maximum(predicted[known], np.float32(1e-6))
        self.pixels += true.size
        self.near += int(np.count_nonzero(np.maximum(said / true, true / said) < DELTA))
        self.error += float((np.abs(said - true) / true).sum(dtype=np.float64))

    def delta1(self) -> float:
        """Share of the pixels whose distance is off by a factor under DELTA (Eigen et al. 2014)."""
        return float(_ratio(self.near, self.pixels))

    def relative_error(self) -> float:
        """Mean of |predicted − true| / true: AbsRel."""
        return float(_ratio(self.error, self.pixels))


def covered(boxes: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of each box [n, 4] (xyxy) that lies in each of ``others`` [m, 4]: [n, m]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(np.clip(high - low, 0, None).prod(axis=2) / np.maximum(area[:, None], 1e-9), np.float32)


def _ratio(part: NDArray[np.int64] | float, whole: NDArray[np.int64] | float) -> NDArray[np.float64]:
    """Element by element; NaN where ``whole`` is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance of each pixel to the nearest one in ``mask``, HW float32; far beyond any tolerance without one."""
    if not mask.any():
        return np.full(mask.shape, 1e9, dtype=np.float32)
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32)
