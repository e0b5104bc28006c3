"""Plain values with their places, and everything in a file that is neither text, number, list nor mapping."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sharedbb.errors import SpecError
from sharedbb.spec.document import Document, Place, dotted, read
from sharedbb.spec.syntax import MAX_DEPTH, MAX_NODES


def _problems(text: str) -> list[str]:
    return [str(problem) for problem in read(text, "p.yaml").problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: off", {"a": "off"}),
        ("a: [1, -2, 0x1F, 0o17, 010]", {"a": [1, -2, 31, 15, 10]}),
        ("a: [1.5, 1e-3, .5, -.inf]", {"a": [1.5, 0.001, 0.5, -math.inf]}),
        ("a: [true, False, null, ~, ]", {"a": [True, False, None, None]}),
        ("a:\n", {"a": None}),
        ("a: '5'", {"a": "5"}),
        ("a: !!str 5", {"a": "5"}),
        ("a: !!float 5", {"a": 5.0}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ('{"a": "\\ud83d\\ude00 \\/"}', {"a": "😀 /"}),
        ("a: |\n  b\n  c\n", {"a": "b\nc\n"}),
        ("just text", "just text"),
        ("", None),
    ],
)
def test_values(text: str, value: Any) -> None:
    document = read(text)
    assert document.value == value
    assert document.problems == []


def test_not_a_number_is_read() -> None:
    assert math.isnan(read(".nan").value)


def test_every_value_knows_its_place() -> None:
    places = read("a:\n  - 1\n  - b: 2\nc: [3,  4]\n").places
    assert places[()] == Place(None, (1, 1))
    assert places["a",] == Place((1, 1), (2, 3))
    assert places["a", 0] == Place(None, (2, 5))
    assert places["a", 1, "b"] == Place((3, 5), (3, 8))
    assert places["c", 1] == Place(None, (4, 9))
    assert len(places) == 8


def test_a_problem_is_placed_at_the_value_at_the_key_or_at_the_nearest_parents_key() -> None:
    document = read("a:\n  b: [1]\n", "p.yaml")
    assert str(document.problem(("a", "b"), "is wrong")) == "p.yaml:2:6: a.b: is wrong"
    assert str(document.problem(("a", "b"), "is wrong", at_key=True)) == "p.yaml:2:3: a.b: is wrong"
    assert str(document.problem(("a", "b", 0), "is wrong", at_key=True)) == "p.yaml:2:7: a.b.0: is wrong"
    assert str(document.problem(("a", "c"), "is missing")) == "p.yaml:1:1: a.c: is missing"
    assert str(document.problem(("c",), "is missing")) == "p.yaml:1:1: c: is missing"
    assert str(Document(None).problem(("c",), "is missing")) == "c: is missing"


def test_a_path_is_written_with_dots() -> None:
    assert dotted(("heads", "road", "taps", 0)) == "heads.road.taps.0"
    assert dotted(()) == ""


NOT_ALLOWED = "is not allowed; a pipeline is text, numbers, lists and mappings"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", "3:1: a: is given twice, first on line 1"),
        ("a: {b: 1, b: 2}\n", "1:11: a.b: is given twice, first on line 1"),
        ("a: &x [*x]\n", "1:4: a.0: an alias (*name) that contains itself"),
        ("&x a: 1\nb: &y {c: *y}\n", "2:4: b.c: an alias (*name) that contains itself"),
        ("5: 1\n", "1:1: a key must be text, got 5; in quotes it is text"),
        ("true: 1\n", "1:1: a key must be text, got true; in quotes it is text"),
        ("~: 1\n", "1:1: a key must be text, got ~; in quotes it is text"),
        ("a: {[b]: 1}\n", "1:5: a: a key must be text, got a list or a mapping"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "3:3: c: merge keys (<<) are not part of the language; write the fields out"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            f"1:4: a: the tag '!!python/object/apply:os.system' {NOT_ALLOWED}",
        ),
        ("a: !!python/name:os.system\n", f"1:4: a: the tag '!!python/name:os.system' {NOT_ALLOWED}"),
        ("a: !mine b\n", f"1:4: a: the tag '!mine' {NOT_ALLOWED}"),
        ("a: !!binary aGk=\n", f"1:4: a: the tag '!!binary' {NOT_ALLOWED}"),
        ("a: !!set {b}\n", f"1:4: a: the tag '!!set' {NOT_ALLOWED}"),
        ("a: !!seq {b: c}\n", f"1:4: a: the tag '!!seq' {NOT_ALLOWED}"),
        ("!mine a: b\n", f"1:1: the tag '!mine' {NOT_ALLOWED}"),
        ("a: !!int b\n", "1:4: a: must be a whole number, got 'b'"),
        ("a: !!float b\n", "1:4: a: must be a number, got 'b'"),
        ("a: !!bool b\n", "1:4: a: must be true or false, got 'b'"),
        (f"a: {'9' * 5000}\n", "1:4: a: a number may have 100 digits, got 5000"),
        (f"a: 0.{'9' * 5000}\n", "1:4: a: a number may have 100 digits, got 5002"),
        ('a: "\\ud800"\n', "1:4: a: half of a surrogate pair (\\uD800 to \\uDFFF) is no character"),
        ('"\\ud800": a\n', "1:1: half of a surrogate pair (\\uD800 to \\uDFFF) is no character"),
    ],
)
def test_what_is_not_plain_is_a_problem_at_its_place(text: str, problem: str) -> None:
    assert _problems(text) == [f"p.yaml:{problem}"]


def test_what_can_be_read_is_read_nevertheless() -> None:
    document = read("a: 1\na: 2\nb: !x y\nc: 3\n4: 5\n")
    assert document.value == {"a": 1, "b": None, "c": 3}
    assert document.faulty == {("b",)}
    assert len(document.problems) == 3


def _bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_an_alias_bomb_is_refused_and_not_filled_in() -> None:
    with pytest.raises(SpecError, match=f"has more than {MAX_NODES} values once its aliases"):
        read(_bomb(levels=60, width=10))


def test_a_chain_of_aliases_is_refused_before_it_is_too_deep() -> None:
    with pytest.raises(SpecError, match=f"has more than {MAX_DEPTH} levels of nesting once its aliases"):
        read(_bomb(levels=5_000, width=1))


def test_a_few_aliases_are_filled_in() -> None:
    assert read(_bomb(levels=3, width=2)).value["a2"] == [[["x"], ["x"]], [["x"], ["x"]]]
