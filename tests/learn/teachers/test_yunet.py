"""YuNet's format against a plain loop over its cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sharedbb.errors import GraphError
from sharedbb.learn.teachers.formats import Wanted
from sharedbb.learn.teachers.yunet import LANDMARKS, YuNetFormat
from sharedbb.types import Geometry, Size

NETWORK = Size(32, 64)
GEOMETRY = Geometry.fit(Size(64, 128), NETWORK, "stretch")
FACE = Wanted(("face",), 0.6, 1.0)


def raw(best: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    arrays = {}
    for stride in (8, 16, 32):
        cells = (32 // stride) * (64 // stride)
        arrays[f"cls_{stride}"] = rng.uniform(0, best, (1, cells, 1))
        arrays[f"obj_{stride}"] = rng.uniform(-0.2, 1.2 * best, (1, cells, 1))
        arrays[f"bbox_{stride}"] = rng.normal(0, 0.5, (1, cells, 4))
        arrays[f"kps_{stride}"] = rng.normal(0.5, 0.3, (1, cells, 10))
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def plain(arrays: dict[str, np.ndarray]) -> list[tuple[float, list[float], list[float]]]:
    """Score, box and landmarks in source pixels of all in the picture that score 0.3 or more, the best first."""
    found = []
    for stride in (8, 16, 32):
        columns = 64 // stride
        for cell in range(columns * (32 // stride)):
            row, column = divmod(cell, columns)
            values = [arrays[f"{name}_{stride}"][0, cell].tolist() for name in ("cls", "obj", "bbox", "kps")]
            (sure,), (there,), (x, y, width, height), points = values
            score = math.sqrt(min(max(sure, 0), 1) * min(max(there, 0), 1))
            x, y = (column + x) * stride, (row + y) * stride
            width, height = math.exp(width) * stride, math.exp(height) * stride
            box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            box = [min(max(2 * side, 0), end) for side, end in zip(box, (128, 64, 128, 64), strict=True)]
            marks = [2 * stride * (place + (row if i % 2 else column)) for i, place in enumerate(points)]
            marks = [min(max(mark, 0), 64 if i % 2 else 128) for i, mark in enumerate(marks)]
            if score >= 0.3 and box[2] > box[0] and box[3] > box[1]:
                found.append((score, box, marks))
    return sorted(found, reverse=True)


def test_faces_and_the_landmarks_of_the_best() -> None:
    arrays = raw()
    expected = plain(arrays)
    answers: Any = YuNetFormat(FACE)(arrays, GEOMETRY)
    faces, landmarks = answers["boxes"], answers["landmarks"]
    assert len(faces) == len(expected) > 10
    assert np.allclose(faces.scores, [score for score, _, _ in expected], atol=1e-5)
    assert np.allclose(faces.boxes, [box for _, box, _ in expected], atol=1e-3)
    assert landmarks.names == LANDMARKS
    assert np.allclose(landmarks.points.reshape(-1), expected[0][2], atol=1e-3)
    assert landmarks.scores.tolist() == pytest.approx([expected[0][0]] * 5)
    assert landmarks.cell == (16, 16)


def test_no_face_at_the_operating_point_has_no_landmarks() -> None:
    answers: Any = YuNetFormat(FACE)(raw(0.5), GEOMETRY)
    assert 0.3 <= answers["boxes"].scores.max() < 0.6
    assert not answers["landmarks"].scores.any()
    answers = YuNetFormat(FACE)(raw(0.1), GEOMETRY)
    assert len(answers["boxes"]) == 0
    assert not answers["landmarks"].present.any()


def test_what_does_not_fit() -> None:
    arrays = raw()
    del arrays["kps_16"]
    with pytest.raises(GraphError, match=r"needs kps_16 \[1, 8, 10\]"):
        YuNetFormat(FACE)(arrays, GEOMETRY)
    with pytest.raises(GraphError, match="answers one class, the face; 2 are named"):
        YuNetFormat(Wanted(("cat", "dog")))(raw(), GEOMETRY)
