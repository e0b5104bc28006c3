"""Reuse between frames on a GPU: every mode against dense, and whether ``auto`` refuses it where it does not pay."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sharedbb as sb
from benchmarks.gpu_work import device_of
from benchmarks.schema import Case, Number
from benchmarks.timing import case_of
from sharedbb.compiler.assemble import bargain_of
from sharedbb.runtime.engine import changed
from sharedbb.spec.parts import Reuse

MODES = ("exact", "bounded", "keyframe", "auto")
CLIPS = {"static": "static-highway.avi", "moving": "moving-dashcam.mp4"}
GENERATED = {
    kind: f"synthetic:street?motion={motion}&frames=400&seed=1"
    for kind, motion in (("static", "static"), ("moving", "drive"))
}
AUTO_GOAL = 0.95
"""Of dense speed, at least, whatever is filmed: what the reuse suite asks of ``auto``."""


def frames_of(kind: str, count: int, data: Path | None) -> list[sb.Frame]:
    """The first frames of a clip of this kind: a real one where the data folder has it, else a generated one."""
    path = None if data is None else data / "clips" / CLIPS[kind]
    with sb.open_source(path if path is not None and path.is_file() else GENERATED[kind]) as source:
        return list(islice(source, count))


def engines(pipeline: sb.Pipeline) -> dict[str, sb.Engine]:
    """An engine a mode, all of one compiled program: compiling for tiles takes long."""
    reusing = pipeline.model_copy(update={"reuse": Reuse(mode="auto")})
    program = sb.compile(reusing, profile=False).program
    return {mode: sb.Engine(replace(program, bargain=bargain_of(Reuse(mode=mode)))) for mode in MODES}


def in_turns(
    dense: sb.Engine, reusing: Mapping[str, sb.Engine], frames: Sequence[sb.Frame], warm: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every frame but the first ones by mode, all modes in turns on each; and what they did.

    Of every mode: how often each way of computing a frame was taken, and each head's mean share of answers that are
    not dense's.
    """
    modes = {"dense": dense, **reusing}
    taken: dict[str, list[float]] = {mode: [] for mode in modes}
    ways: dict[str, Counter[str]] = {mode: Counter() for mode in reusing}
    off: dict[str, dict[str, list[float]]] = {mode: {} for mode in reusing}
    order = list(modes)
    for number, frame in enumerate(frames):
        order, results = order[1:] + order[:1], {}
        for mode in order:
            start = time.perf_counter()
            results[mode] = modes[mode].step(frame, stream="reuse")
            if device_of(dense).type == "cuda":
                torch.cuda.synchronize()
            if number >= warm:
                taken[mode].append(time.perf_counter() - start)
        for mode in reusing if number >= warm else ():
            ways[mode][results[mode].mode] += 1
            for head, answer in results[mode].items():
                share = changed(answer, results["dense"][head])
                if share is not None:
                    off[mode].setdefault(head, []).append(share)
    for engine in modes.values():
        engine.close("reuse")
    told = {
        mode: {
            "ways": dict(ways[mode]),
            "changed": {head: round(float(np.mean(one)), 5) for head, one in heads.items()},
        }
        for mode, heads in off.items()
    }
    return taken, told


def compared(
    dense: sb.Engine, pipeline: sb.Pipeline, count: int, data: Path | None
) -> tuple[dict[str, Case], dict[str, Number], dict[str, Any]]:
    """Timings, numbers and details of every mode on a static and a moving clip."""
    timings: dict[str, Case] = {}
    numbers: dict[str, Number] = {}
    details: dict[str, Any] = {}
    reusing = engines(pipeline)
    for kind in CLIPS:
        taken, told = in_turns(dense, reusing, frames_of(kind, count, data), warm=count // 4)
        details[kind] = told
        timings |= {f"{kind} clip, {mode}": case_of(seconds) for mode, seconds in taken.items()}
        for mode in reusing:
            ratio = sum(taken["dense"]) / sum(taken[mode])
            goal = AUTO_GOAL if mode == "auto" else None
            number = Number(measured=round(ratio, 3), goal=goal)
            if number.is_met is False:
                ways = ", ".join(f"{way} {times}" for way, times in told[mode]["ways"].items())
                number = number.model_copy(update={"why": f"frames by how they were computed: {ways}"})
            numbers[f"{kind} clip, {mode} over dense, all frames"] = number
    return timings, numbers, details
