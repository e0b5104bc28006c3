"""All peers, in the groups that are measured together; and those that were not tried, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sharedbb as sb
from benchmarks.peers.base import Absent, Peer, Work
from benchmarks.peers.environments import program
from benchmarks.peers.onnx_peers import ONNX, onnx_files
from benchmarks.peers.openvino_peers import OPENVINO
from benchmarks.peers.supervision_peer import LOOP
from benchmarks.peers.torch_peers import TORCH, torch_programs

ULTRALYTICS = Peer(
    "Ultralytics loop: YOLO11n detect, segment, pose, classify in OpenVINO",
    "https://docs.ultralytics.com/integrations/openvino/: exported with format='openvino', then YOLO(folder).predict",
    program("ultralytics_loop", ("ultralytics", "openvino", "av")),
    differs="other architectures (YOLO11n, random weights), other tasks; answers are decoded; classifier at 224×224",
)

MEDIAPIPE = Peer(
    "MediaPipe Tasks f32: two segmenters, a classifier; detector in LiteRT",
    "https://ai.google.dev/edge/mediapipe/solutions/vision/image_segmenter/python: VIDEO mode, models by LiteRT Torch",
    program("mediapipe_tasks", ("mediapipe", "litert-torch", "av"), torch_programs),
    differs="frames are stretched, not letterboxed; class maps come at the frame's size",
)

ROBOFLOW = Peer(
    "Roboflow InferencePipeline over ONNX Runtime f32, separate",
    "https://docs.roboflow.com/reference/inference/inference-python/inference-pipeline: init_with_custom_logic",
    program("roboflow_pipeline", ("inference", "av"), onnx_files),
    differs="reads and decodes the clip by itself, in a thread that is ahead",
)


def never(why: str) -> Callable[[Work], Callable[[sb.Frame], Any]]:
    """``prepare`` of a peer that nobody tried here."""

    def prepare(work: Work) -> Callable[[sb.Frame], Any]:
        raise Absent(why)

    return prepare


ELSEWHERE = (
    Peer(
        "DL Streamer",
        "https://dlstreamer.github.io/get_started/install/install_guide_ubuntu.html",
        never("not tried: it comes from an apt repository or as a container image, and pip knows no dlstreamer"),
    ),
    Peer(
        "DeepStream, Savant",
        "https://docs.savant-ai.io/develop/getting_started/0_configure_prod_env.html",
        never("not tried: both are made for NVIDIA GPUs and run from container images"),
    ),
)

GROUPS: Mapping[str, tuple[Peer, ...]] = {
    "OpenVINO": OPENVINO,
    "ONNX Runtime and torch": (*ONNX, *TORCH),
    "frameworks": (LOOP, ROBOFLOW, MEDIAPIPE, ULTRALYTICS, *ELSEWHERE),
}
