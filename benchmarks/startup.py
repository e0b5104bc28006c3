"""How long until the first result: cold, warm, and the command line's own start."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

from benchmarks.networks import PIPELINE
from benchmarks.timing import Timing, keep, rows, show

FIRST_RESULT = """
import numpy as np, sharedbb as sb
engine = sb.compile(sb.load({path!r}))
engine.step(np.zeros((384, 640, 3), np.uint8))
"""


def seconds(command: list[str], cache: str) -> float:
    """Wall time of a whole process."""
    start = time.perf_counter()
    subprocess.run(command, env={**os.environ, "SHAREDBB_CACHE": cache}, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure and keep ``results/startup.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    first = [sys.executable, "-c", FIRST_RESULT.format(path=str(PIPELINE))]
    cli = [sys.executable, "-m", "sharedbb"]
    taken: dict[str, list[float]] = {name: [] for name in ("cold compile", "warm start", "--help", "check")}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as cache:
            taken["cold compile"].append(seconds(first, cache))
            taken["warm start"].append(seconds(first, cache))
            taken["--help"].append(seconds([*cli, "--help"], cache))
            taken["check"].append(seconds([*cli, "check", str(PIPELINE)], cache))
    timings = {name: Timing.of(values) for name, values in taken.items()}
    show("whole processes, from start to exit", timings, "warm start")
    goals = {"cold compile": 20_000, "warm start": 3_000, "--help": 300, "check": 500}
    print(f"kept in {keep('startup', {'timings': rows(timings), 'goals_ms': goals})}")


if __name__ == "__main__":
    main()
