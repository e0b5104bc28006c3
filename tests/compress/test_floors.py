"""Floors under heads, and the bisection of a step's strength."""

from __future__ import annotations

import pytest

from sharedbb.compress.floors import Bisection, Floor, broken, floors_of
from sharedbb.errors import CompressionError

BEFORE = {"road": {"headline": 0.8, "miou": 0.8, "accuracy": 0.9}, "scene": {"headline": 0.5, "f1": 0.5}}


def test_a_floor_is_a_number_or_a_share_of_what_was() -> None:
    floors = floors_of({"road": {"headline": "0.75 of before", "accuracy": 0.85}, "scene": {"f1": 0.0}}, BEFORE)
    assert [(floor.head, floor.metric, floor.least) for floor in floors] == [
        ("road", "headline", pytest.approx(0.6)),
        ("road", "accuracy", 0.85),
        ("scene", "f1", 0.0),
    ]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"raod": {"miou": 0.5}}, "there is no head 'raod'; the heads are road, scene"),
        ({"road": {"map50": 0.5}}, "road is not judged by 'map50' on this data, only by miou, accuracy"),
        ({"road": {"miou": 0.81}}, "broken before the first step: road: miou is 0.8000, the floor is 0.8100; lower it"),
    ],
)
def test_floors_that_cannot_be_held_are_refused(bounds: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        floors_of(bounds, BEFORE)


def test_each_broken_floor_is_said() -> None:
    floors = (Floor("road", "miou", "0.75 of before", 0.6), Floor("scene", "f1", 0.4, 0.4))
    assert broken(floors, {"road": {"miou": 0.6}, "scene": {"f1": 0.4}}) == ()
    assert broken(floors, {"road": {"miou": 0.5999}, "scene": {}}) == (
        "road: miou is 0.5999, the floor is 0.6000 (0.75 of before)",
        "scene: f1 has no value, the floor is 0.4000",
    )


def _found(limit: float, tries: int) -> list[float]:
    """The strengths that are tried where everything up to ``limit`` is good."""
    search, tried = Bisection(), []
    for _ in range(tries):
        tried.append(search.strength)
        search.note(search.strength <= limit)
        if search.done:
            break
    return tried


def test_bisection_begins_with_all_and_halves_what_is_unknown() -> None:
    assert _found(1.0, 4) == [1.0]
    assert _found(0.0, 4) == [1.0, 0.5, 0.25, 0.125]
    assert _found(0.7, 5) == [1.0, 0.5, 0.75, 0.625, 0.6875]
