"""What is computed from runs: medians, intervals, ratios; and in which order cases run."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import timing
from benchmarks.schema import RESULTS, Case, Number, Suite
from benchmarks.timing import Measurement, Parser, Rounds, case_of, interleaved, show, show_numbers


def options_of(monkeypatch: pytest.MonkeyPatch, *given: str, rounds: int = 60) -> SimpleNamespace:
    monkeypatch.setattr(sys, "argv", ["suite", *given])
    return Parser("what it asks", rounds).options()


def width_of(case: Case) -> float:
    """Of its interval, in milliseconds."""
    assert case.low_ms is not None
    assert case.high_ms is not None
    return case.high_ms - case.low_ms


class FakeTime:
    """A clock that only moves when a case says so; its sleeps are counted."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, 0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += 1

    def taking(self, seconds: float, log: list[str] | None = None, name: str = "") -> Callable[[], None]:
        def case() -> None:
            self.now += seconds
            if log is not None:
                log.append(name)

        return case


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(timing, "time", fake)
    return fake


def test_a_case_is_in_milliseconds_whatever_the_order_of_its_runs() -> None:
    case = case_of([0.005, 0.001, 0.003, 0.002, 0.004, 0.003])
    assert (case.median_ms, case.runs) == (3.0, 6)
    assert (case.p10_ms, case.p90_ms) == (1.5, 4.5)
    assert (case.low_ms, case.high_ms) == (1.0, 5.0)


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_few_runs_have_no_interval(runs: int) -> None:
    case = case_of([0.25] * runs)
    assert (case.low_ms, case.median_ms, case.high_ms, case.runs) == (None, 250.0, None, runs)
    number = Rounds({"slow": [2.0] * runs, "fast": [1.0] * runs}).ratio("slow", "fast")
    assert (number.measured, number.low, number.high) == (2.0, None, None)


@pytest.mark.parametrize("count", [6, 15, 60, 300])
def test_the_interval_covers_the_true_median_in_19_of_20_samples_and_hardly_more(count: int) -> None:
    rng = np.random.default_rng(count)
    covered = 0
    for _ in range(1000):
        # Times are skewed: most near the fastest, a few much slower. The median of exp(N(0, 0.5)) is 1.
        case = case_of(list(rng.lognormal(0.0, 0.5, count) / 1e3))
        assert case.low_ms is not None
        assert case.high_ms is not None
        covered += case.low_ms <= 1.0 <= case.high_ms
    assert 935 <= covered <= 990


def test_the_interval_narrows_with_more_runs() -> None:
    rng = np.random.default_rng(0)
    few, many = (width_of(case_of(list(rng.lognormal(0.0, 0.5, count)))) for count in (20, 2000))
    assert many < 0.3 * few


def test_a_ratio_is_that_within_rounds_not_of_medians() -> None:
    seconds = {"slow": 2 * [2.0, 3.0, 10.0], "fast": 2 * [1.0, 3.0, 2.0]}
    number = Rounds(seconds).ratio("slow", "fast", goal=2.5, why="so")
    assert number.measured == 2.0  # of the ratios 2, 1, 5; the medians' is 1.5
    assert (number.low, number.high, number.goal, number.why) == (1.0, 5.0, 2.5, "so")


def test_what_disturbs_a_whole_round_leaves_the_ratio_alone() -> None:
    rng = np.random.default_rng(1)
    disturbed = rng.lognormal(0.0, 1.0, 60)
    noise = rng.normal(1.0, 0.01, 60)
    rounds = Rounds({"slow": list(3 * disturbed * noise), "fast": list(disturbed)})
    number, cases = rounds.ratio("slow", "fast"), rounds.timings
    assert number.measured == pytest.approx(3.0, abs=0.02)
    assert number.low is not None
    assert number.high is not None
    assert number.high - number.low < 0.05
    assert width_of(cases["slow"]) > 0.2 * cases["slow"].median_ms


def test_interleaved_runs_every_case_once_a_round_in_an_order_of_its_own(clock: FakeTime) -> None:
    log: list[str] = []
    cases = {name: clock.taking(seconds, log, name) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 4.0))}
    rounds = interleaved(cases, rounds=40, warm=2)
    order = ["".join(log[at : at + 3]) for at in range(0, len(log), 3)]
    assert [sorted(one) for one in order] == [["a", "b", "c"]] * 42
    assert len(set(order)) == 6
    assert max(Counter(before + after for before, after in pairwise(log)).values()) < 30  # of 42: nobody's heir
    assert rounds.seconds == {"a": [1.0] * 40, "b": [2.0] * 40, "c": [4.0] * 40}
    assert clock.slept == 126


def test_warm_rounds_do_not_count(clock: FakeTime) -> None:
    left = [100.0, 50.0]

    def first_slow() -> None:
        clock.now += left.pop() if left else 1.0

    assert interleaved({"a": first_slow}, rounds=3, warm=2).seconds == {"a": [1.0, 1.0, 1.0]}


def test_options_have_the_suites_own_rounds_and_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_of(monkeypatch, rounds=40)
    assert (options.rounds, options.cores, options.out, options.quick) == (40, None, RESULTS, False)


def test_quick_takes_a_tenth_and_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert options_of(monkeypatch, "--quick", rounds=60).rounds == 6
    assert options_of(monkeypatch, "--quick", rounds=5).rounds == 3
    assert options_of(monkeypatch, "--quick").out is None


def test_what_is_said_counts_more_than_quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = options_of(monkeypatch, "--quick", "--rounds", "9", "--cores", "0,1", "--out", str(tmp_path))
    assert (options.rounds, options.cores, options.out) == (9, [0, 1], tmp_path)


def test_a_measurement_keeps_its_suite_with_the_conditions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measurement = Measurement("probe", "What it asks.\n\nMore.", options_of(monkeypatch, "--out", str(tmp_path)))
    numbers = {"speedup": Number(measured=2.0, goal=3.0, why="a reason")}
    kept = measurement.keep(timings=Rounds({"a": [0.001, 0.002]}).timings, numbers=numbers)
    assert Suite.read("probe", tmp_path) == kept
    assert (kept.about, kept.numbers) == ("What it asks.", numbers)
    assert kept.conditions.cores
    assert kept.conditions.versions["numpy"] == np.__version__
    assert "kept in" in capsys.readouterr().out


def test_a_quick_measurement_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[str] = []
    monkeypatch.setattr(Suite, "write", lambda suite, folder=RESULTS: written.append(suite.suite))
    Measurement("probe", "What it asks.", options_of(monkeypatch, "--quick")).keep()
    assert not written
    assert "not kept" in capsys.readouterr().out


def test_tables_show_goals_and_misses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    show("title", Rounds({"a": [0.002] * 3, "b": [0.004] * 3}).timings, "a")
    show_numbers(
        {
            "far": Number(measured=1.0, goal=2.0, why="the reason"),
            "near": Number(measured=1.0, goal=2.0, better="lower", unit="ms"),
            "gone": Number(measured=None, goal=2.0),
        }
    )
    said = capsys.readouterr().out
    for word in ("4.000", "2.00", "missed", "the reason", "≥ 2", "met", "≤ 2", "1 ms"):
        assert word in said
