"""The video sink: what is written decodes to what was given, also after an error, an early end or a kill."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sharedbb.errors import SinkError
from sharedbb.media import VideoSink
from sharedbb.media.sinks import CONTAINERS

Image = NDArray[np.uint8]


def decoded(path: Path) -> list[Image]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").view(np.uint8) for frame in container.decode(video=0)]


def differs(one: Image, other: Image) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("suffix", [*sorted(CONTAINERS), ".MP4"])
def test_what_is_written_is_what_is_read(tmp_path: Path, scene: Callable[..., Image], suffix: str) -> None:
    path = tmp_path / f"video{suffix}"
    with VideoSink(path, 25) as sink:
        for index in range(60):
            sink.write(scene(index))
        assert sink.frames == 60
    pictures = decoded(path)
    assert len(pictures) == 60
    assert max(differs(picture, scene(index)) for index, picture in enumerate(pictures)) < 6


def test_the_file_is_an_ordinary_one(tmp_path: Path, scene: Callable[..., Image]) -> None:
    path = tmp_path / "video.mp4"
    with VideoSink(path, 25) as sink:
        for index in range(120):
            sink.write(scene(index))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, stream.frames, stream.average_rate) == ("h264", "yuv420p", 120, 25)
        assert container.duration == 120 / 25 * 1e6
        frames = list(container.decode(stream))
    assert [frame.time for frame in frames] == pytest.approx([index / 25 for index in range(120)])
    keys = [index for index, frame in enumerate(frames) if frame.key_frame]
    assert max(late - early for early, late in pairwise([*keys, 120])) <= 50


def test_colours_and_their_names(tmp_path: Path) -> None:
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [30, 200, 120], [0, 0, 0]], np.uint8)
    path = tmp_path / "video.mp4"
    with VideoSink(path) as sink:
        sink.write(np.tile(colours.repeat(16, 0), (64, 1, 1)))
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range) == (1, 1, 1, 1)  # BT.709
    seen = frame.to_ndarray(format="rgb24")[32, 8::16]
    assert np.abs(seen.astype(int) - colours).max() <= 4
    plane = frame.planes[0]
    luma = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[32, 8:96:16]
    assert np.abs(luma - (16 + colours @ [0.2126, 0.7152, 0.0722] * 219 / 255)).max() <= 4


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (1, 5), (33, 2), (63, 95), (64, 95), (63, 96), (17, 31)])
def test_every_size(tmp_path: Path, scene: Callable[..., Image], height: int, width: int) -> None:
    path = tmp_path / "video.mp4"
    given = [np.full((height, width, 3), 60 + 5 * index, np.uint8) for index in range(6)]
    if min(height, width) > 10:
        given = [scene(index, height, width) for index in range(6)]
    with VideoSink(path) as sink:
        for picture in given:
            sink.write(picture)
    pictures = decoded(path)
    assert len(pictures) == 6
    for picture, original in zip(pictures, given, strict=True):
        assert picture.shape == (height + height % 2, width + width % 2, 3)
        assert differs(picture[:height, :width], original) < 8
        assert differs(picture[-1, :width], original[-1]) < 12  # the row that was added, too


def test_the_size_changes_midway(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    sizes = [(63, 95), (64, 96), (32, 32), (128, 192), (1, 1), (63, 95)]
    with VideoSink(path) as sink:
        for size in sizes:
            sink.write(np.full((*size, 3), 200, np.uint8))
    pictures = decoded(path)
    assert [picture.shape for picture in pictures] == [(64, 96, 3)] * 6
    bars = [bool((picture[32, 2] < 30).all()) for picture in pictures]
    assert bars == [False, False, True, False, True, False]
    assert all(differs(picture[32, 48], np.full(3, 200, np.uint8)) < 6 for picture in pictures)


@pytest.mark.parametrize("rate", [0.5, 10, 12.5, 23.976, 29.97, 30000 / 1001, 60, 240])
def test_every_rate(tmp_path: Path, scene: Callable[..., Image], rate: float) -> None:
    path = tmp_path / "video.mp4"
    with VideoSink(path, rate) as sink:
        for index in range(10):
            sink.write(scene(index))
    with av.open(str(path)) as container:
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(rate, rel=1e-4)
        times = [frame.time or 0.0 for frame in container.decode(video=0)]
    assert times == pytest.approx([index / rate for index in range(10)], abs=1e-3)


def test_pictures_that_are_views(tmp_path: Path, scene: Callable[..., Image]) -> None:
    path = tmp_path / "video.mp4"
    with VideoSink(path) as sink:
        sink.write(scene(0)[:, ::-1, ::-1])
    assert differs(decoded(path)[0], scene(0)[:, ::-1, ::-1]) < 8


@pytest.mark.parametrize("count", [1, 2, 30])
def test_an_early_end(tmp_path: Path, scene: Callable[..., Image], count: int) -> None:
    path = tmp_path / "video.mp4"

    def interrupted() -> None:
        with VideoSink(path) as sink:
            for index in range(count):
                sink.write(scene(index))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(decoded(path)) == count


KILLED = """
import os, sys
import numpy as np
from sharedbb.media import VideoSink

sink = VideoSink(sys.argv[1], 10)
for index in range(100):
    sink.write(np.full((48, 64, 3), 2 * index, np.uint8))
os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_killed_process_leaves_a_video(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"video{suffix}"
    run = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert run.returncode == -signal.SIGKILL
    pictures = decoded(path)
    assert 50 <= len(pictures) < 100
    assert all(abs(float(picture.mean()) - 2 * index) < 4 for index, picture in enumerate(pictures))


class TestErrors:
    @pytest.mark.parametrize("name", ["video", "video.avi", "video.txt", "video.webm"])
    def test_a_suffix_that_cannot_be(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(SinkError, match=rf"^cannot write \S*{name}: name a file that ends in one of \.m4v, \.mkv"):
            VideoSink(tmp_path / name)
        assert not (tmp_path / name).exists()

    @pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, 1e-9, 2000])
    def test_a_rate_that_cannot_be(self, tmp_path: Path, rate: float) -> None:
        with pytest.raises(SinkError, match=r"frames a second; the rate must be above 0, at most 1000$"):
            VideoSink(tmp_path / "video.mp4", rate)

    def test_a_path_that_cannot_be_written(self, tmp_path: Path) -> None:
        folder = tmp_path / "folder.mp4"
        folder.mkdir()
        with pytest.raises(SinkError, match=r"^cannot write \S*folder.mp4: Is a directory$"):
            VideoSink(folder)
        with pytest.raises(SinkError, match=r"^cannot write \S*video.mp4: No such file or directory$"):
            VideoSink(tmp_path / "nowhere" / "video.mp4")
        with pytest.raises(SinkError, match=r"^cannot write .*: (File name too long|Invalid argument)$"):
            VideoSink(tmp_path / f"{'x' * 3000}.mp4")

    def test_a_name_that_looks_like_an_address(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with VideoSink("12:30.mp4") as sink:  # of protocol "12", to FFmpeg
            sink.write(np.zeros((8, 8, 3), np.uint8))
        assert len(decoded(tmp_path / "12:30.mp4")) == 1

    @pytest.mark.parametrize(
        "picture",
        [
            np.zeros((8, 8), np.uint8),
            np.zeros((8, 8, 4), np.uint8),
            np.zeros((8, 8, 3), np.float32),
            np.zeros((0, 8, 3), np.uint8),
            np.zeros((2, 8, 8, 3), np.uint8),
        ],
    )
    def test_what_is_no_picture(self, tmp_path: Path, picture: Any) -> None:
        path = tmp_path / "video.mp4"
        with VideoSink(path) as sink:
            sink.write(np.zeros((8, 8, 3), np.uint8))
            with pytest.raises(SinkError, match=r"^a picture must be \(height, width, 3\) uint8, got \("):
                sink.write(picture)
            sink.write(np.zeros((8, 8, 3), np.uint8))
        assert len(decoded(path)) == 2

    def test_nothing_is_written_to_a_closed_one(self, tmp_path: Path) -> None:
        sink = VideoSink(tmp_path / "video.mp4")
        sink.close()
        sink.close()
        with pytest.raises(SinkError, match=r"video\.mp4 is closed already$"):
            sink.write(np.zeros((8, 8, 3), np.uint8))

    @pytest.mark.parametrize("suffix", sorted(CONTAINERS))
    def test_no_picture_no_file(self, tmp_path: Path, suffix: str) -> None:
        with VideoSink(tmp_path / f"video{suffix}"):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_a_link_to_a_file_that_is_not_there_yet_stays_one(self, tmp_path: Path) -> None:
        link = tmp_path / "link.mp4"
        link.symlink_to(tmp_path / "video.mp4")
        with VideoSink(link):
            pass
        assert link.is_symlink()

    def test_a_name_that_no_file_can_have(self) -> None:
        with pytest.raises(SinkError, match="cannot write"):
            VideoSink("a\0b.mp4")

    def test_what_a_file_held_goes_with_the_first_picture(self, tmp_path: Path, scene: Callable[..., Image]) -> None:
        path = tmp_path / "video.mp4"
        path.write_bytes(b"yesterday's")
        with VideoSink(path):
            pass
        assert path.read_bytes() == b"yesterday's"
        with VideoSink(path) as sink:
            sink.write(scene(0))
        assert path.read_bytes()[4:8] == b"ftyp"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk here")
    def test_a_full_disk(self, tmp_path: Path, scene: Callable[..., Image]) -> None:
        path = tmp_path / "video.mp4"
        path.symlink_to("/dev/full")
        sink = VideoSink(path)

        def write() -> None:
            for index in range(300):
                sink.write(scene(index, noise=40))

        with pytest.raises(SinkError, match=r"^cannot write \S*video\.mp4: No space left on device$"):
            write()
        sink.close()  # it was said already

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk here")
    def test_a_disk_that_is_full_in_the_end(self, tmp_path: Path, scene: Callable[..., Image]) -> None:
        path = tmp_path / "video.mp4"
        path.symlink_to("/dev/full")
        sink = VideoSink(path)
        sink.write(scene(0))
        with pytest.raises(SinkError, match=r"^cannot finish \S*video\.mp4: No space left on device$"):
            sink.close()
        sink.close()
