"""The loop of supervision's guides: OpenCV pictures, a model a task, answers as its own types, nothing drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import sharedbb as sb
from benchmarks.peers.base import Absent, Answers, Peer, Work
from benchmarks.peers.onnx_peers import session_of
from sharedbb.outputs.detections import cell_centres

SOURCE = (
    "https://supervision.roboflow.com/latest/how_to/detect_and_annotate/: frames as BGR arrays, sv.letterbox_image, "
    "answers as sv.Detections (with_nms) and sv.Classifications; the models run in ONNX Runtime"
)


def prepare(work: Work) -> Callable[[sb.Frame], Any]:
    """Four sessions; a frame's answers as supervision's types, in network pixels."""
    try:
        import supervision as sv
    except ImportError:
        raise Absent("supervision is not installed: pip install supervision") from None
    models = {head: session_of(work, head, network, int8=False) for head, network in work.networks.items()}
    names = {head: [output.name for output in model.get_outputs()] for head, model in models.items()}
    objects: Any = work.pipeline.heads["objects"]

    def run(frame: sb.Frame) -> dict[str, Any]:
        assert frame.video is not None
        boxed = sv.letterbox_image(frame.video.to_ndarray(format="bgr24"), (work.size.width, work.size.height))
        picture = cv2.cvtColor(boxed, cv2.COLOR_BGR2RGB)[None]
        raw: Answers = {}
        for head, model in models.items():
            raw.update(zip(names[head], model.run(None, {"picture": picture}), strict=True))
        return {
            "surface": _areas(sv, raw["surface.logits"]),
            "edges": _areas(sv, raw["edges.logits"]),
            "scene": sv.Classifications(np.arange(raw["scene.logits"].shape[1]), _probability(raw["scene.logits"][0])),
            "objects": _boxes(sv, work, objects, raw),
        }

    return run


def _areas(sv: Any, logits: NDArray[np.float32]) -> Any:
    """A mask for every class that the picture shows, at the logits' resolution."""
    best = logits[0].argmax(0)
    classes = np.unique(best)
    masks = best == classes[:, None, None]
    return sv.Detections(xyxy=sv.mask_to_xyxy(masks), mask=masks, class_id=classes)


def _boxes(sv: Any, work: Work, head: Any, raw: Answers) -> Any:
    """Boxes above the head's threshold after non-maximum suppression."""
    centres, strides = cell_centres(work.size, tuple(head.taps))
    scores = _probability(raw["objects.scores"][0])
    cells, classes = np.nonzero(scores > head.score_threshold)
    reach = raw["objects.distances"][0][cells] * strides[cells, None]
    corners = np.concatenate([centres[cells] - reach[:, :2], centres[cells] + reach[:, 2:]], axis=1)
    found = sv.Detections(xyxy=corners, confidence=scores[cells, classes], class_id=classes)
    return found.with_nms(threshold=head.iou_threshold)


def _probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    likely: NDArray[np.float32] = 1 / (1 + np.exp(-logits))
    return likely


LOOP = Peer(
    "supervision loop over ONNX Runtime f32, separate",
    SOURCE,
    prepare,
    differs="answers are decoded to boxes and masks, as the engine's are",
)
