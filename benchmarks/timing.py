"""The one place where time is taken: interleaved runs, medians with their spread, the machine beside them."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from sharedbb.compiler.choose import machine

RESULTS = Path(__file__).parent / "results"
SETTLE_SECONDS = 0.005
PACKAGES = ("sharedbb", "torch", "torchvision", "openvino", "onnxruntime", "numpy", "av", "opencv-python-headless")


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one case: median, its 95 % confidence interval (by order statistics), 10th, 90th percentile."""

    median_ms: float
    low_ms: float
    high_ms: float
    p10_ms: float
    p90_ms: float
    runs: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """From single runs, in seconds."""
        ordered = np.sort(np.asarray(seconds)) * 1e3
        count = len(ordered)
        reach = 0.98 * count**0.5  # half the width of the median's interval, in ranks
        low, high = int(max(0, count / 2 - reach)), int(min(count - 1, count / 2 + reach))
        numbers = (np.median(ordered), ordered[low], ordered[high], *np.percentile(ordered, [10, 90]))
        return cls(*(round(float(number), 4) for number in numbers), count)


def interleaved(cases: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 5) -> dict[str, Timing]:
    """Time every case ``rounds`` times, one after another in every round, so that what disturbs one disturbs all.

    The order rotates, and before each case the threads of the one before it get time to go to sleep: worker threads
    that still spin would slow down whoever comes next.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases.items())
    for round_ in range(rounds + warm):
        order = order[1:] + order[:1]
        for name, case in order:
            time.sleep(SETTLE_SECONDS)
            start = time.perf_counter()
            case()
            if round_ >= warm:
                taken[name].append(time.perf_counter() - start)
    return {name: Timing.of(seconds) for name, seconds in taken.items()}


def conditions() -> dict[str, Any]:
    """The machine, what else it was doing, and the versions."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "machine": machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": versions,
    }


def keep(suite: str, results: Mapping[str, Any]) -> Path:
    """Write ``results/<suite>.json`` with the conditions."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{suite}.json"
    path.write_text(json.dumps({"suite": suite, "conditions": conditions(), **results}, indent=1) + "\n")
    return path


def rows(timings: Mapping[str, Timing]) -> dict[str, dict[str, Any]]:
    """Timings as plain values."""
    return {name: asdict(timing) for name, timing in timings.items()}


def show(title: str, timings: Mapping[str, Timing], baseline: str) -> None:
    """Print a table, each case beside how often it is slower than ``baseline``."""
    table = Table(title=title, title_justify="left")
    for column in ("case", "median ms", "95 % interval", "times " + baseline):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, timing in timings.items():
        ratio = timing.median_ms / timings[baseline].median_ms
        interval = f"{timing.low_ms:.3f}–{timing.high_ms:.3f}"
        table.add_row(name, f"{timing.median_ms:.3f}", interval, f"{ratio:.2f}")
    Console().print(table)
