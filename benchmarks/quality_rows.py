"""The cases of ``benchmarks.quality`` beside each other: the table, and the numbers that stand beside goals."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.quality_picture import NAMES
from benchmarks.reuse_runs import console
from benchmarks.schema import Number
from sharedbb.cli.comparison_table import modes_line

HALF = "street-half"
LOST_POINTS, GOAL_REUSE, GOAL_HALF = 1.0, 2.5, 2.0
"""Points of ``surface``'s mIoU that may be lost; how many times as fast reuse has to be for that, and ``HALF``."""

COSTLY = (
    "computing a key frame and moving answers along cost more beside a light trunk than what they save further apart"
)
TRUNK = "what is halved is the trunk; its heads, and all that a frame takes outside of the network, stay"


def compared(cases: Mapping[str, Any], reference: str) -> dict[str, Any]:
    """The cases beside the reference: ``ms``, a frame's mean time, and ``lost`` points of quality by head.

    The reference ran beside every case; ``ms`` is its time, the median over all cases, over the case's speedup. So
    what disturbed the machine during one case does not move it.
    """
    reference_ms = round(median(case["reference_ms"] for case in cases.values()), 4)
    dense = cases[reference]["quality"]
    rows = {}
    for name, case in cases.items():
        lost = {
            head: round(100 * (dense[head]["median"] - value["median"]), 3)
            for head, value in case["quality"].items()
            if head in dense
        }
        rows[name] = {**case, "ms": round(reference_ms / case["speedup"]["median"], 4), "lost": lost}
    return {"reference": reference, "reference_ms": reference_ms, "metrics": cases[reference]["metrics"], "rows": rows}


def show(told: Mapping[str, Any]) -> None:
    """Print a row a case."""
    table = Table(title=f"{told['data']}, {told['passes']} passes", title_justify="left")
    table.add_column("case", no_wrap=True)
    heads = [f"{head} {NAMES.get(metric, metric)}" for head, metric in told["metrics"].items()]
    for column in ("ms", "speedup", "p50 ms", "p95 ms", *heads, "lost points"):
        table.add_column(column, justify="right")
    table.add_column("modes", overflow="fold")
    for name, row in told["rows"].items():
        shares = (row["quality"].get(head) for head in told["metrics"])
        table.add_row(
            name,
            f"{row['ms']:.2f}",
            f"{row['speedup']['median']:.2f}",
            f"{row['p50_ms']:.2f}",
            f"{row['p95_ms']:.2f}",
            *("–" if share is None else f"{100 * share['median']:.2f}" for share in shares),
            " ".join(f"{points:.2f}" for points in row["lost"].values()),
            modes_line(row["modes"]).removeprefix("frames: "),
        )
    console().print(table)


def numbers(told: Mapping[str, Any]) -> dict[str, Number]:
    """The fastest reuse that loses at most LOST_POINTS of the labels' mIoU, and the other networks computed in full."""
    rows = told["rows"]
    main = rows[told["reference"]]["network"]
    reused = [row for row in rows.values() if row["network"] == main and row["family"] not in ("off", "every")]
    fits = [row for row in reused if row["lost"]["surface"] <= LOST_POINTS]
    best = max(fits, key=lambda row: row["speedup"]["median"], default=None)
    goal = {"goal": GOAL_REUSE, "why": COSTLY}
    found = {
        f"{main}, fastest reuse at {LOST_POINTS:g} point of mIoU lost at most": (
            Number(measured=None, **goal) if best is None else _speedup(best, **goal)
        )
    }
    for name, row in rows.items():
        if row["network"] != main:
            found[name] = _speedup(row, **({"goal": GOAL_HALF, "why": TRUNK} if row["network"] == HALF else {}))
    return found


def _speedup(row: Mapping[str, Any], **more: Any) -> Number:
    """The median over the passes; these are too few for an interval, so their spread stays in the details."""
    return Number(measured=row["speedup"]["median"], **more)
