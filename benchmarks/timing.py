"""The one place where time is taken: interleaved runs, medians and ratios with their intervals, the machine watched."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.machine import Watch, pin
from benchmarks.schema import RESULTS, Case, Number, Suite

SETTLE_SECONDS = 0.005
LEAST_RUNS = 6  # the least and the greatest of five cover their median in less than 19 of 20 cases
HALF_INTERVAL = 0.98  # half of 1.96: of the median's 95 % interval, in ranks, times the square root of the count


def _interval(ordered: NDArray[np.float64], digits: int) -> tuple[float, float] | tuple[None, None]:
    """The 95 % confidence interval of the median, by order statistics; none of fewer than LEAST_RUNS."""
    count = len(ordered)
    if count < LEAST_RUNS:
        return None, None
    reach = HALF_INTERVAL * count**0.5
    low, high = int(max(0, np.floor(count / 2 - reach))), int(min(count - 1, np.ceil(count / 2 + reach)))
    return round(float(ordered[low]), digits), round(float(ordered[high]), digits)


def case_of(seconds: list[float]) -> Case:
    """The numbers of single runs, in seconds."""
    ordered = np.sort(np.asarray(seconds)) * 1e3
    low, high = _interval(ordered, 4)
    middle, p10, p90 = (round(float(value), 4) for value in np.percentile(ordered, [50, 10, 90]))
    return Case(median_ms=middle, low_ms=low, high_ms=high, p10_ms=p10, p90_ms=p90, runs=len(ordered))


@dataclass(frozen=True, slots=True)
class Rounds:
    """Seconds by case, one a round: what stands at the same place ran in the same round."""

    seconds: Mapping[str, list[float]]

    @property
    def timings(self) -> dict[str, Case]:
        """Every case's numbers."""
        return {name: case_of(taken) for name, taken in self.seconds.items()}

    def ratio(self, slow: str, fast: str, **more: Any) -> Number:
        """How many times as fast ``fast`` is: the median over rounds of the ratio within a round, with its interval.

        Both of a ratio ran within milliseconds of each other, so it is steadier than the times. ``more`` goes to the
        Number (goal, better, why, unit).
        """
        ratios = np.sort(np.asarray(self.seconds[slow]) / np.asarray(self.seconds[fast]))
        low, high = _interval(ratios, 3)
        return Number(measured=round(float(np.median(ratios)), 3), low=low, high=high, **more)


def interleaved(cases: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 5) -> Rounds:
    """Time every case ``rounds`` times, one after another in every round, so that what disturbs one disturbs all.

    Every round has an order of its own (of a fixed seed), so that no case always follows the same one and finds what
    that left in the caches; and before each case the threads of the one before it get time to go to sleep: worker
    threads that still spin would slow down whoever comes next.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    names, rng = list(cases), np.random.default_rng(0)
    for round_ in range(rounds + warm):
        for name in rng.permutation(names):
            time.sleep(SETTLE_SECONDS)
            start = time.perf_counter()
            cases[name]()
            if round_ >= warm:
                taken[name].append(time.perf_counter() - start)
    return Rounds(taken)


class Measurement:
    """One suite's run: pins the process, watches the machine from here on, and keeps the results at the end.

    To be made first of all, before threads start. ``options`` are those of the parser below.
    """

    def __init__(self, suite: str, about: str | None, options: argparse.Namespace) -> None:
        self._suite, self._about = suite, (about or suite).strip().splitlines()[0]
        self._out: Path | None = options.out
        self._watch = Watch(pin(options.cores))

    def keep(self, **results: Any) -> Suite:
        """Write the suite with the conditions, and say so; ``results`` are fields of ``Suite``."""
        conditions = self._watch.conditions()
        suite = Suite(suite=self._suite, about=self._about, conditions=conditions, **results)
        show_numbers(suite.numbers)
        print("not kept (--quick)" if self._out is None else f"kept in {suite.write(self._out)}")
        if not conditions.quiet:
            others, drift = conditions.others, conditions.drift
            print(f"not quiet: others took {others:.0%} of the cores, the clock drifted {drift:+.0%}")
        return suite


class Parser(argparse.ArgumentParser):
    """The options of a suite: ``--rounds``, ``--quick``, ``--cores``, ``--out``, and what it adds to them.

    A quick run takes a tenth of the rounds and keeps its results only where ``--out`` says so.
    """

    def __init__(self, about: str | None, rounds: int = 60) -> None:
        super().__init__(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
        self.add_argument("--rounds", type=int, help=f"of every comparison (default: {rounds})")
        self.add_argument("--quick", action="store_true", help="a tenth of the work, to see whether it runs")
        self.add_argument("--cores", type=_cores, help="pin to these cores, as 0,1 (default: all that may be used)")
        self.add_argument("--out", type=Path, help="folder for the results (default: benchmarks/results)")
        self._rounds = rounds

    def options(self) -> argparse.Namespace:
        """What the command line says."""
        found = self.parse_args()
        if found.rounds is None:
            found.rounds = max(3, self._rounds // 10) if found.quick else self._rounds
        if found.out is None and not found.quick:
            found.out = RESULTS
        return found


def _cores(text: str) -> list[int]:
    return [int(core) for core in text.split(",")]


def show(title: str, timings: Mapping[str, Case], baseline: str) -> None:
    """Print a table, each case beside how often it is slower than ``baseline``."""
    table = Table(title=title, title_justify="left")
    for column in ("case", "median ms", "95 % interval", "times " + baseline):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, timing in timings.items():
        ratio = timing.median_ms / timings[baseline].median_ms
        interval = "" if timing.low_ms is None else f"{timing.low_ms:.3f}–{timing.high_ms:.3f}"
        table.add_row(name, f"{timing.median_ms:.3f}", interval, f"{ratio:.2f}")
    Console().print(table)


def show_numbers(numbers: Mapping[str, Number]) -> None:
    """Print the numbers beside their goals, and why what is missed is missed."""
    table = Table(title="numbers", title_justify="left")
    for column in ("number", "measured", "95 % interval", "goal", "", "why"):
        table.add_column(column, justify="right" if column in ("measured", "goal") else "left")
    for name, one in numbers.items():
        sign = {True: "met", False: "missed", None: ""}[one.is_met]
        bound = "" if one.goal is None else f"{'≥' if one.better == 'higher' else '≤'} {one.goal:g}"
        interval = "" if one.low is None or one.high is None else f"{one.low:g}–{one.high:g}"
        measured = "–" if one.measured is None else f"{one.measured:g} {one.unit}"
        table.add_row(name, measured, interval, bound, sign, "" if one.is_met else one.why)
    Console().print(table)
