"""Text files: whole or not at all, whoever may read them now may read them then."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sharedbb.errors import SinkError
from sharedbb.profiling import files
from sharedbb.profiling.files import write_text


def test_a_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    write_text(path, "one")
    path.chmod(0o600)
    write_text(path, "two")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("two", 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_a_file_in_a_folder_where_nothing_can_be_made_is_written_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("one")
    number = path.stat().st_ino
    monkeypatch.setattr(files.os, "access", lambda place, mode: not (place == tmp_path and mode == os.W_OK))
    write_text(path, "two")
    assert (path.read_text(), path.stat().st_ino) == ("two", number)


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="cannot write"):
        write_text(tmp_path / ("x" * 300), "text")
