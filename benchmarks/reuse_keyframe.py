"""Key frames against real labels (CamVid's ``val``, a drive at 15 Hz), and against dense boxes on a dash camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import sharedbb as sb
from benchmarks import networks
from benchmarks.reuse_clips import MOVING_FRAMES
from benchmarks.reuse_runs import Setup, compiled, show_rows, versus
from benchmarks.schema import Number
from benchmarks.sections import Section
from sharedbb.types import Frame, FrameResult

HEAD = "surface"
"""Answers with the classes of the labels, in their order; a label beyond them is void."""

PICTURES_PER_SECOND, PASSES = 15, 3
KEY_EVERY, CLIP_KEY_EVERY = (2, 3, 4, 5, 8), (2, 3, 4, 5)
FRESH = (0, 8)
BUDGETS = (0.02, 0.05)
CLIP = "moving-dashcam.mp4"
GOALS = {1.0: 2.5, 0.2: 1.4}
"""Times as fast as dense, by the points of mIoU that may be lost for it."""

CLIP_GOALS = {"speedup": 2.5, "ap50": 0.9}
BOUNDED_LOST_POINTS = 0.5
COLD = (
    "a key frame after moved ones finds cold caches and takes longer than a dense frame among dense ones, and a moved "
    "one still costs flow, decoding and moving; keys further apart lose more than is allowed"
)
DEEP = "the first segments, fresh on every frame, are most of this trunk's time"
UNBOUND = {"budget": 1.0, "audit": 0}
"""No audit that would lengthen or shorten the way from key frame to key frame: the curve itself is measured."""


@dataclass(slots=True)
class Labelled:
    """A drive with labels: frames, and what each pixel is, HW uint8."""

    frames: list[Frame] = field(default_factory=list)
    labels: list[NDArray[np.uint8]] = field(default_factory=list)

    @classmethod
    def read(cls, setup: Setup) -> Labelled:
        """The pictures in order of their names. Raises FileNotFoundError when there are none, or labels are missing."""
        folder = setup.data / "camvid"
        files = sorted((folder / "val").glob("*.jpg"))[: setup.frames or (24 if setup.quick else None)]
        if not files:
            raise FileNotFoundError(f"no pictures in {folder / 'val'}")
        drive = cls()
        for index, file in enumerate(files):
            answers = folder / "valannot" / f"{file.stem}.png"
            picture, labels = cv2.imread(str(file)), cv2.imread(str(answers), cv2.IMREAD_UNCHANGED)
            if picture is None or labels is None:
                raise FileNotFoundError(f"cannot read {file if picture is None else answers}")
            drive.frames.append(Frame.of(picture, index=index, timestamp=index / PICTURES_PER_SECOND))
            drive.labels.append(labels)
        return drive


class Scored:
    """Shown two results of each frame of a drive: pixels by true and answered class, for either side."""

    def __init__(self, drive: Labelled) -> None:
        self._drive = drive
        self._counts: list[Any] = [0, 0]

    def __call__(self, ours: FrameResult, dense: FrameResult) -> None:
        labels = self._drive.labels[ours.index]
        for side, result in enumerate((ours, dense)):
            classes = len(result[HEAD].names)
            known = labels < classes
            pairs = labels[known].astype(np.intp) * classes + result[HEAD].classes[known]
            self._counts[side] += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def summary(self) -> dict[str, float]:
        """Mean intersection over union of either side, and how many points dense is ahead."""
        ours, dense = (self._mean(counts) for counts in self._counts)
        return {"miou": round(ours, 5), "miou_dense": round(dense, 5), "lost_points": round(100 * (dense - ours), 3)}

    @staticmethod
    def _mean(counts: NDArray[np.int64]) -> float:
        """Over the classes that occur among labels or answers."""
        same = np.diag(counts)
        either = counts.sum(axis=0) + counts.sum(axis=1) - same
        return float((same[either > 0] / either[either > 0]).mean())


def measure(setup: Setup) -> Section:
    """Key frames further and further apart, deep features only or all of them moved along; beside them ``bounded``."""
    pipeline = networks.street()
    dense = compiled(pipeline)
    drive = Labelled.read(setup)
    rows: dict[str, dict[str, Any]] = {}
    for fresh in FRESH:
        for every in KEY_EVERY[:2] if setup.quick else KEY_EVERY:
            ours = compiled(pipeline, mode="keyframe", key_every=every, fresh=fresh, **UNBOUND)
            rows[f"fresh {fresh}, key every {every}"] = _on_labels(ours, dense, drive)
    for budget in BUDGETS[:1] if setup.quick else BUDGETS:
        rows[f"bounded, budget {budget:g}"] = _on_labels(
            compiled(pipeline, mode="bounded", budget=budget), dense, drive
        )
    show_rows("keyframe on CamVid val, labels as truth", rows, ("miou", "miou_dense", "lost_points"))
    clips: dict[str, dict[str, Any]] = {}
    for every in CLIP_KEY_EVERY[:2] if setup.quick else CLIP_KEY_EVERY:
        ours = compiled(pipeline, mode="keyframe", key_every=every, **UNBOUND)
        clips[f"key every {every}"] = versus(ours, dense, setup.clip(CLIP, MOVING_FRAMES))
    show_rows(f"keyframe on {CLIP}, dense as truth", clips)
    return Section(details={"camvid": rows, CLIP: clips}, numbers=_numbers(rows, clips))


def _on_labels(ours: sb.Engine, dense: sb.Engine, drive: Labelled) -> dict[str, Any]:
    """A drive is short: of PASSES along it, the one whose speedup is the median."""
    passes = []
    for _ in range(PASSES):
        scored = Scored(drive)
        passes.append({**versus(ours, dense, drive.frames, scored), **scored.summary()})
    return sorted(passes, key=lambda row: row["speedup"])[PASSES // 2]


def _numbers(rows: Mapping[str, Mapping[str, Any]], clips: Mapping[str, Mapping[str, Any]]) -> dict[str, Number]:
    """The fastest setting before the first that loses more than is allowed; None when all do."""
    found: dict[str, Number] = {}
    for most, goal in GOALS.items():
        found[f"speedup at {most:g} points lost at most"] = _fastest(rows, "fresh", most, goal=goal, why=COLD)
    for fresh in FRESH[1:]:
        found[f"fresh {fresh}, speedup at {most:g} points lost at most"] = _fastest(
            rows, f"fresh {fresh}", most, why=DEEP
        )
    least = CLIP_GOALS["ap50"]
    kept = takewhile(lambda row: row["heads"]["objects"]["agreement"] >= least, clips.values())
    name = f"{CLIP}, speedup at {least:g} AP50 against dense at least"
    fastest = max((row["speedup"] for row in kept), default=None)
    found[name] = Number(measured=fastest, goal=CLIP_GOALS["speedup"], why=COLD)
    for name, row in rows.items():
        if name.startswith("bounded"):
            lost, goal = row["lost_points"], BOUNDED_LOST_POINTS
            found[f"{name}, points lost"] = Number(measured=lost, goal=goal, better="lower", unit="points")
    return found


def _fastest(rows: Mapping[str, Mapping[str, Any]], kind: str, most: float, **told: Any) -> Number:
    """The best speedup of the settings whose names begin like this and that lose no more points than that.

    Those of a kind stand in the order of how much they spare: behind the first that loses more, one that happens to
    lose less is luck.
    """
    kinds = {name.partition(", ")[0] for name in rows if name.startswith(kind)}
    kept = [
        row["speedup"]
        for one in kinds
        for row in takewhile(
            lambda row: row["lost_points"] <= most, (row for name, row in rows.items() if name.startswith(f"{one}, "))
        )
    ]
    return Number(measured=max(kept, default=None), **told)
