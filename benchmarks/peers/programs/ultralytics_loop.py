"""Ultralytics' four tasks, a model each, on every frame: YAML architectures without weights, exported to OpenVINO.

https://docs.ultralytics.com/integrations/openvino/: ``export(format="openvino")``, then ``YOLO(folder)`` as before;
a rectangular input where the video is. Arguments: folder for files, clip, number of frames.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

from stepping import decoded, folder, serve

TASKS = {"detect": "", "segment": "-seg", "pose": "-pose", "classify": "-cls"}
SIZE, CLASSIFY_SIZE = (384, 640), (224, 224)  # height, width; the second is what its classifiers are made for


def main() -> None:
    """Export what is not there yet, then run frames."""
    files, clip, count = sys.argv[1:4]
    os.chdir(folder(files, "ultralytics"))
    os.environ["YOLO_CONFIG_DIR"] = os.getcwd()
    from ultralytics import YOLO, __version__

    models = {}
    for task, suffix in TASKS.items():
        exported, size = Path(f"yolo11n{suffix}_openvino_model"), CLASSIFY_SIZE if task == "classify" else SIZE
        if not exported.is_dir():
            with contextlib.redirect_stdout(io.StringIO()):
                YOLO(f"yolo11n{suffix}.yaml").export(format="openvino", imgsz=size)
        models[task] = (YOLO(exported, task=task), size)

    def run(frame):
        picture = frame.to_ndarray(format="bgr24")
        found = [model.predict(picture, imgsz=size, verbose=False)[0].cpu() for model, size in models.values()]
        return [len(result) for result in found]

    serve(decoded(clip, count), run, ultralytics=__version__)


if __name__ == "__main__":
    main()
