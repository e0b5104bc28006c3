"""Opening a teacher: its file or module is read, its format made, and a grey picture shows whether all fits."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedbb import artifact
from sharedbb.errors import CompressionError, GraphError
from sharedbb.learn.network import Network
from sharedbb.learn.teachers.boxes import SOFT
from sharedbb.learn.teachers.classes import class_names
from sharedbb.learn.teachers.formats import Wanted, made
from sharedbb.learn.teachers.heads import TYPES, Arrays, Precision, TeacherHead, shapes
from sharedbb.learn.teachers.module_network import ModuleNetwork
from sharedbb.learn.teachers.onnx_network import OnnxNetwork
from sharedbb.learn.teachers.teacher import Decoded, Rgb, Teacher, at_threshold
from sharedbb.spec.fuse import FuseTeacher
from sharedbb.types import Output

VERSION = 1
"""Raised when a format begins to answer otherwise: what teachers answered before is not read any more."""

GREY = 128


def open_teacher(name: str, spec: FuseTeacher, precision: Precision = "f32", pictures: Sequence[Rgb] = ()) -> Teacher:
    """The teacher that ``spec`` describes, with the heads that it names, under the student's names.

    ``precision``: how OpenVINO computes an ONNX file, int8 as calibrated on ``pictures``. Raises CompressionError, in
    one line, for what cannot be read or made, and for a network whose outputs the format cannot read.
    """
    teacher = _of_artifact(name, spec.artifact) if spec.artifact else _of_network(name, spec, precision, pictures)
    teacher = teacher.renamed(spec.heads)
    for head in teacher.heads.values():
        if head.type not in TYPES.values():
            raise CompressionError(
                f"head {head.own!r} of teacher {name} is of type {head.type!r}, which no one can learn"
            )
    return teacher


def _of_artifact(name: str, file: str) -> Teacher:
    network = Network.of(file)
    heads = {own: _head(own, head) for own, head in network.pipeline.heads.items()}
    lowest = {own: SOFT * (head.threshold or 0.0) for own, head in heads.items() if head.type == "detection"}
    predict = network.predictor(lowest_score=min(lowest.values(), default=None))

    def soft(rgb: Rgb) -> dict[str, Output]:
        return {own: at_threshold(answer, lowest.get(own)) for own, answer in predict(rgb).items()}

    facts = {
        "version": VERSION,
        "kind": "artifact",
        "file": os.path.basename(file),
        "sha256": _digest(network),
        "input": network.pipeline.input.model_dump(mode="json"),
        "parameters": network.parameters,
    }
    return Teacher(name, heads, soft, facts)


def _head(own: str, head: Any) -> TeacherHead:
    """A pipeline's head as a teacher's."""
    names = next((getattr(head, field) for field in ("classes", "labels", "points") if hasattr(head, field)), ())
    threshold = getattr(head, "score_threshold", getattr(head, "threshold", None))
    return TeacherHead(head.type, tuple(names), threshold, own)


def _digest(network: Network) -> str:
    """SHA-256 of the artifact that the network would make, in hex: the same from a pipeline file and an artifact."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"teacher{artifact.SUFFIX}"
        network.save(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()


def _of_network(name: str, spec: FuseTeacher, precision: Precision, pictures: Sequence[Rgb]) -> Teacher:
    given, wanted = spec.input, Wanted(class_names(spec.classes), spec.score_threshold, spec.iou_threshold)
    assert given is not None
    assert spec.format is not None
    try:
        decode = made(spec.format, wanted, spec.options)
        network = OnnxNetwork(spec.onnx, given) if spec.onnx else ModuleNetwork(spec.module or "", given)
        soft = Decoded(_Chosen(network, spec.outputs), given, decode)
        grey = np.full((*given.size, 3), GREY, np.uint8)
        heads = {own: TeacherHead.of(own, answer, decode.threshold) for own, answer in soft(grey).items()}
    except GraphError as error:
        raise CompressionError(f"teacher {name}, format {spec.format!r}: {error}") from error
    if precision != "f32" and isinstance(network, OnnxNetwork):
        network.compile(precision, [soft.placed(picture) for picture in pictures])
    facts = {
        "version": VERSION,
        "kind": "onnx" if spec.onnx else "module",
        "file": os.path.basename(spec.onnx or "") or spec.module,
        "sha256": network.digest,
        "input": given.model_dump(mode="json"),
        "format": spec.format,
        "code": decode.code,
        "options": dict(spec.options),
        "outputs": dict(spec.outputs),
        "score_threshold": decode.threshold,
        "iou_threshold": spec.iou_threshold,
        "precision": precision if spec.onnx else "f32",
        "parameters": network.parameters,
    }
    return Teacher(name, heads, soft, facts)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The arrays of a network by the names that a format has for them: ``outputs``, all as they are called if empty."""

    network: Callable[[NDArray[np.uint8]], Arrays]
    outputs: Mapping[str, str]

    def __call__(self, picture: NDArray[np.uint8]) -> Arrays:
        raw = self.network(picture)
        absent = [name for name in self.outputs.values() if name not in raw]
        if absent:
            raise GraphError(f"the network has no output {absent[0]!r}; it computes {shapes(raw)}")
        return {role: raw[name] for role, name in self.outputs.items()} or raw
