"""Which weights are kept: the best over all heads, each relative to what it can be."""

from __future__ import annotations

import json

import pytest
import torch

from sharedbb.learn.selection import Selection


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([value])}


def test_a_score_is_the_mean_over_heads_relative_to_their_best() -> None:
    found = Selection()
    assert found.add(10, {"easy": 0.8, "hard": 0.1}, weights(1))
    assert found.scores() == [1.0]
    assert found.add(20, {"easy": 0.7, "hard": 0.2}, weights(2))  # the hard head has doubled
    assert found.scores() == pytest.approx([(1 + 0.5) / 2, (0.7 / 0.8 + 1) / 2])
    assert not found.add(30, {"easy": 0.8, "hard": 0.15}, weights(3))
    assert (found.step, found.since_best) == (20, 1)
    assert found.weights["w"] == 2


def test_an_equal_one_does_not_take_the_place_of_the_first() -> None:
    found = Selection()
    found.add(1, {"a": 0.5}, weights(1))
    assert not found.add(2, {"a": 0.5}, weights(2))
    assert found.step == 1


def test_the_best_is_compared_by_the_bests_as_they_are_then() -> None:
    found = Selection()
    found.add(1, {"a": 0.9, "b": 0.1}, weights(1))
    found.add(2, {"a": 0.1, "b": 0.11}, weights(2))
    assert found.step == 1
    assert found.add(3, {"a": 0.5, "b": 0.8}, weights(3))  # against which 0.1 of the first is next to nothing


def test_heads_that_are_nought_or_unmeasured_decide_nothing() -> None:
    found = Selection()
    assert found.add(1, {"a": 0.5, "never": 0.0}, weights(1))
    assert found.add(2, {"a": 0.6, "never": 0.0}, weights(2))
    assert Selection().scores() == []
    empty = Selection()
    empty.add(1, {}, weights(1))
    assert empty.scores() == [0.0]
    assert (Selection().step, Selection().since_best) == (None, 0)


def test_it_comes_back_from_json() -> None:
    found = Selection()
    found.add(1, {"a": 0.5}, weights(1))
    found.add(2, {"a": 0.4}, weights(2))
    again = Selection.of(json.loads(json.dumps(found.to_dict())), found.weights)
    assert (again.validations, again.step, again.since_best) == (found.validations, 1, 1)
    assert not again.add(3, {"a": 0.45}, weights(3))


def test_nothing_is_best_as_long_as_no_head_has_anything() -> None:
    found = Selection()
    for step in (10, 20, 30):
        assert not found.add(step, {} if step == 10 else {"a": 0.0}, weights(step))
    assert (found.step, found.since_best, found.weights) == (None, 0, {})
    assert found.add(40, {"a": 0.1}, weights(4))
    assert not found.add(50, {"a": 0.0}, weights(5))
    assert (found.step, found.since_best) == (40, 1)
