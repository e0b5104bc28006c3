"""The form of the results, and that everything kept has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.schema import RESULTS, Case, Conditions, Limit, Number, Suite, schema_text
from benchmarks.timing import LEAST_RUNS

KEPT = sorted(path.stem for path in RESULTS.glob("*.json") if path.stem != "schema")


def conditions() -> Conditions:
    return Conditions(
        machine="a processor, 2 cores",
        system="Linux",
        python="3.11.7",
        cores=[0, 1],
        mhz=None,
        celsius=None,
        load=[0.1, 0.2, 0.3],
        others=0.0,
        drift=0.0,
        quiet=True,
        seconds=1,
        date="2026-01-01",
        versions={},
    )


def suite() -> Suite:
    return Suite(
        suite="probe",
        about="What it asks.",
        conditions=conditions(),
        timings={"a": Case(median_ms=2, low_ms=1, high_ms=3, p10_ms=1, p90_ms=3, runs=5)},
        numbers={"speedup": Number(measured=2.0, goal=3.0, why="a reason")},
        limits={"bandwidth": Limit(value=20, unit="GB/s", how="copying")},
        spent={"a": {"networks": 1.5, "decode": 0.5}},
        absent={"a peer": "not installed"},
        notes=["a sentence"],
        details={"anything": [1, {"at": "all"}]},
    )


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_has_the_form(name: str) -> None:
    kept = Suite.read(name)
    assert kept is not None
    assert kept.suite == name
    assert kept.about.endswith((".", "?"))
    assert kept.numbers or kept.timings


@pytest.mark.parametrize("name", KEPT)
def test_what_is_missed_says_why(name: str) -> None:
    kept = Suite.read(name)
    assert kept is not None
    silent = [label for label, number in kept.numbers.items() if number.is_met is False and not number.why]
    assert not silent


@pytest.mark.parametrize("name", KEPT)
def test_medians_lie_in_their_intervals(name: str) -> None:
    kept = Suite.read(name)
    assert kept is not None
    for label, case in kept.timings.items():
        assert case.median_ms >= 0, label
        assert (case.low_ms is None) == (case.high_ms is None) == (case.runs < LEAST_RUNS), label
        if case.low_ms is not None and case.high_ms is not None:
            assert 0 <= case.low_ms <= case.median_ms <= case.high_ms, label
        assert case.p10_ms <= case.median_ms <= case.p90_ms, label
    for label, number in kept.numbers.items():
        if None not in (number.low, number.measured, number.high):
            assert number.low <= number.measured <= number.high, label


def test_the_schema_kept_is_that_of_the_code() -> None:
    assert (RESULTS / "schema.json").read_text() == schema_text()


def test_a_suite_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = suite().write(tmp_path / "new")
    assert path == tmp_path / "new" / "probe.json"
    assert Suite.read("probe", tmp_path / "new") == suite()


def test_words_are_written_as_words(tmp_path: Path) -> None:
    one = suite().model_copy(update={"notes": ["2 × “so”"]})
    assert "2 × “so”" in one.write(tmp_path).read_text()


def test_what_was_not_kept_is_none(tmp_path: Path) -> None:
    assert Suite.read("probe", tmp_path) is None


@pytest.mark.parametrize(
    ("measured", "goal", "better", "is_met"),
    [
        (3.0, 3.0, "higher", True),
        (2.9, 3.0, "higher", False),
        (3.0, 3.0, "lower", True),
        (3.1, 3.0, "lower", False),
        (None, 3.0, "higher", None),
        (3.0, None, "lower", None),
    ],
)
def test_a_goal_is_met_at_its_own_value(
    measured: float | None, goal: float | None, better: str, is_met: bool | None
) -> None:
    assert Number.model_validate({"measured": measured, "goal": goal, "better": better}).is_met is is_met


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1},
        {"version": 2},
        {"numbers": {"speedup": {"measured": 2.0, "aim": 3.0}}},
        {"numbers": {"speedup": {"measured": 2.0, "better": "larger"}}},
        {"timings": {"a": {"median_ms": 1.0}}},
        {"conditions": {}},
    ],
)
def test_another_form_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text(json.dumps(suite().model_dump(mode="json") | change))
    with pytest.raises(ValidationError):
        Suite.read("probe", tmp_path)


def test_results_are_frozen() -> None:
    with pytest.raises(ValidationError):
        suite().numbers["speedup"].measured = 4.0
