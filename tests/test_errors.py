"""Every error has one root, and a problem reads as file, place, field and message."""

from __future__ import annotations

import pytest

from sharedbb import errors
from sharedbb.errors import Problem, SharedBBError, SpecError


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("heads.road.taps", "is missing", "p.yaml", 3, 7), "p.yaml:3:7: heads.road.taps: is missing"),
        (Problem("name", "is missing", "p.yaml"), "p.yaml: name: is missing"),
        (Problem("name", "is missing", None, 3, 7), "3:7: name: is missing"),
        (Problem("name", "is missing"), "name: is missing"),
        (Problem("", "is empty", "p.yaml", 1, 1), "p.yaml:1:1: is empty"),
        (Problem("", "is empty"), "is empty"),
    ],
)
def test_a_problem_reads_as_place_field_message(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_a_problem_cannot_change() -> None:
    with pytest.raises(AttributeError):
        Problem("name", "is missing").field = "other"  # type: ignore[misc]


def test_a_spec_error_lists_every_problem_on_a_line_of_its_own() -> None:
    problems = [Problem("name", "is missing", "p.yaml", 1, 1), Problem("heads", "is missing", "p.yaml", 1, 1)]
    error = SpecError(iter(problems))  # type: ignore[arg-type]
    assert error.problems == tuple(problems)
    assert str(error).splitlines() == [str(problem) for problem in problems]


def test_every_error_derives_from_the_root() -> None:
    own = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(own) >= 10
    for kind in own:
        assert issubclass(kind, SharedBBError)
        assert kind.__doc__
    with pytest.raises(SharedBBError):
        raise SpecError([])
