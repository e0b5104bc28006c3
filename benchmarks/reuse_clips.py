"""Real clips: ``bounded`` where the camera stands, beside what noise alone does; ``auto`` where all moves or is cut."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import geometric_mean
from typing import Any

import sharedbb as sb
from benchmarks import networks
from benchmarks.reuse_runs import Setup, compiled, floor, show_rows, versus
from sharedbb.types import Frame

STATIC = ("static-highway.avi", "static-carpark.mp4", "static-hall.mp4", "static-bottles.mp4")
MOVING = ("moving-dashcam.mp4", "moving-bedroom.mp4", "moving-bikes.mp4", "moving-cartoon.mp4", "cuts.mp4")
STATIC_FRAMES, MOVING_FRAMES, FLOOR_FRAMES = 120, 200, 40
BUDGETS = (0.02, 0.05)
GOALS = {"street": 3.0, "street-resnet50": 4.0}
"""Geometric mean over the static clips, times as fast as dense."""


def bounded(setup: Setup) -> dict[str, Any]:
    """Static clips at several budgets: the street pipeline, and a trained ResNet-50 where there is one."""
    pipelines = [networks.street()]
    if setup.is_resnet_trained:
        pipelines.append(setup.resnet_pipeline())
    else:
        print(f"no trained ResNet-50 at {setup.resnet}: left out (python -m benchmarks.resnet50 makes it)")
    return {pipeline.name: _budgets(setup, pipeline) for pipeline in pipelines}


def _budgets(setup: Setup, pipeline: sb.Pipeline) -> dict[str, Any]:
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
        budgets[f"{budget:g}"] = {"numbers": _numbers(pipeline.name, rows), "clips": rows}
        print(budgets[f"{budget:g}"]["numbers"])
    return {"input": str(pipeline.input.network_size), "floor": floors, "budgets": budgets}


def _spread(setup: Setup, clip: str) -> Iterator[Frame]:
    """Some of the frames that are compared, evenly spaced."""
    every = max(1, setup.count(STATIC_FRAMES) // FLOOR_FRAMES)
    return (frame for frame in setup.clip(clip, STATIC_FRAMES) if frame.index % every == 0)


def _below(row: dict[str, Any], floors: dict[str, dict[str, Any]]) -> float:
    """By how many points the segmentation head that fares worst agrees less than it does under noise."""
    heads = [head for head, summary in row["heads"].items() if "miou" in summary]
    return round(max(100 * (floors[head]["agreement"] - row["heads"][head]["agreement"]) for head in heads), 3)


def _numbers(name: str, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Measured beside the goals, over the clips."""
    speedups = [row["speedup"] for row in rows.values()]
    saved = [row["macs_saved_as_time"] for row in rows.values() if row["macs_saved_as_time"] is not None]
    boxes = [row["heads"]["objects"] for row in rows.values()]
    return {
        "speedup_geometric_mean": {"measured": round(geometric_mean(speedups), 3), "goal": GOALS.get(name)},
        "speedup_least": {"measured": min(speedups), "goal": 1.3},
        "points_below_floor_most": {"measured": max(row["below_floor"] for row in rows.values()), "goal": 1.0},
        "ap50_least": {"measured": min(head["agreement"] for head in boxes), "goal": 0.95},
        "macs_saved_as_time_least": {"measured": min(saved, default=None), "goal": 0.6},
    }


def auto(setup: Setup) -> dict[str, Any]:
    """Moving and cut clips: ``auto`` must not cost where it cannot save."""
    pipeline = networks.street()
    ours, dense = compiled(pipeline, mode="auto"), compiled(pipeline)
    rows = {clip: versus(ours, dense, setup.clip(clip, MOVING_FRAMES)) for clip in MOVING}
    show_rows(f"{pipeline.name}, auto", rows)
    numbers = {
        "speedup_least": {"measured": min(row["speedup"] for row in rows.values()), "goal": 0.95},
        "p95_ratio_most": {"measured": max(row["p95_ratio"] for row in rows.values()), "goal": 1.1},
    }
    print(numbers)
    return {"input": str(pipeline.input.network_size), "clips": rows, "numbers": numbers}
