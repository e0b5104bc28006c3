"""Entries of the journal: made once, there as a whole or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sharedbb.errors import CompressionError
from sharedbb.learn.journal import Journal, key


def _counting(calls: list[Path], facts: Mapping[str, Any]) -> Callable[[Path], Mapping[str, Any]]:
    def make(folder: Path) -> Mapping[str, Any]:
        calls.append(folder)
        (folder / "file").write_text("content")
        return facts

    return make


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    calls: list[Path] = []
    make = _counting(calls, {"macs": 3, "list": (1, 2)})
    first = Journal(tmp_path).entry("prune", {"amount": 0.5, "from": "x"}, make)
    again = Journal(tmp_path).entry("prune", {"from": "x", "amount": 0.5}, make)
    assert len(calls) == 1
    assert first == again
    assert first.facts == {"macs": 3, "list": [1, 2]}  # as JSON gives them back, from the first time on
    assert (first.folder / "file").read_text() == "content"


@pytest.mark.parametrize("other", [{"amount": 0.5, "from": "y"}, {"amount": 0.25, "from": "x"}, {"amount": 0.5}])
def test_another_decision_is_another_entry(tmp_path: Path, other: dict[str, Any]) -> None:
    journal = Journal(tmp_path)
    first = journal.entry("prune", {"amount": 0.5, "from": "x"}, lambda folder: {})
    assert journal.entry("prune", other, lambda folder: {}).folder != first.folder
    assert journal.entry("cluster", {"amount": 0.5, "from": "x"}, lambda folder: {}).folder != first.folder


def test_what_an_interrupted_one_left_stays_for_the_next(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> Mapping[str, Any]:
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    def resumed(folder: Path) -> Mapping[str, Any]:
        return {"began_with": (folder / "checkpoint").read_text()}

    journal = Journal(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        journal.entry("finetune", {"steps": 4}, interrupted)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    assert journal.entry("finetune", {"steps": 4}, resumed).facts == {"began_with": "half"}
    assert [path.suffix for path in tmp_path.iterdir()] == [""]


def test_an_error_in_the_making_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Journal(tmp_path).entry("prune", {}, lambda folder: {"x": 1 / 0})


@pytest.mark.parametrize("damage", ["", "[", json.dumps({"decided_by": {}})])
def test_a_damaged_entry_is_said(tmp_path: Path, damage: str) -> None:
    journal = Journal(tmp_path)
    entry = journal.entry("prune", {}, lambda folder: {})
    (entry.folder / "entry.json").write_text(damage)
    with pytest.raises(CompressionError, match=r"prune-\w+ is damaged .*; delete that folder and run again"):
        journal.entry("prune", {}, lambda folder: {})


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CompressionError, match="name another work folder"):
        Journal(tmp_path / "file").entry("prune", {}, lambda folder: {})


def test_a_key_is_forever() -> None:
    assert key({"b": 1, "a": [0.5, None, "x"]}) == key({"a": [0.5, None, "x"], "b": 1}) == "eb9e14a6a6f4da54"


def test_two_runs_share_the_work(tmp_path: Path) -> None:
    began, calls = threading.Barrier(2), list[int]()

    def make(folder: Path) -> Mapping[str, Any]:
        calls.append(1)
        time.sleep(0.3)
        return {"made": len(calls)}

    def work(found: list[Any]) -> None:
        began.wait()
        found.append(Journal(tmp_path).entry("finetune", {"steps": 4}, make))

    found: list[Any] = []
    threads = [threading.Thread(target=work, args=(found,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.facts for entry in found] == [{"made": 1}] * 2
    assert len(list(tmp_path.iterdir())) == 1


def test_a_fact_that_is_no_number_is_said(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match="a number is not finite"):
        Journal(tmp_path).entry("prune", {}, lambda folder: {"loss": float("nan")})
