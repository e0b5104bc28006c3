"""How far the headline's answers agree: reuse with the same network dense, every side with the networks in float."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import sharedbb as sb
from benchmarks.headline_run import Apart
from benchmarks.networks import PIPELINE
from sharedbb.outputs.agreement import Agreement
from sharedbb.types import Frame

Answers = Mapping[str, Any]
SMALL = PIPELINE.with_name("street-small.yaml")
REUSE = ("reuse.mode=keyframe", "reuse.budget=0.05", "reuse.key_every=6")

OWN, NOISE = "reuse, against its own dense answers", "one grey level of noise"
FLOAT, SAME_FLOAT = "sharedbb, against the networks in float", "the same weights with reuse, against themselves"
INT8 = "four int8 networks, against the networks in float"


class Tally:
    """Agreement of one side's answers with another's, head by head."""

    def __init__(self) -> None:
        self._heads: dict[str, Agreement] = {}

    def add(self, ours: Answers, truth: Answers) -> None:
        """Compare the answers to one frame."""
        for head, answer in truth.items():
            self._heads.setdefault(head, Agreement.of(type(answer))).add(ours[head], answer)

    def shares(self) -> dict[str, float]:
        """By head, 0–1; a detection head's is AP50 with the other side's boxes as truth."""
        return {head: round(one.summary()["agreement"], 4) for head, one in self._heads.items()}


def agreements(clip: Path, models: Path, frames: int, skip: int = 0) -> dict[str, dict[str, float]]:
    """Every comparison on ``frames`` frames of a clip behind the first ``skip``, by what is compared."""
    ours, dense, same, street = (
        sb.compile(sb.load(path, settings), profile=False)
        for path, settings in ((SMALL, REUSE), (SMALL, ()), (PIPELINE, REUSE), (PIPELINE, ()))
    )
    apart, noise = _one_by_one(Apart(models, "LATENCY", str(PIPELINE))), np.random.default_rng(0)
    tallies = {what: Tally() for what in (OWN, NOISE, FLOAT, SAME_FLOAT, INT8)}
    with sb.open_source(clip) as source:
        for frame in islice(source, skip, skip + frames):
            own, plain, alike, whole = (engine.step(frame).outputs for engine in (ours, dense, same, street))
            rgb = Frame.of(frame.rgb(), index=frame.index, timestamp=frame.timestamp, order="rgb")
            added = noise.integers(-1, 2, rgb.rgb().shape, np.int16)
            noisy = np.clip(rgb.rgb() + added, 0, 255).astype(np.uint8)
            still = dense.step(rgb, stream="plain").outputs
            moved = dense.step(noisy, stream="noisy", timestamp=frame.timestamp, order="rgb").outputs
            pairs = ((own, plain), (moved, still), (own, whole), (alike, whole), (apart(frame), whole))
            for tally, pair in zip(tallies.values(), pairs, strict=True):
                tally.add(*pair)
    return {name: tally.shares() for name, tally in tallies.items()}


def _one_by_one(networks: Apart) -> Callable[[Frame], Answers]:
    """The four networks' answers to a frame."""
    return lambda frame: next(iter(networks(iter((frame,)))))
