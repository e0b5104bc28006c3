"""Output files: refused before the work begins, never touched by being checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharedbb.cli.files import STDOUT, Files
from sharedbb.errors import SinkError


def test_folders_are_made_and_nothing_else(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("kept")
    files = Files(video=tmp_path / "new" / "out.mp4", summary=there, jsonl=STDOUT)
    files.check()
    assert there.read_text() == "kept"
    assert list((tmp_path / "new").iterdir()) == []
    assert files.written() == (there,)


def test_stdout_is_not_listed(tmp_path: Path) -> None:
    assert list(Files(video=tmp_path / "a.mp4", jsonl=STDOUT)) == [tmp_path / "a.mp4"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="it is a folder; name a file in it"):
        Files(report=tmp_path).check()


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match=r"cannot write .*file/out\.json: (Not a directory|File exists)"):
        Files(trace=tmp_path / "file" / "out.json").check()


def test_what_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "out.json").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SinkError, match=r"cannot write .*out\.json: Permission denied"):
        Files(trace=tmp_path / "out.json").check()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which nobody can make a file")
def test_a_folder_in_which_no_file_can_be_made_is_an_error() -> None:
    with pytest.raises(SinkError, match=r"cannot write /proc/out\.json: .*; give a file in a folder"):
        Files(trace=Path("/proc/out.json")).check()


def test_the_source_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"film")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SinkError, match="is what the run reads"):
        Files(video=Path("clip.mp4")).check("synthetic:street?frames=3", clip)
    assert clip.read_bytes() == b"film"


def test_two_results_do_not_share_a_file(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="asked for twice"):
        Files(trace=tmp_path / "x.json", summary=tmp_path / "y" / ".." / "x.json").check()


def test_a_video_has_the_suffix_of_one(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"out\.gif: name a video that ends in one of \.m4v, \.mkv, \.mov, \.mp4"):
        Files(video=tmp_path / "out.gif").check()
    Files(video=tmp_path / "out.MP4").check()


def test_devices_may_be_shared() -> None:
    Files(trace=Path("/dev/null"), summary=Path("/dev/null")).check()
