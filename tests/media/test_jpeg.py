"""JPEG at reduced size: the pixels that a full decode and an area mean give, no smaller than needed, damage found."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import sharedbb as sb
from sharedbb.errors import FrameError
from sharedbb.media import open_source
from sharedbb.media.jpeg import Jpeg, reduction, stored_size
from sharedbb.spec import loads
from sharedbb.transforms import RgbIntake
from sharedbb.transforms.colour import Colour
from sharedbb.transforms.yuv420 import PLANES, Yuv420Intake
from sharedbb.types import Fit, Frame, Geometry, Normalization, Size

Image = NDArray[np.uint8]

TAGS = """\
name: tags
input: {size: [96, 160]}
backbone: {arch: mobilenet_v3_small}
heads: {scene: {type: tags, taps: [16], labels: [indoors]}}
runtime: {backend: eager}
"""

MEAN = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def photo(height: int = 480, width: int = 640) -> Image:
    """Detail of several sizes, the finer the greyer as in photographs, an edge, and some noise."""
    random = np.random.default_rng(7)
    picture = np.full((height, width, 3), 128, np.float32)
    for pixels, weight, channels in ((80, 60, 3), (20, 30, 1), (5, 15, 1)):
        coarse = random.uniform(-weight, weight, (height // pixels + 2, width // pixels + 2, channels))
        fine = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        picture += fine.reshape(height, width, channels)
    picture += random.normal(0, 2, (height, width, 1))
    cv2.rectangle(picture, (width // 4, height // 4), (width // 2, height // 2), (160, 60, 60), -1)
    return picture.clip(0, 255).astype(np.uint8)


def stored(picture: Image, *options: int) -> Image:
    whole, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92, *options])
    assert whole
    return data.view(np.uint8)


def oriented(data: Image, orientation: int) -> Image:
    """The file with EXIF's orientation tag."""
    entry = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    raw = data.tobytes()
    return np.frombuffer(raw[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + raw[2:], np.uint8)


@pytest.mark.parametrize("by", [2, 4, 8])
@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)], ids=["baseline", "progressive"])
@pytest.mark.parametrize("sampling", [cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])
def test_a_reduced_picture_is_the_area_mean_of_the_whole(by: int, options: tuple[int, ...], sampling: int) -> None:
    data = stored(photo(), *options, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    got = Jpeg(data, by).at_least(Size(1, 1))
    whole = cv2.imdecode(data, cv2.IMREAD_COLOR)
    expected = cv2.resize(whole, (640 // by, 480 // by), interpolation=cv2.INTER_AREA)
    difference = np.abs(got.astype(int) - expected)
    assert got.shape == expected.shape
    assert difference.mean() <= 0.5
    # At a saturated edge the full decode smooths the chroma that was stored at half size; luma is the mean to rounding.
    assert difference.max() <= (24 if sampling == cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 else 3)


@pytest.mark.real
def test_photographs(data: Path) -> None:
    files = sorted((data / "camvid").glob("*/*.jpg"))[:3]
    assert files
    for file in files:
        raw = np.fromfile(file, np.uint8)
        whole = cv2.imdecode(raw, cv2.IMREAD_COLOR)
        got = Jpeg(raw, 2).at_least(Size(1, 1))
        expected = cv2.resize(whole, (got.shape[1], got.shape[0]), interpolation=cv2.INTER_AREA)
        difference = np.abs(got.astype(int) - expected)
        assert difference.mean() <= 0.7
        assert difference.max() <= 24


@pytest.mark.parametrize(
    ("size", "least", "by"),
    [
        (Size(720, 1280), Size(360, 640), 2),
        (Size(720, 1280), Size(361, 640), 1),
        (Size(720, 1280), Size(180, 320), 4),
        (Size(720, 1280), Size(90, 161), 4),
        (Size(720, 1280), Size(1, 1), 8),
        (Size(721, 1280), Size(90, 160), 1),
        (Size(722, 1282), Size(90, 160), 2),
    ],
)
def test_as_small_as_will_do(size: Size, least: Size, by: int) -> None:
    assert reduction(size, least) == by


def test_the_whole_picture_is_there_when_asked_for() -> None:
    data = stored(photo())
    frame = Frame(3, 0.5, encoded=Jpeg(data, 4))
    assert frame.size == Size(480, 640)
    assert np.array_equal(frame.rgb(), cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    assert frame.encoded is not None
    assert frame.encoded.at_least(Size(120, 160)).shape == (120, 160, 3)
    assert frame.encoded.at_least(Size(120, 161)).shape == (480, 640, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    data = oriented(stored(photo()), orientation)
    jpeg = Jpeg.reduced(data, lambda size: Size(size.height // 4, size.width // 4))
    assert jpeg is not None
    whole = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert jpeg.size == Size(*whole.shape[:2]) == (Size(480, 640) if orientation < 5 else Size(640, 480))
    expected = cv2.resize(whole, (whole.shape[1] // 4, whole.shape[0] // 4), interpolation=cv2.INTER_AREA)
    assert np.abs(jpeg.at_least(Size(1, 1)).astype(int) - expected).mean() <= 0.6


def test_a_picture_on_its_side_is_decoded_large_enough() -> None:
    def needed(size: Size) -> Size:
        return Size(size.height // (2 if size.height > size.width else 8), 1)

    for orientation, by in ((1, 2), (6, 2)):
        jpeg = Jpeg.reduced(oriented(stored(photo()), orientation), needed)
        assert jpeg is not None
        height, width = jpeg.size.height // by, jpeg.size.width // by
        assert jpeg.at_least(needed(jpeg.size)).shape == (height, width, 3)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (480, 640), (300, 1000)])
def test_the_size_is_read_from_the_header(size: tuple[int, int]) -> None:
    for options in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)):
        data = stored(np.full((*size, 3), 90, np.uint8), *options)
        assert stored_size(data) == stored_size(oriented(data, 6)) == Size(*size)


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xff\xff\xff\xff\xff\xff", b"no picture" * 20]
)
def test_what_has_no_header_has_no_size(raw: bytes) -> None:
    data = np.frombuffer(raw, np.uint8)
    assert stored_size(data) is None
    assert Jpeg.reduced(data, lambda _: Size(1, 1)) is None


def test_a_header_is_searched_to_its_end_whatever_the_bytes() -> None:
    data = oriented(stored(photo(16, 16)), 1)
    for end in range(len(data)):
        assert stored_size(data[:end]) in (None, Size(16, 16))
    random = np.random.default_rng(2)
    for _ in range(300):
        garbled = data.copy()
        garbled[random.integers(2, len(data), 20)] = random.integers(0, 256, 20)
        stored_size(garbled)


class TestFolder:
    """Pictures of a folder, for a network of 96 x 160 that fits them by letterbox."""

    @staticmethod
    def needed(size: Size) -> Size:
        _, _, width, height = Geometry.fit(size, Size(96, 160)).placed
        return Size(height, width)

    def test_large_jpeg_files_come_reduced_and_all_else_in_full(self, tmp_path: Path) -> None:
        for name, size in (("1.jpg", (480, 640)), ("2.JPEG", (200, 320)), ("3.jpg", (150, 200)), ("4.png", (480, 640))):
            cv2.imwrite(str(tmp_path / name), photo(*size))
        plain = list(open_source(tmp_path))
        source = open_source(tmp_path)
        source.at_least = self.needed  # type: ignore[attr-defined]
        frames = list(source)
        assert [frame.encoded is not None for frame in frames] == [True, True, False, False]
        assert [(f.index, f.timestamp, f.size) for f in frames] == [(f.index, f.timestamp, f.size) for f in plain]
        for frame, expected in zip(frames, plain, strict=True):
            assert np.array_equal(frame.rgb(), expected.rgb())

    def test_damaged_files_are_skipped_and_counted(self, tmp_path: Path) -> None:
        for number in (1, 2, 3, 4):
            cv2.imwrite(str(tmp_path / f"{number}.jpg"), photo())
        whole = (tmp_path / "2.jpg").read_bytes()
        (tmp_path / "2.jpg").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "3.jpg").write_bytes(whole[:2] + b"no picture" * 20)
        source = open_source(tmp_path)
        source.at_least = self.needed  # type: ignore[attr-defined]
        for _ in range(2):
            assert [frame.index for frame in source] == [0, 1]
            assert source.skipped == 2


class TestMotionJpeg:
    """A video of JPEG pictures, for a network of 96 x 160."""

    @staticmethod
    def video(path: Path, size: tuple[int, int] = (480, 640), frames: int = 6) -> Path:
        with av.open(str(path), "w") as file:
            stream: Any = file.add_stream("mjpeg", rate=25, options={"qmin": "2", "qmax": "3"})
            stream.height, stream.width, stream.pix_fmt = *size, "yuvj420p"
            for index in range(frames):
                picture = np.roll(photo(*size), 8 * index, 1)[..., ::-1]
                file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
            file.mux(stream.encode())
        return path

    @pytest.mark.parametrize("suffix", [".avi", ".mov", ".mkv"])
    def test_pictures_much_larger_than_needed_come_reduced(self, tmp_path: Path, suffix: str) -> None:
        path = self.video(tmp_path / f"video{suffix}")
        with open_source(path) as source:
            plain = list(source)
        with open_source(path) as source:
            source.at_least = TestFolder.needed
            frames = list(source)
        assert [frame.index for frame in frames] == list(range(6))
        assert [frame.timestamp for frame in frames] == pytest.approx([frame.timestamp for frame in plain])
        for frame, whole in zip(frames, plain, strict=True):
            assert frame.video is None
            assert frame.size == whole.size
            buffers = [np.zeros((1, 96, 160, 3), np.uint8) for _ in range(2)]
            for buffer, given in zip(buffers, (frame, whole), strict=True):
                RgbIntake(buffer, "letterbox", MEAN)(given)
            assert np.abs(buffers[0].astype(int) - buffers[1]).mean() < 2.0
            assert np.abs(frame.rgb().astype(int) - whole.rgb()).mean() < 2.0  # in full where that is asked for

    def test_pictures_that_are_needed_whole_come_as_the_decoder_gives_them(self, tmp_path: Path) -> None:
        with open_source(self.video(tmp_path / "video.avi", (144, 208))) as source:
            source.at_least = TestFolder.needed
            assert [frame.video is not None for frame in source] == [True] * 6

    def test_orientation_is_not_applied_as_the_decoder_does_not(self, tmp_path: Path) -> None:
        path = tmp_path / "turned.avi"
        with av.open(str(path), "w") as file:
            stream: Any = file.add_stream("mjpeg", rate=25)
            stream.height, stream.width, stream.pix_fmt = 480, 640, "yuvj420p"
            packet = av.Packet(oriented(stored(photo()), 6).tobytes())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 25)
            file.mux(packet)
        with open_source(path) as source:
            (whole,) = source
        with open_source(path) as source:
            source.at_least = TestFolder.needed
            (frame,) = source
        assert frame.encoded is not None
        assert frame.size == whole.size == Size(480, 640)
        assert np.abs(frame.rgb().astype(int) - whole.rgb()).mean() < 2.0

    def test_pictures_of_limited_range_come_as_the_decoder_gives_them(self, tmp_path: Path) -> None:
        path = tmp_path / "limited.avi"
        with av.open(str(path), "w") as file:
            stream: Any = file.add_stream("mjpeg", rate=25, options={"strict": "-1"})
            stream.height, stream.width, stream.pix_fmt = 480, 640, "yuv420p"
            stream.codec_context.color_range = 1
            black = av.VideoFrame.from_ndarray(np.zeros((480, 640, 3), np.uint8), format="rgb24")
            file.mux(stream.encode(black))
            file.mux(stream.encode())
        with open_source(path) as source:
            source.at_least = TestFolder.needed
            (frame,) = source
        assert frame.rgb().max() <= 2

    def test_a_picture_without_its_end_is_damaged(self, tmp_path: Path) -> None:
        path = self.video(tmp_path / "video.avi")
        data = bytearray(path.read_bytes())
        with av.open(str(path)) as file:
            third = [packet for packet in file.demux(video=0) if packet.size][2]
            assert third.pos is not None
            begin = data.index(b"\xff\xd8", third.pos)
            end = begin + third.size
        data[end - 400 : end] = bytes(400)
        path.write_bytes(data)
        with open_source(path) as source:
            source.at_least = TestFolder.needed
            frames = list(source)
            assert source.skipped == 1
        assert [frame.index for frame in frames] == list(range(5))
        assert np.diff([frame.timestamp for frame in frames]) == pytest.approx([0.04, 0.08, 0.04, 0.04])

    def test_an_engine_asks_for_no_more_than_it_needs(self, tmp_path: Path) -> None:
        seen: list[Size] = []
        with open_source(self.video(tmp_path / "video.avi")) as source:
            for result in sb.compile(loads(TAGS)).stream(source):
                assert result.frame.encoded is not None
                seen.append(Size(*result.frame.encoded.at_least(Size(1, 1)).shape[:2]))
        assert seen == [Size(120, 160)] * 6


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("size", [(192, 320), (480, 640), (400, 1000), (1000, 400)])
def test_intakes_read_reduced_pictures_as_they_read_whole_ones(size: tuple[int, int], fit: Fit) -> None:
    network = Size(96, 160)
    data = stored(photo(*size))
    whole = Frame.of(cv2.imdecode(data, cv2.IMREAD_COLOR))
    geometry = Geometry.fit(whole.size, network, fit)
    least = Size(geometry.placed[3], geometry.placed[2])
    by = reduction(whole.size, least)
    frame = Frame(0, 0.0, encoded=Jpeg(data, by))
    rgb: list[Image] = []
    luma: list[Image] = []
    for given in (frame, whole):
        buffer = np.zeros((1, 96, 160, 3), np.uint8)
        assert RgbIntake(buffer, fit, MEAN)(given) == geometry
        half = (1, 48, 80, 1)
        planes = {name: np.zeros(half if i else (1, 96, 160, 1), np.uint8) for i, name in enumerate(PLANES)}
        assert Yuv420Intake(planes, fit, MEAN, Colour())(given) == geometry
        rgb.append(buffer)
        luma.append(planes[PLANES[0]])
    difference = np.abs(rgb[0].astype(int) - rgb[1])
    assert difference.mean() <= 1.5
    assert np.abs(luma[0].astype(int) - luma[1]).mean() <= 1.5


def test_a_damaged_picture_is_said() -> None:
    data = stored(photo())
    with pytest.raises(FrameError, match=r"^the JPEG picture is damaged$"):
        Jpeg(data[: len(data) // 2], 2)
