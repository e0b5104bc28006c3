"""The room as a whole: what it exports, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import sharedbb.spec


def test_the_exports_are_pinned_and_sorted() -> None:
    assert sharedbb.spec.__all__ == [
        "NORMALIZATIONS",
        "AutoTransform",
        "Backbone",
        "Branch",
        "DepthHead",
        "DetectionHead",
        "EmbeddingHead",
        "Fpn",
        "HaarTransform",
        "Head",
        "Input",
        "KeypointsHead",
        "LowResolutionTransform",
        "MeanStd",
        "Pipeline",
        "Reuse",
        "RgbTransform",
        "Runtime",
        "Schedule",
        "SegmentationHead",
        "SpaceToDepthTransform",
        "TagsHead",
        "Transform",
        "WaveletTransform",
        "Yuv420Transform",
        "check",
        "dump",
        "json_schema",
        "load",
        "loads",
    ]
    for name in sharedbb.spec.__all__:
        assert hasattr(sharedbb.spec, name)


def test_checking_a_file_imports_nothing_heavy() -> None:
    code = (
        "import sys, sharedbb.spec as spec\n"
        "text = 'name: a\\nbackbone: {arch: resnet18}\\nheads: {a: {type: depth, taps: [4]}}'\n"
        "spec.dump(spec.loads(text)), spec.check('no such file'), spec.json_schema()\n"
        "print(*{'torch', 'torchvision', 'openvino', 'av', 'cv2', 'typer', 'rich'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
