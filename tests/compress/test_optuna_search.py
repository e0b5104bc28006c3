"""Search against a problem whose front is known; killed and resumed, it is the same search."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sharedbb.compress.optuna_search import Trial, front, search
from sharedbb.errors import CompressionError
from sharedbb.spec.recipe import Choose, Search

FREE: dict[str, Search | Choose] = {
    "steps.0.amount": Search(0.1, 0.9),
    "steps.1.bits": Choose((8, 4)),
    "steps.2.steps": Search(1, 4),
}


def evaluate(values: Mapping[str, Any]) -> tuple[float, float]:
    """Pruning costs quality, fewer bits too; training more gives nothing."""
    amount, bits = values["steps.0.amount"], values["steps.1.bits"]
    return (1 - amount) * bits / 8, amount**2 + (0.1 if bits == 4 else 0.0)


def test_values_are_those_of_the_free_fields(tmp_path: Path) -> None:
    found = list(search(FREE, evaluate, tmp_path, name="a", trials=12))
    assert [trial.number for trial in found] == list(range(12))
    for trial in found:
        assert trial.values.keys() == FREE.keys()
        assert 0.1 <= trial.values["steps.0.amount"] <= 0.9
        assert trial.values["steps.0.amount"] == float(f"{trial.values['steps.0.amount']:.3g}")
        assert trial.values["steps.1.bits"] in (8, 4)
        assert type(trial.values["steps.2.steps"]) is int
        assert 1 <= trial.values["steps.2.steps"] <= 4
        assert trial.objectives == evaluate(trial.values)
    assert {trial.values["steps.1.bits"] for trial in found} == {8, 4}


def test_the_front_is_what_nothing_beats() -> None:
    points = [(3.0, 1.0), (1.0, 3.0), (2.0, 2.0), (2.0, 2.5), (4.0, 1.0), (2.0, 2.0)]
    trials = [Trial(number, {}, point) for number, point in enumerate(points)]
    failed = Trial(6, {}, None, "no")
    assert [trial.number for trial in front([failed, *trials])] == [1, 2, 0]
    assert front([failed]) == ()


def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    unbroken = list(search(FREE, evaluate, tmp_path / "a", name="a", trials=14, seed=3))
    seen: list[Mapping[str, Any]] = []

    def killed(values: Mapping[str, Any]) -> tuple[float, float]:
        seen.append(values)
        if len(seen) == 12:
            raise KeyboardInterrupt
        return evaluate(values)

    with pytest.raises(KeyboardInterrupt):
        list(search(FREE, killed, tmp_path / "b", name="a", trials=14, seed=3))
    before = len(seen)
    resumed = list(search(FREE, killed, tmp_path / "b", name="a", trials=14, seed=3))
    assert resumed == unbroken
    assert len(seen) == before + 3
    assert seen[before] == seen[before - 1]


def test_searches_of_other_names_are_apart(tmp_path: Path) -> None:
    list(search(FREE, evaluate, tmp_path, name="a", trials=2))
    calls: list[Any] = []

    def counted(values: Mapping[str, Any]) -> tuple[float, float]:
        calls.append(values)
        return evaluate(values)

    assert len(list(search(FREE, counted, tmp_path, name="a", trials=2))) == 2
    assert not calls
    list(search(FREE, counted, tmp_path, name="b", trials=2))
    assert len(calls) == 2


def test_a_failed_trial_is_kept_and_said(tmp_path: Path) -> None:
    def half(values: Mapping[str, Any]) -> tuple[float, float]:
        if values["steps.0.amount"] > 0.5:
            raise CompressionError("the floor of road\nis broken")
        return evaluate(values)

    found = list(search(FREE, half, tmp_path, name="a", trials=8))
    failed = [trial for trial in found if trial.objectives is None]
    assert failed
    assert {trial.said for trial in failed} == {"the floor of road is broken"}
    assert list(search(FREE, half, tmp_path, name="a", trials=8)) == found


def test_a_wide_range_is_searched_by_its_logarithm(tmp_path: Path) -> None:
    found = list(search({"lr": Search(1e-5, 1e-1)}, lambda values: (values["lr"], 0.0), tmp_path, name="a", trials=10))
    assert sum(trial.values["lr"] < 1e-3 for trial in found) >= 2


def test_what_cannot_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompressionError, match="nothing to search: mark a field"):
        list(search({}, evaluate, tmp_path, name="a", trials=1))
    (tmp_path / "file").write_text("")
    with pytest.raises(CompressionError, match="name another work folder"):
        list(search(FREE, evaluate, tmp_path / "file", name="a", trials=1))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(CompressionError, match=r"pip install 'sharedbb\[compress\]'"):
        list(search(FREE, evaluate, tmp_path, name="a", trials=1))
