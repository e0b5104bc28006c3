"""The format of YuNet: faces, and the five landmarks of the best one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import GraphError
from sharedbb.learn.teachers.boxes import BoxFormat, Candidates, corners, corners_of_cells
from sharedbb.learn.teachers.heads import Arrays
from sharedbb.outputs.detections import Detections
from sharedbb.outputs.keypoints import Keypoints
from sharedbb.types import Geometry, Output, Size

LANDMARKS = ("right_eye", "left_eye", "nose", "right_mouth", "left_mouth")
"""Right and left are the face's own."""


@dataclass(frozen=True)
class YuNetFormat(BoxFormat):
    """YuNet (Wu et al., YuNet: A Tiny Millisecond-level Face Detector, 2023): ``boxes`` and ``landmarks``.

    For each stride s: ``cls_s`` and ``obj_s`` [1, h·w, 1], ``bbox_s`` [1, h·w, 4] and ``kps_s`` [1, h·w, 10]. The score
    is the geometric mean of the first two; centres and landmarks are offsets in strides from the cell's corner, sides
    the ``exp`` of theirs, in strides. There is one class, the face. Landmarks are those of the best face, if it reaches
    the operating point, with its score; otherwise their score is 0.
    """

    strides: tuple[int, ...] = (8, 16, 32)

    USUAL_SCORE: ClassVar[float] = 0.6

    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        """Faces down to half of the operating point, and the landmarks of the best at it."""
        found, points = self._faces(raw, geometry.network)
        stay, boxes = found.kept(geometry, self.lowest, self.iou)
        faces = Detections(boxes, found.scores[stay], found.classes[stay], self.wanted.classes)
        places, score = np.zeros((len(LANDMARKS), 2), np.float32), np.float32(0)
        if len(faces) and faces.scores[0] >= self.threshold:
            places, score = geometry.to_source(points[stay[0]]), faces.scores[0]
        finest = min(self.strides)
        cell = (finest / geometry.scale_x, finest / geometry.scale_y)
        scores = np.full(len(LANDMARKS), score, np.float32)
        return {"boxes": faces, "landmarks": Keypoints(places, scores, LANDMARKS, cell)}

    def _faces(self, raw: Arrays, network: Size) -> tuple[Candidates, NDArray[np.float32]]:
        """All cells as candidates, and the landmarks [n, 5, 2] of each in network pixels."""
        if len(self.wanted.classes) != 1:
            raise GraphError(f"answers one class, the face; {len(self.wanted.classes)} are named")
        boxes, points, scores = [], [], []
        for stride in self.strides:
            cells = corners_of_cells(network.height // stride, network.width // stride)
            values = _level(raw, stride, len(cells))
            scores.append(np.sqrt(np.clip(values["cls"], 0, 1) * np.clip(values["obj"], 0, 1))[:, 0])
            with np.errstate(over="ignore"):
                sides = np.exp(values["bbox"][:, 2:])
            boxes.append(np.concatenate([values["bbox"][:, :2] + cells, sides], axis=1) * stride)
            points.append((values["kps"].reshape(len(cells), -1, 2) + cells[:, None]) * stride)
        together = np.concatenate(scores)
        found = Candidates(corners(np.concatenate(boxes)), together, np.zeros(len(together), np.int64))
        return found, np.concatenate(points)


def _level(raw: Arrays, stride: int, cells: int) -> dict[str, NDArray[np.float32]]:
    """The arrays of one stride, [cells, width] each. Raises GraphError."""
    widths = {"cls": 1, "obj": 1, "bbox": 4, "kps": 2 * len(LANDMARKS)}
    for name, width in widths.items():
        array = raw.get(f"{name}_{stride}")
        if array is None or array.shape != (1, cells, width):
            raise GraphError(f"needs {name}_{stride} [1, {cells}, {width}]")
    return {name: np.asarray(raw[f"{name}_{stride}"][0], np.float32) for name in widths}
