"""How long until the first result: cold, warm, and the command line's own start; and where that time goes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from benchmarks.machine import environment
from benchmarks.networks import PIPELINE
from benchmarks.schema import Case, Limit, Number
from benchmarks.timing import Measurement, Parser, case_of, show

ROOT = Path(__file__).resolve().parent.parent
COLD, WARM = "cold compile", "warm start"
FIRST = [sys.executable, "-m", "benchmarks.first_result", str(PIPELINE)]
COMMANDS: Mapping[str, list[str]] = {
    COLD: FIRST,
    WARM: FIRST,
    "--help": [sys.executable, "-m", "sharedbb", "--help"],
    "check": [sys.executable, "-m", "sharedbb", "check", str(PIPELINE)],
    "bare interpreter": [sys.executable, "-c", "pass"],
}
GOALS_MS = {COLD: 20_000, WARM: 3_000, "--help": 300, "check": 500}
WHY = {"check": "imports are most of it: pydantic's models of the pipeline language, and typer"}


def run(command: list[str], cache: str) -> tuple[float, str]:
    """Wall time of a whole process in seconds, and what it printed."""
    start = time.monotonic()
    done = subprocess.run(
        command, env=environment(SHAREDBB_CACHE=cache), cwd=ROOT, check=True, capture_output=True, text=True
    )
    return time.monotonic() - start, done.stdout


def parts(seconds: float, printed: str) -> dict[str, float]:
    """Of a process that ran ``first_result``: milliseconds by part, together those of the whole process."""
    told = {name: taken * 1e3 for name, taken in json.loads(printed).items()}
    return {"interpreter's start and end": seconds * 1e3 - sum(told.values()), **told}


def said(parts: Mapping[str, float]) -> str:
    """Where the time goes, the most first."""
    ordered = sorted(((ms, part) for part, ms in parts.items()), reverse=True)
    return ", ".join(f"{part} {ms:.0f} ms" for ms, part in ordered)


def main() -> None:
    """Measure and keep ``results/startup.json``."""
    options = Parser(__doc__, rounds=6).options()
    measurement = Measurement("startup", __doc__, options)
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    split: dict[str, list[dict[str, float]]] = {COLD: [], WARM: []}
    for _ in range(options.rounds):
        # A cold cache for each round; the commands after the first find what that one has left there.
        with tempfile.TemporaryDirectory() as cache:
            for name, command in COMMANDS.items():
                seconds, printed = run(command, cache)
                taken[name].append(seconds)
                if name in split:
                    split[name].append(parts(seconds, printed))
    spent = {
        name: {part: round(median(one[part] for one in rounds), 3) for part in rounds[0]}
        for name, rounds in split.items()
    }
    timings = {name: case_of(seconds) for name, seconds in taken.items()}
    show("whole processes, from start to exit", timings, WARM)
    measurement.keep(
        timings=timings,
        numbers={name: _number(timings[name], goal, WHY.get(name, "")) for name, goal in GOALS_MS.items()},
        limits={
            "bare interpreter": Limit(value=timings["bare interpreter"].median_ms, unit="ms", how="python -c pass")
        },
        spent=spent,
        notes=[f"{name}: {said(one)}" for name, one in spent.items()],
    )


def _number(case: Case, goal: float, why: str) -> Number:
    return Number(
        measured=case.median_ms, low=case.low_ms, high=case.high_ms, goal=goal, better="lower", unit="ms", why=why
    )


if __name__ == "__main__":
    main()
