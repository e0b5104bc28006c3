"""The same networks as MediaPipe Tasks: two image segmenters and an image classifier; the detector in LiteRT.

https://ai.google.dev/edge/mediapipe/solutions/vision/image_segmenter/python: a task a model, running mode VIDEO, the
decoded frame as ``mp.Image``; the task resizes it. The networks are converted by LiteRT Torch
(https://ai.google.dev/edge/litert/models/pytorch_to_tflite). ObjectDetector reads boxes of SSD networks only, so that
head runs in LiteRT's interpreter. Arguments: folder for files, clip, number of frames, networks exported by torch.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from itertools import count
from pathlib import Path

from stepping import decoded, serve

SIZE = (384, 640)
SEGMENTERS, CLASSIFIER, DETECTOR = ("surface", "edges"), "scene", "objects"


def converted(program: Path) -> str:
    """The network as a file for LiteRT, made where it is not there."""
    path = program.with_suffix(".tflite")
    if not path.is_file():
        import litert_torch
        import torch

        module = torch.export.load(program).module()
        model = litert_torch.convert(module, (torch.zeros(1, *SIZE, 3, dtype=torch.uint8),))
        unfinished = path.with_suffix(".part")
        model.export(str(unfinished))
        unfinished.replace(path)
    return str(path)


def main() -> None:
    """Convert what is not there yet, then run frames."""
    _, clip, frames, *programs = sys.argv[1:]
    models = {Path(program).name.split("-")[1]: converted(Path(program)) for program in programs}
    import mediapipe as mp
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from mediapipe.tasks.python import BaseOptions, vision

    def common(head: str) -> dict:
        options = BaseOptions(model_asset_path=models[head])
        return {"base_options": options, "running_mode": vision.RunningMode.VIDEO}

    segmenters = [
        vision.ImageSegmenter.create_from_options(
            vision.ImageSegmenterOptions(**common(head), output_category_mask=True, output_confidence_masks=False)
        )
        for head in SEGMENTERS
    ]
    classifier = vision.ImageClassifier.create_from_options(vision.ImageClassifierOptions(**common(CLASSIFIER)))
    detector = Interpreter(model_path=models[DETECTOR], num_threads=len(os.sched_getaffinity(0)))
    detector.allocate_tensors()
    given, outputs = detector.get_input_details()[0]["index"], detector.get_output_details()
    clock = count(0, 40)

    def run(frame) -> dict:
        picture, now = frame.to_ndarray(format="rgb24"), next(clock)
        image = mp.Image(image_format=mp.ImageFormat.SRGB, data=picture)
        masks = [one.segment_for_video(image, now).category_mask.numpy_view() for one in segmenters]
        tags = classifier.classify_for_video(image, now).classifications[0].categories
        small = frame.to_ndarray(width=SIZE[1], height=SIZE[0], format="rgb24", interpolation="BILINEAR")
        detector.set_tensor(given, small[None])
        detector.invoke()
        boxes = [detector.get_tensor(output["index"]) for output in outputs]
        return {"masks": [np.shape(mask) for mask in masks], "tags": len(tags), "boxes": [box.shape for box in boxes]}

    serve(decoded(clip, frames), run, mediapipe=version("mediapipe"), litert=version("ai-edge-litert"))


if __name__ == "__main__":
    main()
