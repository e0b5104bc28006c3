"""The exact mode: nothing changes, or one place of a still picture a frame; the same answers, and none that drift."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import sharedbb as sb
from benchmarks import networks
from benchmarks.reuse_runs import Setup, compiled, large_street, show_rows, versus
from benchmarks.schema import Number
from benchmarks.sections import Section
from sharedbb.types import Frame, FrameResult, Size

STILL = "static-carpark.mp4"
"""The clip whose first frame is the picture."""

SIDE = 128
"""Network pixels to each side of what changes."""

TRUNKS = (16, 32)
"""Strides up to which a trunk is measured alone, under one segmentation head (3×3 convolution to 32 channels)."""

FRAMES, DRIFT_FRAMES, ENDS = 100, 1000, 10
GOALS = {"mobilenet_v2": 4.0, "resnet50": 6.0}
"""Times as fast as dense with one change a frame."""

FAR = (
    "through the pyramid one change reaches much of the deepest features and so nearly all that the heads are handed, "
    "and deep segments cost almost as much in tiles as whole; crops of the exact shape would help there"
)


def measure(setup: Setup) -> Section:
    """Static and changing pictures at 736×1280: whole pipelines, trunks alone, float32."""
    rows: dict[str, dict[str, Any]] = {}
    for pipeline in (large_street(), setup.resnet_pipeline()):
        arch = pipeline.backbone.arch
        count = setup.count(FRAMES)
        rows[f"{arch}, static"] = run(pipeline, setup, count, moving=False)
        rows[f"{arch}, one change"] = run(pipeline, setup, count)
        for stride in TRUNKS[:1] if setup.quick else TRUNKS:
            rows[f"{arch}, one change, trunk to stride {stride}"] = run(trunk_of(pipeline, stride), setup, count)
        rows[f"{arch}, one change, f32"] = run(in_float32(pipeline), setup, count)
    drift = run(in_float32(networks.street()), setup, setup.count(DRIFT_FRAMES))
    rows["mobilenet_v2, one change, f32, 384×640"] = drift
    show_rows("exact against dense, a 128×128 change on a still picture", rows, ("changed", "relative_difference"))
    details = {
        "picture": STILL,
        "resnet_trained": setup.is_resnet_trained,
        "trunks": "random weights, no neck, one segmentation head (32 channels, 2 classes) on the stride named",
        "cases": rows,
    }
    return Section(details=details, numbers=_numbers(rows))


def _numbers(rows: dict[str, dict[str, Any]]) -> dict[str, Number]:
    """Measured beside the goals; speed as the ratio of medians, which the first frame, always dense, leaves alone."""
    found: dict[str, Number] = {}
    for arch, goal in GOALS.items():
        static, changed = rows[f"{arch}, static"], rows[f"{arch}, one change"]
        found[f"{arch}, static"] = Number(measured=static["speedup_p50"], goal=20)
        found[f"{arch}, one change"] = Number(measured=changed["speedup_p50"], goal=goal, why=FAR)
        apart = rows[f"{arch}, one change, f32"]["relative_difference"]
        found[f"{arch}, f32, relative difference"] = Number(measured=apart, goal=1e-4, better="lower", unit="")
    return found


def run(pipeline: sb.Pipeline, setup: Setup, count: int, *, moving: bool = True) -> dict[str, Any]:
    """Exact against dense on one picture; not audited, since an audit would mend what had gone wrong."""
    ours, dense = compiled(pipeline, mode="exact", audit=0), compiled(pipeline)
    watch = Equality()
    picture = still(setup, pipeline.input.network_size)
    row = versus(ours, dense, pictures(picture, count, moving=moving), watch)
    return {**row, **watch.summary()}


def trunk_of(pipeline: sb.Pipeline, stride: int) -> sb.Pipeline:
    """The trunk up to a stride with the lightest head there is for maps, no neck; random weights, since it is another
    network than the one that was trained.
    """
    name, head = f"{pipeline.name}-trunk-{stride}", pipeline.heads["edges"].model_copy(update={"taps": (stride,)})
    backbone = pipeline.backbone.model_copy(update={"weights": None})
    return pipeline.model_copy(update={"name": name, "backbone": backbone, "neck": None, "heads": {"cells": head}})


def in_float32(pipeline: sb.Pipeline) -> sb.Pipeline:
    """The pipeline in float32."""
    return pipeline.model_copy(update={"runtime": pipeline.runtime.model_copy(update={"precision": "f32"})})


def still(setup: Setup, size: Size) -> NDArray[np.uint8]:
    """A real picture in the network's size, HWC uint8 RGB, so that taking it in scales nothing."""
    first = next(setup.clip(STILL, 1))
    return cv2.resize(first.rgb(), (size.width, size.height), interpolation=cv2.INTER_AREA).view(np.uint8)


def pictures(picture: NDArray[np.uint8], count: int, *, moving: bool) -> Iterator[Frame]:
    """The picture again and again; when ``moving``, one more place of it is turned into its negative on each frame.

    Every pixel of the place changes, wherever it lies, and earlier places stay as they are.
    """
    rng = np.random.default_rng(0)
    height, width = picture.shape[:2]
    for index in range(count):
        if moving and index:
            top, left = rng.integers(0, height - SIDE + 1), rng.integers(0, width - SIDE + 1)
            picture = picture.copy()
            place = picture[top : top + SIDE, left : left + SIDE]
            np.subtract(255, place, out=place)
        yield Frame.of(picture, index=index, timestamp=index / 25, order="rgb")


class Equality:
    """Shown two results of each frame: the share of every head's answers that differ, and how far maps are apart."""

    def __init__(self) -> None:
        self._changed: dict[str, list[float]] = {}
        self._apart: dict[str, list[float]] = {}

    def __call__(self, ours: FrameResult, dense: FrameResult) -> None:
        for head, answer in ours.items():
            self._changed.setdefault(head, []).append(answer.changed(dense[head]))
            if hasattr(answer, "logits"):
                own, true = answer.logits, dense[head].logits
                apart = float(np.abs(own - true).max() / np.abs(true).max())
                self._apart.setdefault(head, []).append(apart)

    def summary(self) -> dict[str, Any]:
        """The largest over all frames: ``changed``, a head's share, and ``relative_difference`` of segmentation logits.

        The latter is a frame's largest difference over its largest magnitude; by head also that of the first and of the
        last frames, which shows drift.
        """
        return {
            "changed": max(max(shares) for shares in self._changed.values()),
            "changed_by_head": {head: float(f"{max(shares):.4g}") for head, shares in self._changed.items()},
            "relative_difference": max(float(f"{max(apart):.4g}") for apart in self._apart.values()),
            "relative_difference_by_head": {
                head: {f"first_{ENDS}": max(apart[:ENDS]), f"last_{ENDS}": max(apart[-ENDS:]), "largest": max(apart)}
                for head, apart in self._apart.items()
            },
        }
