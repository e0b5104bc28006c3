"""Suites in sections: what was not measured anew stays as it was."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.machine import Watch
from benchmarks.schema import Case, Conditions, Number, Suite
from benchmarks.sections import Section, chosen, fields_of, measure, sections_of

CASE = Case(median_ms=2, low_ms=1, high_ms=3, p10_ms=1, p90_ms=3, runs=5)


@pytest.fixture
def quiet() -> Conditions:
    return Watch([0]).conditions().model_copy(update={"quiet": True})


def section(speedup: float) -> Section:
    return Section(
        details={"speedup": speedup},
        timings={"a: b": CASE},
        numbers={"speedup": Number(measured=speedup)},
        spent={"a": {"networks": 1.0}},
        notes=["a sentence: and more"],
    )


def test_sections_come_back_out_of_their_suite(quiet: Conditions) -> None:
    sections = {"one": section(1.0), "two": section(2.0), "one more": section(3.0)}
    suite = Suite(suite="s", about="What.", conditions=quiet, **fields_of(sections))
    assert list(suite.numbers) == ["one: speedup", "two: speedup", "one more: speedup"]
    assert suite.notes[1] == "two: a sentence: and more"
    assert sections_of(suite) == sections


def test_nothing_kept_has_no_sections() -> None:
    assert sections_of(None) == {}


def test_a_section_that_was_disturbed_says_so(quiet: Conditions) -> None:
    disturbed = quiet.model_copy(update={"quiet": False, "others": 0.5, "drift": 0.25})
    found = section(1.0).under(disturbed)
    assert found.details["measured"]["others"] == 0.5
    assert found.notes[-1] == "measured while others took 50% of the cores and the clock drifted 25%"
    assert section(1.0).under(quiet).notes == section(1.0).notes


def options(out: Path | None, *only: str) -> argparse.Namespace:
    return argparse.Namespace(out=out, cores=None, only=list(only))


def numbers(folder: Path) -> dict[str, float | None]:
    suite = Suite.read("probe", folder)
    assert suite is not None
    return {name: number.measured for name, number in suite.numbers.items()}


def test_one_section_measured_alone_leaves_the_others(tmp_path: Path) -> None:
    made = {"first": section, "second": section}
    measure("probe", "What.", options(tmp_path, "first", "second"), made, lambda: 1.0)
    measure("probe", "What.", options(tmp_path, "first"), made, lambda: 2.0)
    assert numbers(tmp_path) == {"first: speedup": 2.0, "second: speedup": 1.0}
    measure("probe", "What.", options(tmp_path, "second"), made, lambda: 3.0)
    assert list(numbers(tmp_path).items()) == [("first: speedup", 2.0), ("second: speedup", 3.0)]


def test_what_was_finished_before_a_failure_is_kept(tmp_path: Path) -> None:
    def failing(work: float) -> Section:
        raise RuntimeError("out of frames")

    with pytest.raises(RuntimeError, match="out of frames"):
        measure(
            "probe", "What.", options(tmp_path, "first", "second"), {"first": section, "second": failing}, lambda: 1.0
        )
    assert numbers(tmp_path) == {"first: speedup": 1.0}


def test_sections_are_named_by_comma_and_run_in_their_order() -> None:
    parse = chosen({"one": 1, "two": 2, "three": 3})
    assert parse("three,one") == ["one", "three"]
    with pytest.raises(argparse.ArgumentTypeError, match="no section 'four'; there are one, two, three"):
        parse("one,four")
