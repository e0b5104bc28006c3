"""How wrong values are shown, and which spelling is suggested."""

from __future__ import annotations

import pytest

from sharedbb.spec.faults import alternatives, did_you_mean, must_be_one_of, nearest, said, said_at, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "nothing"),
        (True, "true"),
        (False, "false"),
        (3, "3"),
        (0.5, "0.5"),
        (float("inf"), "inf"),
        ("street", "'street'"),
        ("", "''"),
        ([1, "a", None, [True]], "[1, 'a', nothing, [true]]"),
        ((4, 8), "[4, 8]"),
        ({"a": 1}, "a mapping"),
        (object(), "a object"),
    ],
)
def test_a_value_is_shown_as_yaml_has_it(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("value", ["x" * 10_000, [1] * 10_000, 10**200, [["x" * 1000] * 1000] * 1000])
def test_a_long_value_is_cut(value: object) -> None:
    assert len(shown(value)) <= 62
    assert "…" in shown(value)


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("leterbox", ["stretch", "letterbox"], "letterbox"),
        ("LETTERBOX", ["stretch", "letterbox"], "letterbox"),
        ("default", ["DEFAULT"], "DEFAULT"),
        ("gpu", ["auto", "cpu", "cuda"], "cuda"),
        ("fp16", ["f32", "bf16", "f16"], "f16"),
        ("gpu", ["auto", "cpu"], "cpu"),
        ("qqq", ["auto", "cpu"], None),
        ("auto", [], None),
    ],
)
def test_the_nearest_spelling(word: str, known: list[str], near: str | None) -> None:
    assert nearest(word, known) == near
    assert did_you_mean(word, known) == (f"; did you mean {near!r}?" if near else "")


def test_only_text_has_a_nearest_spelling() -> None:
    assert did_you_mean(5, ["5"]) == ""


def test_alternatives_read_as_a_list() -> None:
    assert alternatives(["a"]) == "'a'"
    assert alternatives(["a", "b"]) == "'a' or 'b'"
    assert alternatives(["a", "b", "c"]) == "'a', 'b' or 'c'"
    assert must_be_one_of("bb", ["aa", "bbb"]) == "must be 'aa' or 'bbb', got 'bb'; did you mean 'bbb'?"


def test_what_is_said_is_shown_as_it_stands() -> None:
    assert said("braces {stay} as they are").message() == "braces {stay} as they are"
    (fault,) = said_at("taps", [(("taps", 1), "no {such} tap", 5)]).errors()
    assert (fault["loc"], fault["msg"], fault["input"]) == (("taps", 1), "no {such} tap", 5)
