"""``sharedbb run``, from a clip to every file it can write, and what is left when it does not get to the end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import av
import cv2
import numpy as np
import pytest

from sharedbb import media
from sharedbb.errors import SourceError
from sharedbb.profiling import SUMMARY_SCHEMA
from sharedbb.types import Frame, Size


def frames_of(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def options(folder: Path) -> list[object]:
    """Every file that a run can write, in a folder that is not there yet."""
    names = {"out": "v.mp4", "jsonl": "r.jsonl", "report": "r.html", "trace": "t.json", "summary": "s.json"}
    return [part for option, name in names.items() for part in (f"--{option}", folder / name)]


def test_a_run_writes_everything(sharedbb: Callable[..., Any], tiny: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "new"
    ended = sharedbb("run", tiny, clip, *options(out))
    assert (ended.code, ended.err) == (0, "")

    video = frames_of(out / "v.mp4")
    assert (len(video), video[0].width, video[0].height) == (12, 96, 64)
    with av.open(str(out / "v.mp4")) as container:
        assert float(container.streams.video[0].average_rate or 0) == 12.5

    lines = lines_of(out / "r.jsonl")
    assert [line["frame"] for line in lines] == list(range(12))
    assert lines[2]["timestamp"] == pytest.approx(0.16)
    assert lines[3]["heads"]["scene"]["present"] == ["day", "night"]

    summary = json.loads((out / "s.json").read_text())
    assert summary.keys() == SUMMARY_SCHEMA["properties"].keys()
    assert (summary["pipeline"], summary["frames"], summary["skipped_frames"]) == ("tiny", 12, 0)
    assert (summary["device"], summary["backend"], summary["precision"]) == ("cpu", "openvino", "f32")
    assert summary["source"] == str(clip)
    assert summary["heads"]["scene"] == {"ran": 12, "reused": 0, "dropped": 0}
    assert summary["heads"]["objects"] == {"ran": 6, "reused": 6, "dropped": 0}
    beside = [name for name, stage in summary["stages"].items() if stage["background"]]
    assert beside == ["draw", "write", "jsonl"]

    assert (out / "r.html").read_text().count("data:image/jpeg;base64,") == 3
    assert json.loads((out / "t.json").read_text())["traceEvents"]
    assert "12 frames" in ended.out
    assert [line.split(" (")[0] for line in ended.out.splitlines() if line.startswith("wrote")] == [
        f"wrote {out / name}" for name in ("v.mp4", "r.jsonl", "r.html", "t.json", "s.json")
    ]


def test_stdout_is_left_to_json_lines(sharedbb: Callable[..., Any], tiny: Path, clip: Path) -> None:
    ended = sharedbb("run", tiny, clip, "--jsonl", "-", "--max-frames", 3)
    assert [json.loads(line)["frame"] for line in ended.out.splitlines()] == [0, 1, 2]
    assert "3 frames" in ended.err


def test_quiet_means_quiet(sharedbb: Callable[..., Any], tiny: Path, clip: Path, tmp_path: Path) -> None:
    ended = sharedbb("run", tiny, clip, "--summary", tmp_path / "s.json", "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert (tmp_path / "s.json").is_file()


def test_frames_that_change_size_are_fitted_into_the_first(
    sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    for number, (height, width) in enumerate([(48, 64), (80, 40), (48, 64)]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((height, width, 3), 255, np.uint8))
    ended = sharedbb("run", tiny, tmp_path, "--out", tmp_path / "v.mp4", "--jsonl", tmp_path / "r.jsonl")
    assert ended.code == 0
    assert [(line["width"], line["height"]) for line in lines_of(tmp_path / "r.jsonl")] == [
        (64, 48),
        (40, 80),
        (64, 48),
    ]
    video = frames_of(tmp_path / "v.mp4")
    assert [(frame.width, frame.height) for frame in video] == [(64, 48)] * 3
    assert video[1].to_ndarray(format="gray")[10, 4] < 40  # a bar
    assert video[1].to_ndarray(format="gray")[10, 32] > 200


def test_a_source_that_is_not_there_leaves_nothing_behind(
    sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    ended = sharedbb("run", tiny, tmp_path / "no.mp4", "--out", tmp_path / "v.mp4")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("sharedbb: error: no file, folder or address")
    assert list(tmp_path.iterdir()) == []


def test_outputs_are_looked_at_before_the_source(sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    ended = sharedbb("run", tiny, "no.mp4", "--report", tmp_path)
    assert ended.code == 2
    assert "it is a folder" in ended.err


def test_a_result_that_cannot_be_written_keeps_none_of_the_others(
    sharedbb: Callable[..., Any], tiny: Path, clip: Path, tmp_path: Path
) -> None:
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    ended = sharedbb("run", tiny, clip, "--summary", "/dev/full", "--report", page, "--trace", trace)
    assert ended.code == 2
    assert "cannot write /dev/full: No space left on device" in ended.err
    assert page.is_file()
    assert trace.is_file()
    assert "network" in ended.out


def test_the_summary_goes_to_stdout(sharedbb: Callable[..., Any], tiny: Path, clip: Path) -> None:
    ended = sharedbb("run", tiny, clip, "--summary", "-", "--max-frames", 2)
    assert json.loads(ended.out)["frames"] == 2
    assert "network" in ended.err
    assert not Path("-").exists()


def test_a_pipelines_name_is_only_text(sharedbb: Callable[..., Any], tiny: Path, clip: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.json"
    ended = sharedbb("run", tiny, clip, "--set", "name=cam [/front]", "--max-frames", 2, "--summary", summary)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(summary.read_text())["pipeline"] == "cam [/front]"


def test_a_source_without_frames_leaves_yesterdays_results(
    sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(b"no picture")
    video, lines = tmp_path / "v.mp4", tmp_path / "r.jsonl"
    video.write_bytes(b"video")
    lines.write_text("lines")
    assert sharedbb("run", tiny, pictures, "--out", video, "--jsonl", lines).code == 2
    assert (video.read_bytes(), lines.read_text()) == (b"video", "lines")


def test_a_number_of_frames_that_nobody_counts_to(sharedbb: Callable[..., Any], tiny: Path, clip: Path) -> None:
    ended = sharedbb("run", tiny, clip, "--max-frames", 10**21)
    assert ended.code == 2
    assert "should be less than or equal to 2147483647" in ended.err


def test_the_source_is_not_overwritten(sharedbb: Callable[..., Any], tiny: Path, clip: Path) -> None:
    before = clip.read_bytes()
    assert "is what the run reads" in sharedbb("run", tiny, clip, "--out", clip).err
    assert clip.read_bytes() == before


class BreaksOff:
    """A source of five frames, two damaged ones among them, and then an error."""

    name, live, fps, frames, size, skipped = "torn", False, None, 99, Size(64, 96), 0

    def __iter__(self) -> Iterator[Frame]:
        for index in range(5):
            self.skipped = min(index, 2)
            yield Frame(index, index / 25, np.full((64, 96, 3), 90, np.uint8))
        raise SourceError("torn broke off: no more tape")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_what_was_done_before_an_error_is_kept(
    sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = media.open_source
    monkeypatch.setattr(
        media, "open_source", lambda source, motion: BreaksOff() if source == "torn" else opened(source)
    )
    ended = sharedbb("run", tiny, "torn", *options(tmp_path))
    assert ended.code == 2
    assert ended.err == "sharedbb: error: torn broke off: no more tape\n"
    assert len(frames_of(tmp_path / "v.mp4")) == len(lines_of(tmp_path / "r.jsonl")) == 5
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["frames"], summary["skipped_frames"]) == (5, 2)
    assert f"wrote {tmp_path / 'v.mp4'}" in ended.out


def test_a_disk_that_is_full_ends_the_run_and_keeps_the_rest(
    sharedbb: Callable[..., Any], tiny: Path, clip: Path, tmp_path: Path
) -> None:
    ended = sharedbb("run", tiny, clip, "--jsonl", "/dev/full", "--out", tmp_path / "v.mp4")
    assert ended.code == 2
    assert ended.err == "sharedbb: error: cannot write /dev/full: No space left on device\n"
    assert len(frames_of(tmp_path / "v.mp4")) == 1


@pytest.fixture
def running(tiny: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own that would take very long, its JSON lines on stdout."""
    source = "synthetic:street?frames=100000&size=160x96"
    files = ["--out", str(tmp_path / "v.mp4"), "--summary", str(tmp_path / "s.json"), "--jsonl", "-"]
    # Where tests run in the background SIGINT is ignored, and by whatever they start.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from sharedbb.cli.main import main; main()"
    command = [sys.executable, "-c", program, "run", str(tiny), source, *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_an_interrupt_leaves_complete_files(running: subprocess.Popen[str], tmp_path: Path) -> None:
    assert running.stdout is not None
    first = [running.stdout.readline() for _ in range(5)]
    running.send_signal(signal.SIGINT)
    rest, said = running.communicate()
    assert running.returncode == 130
    lines = [*first, *rest.splitlines()]
    assert [json.loads(line)["frame"] for line in lines] == list(range(len(lines)))
    assert len(frames_of(tmp_path / "v.mp4")) == len(lines)
    assert json.loads((tmp_path / "s.json").read_text())["frames"] == len(lines)
    assert f"wrote {tmp_path / 'v.mp4'}" in said
    assert said.endswith("sharedbb: stopped by SIGINT\n")
    assert "Traceback" not in said


def test_a_reader_of_lines_that_goes_away_ends_the_run(running: subprocess.Popen[str], tmp_path: Path) -> None:
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    said = running.stderr.read()
    assert running.wait() == 1
    assert "Traceback" not in said
    assert "Exception" not in said
    frames = json.loads((tmp_path / "s.json").read_text())["frames"]
    assert len(frames_of(tmp_path / "v.mp4")) == frames
