"""Output files: refused before the work begins, never touched by being checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharedbb.cli.files import STDOUT, Files, write, write_each
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


def test_pictures_of_the_source_are_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "A.jpg"
    picture.write_bytes(b"picture")
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path, ".", "*.jpg", f"{tmp_path}/**/A.*"):
        with pytest.raises(SinkError, match="is what the run reads"):
            Files(summary=picture).check(source)
    Files(summary=tmp_path / "A.json").check(tmp_path, "*.jpg", "")


def test_an_artifact_has_its_suffix_and_its_pipeline_file_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "x.sbb"
    assert list(Files(artifact=out)) == [out, tmp_path / "x.yaml"]
    with pytest.raises(SinkError, match=r"x\.onnx: the name of an artifact ends in \.sbb"):
        Files(artifact=tmp_path / "x.onnx").check()
    for taken in (out, tmp_path / "x.yaml"):
        with pytest.raises(SinkError, match="asked for twice"):
            Files(report=taken, artifact=out).check()


def test_what_goes_to_stdout(tmp_path: Path) -> None:
    assert Files(summary=STDOUT, report=tmp_path / "r.html").to_stdout == ("summary",)
    with pytest.raises(SinkError, match="the report cannot go to stdout; name a file"):
        Files(report=STDOUT).check()
    with pytest.raises(SinkError, match="JSON and the graph cannot both go to stdout; name a file for one of them"):
        Files(summary=STDOUT, graph=STDOUT).check()


def test_stdout_takes_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(STDOUT, "{}\n")
    write(tmp_path / "a.json", "[]")
    assert capsys.readouterr().out == "{}\n"
    assert (tmp_path / "a.json").read_text() == "[]"


def test_each_is_written_whatever_becomes_of_the_others() -> None:
    done: list[Path] = []

    def fail(path: Path) -> None:
        raise SinkError(str(path))

    with pytest.raises(SinkError, match="first"):
        write_each(
            (Path("a"), done.append),
            (Path("first"), fail),
            (None, fail),
            (Path("b"), done.append),
            (Path("second"), fail),
        )
    assert done == [Path("a"), Path("b")]


def test_two_results_do_not_share_a_file(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="asked for twice"):
        Files(trace=tmp_path / "x.json", summary=tmp_path / "y" / ".." / "x.json").check()


def test_a_video_has_the_suffix_of_one(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"out\.gif: name a video that ends in one of \.m4v, \.mkv, \.mov, \.mp4"):
        Files(video=tmp_path / "out.gif").check()
    Files(video=tmp_path / "out.MP4").check()


def test_devices_may_be_shared() -> None:
    Files(trace=Path("/dev/null"), summary=Path("/dev/null")).check()
