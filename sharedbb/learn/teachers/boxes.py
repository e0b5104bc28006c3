"""Formats of detectors: each finds candidates in network pixels; what is done with those is the same for all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import GraphError
from sharedbb.learn.teachers.formats import Activation, Format, activated, only
from sharedbb.learn.teachers.heads import Arrays
from sharedbb.outputs.detections import MOST_CANDIDATES, DetectionDecoder, Detections, suppress
from sharedbb.outputs.raw import sigmoid
from sharedbb.types import Geometry, Output, Size

SOFT = 0.5
"""Boxes are kept down to this share of the score that counts: what a student learns from has the doubtful ones too."""

IOU_THRESHOLD = 0.45
MOST_BOXES = 300


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Boxes before suppression.

    ``boxes``: float32 [n, 4], left, top, right, bottom in network pixels; ``scores``: float32 [n]; ``classes``: int64
    [n].
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]

    def kept(self, geometry: Geometry, least: float, iou: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Which stay, best score first: indices [k], and their boxes in source pixels [k, 4].

        Candidates from the score ``least`` up, the best MOST_CANDIDATES of them; clipped to the picture, those
        without area dropped; of boxes of a class that overlap by more than ``iou`` the best.
        """
        places = np.flatnonzero(self.scores >= least)
        places = places[np.argsort(-self.scores[places], kind="stable")][:MOST_CANDIDATES]
        boxes = geometry.to_source(self.boxes[places])
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        places, boxes = places[solid], boxes[solid]
        stay = suppress(boxes, self.scores[places], self.classes[places], iou)[:MOST_BOXES]
        return places[stay], boxes[stay]


@dataclass(frozen=True)
class BoxFormat(Format):
    """What all detectors have: an operating point, and suppression."""

    USUAL_SCORE: ClassVar[float] = 0.5

    @property
    def threshold(self) -> float:
        """The operating point."""
        asked = self.wanted.score_threshold
        return self.USUAL_SCORE if asked is None else asked

    @property
    def lowest(self) -> float:
        """The lowest score of a box that is kept."""
        return SOFT * self.threshold

    @property
    def iou(self) -> float:
        """Of boxes of one class that overlap by more, the best one stays."""
        asked = self.wanted.iou_threshold
        return IOU_THRESHOLD if asked is None else asked


@dataclass(frozen=True)
class CandidatesFormat(BoxFormat):
    """A detector whose boxes are suppressed here."""

    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        """``boxes`` down to SOFT of the operating point."""
        found = self.candidates(raw, geometry.network)
        stay, boxes = found.kept(geometry, self.lowest, self.iou)
        return {"boxes": Detections(boxes, found.scores[stay], found.classes[stay], self.wanted.classes)}

    @abstractmethod
    def candidates(self, raw: Arrays, network: Size) -> Candidates:
        """The boxes there may be. Raises GraphError for arrays that do not fit."""

    def of_all_classes(self, boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> Candidates:
        """Candidates of boxes [n, 4] with scores [n, C]: every class of a box that may be kept."""
        rows, classes = np.nonzero(scores >= self.lowest)
        return Candidates(boxes[rows], scores[rows, classes], classes.astype(np.int64))


@dataclass(frozen=True)
class BoxesFormat(CandidatesFormat):
    """``boxes`` [n, 4] as corners, ``scores`` [n] and ``labels`` [n], each with a batch axis or without.

    In pixels of the network's input, or with ``normalised`` in 0–1. The class ``labels`` calls ``first_label`` is the
    first of the names (1 where 0 is the background); boxes of classes beyond the names are left out.
    """

    normalised: bool = False
    first_label: int = 0

    def candidates(self, raw: Arrays, network: Size) -> Candidates:
        """As the network answers."""
        needs = "needs boxes [n, 4], scores [n] and labels [n]"
        if not {"boxes", "scores", "labels"} <= raw.keys():
            raise GraphError(f"{needs}; say which they are under 'outputs'")
        scores, classes = (raw[name].reshape(-1) for name in ("scores", "labels"))
        if raw["boxes"].shape[-1:] != (4,) or not raw["boxes"].size == 4 * len(scores) == 4 * len(classes):
            raise GraphError(needs)
        classes = classes.astype(np.int64) - self.first_label
        named = (classes >= 0) & (classes < len(self.wanted.classes))
        boxes = in_pixels(raw["boxes"].reshape(-1, 4)[named], network, normalised=self.normalised)
        return Candidates(boxes, np.asarray(scores[named], np.float32), classes[named])


@dataclass(frozen=True)
class YoloFormat(CandidatesFormat):
    """One array of rows [1, n, 4 + C] or [1, 4 + C, n]: centre x and y, width, height, and a score for each class.

    Rows of 5 + C have the score of there being an object before the classes; scores are multiplied. In pixels of the
    network's input, or with ``normalised`` in 0–1; scores are probabilities unless ``activation`` makes them so.
    """

    normalised: bool = False
    activation: Literal["none", "sigmoid"] = "none"

    def candidates(self, raw: Arrays, network: Size) -> Candidates:
        """Every class of every row."""
        rows = self._rows(raw)
        scores = activated(np.asarray(rows[:, 4:], np.float32), self.activation)
        if scores.shape[1] > len(self.wanted.classes):
            scores = scores[:, 1:] * scores[:, :1]
        return self.of_all_classes(in_pixels(corners(rows[:, :4]), network, normalised=self.normalised), scores)

    def _rows(self, raw: Arrays) -> NDArray[np.float32]:
        count = len(self.wanted.classes)
        widths = (4 + count, 5 + count)
        needs = f"rows [1, n, {widths[0]}] or [1, n, {widths[1]}] for {count} classes, or [1, {widths[0]}, n]"
        array = only(raw, needs)
        if array.ndim == 3 and array.shape[0] == 1:
            if array.shape[2] in widths:
                return np.asarray(array[0], np.float32)
            if array.shape[1] in widths:
                return np.asarray(array[0].T, np.float32)
        raise GraphError(f"needs {needs}")


@dataclass(frozen=True)
class SsdFormat(CandidatesFormat):
    """``scores`` [1, n, 1 + C], the background first, and ``boxes`` [1, n, 4] of a single-shot detector.

    Without priors the boxes are corners in 0–1 (or pixels, ``normalised: false``). With ``strides`` and, for each,
    ``sizes`` of square prior boxes in pixels, they are offsets from those: the centre moves by
    ``variances[0] * offset * side`` and the side becomes ``exp(variances[1] * offset) * side``. Priors lie row by row
    in the middle of each cell and end at the picture's size (Liu et al., SSD, 2016).
    """

    strides: tuple[int, ...] = ()
    sizes: tuple[tuple[float, ...], ...] = ()
    variances: tuple[float, float] = (0.1, 0.2)
    normalised: bool = True
    activation: Activation = "none"

    USUAL_SCORE: ClassVar[float] = 0.7

    def candidates(self, raw: Arrays, network: Size) -> Candidates:
        """Every class but the background."""
        count = len(self.wanted.classes)
        scores, boxes = self._arrays(raw)
        if self.strides:
            priors = prior_boxes(network, self.strides, self.sizes)
            if len(priors) != len(boxes):
                raise GraphError(f"has {len(boxes)} boxes, strides and sizes make {len(priors)} priors at {network}")
            boxes = _moved(priors, boxes, self.variances)
        boxes = in_pixels(boxes, network, normalised=self.normalised)
        return self.of_all_classes(boxes, activated(scores, self.activation)[:, 1 : count + 1])

    def _arrays(self, raw: Arrays) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        width = 1 + len(self.wanted.classes)
        needs = f"needs scores [1, n, {width}], the background first, and boxes [1, n, 4]"
        if len(self.sizes) != len(self.strides):
            raise GraphError(f"strides {self.strides} need as many lists of sizes, got {len(self.sizes)}")
        if not {"scores", "boxes"} <= raw.keys():
            raise GraphError(f"{needs}; say which they are under 'outputs'")
        scores, boxes = (np.asarray(raw[name], np.float32) for name in ("scores", "boxes"))
        rows = scores.shape[1:2]
        if scores.shape != (1, *rows, width) or boxes.shape != (1, *rows, 4):
            raise GraphError(needs)
        return scores[0], boxes[0]


@dataclass(frozen=True)
class UltraFaceFormat(SsdFormat):
    """Ultra-Light-Fast-Generic-Face-Detector (Linzaer, 2019): an ``ssd`` with its priors."""

    strides: tuple[int, ...] = (8, 16, 32, 64)
    sizes: tuple[tuple[float, ...], ...] = ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))


@dataclass(frozen=True)
class FastestDetFormat(CandidatesFormat):
    """FastestDet (dog-qiuqiu, 2022): one array [1, 5 + C, h, w], objectness, four numbers of the box, classes.

    The centre lies ``tanh`` of the first two cells from the cell's corner, the sides are the ``sigmoid`` of the others
    as shares of the picture; the score is ``objectness ** 0.6 * class ** 0.4`` of the best class.
    """

    USUAL_SCORE: ClassVar[float] = 0.65

    def candidates(self, raw: Arrays, network: Size) -> Candidates:
        """One box a cell."""
        count = len(self.wanted.classes)
        needs = f"an array [1, {5 + count}, h, w] for {count} classes"
        array = np.asarray(only(raw, needs), np.float32)
        if array.ndim != 4 or array.shape[:2] != (1, 5 + count):
            raise GraphError(f"needs {needs}")
        height, width = array.shape[2:]
        cells = array[0].reshape(5 + count, -1).T
        grid = np.array([width, height], np.float32)
        centres = (np.tanh(cells[:, 1:3]) + corners_of_cells(height, width)) / grid
        boxes = corners(np.concatenate([centres, sigmoid(cells[:, 3:5])], axis=1))
        scores = np.maximum(cells[:, 0], 0) ** 0.6 * np.maximum(cells[:, 5:].max(axis=1), 0) ** 0.4
        return Candidates(in_pixels(boxes, network, normalised=True), scores, cells[:, 5:].argmax(axis=1))


@dataclass(frozen=True)
class FcosFormat(BoxFormat):
    """``scores`` [1, L, C] (logits) and ``distances`` [1, L, 4] in strides: a detection head of this package."""

    strides: tuple[int, ...] = (8, 16, 32)

    USUAL_SCORE: ClassVar[float] = 0.3

    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        """``boxes`` down to SOFT of the operating point."""
        decoder = DetectionDecoder(self.strides, self.wanted.classes, self.lowest, self.iou, MOST_BOXES)
        return {"boxes": decoder(raw, geometry)}


def corners(boxes: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Centre x and y, width, height [n, 4] as left, top, right, bottom."""
    half = boxes[:, 2:] / 2
    return np.asarray(np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1), np.float32)


@lru_cache(maxsize=8)
def prior_boxes(network: Size, strides: tuple[int, ...], sizes: tuple[tuple[float, ...], ...]) -> NDArray[np.float32]:
    """Square priors as centre x and y, width, height, all in 0–1 and ending there: float32 [n, 4].

    Levels, rows, columns, then the sizes of the level. A level has as many cells as it takes to cover the input.
    """
    scale = np.array([network.width, network.height], np.float64)
    levels = []
    for stride, sides in zip(strides, sizes, strict=True):
        cells = corners_of_cells(-(-network.height // stride), -(-network.width // stride)) + 0.5
        centres = np.repeat(cells * stride / scale, len(sides), axis=0)
        shares = np.tile(np.array(sides)[:, None] / scale, (len(cells), 1))
        levels.append(np.concatenate([centres, shares], axis=1))
    priors: NDArray[np.float32] = np.clip(np.concatenate(levels), 0, 1).astype(np.float32)
    priors.setflags(write=False)
    return priors


def _moved(
    priors: NDArray[np.float32], offsets: NDArray[np.float32], variances: Sequence[float]
) -> NDArray[np.float32]:
    """Priors [n, 4], centre and sides, moved and scaled by offsets, as corners."""
    centres = priors[:, :2] + variances[0] * offsets[:, :2] * priors[:, 2:]
    with np.errstate(over="ignore"):
        sides = np.exp(variances[1] * offsets[:, 2:]) * priors[:, 2:]
    return corners(np.concatenate([centres, sides], axis=1))


def corners_of_cells(rows: int, columns: int) -> NDArray[np.float32]:
    """x and y of every cell's upper left corner, in cells, row by row: [rows * columns, 2]."""
    y, x = np.indices((rows, columns)).reshape(2, -1)
    return np.stack([x, y], axis=1).astype(np.float32)


def in_pixels(boxes: NDArray[Any], network: Size, *, normalised: bool) -> NDArray[np.float32]:
    """Boxes [n, 4], in 0–1 where ``normalised``, in pixels of the network's input."""
    scale = (network.width, network.height) * 2 if normalised else (1, 1, 1, 1)
    return np.asarray(boxes * np.array(scale, np.float32), np.float32)
