"""Sets of pictures: what is found, how it is divided, what is said when it does not fit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sharedbb.errors import DataError
from sharedbb.learn import data as sets
from sharedbb.learn.data import Data, Memory, Sample, open_data
from sharedbb.learn.labels import VOID
from sharedbb.media.synthetic import CLASSES, open_synthetic


def write_picture(path: Path, value: int, size: tuple[int, int] = (12, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def write_labels(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), labels)


def labelled_folder(folder: Path, **counts: int) -> Path:
    for part, count in counts.items():
        for index in range(count):
            write_picture(folder / part / f"p{index}.png", 10 * index)
            write_labels(folder / f"{part}annot" / f"p{index}.png", np.full((12, 16), index, np.uint8))
    return folder


def _video(path: Path) -> Path:
    """Twenty-two frames, each lighter than the one before."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(22):
            picture = np.full((48, 64, 3), 10 * index, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    return path


class TestLabelledFolders:
    def test_camvid_has_its_parts_its_classes_and_void(self, tmp_path: Path) -> None:
        labelled_folder(tmp_path, train=2, val=1)
        mixed = np.zeros((12, 16), np.uint8)
        mixed[0] = [*range(16)]
        write_labels(tmp_path / "valannot" / "p0.png", mixed)
        found = open_data(f"camvid:{tmp_path}")
        assert found.classes == CLASSES
        assert [len(found), len(found.of("train")), len(found.of("val"))] == [3, 2, 1]
        sample = found.of("val")[0]
        assert sample.labels is not None
        assert sample.labels[0].tolist() == [*range(11), *[VOID] * 5]
        assert (sample.rgb.shape, sample.rgb.dtype, sample.name) == ((12, 16, 3), np.uint8, "p0")
        with pytest.raises(DataError, match="no pictures for 'test'; of its 3 there is train, val"):
            found.of("test")

    def test_a_folder_names_its_classes_and_is_divided_when_it_is_not(self, tmp_path: Path) -> None:
        labelled_folder(tmp_path, rooms=4)
        (tmp_path / "classes.txt").write_text("floor\nwall\n\ntable\n")
        found = open_data(tmp_path)
        assert found.classes == ("floor", "wall", "table")
        assert [int(sample.labels[0, 0]) for sample in found if sample.labels is not None] == [0, 1, 2, VOID]
        assert [sample.name for sample in found.of("test")] == ["p3"]

    def test_folders_beside_the_parts_are_left_out(self, tmp_path: Path) -> None:
        labelled_folder(tmp_path, train=1, val=1, rooms=1)
        assert len(open_data(f"camvid:{tmp_path}")) == 2

    def test_colours_are_rgb(self, tmp_path: Path) -> None:
        labelled_folder(tmp_path, train=1)
        blue = np.zeros((12, 16, 3), np.uint8)
        blue[..., 0] = 200
        cv2.imwrite(str(tmp_path / "train" / "p0.png"), blue)
        assert open_data(f"camvid:{tmp_path}")[0].rgb[0, 0].tolist() == [0, 0, 200]

    def test_faults_say_what_would_work(self, tmp_path: Path) -> None:
        labelled_folder(tmp_path, train=2)
        with pytest.raises(DataError, match=r"write them into .*classes.txt, one a line"):
            open_data(tmp_path)
        (tmp_path / "classes.txt").write_text("a\na\n")
        with pytest.raises(DataError, match="has 2 names"):
            open_data(tmp_path)
        write_labels(tmp_path / "trainannot" / "p1.png", np.zeros((12, 15), np.uint8))
        with pytest.raises(DataError, match=r"p1.png must hold one uint8 class number a pixel, \(12, 16\), got uint8"):
            open_data(f"camvid:{tmp_path}")[1]
        write_labels(tmp_path / "trainannot" / "p1.png", np.zeros((12, 16, 3), np.uint8))
        with pytest.raises(DataError, match=r"got colours, uint8 \(12, 16, 3\): .* 8-bit grey, not a palette"):
            open_data(f"camvid:{tmp_path}")[1]
        (tmp_path / "trainannot" / "p1.png").unlink()
        with pytest.raises(DataError, match=r"1 of 2 pictures have no labels; the first is .*p1.png"):
            open_data(f"camvid:{tmp_path}")
        with pytest.raises(DataError, match="it needs train with trainannot"):
            open_data(f"camvid:{tmp_path / 'nowhere'}")


class TestUnlabelled:
    def test_a_folder_of_pictures_is_reduced_and_divided_by_blocks(self, tmp_path: Path) -> None:
        for index in range(20):
            write_picture(tmp_path / f"f{index:02d}.jpg", index, (40, 60))
        found = open_data(tmp_path, (20, 20))
        assert found.classes == ()
        assert found[0].labels is None
        assert found[0].rgb.shape == (13, 20, 3)
        names = {part: [sample.name for sample in found.of(part)] for part in ("train", "val", "test")}
        assert names["train"] == [f"f{index:02d}" for index in range(16)]
        assert (names["val"], names["test"]) == (["f16", "f17"], ["f18", "f19"])

    @pytest.mark.parametrize("count", [3, 9, 10, 99, 1000])
    def test_every_part_has_pictures_and_parts_are_runs(self, count: int) -> None:
        parts = sets.divided(count)
        assert len(parts) == count
        assert all(part in parts for part in sets.PARTS)
        changes = sum(first != second for first, second in pairwise(parts))
        assert changes <= max(3, 3 * count / sets.LONGEST_BLOCK / 9)
        if count >= 99:
            assert 0.75 <= parts.count("train") / count <= 0.85

    def test_a_video_gives_evenly_spread_frames(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = _video(tmp_path / "clip.mp4")
        monkeypatch.setattr(sets, "MOST_FRAMES", 8)
        found = open_data(path, (24, 64))
        assert [sample.name for sample in found] == [f"clip-{index:06d}" for index in range(0, 22, 4)]
        assert found[0].rgb.shape == (24, 32, 3)
        assert [round(float(sample.rgb.mean()) / 10) for sample in found] == [*range(0, 22, 4)]
        assert len(found.of("train")) == 4

    def test_a_part_of_a_video_is_named_behind_its_file(self, tmp_path: Path) -> None:
        path = _video(tmp_path / "clip.mp4")

        def frames(query: str) -> list[int]:
            return [int(sample.name.removeprefix("clip-")) for sample in open_data(f"{path}?{query}")]

        assert frames("to=0.5") == [*range(11)]
        assert frames("from=0.5") == [*range(11, 22)]
        assert frames("from=0.25&to=0.5") == [*range(6, 11)]
        for wrong in ("to=half", "from=0.5&to=0.5", "from=-1", "to=1.5", "from=0&until=1"):
            with pytest.raises(DataError, match=r"a part of a video is \?from=A&to=B with 0 <= A < B <= 1"):
                frames(wrong)
        (tmp_path / "odd?name").mkdir()
        with pytest.raises(DataError, match="no pictures in"):
            open_data(tmp_path / "odd?name")

    def test_nothing_there_says_what_data_is(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="data is camvid:DIR, coco:DIR, a folder, a video, or synthetic:"):
            open_data(tmp_path / "nothing.mp4")
        with pytest.raises(DataError, match="no pictures in"):
            open_data(tmp_path)
        (tmp_path / "broken.png").write_bytes(b"no picture")
        with pytest.raises(DataError, match=r"cannot read .*broken.png"):
            open_data(tmp_path)[0]


class TestSynthetic:
    def test_frames_are_those_of_the_video_with_labels_and_depth(self) -> None:
        found = open_data("synthetic:street?frames=5&seed=3", (32, 48))
        assert (len(found), found.classes, found.depth) == (5, CLASSES, True)
        video = open_synthetic("street?frames=5&seed=3&cuts=1&fps=0.25&size=48x32")
        made, sample = video.render(4), found[4]
        assert np.array_equal(sample.rgb, made.frame.rgb())
        assert sample.labels is not None
        assert np.array_equal(sample.labels, made.classes)
        assert sample.depth is not None
        assert np.array_equal(sample.depth, made.depth)
        assert not np.array_equal(found[3].labels, sample.labels)

    def test_what_the_text_says_wins(self) -> None:
        found = open_data("synthetic:street?frames=1&size=48x32&motion=static", (64, 96))
        assert found[0].rgb.shape == (32, 48, 3)

    def test_streets_are_not_split_between_parts(self) -> None:
        found = open_data("synthetic:street?frames=100")
        parts = sets.divided(100, sets.STREET_FRAMES)
        assert [len(found.of(part)) for part in sets.PARTS] == [84, 8, 8]
        assert all(len(set(parts[begin : begin + sets.STREET_FRAMES])) == 1 for begin in range(0, 100, 4))

    def test_an_unknown_key_is_an_error_of_data(self) -> None:
        with pytest.raises(DataError, match="did you mean 'seed'"):
            open_data("synthetic:street?sed=1")


class TestData:
    samples = tuple(Sample(f"s{index}", np.full((2, 2, 3), index, np.uint8)) for index in range(10))

    def test_slices_and_choices_are_sets(self) -> None:
        found = Data.given("ten", self.samples)
        assert [sample.name for sample in found[2:4]] == ["s2", "s3"]
        assert isinstance(found[2:4], Data)
        assert found[-1].name == "s9"
        assert [sample.name for sample in found.spread(4)] == ["s0", "s2", "s5", "s7"]
        assert len(found.spread(99)) == 10
        assert found.of("val").of("val")[0].name == "s8"
        assert repr(found) == "Data('ten', 10 pictures, 0 classes)"
        with pytest.raises(IndexError):
            found[10]
        with pytest.raises(DataError, match="at least 1, got 0"):
            found.spread(0)

    def test_pictures_are_read_once_while_there_is_memory(self) -> None:
        read: list[int] = []

        def reading(index: int) -> Sample:
            read.append(index)
            return self.samples[index]

        memory = Memory(free=2 * 12 + 11)
        items = [sets.Item("train", lambda index=index: reading(index), memory) for index in range(3)]
        found = Data("three", (), items)
        assert read == []
        for _ in range(2):
            assert [sample.name for sample in found] == ["s0", "s1", "s2"]
        assert read == [0, 1, 2, 2]
        assert found[:1][0] is found[0]


@pytest.mark.real
def test_camvid_reads_with_labels_in_range(data: Path) -> None:
    found = open_data(f"camvid:{data / 'camvid'}").of("val")
    assert len(found) == 101
    for sample in found.spread(9):
        assert sample.rgb.shape == (360, 480, 3)
        assert sample.labels is not None
        assert set(np.unique(sample.labels).tolist()) <= {*range(11), VOID}
