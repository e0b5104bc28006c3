"""Real clips: every one in every mode; ``bounded`` beside what noise alone does; ``auto`` where all moves or is cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import geometric_mean
from typing import Any

import sharedbb as sb
from benchmarks import networks
from benchmarks.reuse_runs import Setup, compiled, floor, show_rows, versus
from benchmarks.schema import Number
from benchmarks.sections import Section
from sharedbb.types import Frame

ALL_STATIC = (
    "static-highway.avi",
    "static-road.avi",
    "static-turn.avi",
    "static-carpark.mp4",
    "static-hall.mp4",
    "static-bottles.mp4",
)
STATIC = ("static-highway.avi", "static-carpark.mp4", "static-hall.mp4", "static-bottles.mp4")
MOVING = ("moving-dashcam.mp4", "moving-bedroom.mp4", "moving-bikes.mp4", "moving-cartoon.mp4", "cuts.mp4")
CLIP_FRAMES, STATIC_FRAMES, MOVING_FRAMES, FLOOR_FRAMES = 60, 200, 200, 40
BUDGETS = (0.02, 0.05)
MODES: Mapping[str, Mapping[str, Any]] = {
    "off": {},
    "exact": {"mode": "exact"},
    **{f"bounded {budget:g}": {"mode": "bounded", "budget": budget} for budget in BUDGETS},
    "keyframe": {"mode": "keyframe"},
    "auto": {"mode": "auto"},
}
"""``off`` against dense is the same twice: how far its numbers are from 1 is how far the others can be believed."""

GOALS = {"street": 3.0, "street-resnet50": 4.0}
"""Geometric mean over the static clips, times as fast as dense."""

SLOW = (
    "where an audit finds the budget broken, frames are computed in full for a while, and where a little changes on "
    "every frame nothing can be held; a network that knows such cameras would break it less often"
)
APART = "changes below the threshold add up until the next full frame, and a clip with few boxes turns on single ones"
LATE = "audits and frames in parts that turn out not to pay take longer than a dense frame"


def every(setup: Setup) -> Section:
    """Every clip in every mode, the street pipeline against its dense self."""
    pipeline = networks.street()
    dense = compiled(pipeline)
    kinds = {"static": ALL_STATIC, "moving": MOVING}
    if setup.quick:
        kinds = {kind: clips[:1] for kind, clips in kinds.items()}
    matrix: dict[str, dict[str, Any]] = {clip: {} for clips in kinds.values() for clip in clips}
    for mode, settings in MODES.items():
        ours = compiled(pipeline, **settings)
        rows = {clip: versus(ours, dense, setup.clip(clip, CLIP_FRAMES)) for clip in matrix}
        show_rows(f"{pipeline.name}, {mode}", rows)
        for clip, row in rows.items():
            matrix[clip][mode] = _cell(row)
    numbers = {
        f"{mode}, {kind} clips, geometric mean": Number(
            measured=round(geometric_mean(matrix[clip][mode]["speedup"] for clip in clips), 3)
        )
        for mode in MODES
        for kind, clips in kinds.items()
    }
    return Section(details={"input": str(pipeline.input.network_size), "clips": matrix}, numbers=numbers)


def _cell(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the matrix shows of a comparison: times as ratios, work, modes, the agreement of every head."""
    kept = ("frames", "speedup", "speedup_p50", "p95_ratio", "work", "modes")
    agreement = {head: summary["agreement"] for head, summary in row["heads"].items()}
    return {**{name: row[name] for name in kept}, "agreement": agreement}


def bounded(setup: Setup) -> Section:
    """Static clips at several budgets: the street pipeline, and a trained ResNet-50 where there is one."""
    pipelines = [networks.street()]
    if setup.is_resnet_trained:
        pipelines.append(setup.resnet_pipeline())
    else:
        print(f"no trained ResNet-50 at {setup.resnet}: left out (python -m benchmarks.resnet50 makes it)")
    details, numbers = {}, {}
    for pipeline in pipelines:
        details[pipeline.name] = told = _budgets(setup, pipeline)
        for budget, rows in told["budgets"].items():
            found = _numbers(rows, GOALS.get(pipeline.name))
            numbers |= {f"{pipeline.name}, budget {budget}, {name}": number for name, number in found.items()}
    return Section(details=details, numbers=numbers)


def _budgets(setup: Setup, pipeline: sb.Pipeline) -> dict[str, Any]:
    """By budget and clip, ours against dense; the floor of every clip."""
    dense = compiled(pipeline)
    floors = {clip: floor(dense, _spread(setup, clip)) for clip in STATIC}
    budgets: dict[str, Any] = {}
    for budget in BUDGETS[1:2] if setup.quick else BUDGETS:
        ours = compiled(pipeline, mode="bounded", budget=budget)
        rows = {clip: versus(ours, dense, setup.clip(clip, STATIC_FRAMES)) for clip in STATIC}
        for clip, row in rows.items():
            row["below_floor"] = _below(row, floors[clip])
            row["ap50_floor"] = floors[clip]["objects"]["agreement"]
        show_rows(f"{pipeline.name}, bounded, budget {budget:g}", rows, ("below_floor", "ap50_floor"))
        budgets[f"{budget:g}"] = rows
    return {"input": str(pipeline.input.network_size), "floor": floors, "budgets": budgets}


def _spread(setup: Setup, clip: str) -> Iterator[Frame]:
    """Some of the frames that are compared, evenly spaced."""
    every = max(1, setup.count(STATIC_FRAMES) // FLOOR_FRAMES)
    return (frame for frame in setup.clip(clip, STATIC_FRAMES) if frame.index % every == 0)


def _below(row: dict[str, Any], floors: dict[str, dict[str, Any]]) -> float:
    """By how many points the segmentation head that fares worst agrees less than it does under noise."""
    heads = [head for head, summary in row["heads"].items() if "miou" in summary]
    return round(max(100 * (floors[head]["agreement"] - row["heads"][head]["agreement"]) for head in heads), 3)


def _numbers(rows: Mapping[str, Mapping[str, Any]], goal: float | None) -> dict[str, Number]:
    """Measured beside the goals, over the clips; ``goal``: of the speedups' geometric mean."""
    speedups = [row["speedup"] for row in rows.values()]
    saved = [row["macs_saved_as_time"] for row in rows.values() if row["macs_saved_as_time"] is not None]
    boxes = [row["heads"]["objects"]["agreement"] for row in rows.values()]
    below = max(row["below_floor"] for row in rows.values())
    return {
        "speedup, geometric mean": Number(measured=round(geometric_mean(speedups), 3), goal=goal, why=SLOW),
        "speedup, least": Number(measured=min(speedups), goal=1.3, why=SLOW),
        "segmentation below its floor, most": Number(
            measured=below, goal=1.0, better="lower", unit="points", why=APART
        ),
        "AP50 against dense, least": Number(measured=min(boxes), goal=0.95, unit="", why=APART),
        "multiply-adds saved that became time, least": Number(
            measured=min(saved, default=None), goal=0.6, unit="", why=SLOW
        ),
    }


def auto(setup: Setup) -> Section:
    """Moving and cut clips: ``auto`` must not cost where it cannot save."""
    pipeline = networks.street()
    ours, dense = compiled(pipeline, mode="auto"), compiled(pipeline)
    rows = {clip: versus(ours, dense, setup.clip(clip, MOVING_FRAMES)) for clip in MOVING}
    show_rows(f"{pipeline.name}, auto", rows)
    slowest, latest = min(row["speedup"] for row in rows.values()), max(row["p95_ratio"] for row in rows.values())
    return Section(
        details={"input": str(pipeline.input.network_size), "clips": rows},
        numbers={
            "speedup, least": Number(measured=slowest, goal=0.95, why=LATE),
            "95th percentile over dense, most": Number(measured=latest, goal=1.1, better="lower", why=LATE),
        },
    )
