"""How well the answers of one run agree with those of another, the dense one, which counts as the truth."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import SharedBBError
from sharedbb.outputs.depth import TOLERANCE, DepthMap
from sharedbb.outputs.detections import Detections
from sharedbb.outputs.embedding import Embedding
from sharedbb.outputs.keypoints import Keypoints
from sharedbb.outputs.raw import RawOutput, share_of
from sharedbb.outputs.segmentation import SegmentationMap
from sharedbb.outputs.tags import Tags

WORST = 10
"""One frame in so many, the worst ones, make up the worst decile."""


class Agreement(ABC):
    """One head's answers of two runs, frame by frame.

    ``frames`` holds a share for every frame added, 0–1, 1 where the two answers are the same. ``overall`` says what a
    head's agreement over a clip is; the subclasses' descriptions say both for their type of answer.
    """

    def __init__(self) -> None:
        self.frames = array("d")

    @staticmethod
    def of(output_type: type) -> Agreement:
        """What measures answers of a type, empty; for types that nobody knows here, how often they are the same."""
        return next((KINDS[base] for base in output_type.__mro__ if base in KINDS), OtherAgreement)()

    def add(self, ours: Any, dense: Any) -> None:
        """Compare the two answers to one frame, in source pixels.

        Raises SharedBBError when they are not about the same classes, labels or points.
        """
        names, truths = getattr(ours, "names", None), getattr(dense, "names", None)
        if names != truths:
            raise SharedBBError(f"answers about {_listed(names)} cannot be compared with those about {_listed(truths)}")
        self.frames.append(self.frame(ours, dense))

    @abstractmethod
    def frame(self, ours: Any, dense: Any) -> float:
        """The share of one frame, 0–1; what ``overall`` needs of it is taken down."""

    def overall(self) -> dict[str, Any]:
        """The clip in numbers: at least ``agreement``, the head's headline share, here the mean of all frames."""
        return {"agreement": float(np.mean(self.frames))}

    def summary(self) -> dict[str, Any]:
        """What ``overall`` says, and of the frames: ``worst_decile``, the mean of the worst tenth (of one at least);
        ``worst_frame``, the position of the first of the worst.

        Raises SharedBBError when no frame was added.
        """
        if not self.frames:
            raise SharedBBError("not a single frame was compared")
        shares = np.array(self.frames)
        worst = np.sort(shares)[: math.ceil(len(shares) / WORST)]
        return {**self.overall(), "worst_decile": float(worst.mean()), "worst_frame": int(shares.argmin())}


class SegmentationAgreement(Agreement):
    """Frame and agreement: the share of source pixels of the same class (of all pixels of all frames).

    Overall also ``iou``, by name of the classes that occur in the dense maps: pixels of the class in both over pixels
    of it in either, all frames together; and ``miou``, their mean.
    """

    def __init__(self) -> None:
        super().__init__()
        self._names: tuple[str, ...] = ()
        self._counts: NDArray[np.int64] = np.zeros((0, 0), np.int64)  # pixels by dense class and ours

    def frame(self, ours: SegmentationMap, dense: SegmentationMap) -> float:
        """The share of source pixels of the same class."""
        size = len(dense.names)
        pairs = dense.classes.ravel() * np.intp(size) + ours.classes.ravel()
        counts = np.bincount(pairs, minlength=size * size).reshape(size, size)
        self._names = dense.names
        self._counts = self._counts + counts if self._counts.size else counts
        return float(np.trace(counts)) / pairs.size

    def overall(self) -> dict[str, Any]:
        """Pixel agreement, and intersection over union by class."""
        same, truth = np.diag(self._counts), self._counts.sum(axis=1)
        either = truth + self._counts.sum(axis=0) - same
        iou = {name: float(same[k] / either[k]) for k, name in enumerate(self._names) if truth[k]}
        agreement = float(same.sum() / truth.sum())
        return {"agreement": agreement, "miou": float(np.mean(list(iou.values()))), "iou": iou}


class DetectionAgreement(Agreement):
    """Frame: F1 of the boxes that match at an IoU of 0.5, within a class, best score first; 1 when there are none.

    Agreement: AP50 with the dense boxes as truth, all of them and all of ours, whatever their scores. The boxes of all
    frames are ranked together; AP is the area under precision over recall, precision at each recall being the best at
    that recall or a higher one (all-point interpolation; Everingham et al., The PASCAL Visual Object Classes
    Challenge, 2015), averaged over the classes that occur in the dense boxes; without any, it is 1 if ours has none
    either, else 0. Overall also ``ap50`` by class, ``ap50_weighted``, their mean weighted by how many dense boxes each
    class has (None without any), and ``f1`` of all frames' boxes together.
    """

    def __init__(self) -> None:
        super().__init__()
        self._scores: dict[str, array[float]] = {}
        self._found: dict[str, array[int]] = {}
        self._truths: dict[str, int] = {}

    def frame(self, ours: Detections, dense: Detections) -> float:
        """F1 of the boxes that match."""
        found = ours.partners(dense) >= 0
        for label, score, matched in zip(ours.labels, ours.scores.tolist(), found.tolist(), strict=True):
            self._scores.setdefault(label, array("f")).append(score)
            self._found.setdefault(label, array("b")).append(matched)
        for label in dense.labels:
            self._truths[label] = self._truths.get(label, 0) + 1
        return _f1(int(np.count_nonzero(found)), len(ours), len(dense))

    def overall(self) -> dict[str, Any]:
        """AP50 of the clip, by class, and F1."""
        found = sum(sum(flags) for flags in self._found.values())
        boxes = sum(len(flags) for flags in self._found.values())
        dense = sum(self._truths.values())
        f1 = _f1(found, boxes, dense)
        ap = {
            name: average_precision(
                np.array(self._scores.get(name, ())), np.array(self._found.get(name, ()), np.bool_), truths
            )
            for name, truths in sorted(self._truths.items())
        }
        agreement = float(np.mean(list(ap.values()))) if ap else float(boxes == 0)
        weighted = sum(ap[name] * truths for name, truths in self._truths.items()) / dense if ap else None
        return {"agreement": agreement, "f1": f1, "ap50_weighted": weighted, "ap50": ap}

    def best_threshold(self) -> float | None:
        """Where to cut off our scores so that the boxes left, of all frames and classes together, have the best F1.

        Halfway between the last score that stays and the next one. None when not a single box of ours matches.
        """
        scores = np.concatenate([*map(np.asarray, self._scores.values()), []])
        found = np.concatenate([*map(np.asarray, self._found.values()), []])
        order = np.argsort(-scores, kind="stable")
        scores, matched = scores[order], np.cumsum(found[order])
        last = np.append(scores[1:] < scores[:-1], True)[: len(scores)]  # boxes of one score stay or go together
        f1 = np.where(last, 2 * matched / (np.arange(1, len(scores) + 1) + sum(self._truths.values())), 0.0)
        if not f1.any():
            return None
        best = int(f1.argmax())
        return float((scores[best] + (scores[best + 1] if best + 1 < len(scores) else 0.0)) / 2)


class DepthAgreement(Agreement):
    """Frame and agreement: the share of source pixels within 5 % of the dense distance (mean over frames).

    Overall also ``relative_error``, the mean of |ours − dense| / dense over pixels and frames, where the dense distance
    is finite and above 0 and ours is finite; None where there is no such pixel.
    """

    def __init__(self) -> None:
        super().__init__()
        self._errors, self._pixels = 0.0, 0

    def frame(self, ours: DepthMap, dense: DepthMap) -> float:
        """The share of source pixels within 5 %."""
        near, true = ours.metres, dense.metres
        known = np.isfinite(true) & (true > 0) & np.isfinite(near)
        self._errors += float((np.abs(near[known] - true[known]) / true[known]).sum(dtype=np.float64))
        self._pixels += int(np.count_nonzero(known))
        return share_of(np.isclose(near, true, rtol=TOLERANCE, atol=0, equal_nan=True))

    def overall(self) -> dict[str, Any]:
        """The share within 5 %, and the mean relative error."""
        error = self._errors / self._pixels if self._pixels else None
        return {**super().overall(), "relative_error": error}


class TagsAgreement(Agreement):
    """Frame: F1 of the labels present, with the dense ones as truth; 1 when neither has any.

    Agreement: F1 of the labels of all frames together. Overall also ``labels``: the share of all yes and no that are
    the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self._both, self._ours, self._dense, self._same, self._labels = 0, 0, 0, 0, 0

    def frame(self, ours: Tags, dense: Tags) -> float:
        """F1 of the labels present."""
        own, true = ours.answers, dense.answers
        both, owns, truths = (int(np.count_nonzero(flags)) for flags in (own & true, own, true))
        self._both, self._ours, self._dense = self._both + both, self._ours + owns, self._dense + truths
        self._same += int(np.count_nonzero(own == true))
        self._labels += own.size
        return _f1(both, owns, truths)

    def overall(self) -> dict[str, Any]:
        """F1 over the clip, and the share of labels that are the same."""
        return {"agreement": _f1(self._both, self._ours, self._dense), "labels": self._same / max(self._labels, 1)}


class KeypointsAgreement(Agreement):
    """Frame and agreement: the share of points within a heat map's cell of the dense ones, there in both or neither."""

    def frame(self, ours: Keypoints, dense: Keypoints) -> float:
        """The share of points that stayed."""
        return 1 - ours.changed(dense)


class EmbeddingAgreement(Agreement):
    """Frame and agreement: the cosine of the angle to the dense vector, 0 where it is negative or not a number."""

    def frame(self, ours: Embedding, dense: Embedding) -> float:
        """The cosine, in 0–1."""
        return max(0.0, 1 - 2 * ours.changed(dense))


class RawAgreement(Agreement):
    """Frame and agreement: the share of elements within 1 % of their array's largest magnitude."""

    def frame(self, ours: RawOutput, dense: RawOutput) -> float:
        """The share of elements that are the same."""
        return 1 - ours.changed(dense)


class OtherAgreement(Agreement):
    """Answers of types from elsewhere: 1 − ``changed`` where they have that method, else 1 for equal ``to_dict``."""

    def frame(self, ours: Any, dense: Any) -> float:
        """What the answers themselves say about it, or whether they read the same."""
        if hasattr(ours, "changed"):
            return 1 - float(ours.changed(dense))
        return float(ours.to_dict() == dense.to_dict())


KINDS: Mapping[type, type[Agreement]] = {
    SegmentationMap: SegmentationAgreement,
    Detections: DetectionAgreement,
    DepthMap: DepthAgreement,
    Tags: TagsAgreement,
    Keypoints: KeypointsAgreement,
    Embedding: EmbeddingAgreement,
    RawOutput: RawAgreement,
}


def average_precision(scores: NDArray[np.float64], found: NDArray[np.bool_], truths: int) -> float:
    """Area under precision over recall, all-point interpolation, 0–1.

    ``scores`` [N] of boxes; ``found`` bool [N], whether each matched a true one; ``truths``, how many true ones there
    are, above 0. Of equal scores, the box that comes first ranks first.
    """
    ranked = found[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[ranked].sum()) / truths


def _f1(both: int, ours: int, dense: int) -> float:
    """2·both / (ours + dense), 1 when there is nothing in either."""
    return 2 * both / (ours + dense) if ours + dense else 1.0


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) if names else "nothing"
