"""The logbook: lines and TensorBoard's events of each step once, however often a training was resumed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sharedbb.errors import CompressionError
from sharedbb.learn.logbook import EVENTS, LINES, Logbook, read_lines


def write(folder: Path, begin: int, end: int, sign: float = 1.0) -> None:
    with Logbook(folder, begin) as book:
        for step in range(begin + 1, end + 1):
            book.add(step, {"loss/road": sign * step, "rate": 0.5})


def test_lines_are_json_with_every_scalar(tmp_path: Path) -> None:
    write(tmp_path / "new" / "folder", 0, 3)
    lines = (tmp_path / "new" / "folder" / LINES).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": n, "loss/road": n, "rate": 0.5} for n in (1, 2, 3)]
    assert read_lines(tmp_path / "new" / "folder") == [json.loads(line) for line in lines]
    assert read_lines(tmp_path) == []


def test_what_came_after_the_checkpoint_is_taken_back(tmp_path: Path) -> None:
    write(tmp_path, 0, 7)
    with (tmp_path / LINES).open("a") as file:
        file.write('{"step": 8, "loss')  # killed while it was written
    write(tmp_path, 4, 6, sign=-1.0)
    assert [(line["step"], line["loss/road"]) for line in read_lines(tmp_path)] == [
        *((1, 1), (2, 2), (3, 3), (4, 4)),
        *((5, -5), (6, -6)),
    ]
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


@pytest.mark.parametrize("resumed", [0, 4])
def test_tensorboard_shows_no_step_twice(resumed: int, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, 0, 7)
    write(tmp_path, resumed, 6, sign=-1.0)
    events = accumulator.EventAccumulator(str(tmp_path / EVENTS))
    events.Reload()
    wanted = [(step, step if step <= resumed else -step) for step in range(1, 7)]
    assert [(event.step, event.value) for event in events.Scalars("loss/road")] == wanted


def test_without_tensorboard_there_are_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    write(tmp_path, 0, 2)
    assert len(read_lines(tmp_path)) == 2
    assert not (tmp_path / EVENTS).exists()


def test_a_folder_that_cannot_be_written_and_damaged_lines_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CompressionError, match=r"cannot write .*log\.jsonl: .*; make room, or name another folder"):
        Logbook(tmp_path / "file" / "folder")
    (tmp_path / LINES).write_text("{")
    with pytest.raises(CompressionError, match="is damaged"):
        read_lines(tmp_path)
