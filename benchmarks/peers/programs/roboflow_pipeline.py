"""Roboflow's InferencePipeline with logic of one's own: four ONNX Runtime sessions on every frame that it hands over.

https://docs.roboflow.com/reference/inference/inference-python/inference-pipeline: ``init_with_custom_logic`` on a video
file, which the pipeline reads and decodes ahead in a thread of its own; predictions go to a sink in another. Models of
its own would need an account and a download. Arguments: folder for files, clip, number of frames, ONNX files.
"""

from __future__ import annotations

import os
import sys

import cv2
import numpy as np
from stepping import say

HEIGHT, WIDTH = 384, 640
BARS = (124, 116, 104)


def letterboxed(picture: np.ndarray) -> np.ndarray:
    """The BGR picture whole in the network's input, uint8 RGB [1, H, W, 3]."""
    scale = min(HEIGHT / picture.shape[0], WIDTH / picture.shape[1])
    height, width = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    top, left = (HEIGHT - height) // 2, (WIDTH - width) // 2
    boxed = np.full((1, HEIGHT, WIDTH, 3), BARS, np.uint8)
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    cv2.cvtColor(small, cv2.COLOR_BGR2RGB, dst=boxed[0, top : top + height, left : left + width])
    return boxed


def main() -> None:
    """Run the clip over and over, each frame when a line comes in."""
    os.environ.update(METRICS_ENABLED="False", TELEMETRY_OPT_OUT="True")
    clip, models = sys.argv[2], sys.argv[4:]
    import inference
    import onnxruntime
    from inference import InferencePipeline

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    sessions = [onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"]) for model in models]

    def predict(frames: list) -> list:
        if not sys.stdin.readline():
            os._exit(0)  # the pipeline's other threads would wait for each other
        found = []
        for frame in frames:
            picture = letterboxed(frame.image)
            found.append([answer for session in sessions for answer in session.run(None, {"picture": picture})])
        return found

    def take(answers: list, _frame: object) -> None:
        say({"answers": [answer.shape for answer in answers]})

    say({"ready": {"inference": inference.core.version.__version__, "onnxruntime": onnxruntime.__version__}})
    while True:
        pipeline = InferencePipeline.init_with_custom_logic(clip, on_video_frame=predict, on_prediction=take)
        pipeline.start()
        pipeline.join()


if __name__ == "__main__":
    main()
