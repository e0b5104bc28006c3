"""Opening by name: the right kind of source for each, pictures in order, and one clear error for everything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sharedbb import media
from sharedbb.errors import FrameError, SourceError
from sharedbb.media import Source, open_source
from sharedbb.media.sources import PICTURES, PictureSource
from sharedbb.media.synthetic import StreetVideo
from sharedbb.media.video import VideoSource
from sharedbb.types import Frame, Size

Image = NDArray[np.uint8]
Clip = Callable[..., Path]


def level(grey: int, height: int = 8, width: int = 12) -> Image:
    return np.full((height, width, 3), grey, np.uint8)


def store(folder: Path, *names: str) -> Path:
    """Pictures whose grey level is ten times their place in ``names``."""
    for place, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture = level(10 * place)
        assert cv2.imwrite(str(folder / name), picture[..., 0] if name.endswith(".pgm") else picture)
    return folder


def levels(source: Source) -> list[int]:
    return [round(float(frame.rgb().mean())) for frame in source]


def test_what_the_room_offers() -> None:
    assert media.__all__ == sorted(media.__all__) == ["Source", "VideoSink", "draw", "open_source"]


def test_every_kind_is_a_source(clip: Clip, tmp_path: Path) -> None:
    store(tmp_path, "a.png", "b.png")
    opened: list[tuple[Any, type]] = [
        (clip(), VideoSource),
        (str(clip()), VideoSource),
        (clip().as_uri(), VideoSource),
        (tmp_path, PictureSource),
        (f"{tmp_path}/*.png", PictureSource),
        (tmp_path / "a.png", PictureSource),
        ("synthetic:street?frames=2&size=64x48", StreetVideo),
        ([level(0)], PictureSource),
    ]
    for name, kind in opened:
        with open_source(name) as source:
            assert isinstance(source, Source)
            assert isinstance(source, kind)
            assert not source.live
            assert source.name
            assert len(list(source)) == source.frames


def test_a_source_is_taken_as_it_is() -> None:
    street = StreetVideo(Size(48, 64), 2)
    assert open_source(street) is street


@pytest.mark.parametrize("name", [0, "0"])
def test_numbers_are_cameras(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    asked: list[int] = []
    monkeypatch.setattr(VideoSource, "camera", lambda number, motion: asked.append(number))
    open_source(name)
    assert asked == [0]


def test_live_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(VideoSource, "stream", lambda address, motion: asked.append(address))
    for address in ("rtsp://camera/1", "RTSP://camera/2", "udp://@:5000", "srt://x:9"):
        open_source(address)
    assert len(asked) == 4


class TestErrors:
    def test_nothing_there(self, tmp_path: Path) -> None:
        for name in ("nowhere.mp4", tmp_path / "nowhere", "", "a\0b"):
            with pytest.raises(SourceError, match=r"^no file, folder or address '.*'$"):
                open_source(name)

    def test_an_empty_file(self, tmp_path: Path) -> None:
        for name in ("empty.mp4", "empty.png"):
            (tmp_path / name).touch()
            with pytest.raises(SourceError, match=rf"^cannot open \S*{name}: the file is empty$"):
                open_source(tmp_path / name)

    def test_a_file_that_is_no_video(self, tmp_path: Path) -> None:
        (tmp_path / "text.mp4").write_text("hello " * 100)
        with pytest.raises(SourceError, match=r"^cannot open \S*text.mp4: it is damaged, or no video$"):
            open_source(tmp_path / "text.mp4")

    def test_no_pictures(self, tmp_path: Path, clip: Clip) -> None:
        (tmp_path / "folder.png").mkdir()
        (tmp_path / "notes.txt").write_text("hello")
        for name in (tmp_path, f"{tmp_path}/*.txt", f"{tmp_path}/*.png", f"{clip().parent}/*.mp4"):
            with pytest.raises(SourceError, match=r"^.* holds no pictures \(\.bmp, .*, \.webp\)$"):
                open_source(name)

    def test_a_name_that_is_too_long(self) -> None:
        with pytest.raises(SourceError, match=r"File name too long$|^no file, folder or address"):
            open_source("x" * 5000)

    @pytest.mark.skipif(sys.platform == "win32", reason="no device files here")
    def test_neither_file_nor_folder(self) -> None:
        with pytest.raises(SourceError, match=r"^/dev/null is neither a file nor a folder"):
            open_source("/dev/null")

    @pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="everything may be read here")
    def test_what_may_not_be_read(self, tmp_path: Path, clip: Clip) -> None:
        path = tmp_path / "secret.mp4"
        path.write_bytes(clip().read_bytes())
        path.chmod(0)
        with pytest.raises(SourceError, match=r"Permission denied$"):
            open_source(path)

    @pytest.mark.parametrize("thing", [None, True, 2.5, object()])
    def test_other_things(self, thing: Any) -> None:
        with pytest.raises(SourceError, match=f"^cannot read frames from a {type(thing).__name__}; give a path"):
            open_source(thing)

    def test_a_synthetic_video_that_nobody_knows(self) -> None:
        with pytest.raises(SourceError, match="no synthetic video 'moon'"):
            open_source("synthetic:moon")


class TestPictures:
    def test_in_natural_order(self, tmp_path: Path) -> None:
        store(tmp_path, "shot1.png", "shot2.PNG", "shot9.bmp", "shot10.png", "shot11.tif", "shot100.webp")
        (tmp_path / "notes.txt").write_text("no picture")
        source = open_source(tmp_path)
        assert levels(source) == [0, 10, 20, 30, 40, 50]
        assert source.frames == 6
        assert levels(open_source(f"{tmp_path}/shot1*.png")) == [0, 30]

    def test_a_pattern_through_folders(self, tmp_path: Path) -> None:
        store(tmp_path, "a/2/1.png", "a/10/1.png", "b/1.png")
        assert levels(open_source(f"{tmp_path}/**/*.png")) == [0, 10, 20]

    def test_a_folder_whose_name_is_a_pattern(self, tmp_path: Path) -> None:
        store(tmp_path, "[1]*/0.png")
        assert levels(open_source(tmp_path / "[1]*")) == [0]

    def test_index_and_time(self, tmp_path: Path) -> None:
        source = open_source(store(tmp_path, *(f"{number}.png" for number in range(4))))
        for _ in range(2):  # again from the start
            assert [(frame.index, frame.timestamp) for frame in source] == [(0, 0.0), (1, 0.04), (2, 0.08), (3, 0.12)]
        assert source.fps == 25.0

    def test_frames_keep_their_times_where_they_run_forward(self) -> None:
        pixels = np.zeros((8, 12, 3), np.uint8)

        def told(*given: Any) -> list[tuple[int, float]]:
            return [(frame.index, round(frame.timestamp, 6)) for frame in open_source(list(given))]

        assert told(*[Frame.of(pixels)] * 3) == [(0, 0.0), (1, 0.04), (2, 0.08)]
        late = [Frame(index, time, pixels=pixels) for index, time in ((7, 10.0), (9, 10.5), (9, 10.5), (3, 2.0))]
        assert told(*late) == [(7, 10.0), (9, 10.5), (10, 10.54), (11, 10.58)]
        assert told(pixels, late[0], pixels) == [(0, 0.0), (7, 10.0), (8, 10.04)]

    def test_colours_are_right(self, tmp_path: Path) -> None:
        red = np.zeros((8, 12, 3), np.uint8)
        red[..., 2] = 255  # BGR, as OpenCV writes and arrays are taken
        cv2.imwrite(str(tmp_path / "red.png"), red)
        for source in (open_source(tmp_path), open_source([red]), open_source(red)):
            assert [frame.rgb()[0, 0].tolist() for frame in source] == [[255, 0, 0]]

    @pytest.mark.parametrize(
        "stored",
        [
            level(200)[..., 0],
            np.dstack([level(200), np.zeros((8, 12), np.uint8)]),
            level(200).astype(np.uint16) * 257,
            level(200)[..., 0].astype(np.uint16) * 257,
            level(200, 1, 1),
        ],
        ids=["grey", "alpha", "16 bits", "grey of 16 bits", "one pixel"],
    )
    def test_other_depths_and_channels(self, tmp_path: Path, stored: Any) -> None:
        cv2.imwrite(str(tmp_path / "picture.png"), stored)
        [frame] = open_source(tmp_path)
        assert frame.rgb().shape == (*stored.shape[:2], 3)
        assert (frame.rgb() == 200).all()

    def test_sizes_may_differ(self) -> None:
        sizes = [frame.size for frame in open_source([level(0, 8, 12), level(0, 1, 1), level(0, 5, 9)])]
        assert sizes == [Size(8, 12), Size(1, 1), Size(5, 9)]

    @pytest.mark.parametrize("suffix", sorted(PICTURES))
    def test_damaged_files_are_skipped_and_counted(self, tmp_path: Path, suffix: str) -> None:
        store(tmp_path, f"1{suffix}", f"2{suffix}", f"3{suffix}", f"4{suffix}")
        whole = (tmp_path / f"2{suffix}").read_bytes()
        (tmp_path / f"2{suffix}").write_bytes(whole[: len(whole) // 2])
        (tmp_path / f"3{suffix}").write_bytes(b"no picture" * 20)
        source = open_source(tmp_path)
        for _ in range(2):
            assert [(frame.index, round(float(frame.rgb().mean()))) for frame in source] == [(0, 0), (1, 30)]
            assert source.skipped == 2

    def test_nothing_but_damage(self, tmp_path: Path) -> None:
        for name in ("1.png", "2.png"):
            (tmp_path / name).write_bytes(b"no picture")
        with pytest.raises(SourceError, match=r": not a single picture can be read \(2 damaged\)$"):
            list(open_source(tmp_path))
        with pytest.raises(SourceError, match=r": not a single picture can be read \(1 damaged\)$"):
            list(open_source(tmp_path / "1.png"))

    def test_a_file_that_goes_away(self, tmp_path: Path) -> None:
        source = open_source(store(tmp_path, "1.png", "2.png"))
        (tmp_path / "1.png").unlink()
        assert levels(source) == [10]
        assert source.skipped == 1

    def test_lists_of_anything(self, tmp_path: Path) -> None:
        store(tmp_path, "0.png", "1.png", "2.png")
        frame = Frame.of(level(70), index=5, timestamp=9.0)
        tensor = torch.full((3, 8, 12), 80, dtype=torch.uint8)
        source = open_source([tmp_path / "1.png", str(tmp_path / "2.png"), level(60), frame, tensor])
        assert levels(source) == [10, 20, 60, 70, 80]
        assert source.frames == 5
        assert list(open_source([frame])) == [frame]  # with its own index and time

    def test_one_array_or_a_batch(self) -> None:
        assert levels(open_source(level(50))) == [50]
        assert levels(open_source(np.stack([level(50), level(60)]))) == [50, 60]
        assert levels(open_source(torch.full((3, 8, 12), 80, dtype=torch.uint8))) == [80]
        assert levels(open_source(torch.full((2, 3, 8, 12), 80, dtype=torch.uint8))) == [80, 80]

    def test_an_iterator_is_used_up(self) -> None:
        def pictures() -> Iterator[Image]:
            yield from (level(10), level(20))

        source = open_source(pictures())
        assert source.frames is None
        assert levels(source) == [10, 20]
        with pytest.raises(SourceError, match=r"^pictures: no pictures in it$"):
            list(source)

    def test_what_is_no_picture_in_a_list(self) -> None:
        source = open_source([level(10), "nowhere.png", np.full((4, 4, 3), np.nan, np.float32)])
        frames = iter(source)
        assert next(frames).index == 0
        with pytest.raises(FrameError, match="NaN"):
            next(frames)
        assert source.skipped == 1
