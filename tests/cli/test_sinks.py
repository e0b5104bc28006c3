"""Sinks: JSON lines that are there at once, pictures drawn only where they are wanted, snapshots spread evenly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sharedbb import media
from sharedbb.cli.sinks import SNAPSHOT_WIDTH, JsonLines, Pictures, Snapshots
from sharedbb.errors import SinkError
from sharedbb.profiling import Profiler
from sharedbb.types import Frame, FrameResult, Geometry, Size


def result(index: int) -> FrameResult:
    size, pixels = Size(8, 16), np.full((8, 16, 3), index % 256, np.uint8)
    return FrameResult(Frame(index, index / 10, pixels), Geometry.fit(size, size), {}, {})


def test_a_line_is_in_the_file_when_it_was_taken(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = JsonLines(path, Profiler())
    for index in range(3):
        sink.take(result(index))
        assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == list(range(index + 1))
    sink.close()


def test_a_full_disk_is_an_error() -> None:
    sink = JsonLines(Path("/dev/full"), Profiler())
    with pytest.raises(SinkError, match="cannot write /dev/full: No space left on device"):
        sink.take(result(0))


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path, Profiler())
    with pytest.raises(SinkError, match="Is a directory"):
        sink.take(result(0))
    sink.close()


def test_what_a_file_held_goes_when_the_first_line_comes(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("yesterday's")
    sink = JsonLines(path, Profiler())
    sink.close()
    assert path.read_text() == "yesterday's"
    sink.take(result(3))
    sink.close()
    assert json.loads(path.read_text())["frame"] == 3


class Drawn:
    """Stands in for the video, and counts what is drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frames: list[int] = []
        self.written = 0
        monkeypatch.setattr(media, "draw", self._draw)

    def _draw(self, drawn: FrameResult) -> Any:
        self.frames.append(drawn.index)
        return drawn.frame.rgb()

    def write(self, picture: Any) -> None:
        self.written += 1

    def close(self) -> None:
        self.written = -self.written


def test_a_video_gets_every_frame_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, profiler = Drawn(monkeypatch), Profiler()
    sink = Pictures(drawn, Snapshots(), profiler)  # type: ignore[arg-type]
    for index in range(40):
        sink.take(result(index))
    sink.close()
    assert drawn.frames == list(range(40))
    assert drawn.written == -40
    stages = profiler.summary().stages
    assert {name: (stage.count, stage.background) for name, stage in stages.items()} == {
        "draw": (40, True),
        "write": (40, True),
    }


def test_without_a_video_few_frames_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(monkeypatch)
    sink = Pictures(None, Snapshots(most=4), Profiler())
    for index in range(1000):
        sink.take(result(index))
    assert len(drawn.frames) <= 4 + 2 * 9
    assert drawn.frames == sorted(set(drawn.frames))


@pytest.mark.parametrize("frames", [0, 1, 2, 3, 12, 13, 14, 100, 777, 5000])
def test_snapshots_are_early_middle_and_late(frames: int) -> None:
    snapshots, picture = Snapshots(), np.zeros((4, 4, 3), np.uint8)
    for index in range(frames):
        if snapshots.wants_next():
            snapshots.add(str(index), picture)
    chosen = [int(caption) for caption, _ in snapshots.chosen()]
    assert len(chosen) == min(frames, 3)
    assert chosen == sorted(set(chosen))
    if frames >= 12:
        early, middle, late = (index / frames for index in chosen)
        assert early < 0.3 < middle < 0.65 < late


def test_snapshots_are_jpeg_of_a_width_fit_for_a_page() -> None:
    snapshots = Snapshots()
    assert snapshots.wants_next()
    red = np.zeros((1000, 2 * SNAPSHOT_WIDTH, 3), np.uint8)
    red[..., 0] = 255
    snapshots.add("red", red)
    [(_, jpeg)] = snapshots.chosen()
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (500, SNAPSHOT_WIDTH, 3)
    blue, green, red_level = decoded[250, 640]
    assert red_level > 240
    assert max(blue, green) < 20
