"""Video sources: every frame of whatever can be decoded, a clear error for the rest, and nothing that hangs."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.context import ThreadType
from numpy.typing import NDArray

from sharedbb.errors import SourceError
from sharedbb.media import video as module
from sharedbb.media.video import VideoSource
from sharedbb.types import Frame, Size

Image = NDArray[np.uint8]
Clip = Callable[..., Path]

FAST_START = (("movflags", "faststart"),)
FRAGMENTED = (("movflags", "frag_keyframe+empty_moov"),)
SHORT_GROUPS = (("g", "8"),)


class Machine:
    """Stands in for the machine's clock: every look at it takes ``pace`` seconds."""

    def __init__(self, pace: float = 0.0) -> None:
        self.now, self.pace = 1000.0, pace

    def monotonic(self) -> float:
        self.now += self.pace
        return self.now


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    clock = Machine()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts and pauses short enough for tests."""
    monkeypatch.setattr(module, "OPEN_SECONDS", 0.25)
    monkeypatch.setattr(module, "READ_SECONDS", 0.25)
    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.0)


def until_it_breaks(source: VideoSource) -> tuple[list[Frame], str]:
    """The frames that come, and the error that ends them or ""."""
    frames = []
    try:
        for frame in source:
            frames.append(frame)  # noqa: PERF402 - those before the error count
    except SourceError as error:
        return frames, str(error)
    return frames, ""


def differs(one: Image, other: Image) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def forward(frames: list[Frame]) -> bool:
    return all(one.timestamp < other.timestamp for one, other in pairwise(frames))


FORMATS = [
    (".mp4", "libx264", "yuv420p", (64, 96)),
    (".mp4", "libx264", "yuv444p", (64, 96)),
    (".mkv", "libx264", "yuv420p10le", (64, 96)),
    (".mkv", "ffv1", "gray", (64, 96)),
    (".mp4", "libx264", "yuv444p", (63, 95)),
    (".avi", "mpeg4", "yuv420p", (64, 96)),
    (".mp4", "mpeg4", "yuv420p", (49, 33)),
    (".mkv", "ffv1", "yuva420p", (64, 96)),
    (".mkv", "ffv1", "bgr0", (1, 1)),
    (".mkv", "ffv1", "yuv420p16le", (64, 96)),
    (".ts", "libx264", "yuv420p", (64, 96)),
    (".webm", "libvpx-vp9", "yuv420p", (64, 96)),
    (".avi", "mjpeg", "yuvj420p", (64, 96)),
]


@pytest.mark.parametrize(("suffix", "codec", "pixels", "size"), FORMATS)
def test_every_frame_of_every_format(
    clip: Clip, scene: Callable[..., Image], suffix: str, codec: str, pixels: str, size: tuple[int, int]
) -> None:
    if pixels not in {known.name for known in av.Codec(codec, "w").video_formats or ()}:
        pytest.skip(f"this {codec} cannot encode {pixels}")
    with VideoSource.file(str(clip(suffix, codec, pixels, frames=10, size=size))) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(10))
    assert [frame.timestamp for frame in frames] == pytest.approx([index / 25 for index in range(10)])
    assert (source.fps, source.size, source.live, source.skipped) == (25.0, Size(*size), False, 0)
    for index, frame in enumerate(frames):
        assert frame.video is not None
        assert frame.video.format.name == pixels  # planes as they were coded
        picture = scene(index, *size)
        if pixels == "gray":
            picture = (picture @ [0.299, 0.587, 0.114])[..., None].repeat(3, -1).astype(np.uint8)
        assert differs(frame.rgb(), picture) < 12
    assert differs(frames[0].rgb(), frames[9].rgb()) > 12 or size == (1, 1)


@pytest.mark.parametrize(("suffix", "expected"), [(".mp4", 30), (".mkv", 30), (".ts", 30), (".avi", 30)])
def test_the_number_of_frames_is_known_beforehand(clip: Clip, suffix: str, expected: int) -> None:
    with VideoSource.file(str(clip(suffix))) as source:
        assert source.frames == expected


def test_times_are_the_container_s_also_with_reordered_frames(clip: Clip) -> None:
    path = clip(coder=(("bf", "3"), ("b-adapt", "0"), ("x264-params", "scenecut=0")), container=FAST_START)
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    assert "B" in {av.video.frame.PictureType(picture.pict_type).name for picture in pictures}
    frames = list(VideoSource.file(str(path)))
    assert [frame.timestamp for frame in frames] == pytest.approx([picture.time for picture in pictures])


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([5.0, 5.1, 5.35], [0.0, 0.1, 0.35]),
        ([None, None, None], [0.0, 0.04, 0.08]),
        ([1.0, None, 1.1], [0.0, 0.04, 0.1]),
        ([None, 7.0, 7.1], [0.0, 0.04, 0.14]),
        ([1.0, 1.1, 1.1, 1.2], [0.0, 0.1, 0.14, 0.2]),
        ([1.0, 2.0, 0.5, 0.6, 2.5], [0.0, 1.0, 1.04, 1.08, 1.5]),
    ],
)
def test_the_clock_follows_sane_times_and_never_stands_still(times: list[float | None], expected: list[float]) -> None:
    clock = module._Clock(25.0)
    assert [clock.at(time) for time in times] == pytest.approx(expected)


def vectors(source: VideoSource) -> list[int]:
    """How many motion vectors each frame carries."""
    found = []
    for frame in source:
        assert frame.video is not None
        carried: Any = frame.video.side_data.get("MOTION_VECTORS")
        found.append(0 if carried is None else len(carried.to_ndarray()))
    return found


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".avi", "mpeg4")])
def test_motion_vectors_come_when_asked_for(clip: Clip, suffix: str, codec: str) -> None:
    path = str(clip(suffix, codec, frames=6, coder=(("bf", "0"), ("g", "3"))))
    source = VideoSource.file(path, motion=True)
    for _ in range(2):  # a new decoder each time
        assert [count > 0 for count in vectors(source)] == [False, True, True] * 2
    assert vectors(VideoSource.file(path)) == [0] * 6


def test_a_codec_without_vectors_is_read_all_the_same(clip: Clip) -> None:
    path = str(clip(".webm", "libvpx-vp9", frames=4))
    assert vectors(VideoSource(path, motion=True)) == [0] * 4


def test_the_clock_goes_on_after_a_restart(machine: Machine) -> None:
    clock = module._Clock(None)
    assert [clock.at(3.0), clock.at(4.0)] == [0.0, 1.0]
    clock.restart()
    assert [clock.at(100.0), clock.at(100.5)] == pytest.approx([1.04, 1.54])
    clock.restart()
    machine.now += 33.0
    assert [clock.at(7.0), clock.at(7.5), clock.at(None)] == pytest.approx([34.54, 35.04, 35.08])


LASTING = [(".mkv", "libx264", Fraction(1, 5), 6, None), (".mkv", "libx264", Fraction(1), 1, None)]
LASTING += [(suffix, codec, Fraction(25), 40, 4.0) for suffix, codec in ((".mkv", "libx264"), (".webm", "libvpx"))]


@pytest.mark.parametrize(("suffix", "codec", "rate", "count", "last"), LASTING)
def test_a_file_whose_last_picture_stands_long_is_whole(
    scene: Callable[..., Image], tmp_path: Path, suffix: str, codec: str, rate: Fraction, count: int, last: float | None
) -> None:
    path = tmp_path / f"lasting{suffix}"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        frames = [av.VideoFrame.from_ndarray(scene(index, 48, 64), format="rgb24") for index in range(count)]
        packets = [packet for frame in (*frames, None) for packet in stream.encode(frame)]
        if last is not None:
            final = max(packets, key=lambda packet: packet.pts)
            final.duration = round(last / final.time_base)
        for packet in packets:
            file.mux(packet)
    assert len(list(VideoSource.file(str(path)))) == count


def test_a_stream_without_times_runs_at_its_rate(clip: Clip, tmp_path: Path) -> None:
    bare = tmp_path / "bare.h264"
    with av.open(str(clip(coder=(("bf", "0"),)))) as file, av.open(str(bare), "w", format="h264") as raw:
        template = file.streams.video[0]
        stream = raw.add_stream_from_template(template)
        for packet in file.demux(template):
            if packet.size:
                packet.stream = stream
                raw.mux(packet)
    frames = list(VideoSource.file(str(bare)))
    assert len(frames) == 30
    assert [frame.timestamp for frame in frames] == pytest.approx([index / 25 for index in range(30)])


def test_the_size_may_change_midway(clip: Clip, scene: Callable[..., Image], tmp_path: Path) -> None:
    both = tmp_path / "both.ts"
    small = clip(".ts", size=(48, 64), frames=12)
    both.write_bytes(clip(".ts", frames=12).read_bytes() + small.read_bytes())
    source = VideoSource.file(str(both))
    frames = list(source)
    assert [frame.size for frame in frames] == [Size(64, 96)] * 12 + [Size(48, 64)] * 12
    assert forward(frames)
    assert frames[-1].timestamp == pytest.approx(23 / 25)
    assert source.skipped == 0
    assert all(differs(frames[12 + index].rgb(), scene(index, 48, 64)) < 12 for index in range(12))


CUT = [
    (".mp4", "libx264", FAST_START),
    (".mp4", "libx264", FRAGMENTED),
    (".mp4", "libx264", ()),
    (".avi", "mpeg4", ()),
    (".avi", "mjpeg", ()),
    (".mkv", "libx264", ()),
]


@pytest.mark.parametrize(("suffix", "codec", "container"), CUT)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.95])
def test_a_file_that_was_cut_gives_what_is_left_and_an_error(
    clip: Clip, cut: Callable[..., Path], suffix: str, codec: str, container: tuple[tuple[str, str], ...], share: float
) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    # A long clip, since the end of a Matroska file may miss by a second before it is taken for cut.
    path = clip(suffix, codec, pixels, frames=90, noise=20, coder=SHORT_GROUPS, container=container)
    whole = {round(frame.timestamp, 3): frame.rgb() for frame in VideoSource.file(str(path))}
    source, error = opened(cut(path, share))
    assert "\n" not in error
    if source is None:
        assert share < 0.5 or not container  # with the index at the end nothing can be read
        return
    frames, error = until_it_breaks(source)
    assert "\n" not in error
    if frames:
        missed = 90 - len(frames) > (20 if suffix == ".mkv" else 0) and container != FRAGMENTED
        assert not missed or f"breaks off after {len(frames)} frame" in error
    else:
        assert "not a single frame can be decoded" in error
    assert forward(frames)
    for frame in frames:
        assert np.array_equal(frame.rgb(), whole[round(frame.timestamp, 3)])
    assert source.skipped == ("its last frame is incomplete" in error)


def opened(path: Path) -> tuple[VideoSource | None, str]:
    """The source, or why there is none."""
    try:
        return VideoSource.file(str(path)), ""
    except SourceError as error:
        return None, str(error)


def test_a_stream_cut_anywhere_is_a_stream(clip: Clip, cut: Callable[..., Path]) -> None:
    frames, error = until_it_breaks(VideoSource.file(str(cut(clip(".ts", noise=20, coder=SHORT_GROUPS), 0.5))))
    assert 10 <= len(frames) < 20
    assert error == ""


def blanked(path: Path, numbers: Iterable[int], copy: Path) -> VideoSource:
    """A clip of JPEGs without the headers of some of them."""
    data = bytearray(path.read_bytes())
    starts = [found.start() for found in re.finditer(b"\xff\xd8\xff", data)]
    for number in numbers:
        data[starts[number] : starts[number] + 230] = bytes(230)
    copy.write_bytes(data)
    return VideoSource.file(str(copy))


def test_damaged_pictures_are_skipped_and_counted(clip: Clip, tmp_path: Path) -> None:
    path = clip(".avi", "mjpeg", "yuvj420p", noise=20)
    whole = [frame.rgb() for frame in VideoSource.file(str(path))]
    source = blanked(path, (3, 15, 16), tmp_path / "blanked.avi")
    for _ in range(2):  # every iteration counts anew
        frames, error = until_it_breaks(source)
        assert (len(frames), source.skipped, error) == (27, 3, "")
        assert [frame.index for frame in frames] == list(range(27))
        kept = [number for number in range(30) if number not in (3, 15, 16)]
        assert [frame.timestamp for frame in frames] == pytest.approx([number / 25 for number in kept])
        assert all(np.array_equal(frame.rgb(), whole[number]) for frame, number in zip(frames, kept, strict=True))


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mp4", "mpeg4"), (".ts", "libx264")])
def test_garbage_midway_is_skipped_and_the_run_goes_on(
    clip: Clip, garbled: Callable[..., Path], suffix: str, codec: str
) -> None:
    container = FAST_START if suffix == ".mp4" else ()
    path = clip(suffix, codec, noise=20, coder=(*SHORT_GROUPS, ("b", "2000000")), container=container)
    skipped = 0
    for where in (0.3, 0.4, 0.5, 0.6, 0.7):
        source = VideoSource.file(str(garbled(path, where)))
        frames, error = until_it_breaks(source)
        assert error == ""
        assert 18 <= len(frames) <= 30 - source.skipped
        assert forward(frames)
        assert frames[-1].timestamp > 1.1  # of 1.16
        skipped += source.skipped
    assert 3 <= skipped <= 40  # a decoder may also patch a hole without a word


def test_frames_that_the_decoder_marks_as_corrupt_are_left_out(clip: Clip, garbled: Callable[..., Path]) -> None:
    path = garbled(clip(".mp4", "mpeg4", noise=20, coder=(("b", "2000000"),)), 0.3)
    with av.open(str(path)) as container:
        marked = [frame.is_corrupt for frame in container.decode(video=0)]
    assert sum(marked) == 1
    source = VideoSource.file(str(path))
    assert len(list(source)) == len(marked) - 1
    assert source.skipped == 1


def test_nothing_but_damage_is_an_error(clip: Clip, tmp_path: Path) -> None:
    path = tmp_path / "blanked.avi"
    frames, error = until_it_breaks(blanked(clip(".avi", "mjpeg", "yuvj420p", noise=20), range(30), path))
    assert frames == []
    assert re.fullmatch(rf"{path}: not a single frame can be decoded \((2[6-9]|30) damaged\)", error)


def test_sound_alone_is_no_video(sound: Path) -> None:
    with pytest.raises(SourceError, match=r"has no video stream, only audio$"):
        VideoSource.file(str(sound))


def test_a_cover_picture_is_no_video(tmp_path: Path, clip: Clip) -> None:
    cover = next(iter(VideoSource.file(str(clip(".avi", "mjpeg", "yuvj420p", frames=1))))).rgb()
    picture = av.CodecContext.create("mjpeg", "w")
    picture.height, picture.width, picture.pix_fmt, picture.time_base = *cover.shape[:2], "yuvj420p", av.time_base
    path = tmp_path / "song.mka"
    with av.open(str(path), "w", format="matroska") as file:
        stream = file.add_stream("pcm_s16le", rate=8000)
        coded = picture.encode(av.VideoFrame.from_ndarray(cover, format="rgb24").reformat(format="yuvj420p"))
        file.add_attachment("cover.jpg", "image/jpeg", bytes((coded + picture.encode(None))[0]))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        samples.sample_rate = 8000
        file.mux(stream.encode(samples))
    with av.open(str(path)) as file:
        assert len(file.streams.video) == 1
    with pytest.raises(SourceError, match=r"has no video stream, only audio$"):
        VideoSource.file(str(path))


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def test_what_is_no_video(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(20000)
    for name, data in (("text.mp4", b"hello world\n" * 50), ("noise.mp4", noise), ("empty.mp4", b"")):
        with pytest.raises(SourceError, match=rf"cannot open \S*{name}: it is damaged, or no video$"):
            VideoSource.file(written(tmp_path / name, data))
    with pytest.raises(SourceError, match=r"notes\.txt: it is text, not video$"):
        VideoSource.file(written(tmp_path / "notes.txt", b"hello world\n" * 50))
    with pytest.raises(SourceError, match=r"No such file or directory$"):
        VideoSource.file(str(tmp_path / "nowhere.mp4"))


def test_a_codec_that_nobody_knows(clip: Clip, tmp_path: Path) -> None:
    unknown = clip().read_bytes().replace(b"avc1", b"zzzz")
    with pytest.raises(SourceError, match="there is no decoder for its video, or its headers are damaged"):
        VideoSource.file(written(tmp_path / "unknown.mp4", unknown))
    headers = clip(container=FRAGMENTED).read_bytes()[:300]
    with pytest.raises(SourceError):
        VideoSource.file(written(tmp_path / "headers.mp4", headers))


def test_names_and_titles_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    titled = tmp_path / "12:30 größer.mp4"  # of protocol "12", to FFmpeg
    with av.open(str(titled), "w", format="mp4") as file:
        file.metadata["title"] = "Strasse"
        stream = file.add_stream("mpeg4", rate=25)
        stream.height = stream.width = 32
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        file.mux(stream.encode(None))
    titled.write_bytes(titled.read_bytes().replace(b"Strasse", b"Stra\xdfen"))  # Latin-1
    assert len(list(VideoSource.file(titled.name))) == 1


def test_iterating_again_starts_again(clip: Clip) -> None:
    with VideoSource.file(str(clip())) as source:
        one, other = iter(source), iter(source)
        pairs = list(zip(one, other, strict=True))
        assert len(pairs) == 30
        assert all(np.array_equal(a.rgb(), b.rgb()) and a.timestamp == b.timestamp for a, b in pairs)
        assert len(list(source)) == 30


def test_a_closed_source_gives_nothing(clip: Clip) -> None:
    source = VideoSource.file(str(clip()))
    with source:
        frames = iter(source)
        assert next(frames).index == 0
    assert list(frames) == []
    with pytest.raises(SourceError, match=r"is closed$"):
        list(source)
    source.close()


class TestCameras:
    """A test pattern of FFmpeg's stands in for the device."""

    @pytest.fixture
    def pattern(self, monkeypatch: pytest.MonkeyPatch) -> None:
        camera = ("lavfi", "testsrc=size=64x48:rate=25:duration=0.{}", {})
        monkeypatch.setattr(module, "CAMERAS", {"linux": camera, sys.platform: camera})

    def test_a_camera_is_live_and_has_no_end(self, pattern: None, machine: Machine) -> None:
        with VideoSource.camera(2) as camera:
            assert (camera.live, camera.frames, camera.fps, camera.size) == (True, None, 25.0, Size(48, 64))
            frames = list(islice(camera, 23))
        assert [frame.index for frame in frames] == list(range(23))
        # Every 0.2 seconds the pattern ends and is opened again; the time goes on.
        assert [frame.timestamp for frame in frames] == pytest.approx([index / 25 for index in range(23)])

    def test_motion_vectors_of_live_sources(self, clip: Clip, pattern: None, monkeypatch: pytest.MonkeyPatch) -> None:
        with VideoSource.stream(str(clip(coder=(("bf", "0"), ("g", "30")))), motion=True) as stream:
            assert min(vectors(stream)[1:]) > 0
        with VideoSource.camera(2, motion=True) as camera:  # of a format without
            assert next(iter(camera)).video is not None

    def test_frames_are_not_held_back_by_threads(self, pattern: None) -> None:
        with VideoSource.camera(2) as camera:
            assert next(iter(camera)).video is not None
            assert camera._connect()._stream.codec_context.thread_type is ThreadType.SLICE  # as the one it reads

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names a device of Linux")
    def test_no_camera(self) -> None:
        with pytest.raises(SourceError, match=r"^cannot open camera 77 \(/dev/video77\): No such file or directory$"):
            VideoSource.camera(77)

    def test_a_camera_that_is_unplugged(self, pattern: None, monkeypatch: pytest.MonkeyPatch) -> None:
        camera = VideoSource.camera(2)
        frames: Iterator[Frame] = iter(camera)
        assert len(list(islice(frames, 5))) == 5
        camera._address = "nothing"
        with pytest.raises(SourceError, match=r"^camera 2 .* broke off and did not come back: cannot open camera 2"):
            next(frames)


class TestAddresses:
    def test_a_file(self, server: Any, clip: Clip) -> None:
        for path in (clip(), clip(".ts")):
            with VideoSource(server.address("whole", path)) as source:
                assert not source.live
                assert len(list(source)) == 30

    def test_what_is_not_there(self, server: Any, clip: Clip) -> None:
        with pytest.raises(SourceError, match=r"cannot open http://.*nothing: Server returned 404 Not Found$"):
            VideoSource(server.address("whole", clip()).rpartition("/")[0] + "/nothing")
        for address in ("http://127.0.0.1:9/x", "rtsp://127.0.0.1:9/x"):
            with pytest.raises(SourceError, match=f"^cannot open {address}: Connection refused$"):
                VideoSource.stream(address)
        with pytest.raises(SourceError, match=r"^cannot open gopher-ng://x: Protocol not found$"):
            VideoSource("gopher-ng://x")

    def test_one_that_never_answers(self, server: Any, clip: Clip) -> None:
        with pytest.raises(SourceError, match=r"^cannot open http\S+: no data within 0.25 s$"):
            VideoSource(server.address("silent", clip()))

    @pytest.mark.parametrize("how", ["half", "stall"])
    def test_one_that_stops_midway(self, server: Any, clip: Clip, cut: Callable[..., Path], how: str) -> None:
        path = clip(noise=20, coder=SHORT_GROUPS, container=FAST_START)
        whole = {round(frame.timestamp, 3): frame.rgb() for frame in VideoSource.file(str(path))}
        frames, error = until_it_breaks(VideoSource(server.address(how, path)))
        assert len(frames) == len(until_it_breaks(VideoSource.file(str(cut(path, 0.5))))[0]) >= 8
        reason = "no data within 0.25 s" if how == "stall" else ".+"
        assert f"breaks off after {len(frames)} frames: " in error
        assert reason in error or how == "half"
        assert all(np.array_equal(frame.rgb(), whole[round(frame.timestamp, 3)]) for frame in frames)

    def test_one_that_sends_garbage_midway(self, server: Any, clip: Clip) -> None:
        path = clip(noise=20, coder=SHORT_GROUPS, container=FAST_START)
        source = VideoSource(server.address("garbage", path))
        frames, error = until_it_breaks(source)
        assert 8 <= len(frames) <= 22
        assert source.skipped > 0
        assert forward(frames)
        assert "\n" not in error

    def test_a_live_one_that_comes_back(self, server: Any, clip: Clip, machine: Machine) -> None:
        source = VideoSource(server.address("twice", clip(".ts")), live=True)
        assert source.frames is None
        frames, error = until_it_breaks(source)
        assert len(frames) == 60
        assert [frame.timestamp for frame in frames] == pytest.approx([index / 25 for index in range(60)])
        assert "broke off and did not come back" in error
        assert server.asked == ["twice"] * (2 + module.RECONNECTS)

    def test_the_time_goes_on_where_a_live_one_comes_back_with_another(
        self, server: Any, clip: Clip, machine: Machine
    ) -> None:
        later = clip(".ts", first=5000)
        with av.open(str(later)) as container:
            assert next(container.decode(video=0)).time == pytest.approx(200, abs=2)
        source = VideoSource(server.address("once", clip(".ts")), live=True)
        frames = iter(source)
        taken = list(islice(frames, 30))
        source._address = server.address("whole", later)
        machine.now += 12.0
        taken += islice(frames, 30)
        assert [frame.timestamp for frame in taken[:30]] == pytest.approx([index / 25 for index in range(30)])
        assert [frame.timestamp for frame in taken[30:]] == pytest.approx([13.16 + index / 25 for index in range(30)])

    def test_a_live_one_with_an_end_is_not_begun_again(self, server: Any, clip: Clip) -> None:
        source = VideoSource(server.address("whole", clip(container=FAST_START)), live=True)
        assert source.live
        assert len(list(source)) == 30
        assert server.asked == ["whole"]

    def test_a_camera_that_sends_pictures_over_http(
        self, server: Any, clip: Clip, tmp_path: Path, machine: Machine
    ) -> None:
        data = clip(".avi", "mjpeg", "yuvj420p").read_bytes()
        pictures = re.findall(rb"\xff\xd8\xff.*?\xff\xd9", data, re.DOTALL)
        head = b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
        path = tmp_path / "camera.mjpg"
        path.write_bytes(b"".join(head % len(picture) + picture + b"\r\n" for picture in pictures))
        source = VideoSource(server.address("twice", path))
        assert (source.live, source.fps, source.frames) == (True, None, None)
        assert source._opened is not None
        assert source._opened._stream.codec_context.thread_type is ThreadType.SLICE
        machine.pace, begun = 0.1, machine.now
        frames, error = until_it_breaks(source)
        assert len(frames) == 60  # it broke off once, and came back
        assert "broke off and did not come back" in error
        assert server.asked == ["twice"] * (2 + module.RECONNECTS)
        # It tells no times, whatever rate FFmpeg makes up: those at which its pictures arrive count.
        steps = np.diff([frame.timestamp for frame in frames])
        assert steps.min() >= 0.1 - 1e-6
        assert frames[-1].timestamp == pytest.approx(machine.now - begun, rel=0.1)

    def test_connections_without_a_frame_are_given_up(
        self, server: Any, clip: Clip, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module._Connection, "frames", lambda self, at_least: iter([]))
        frames, error = until_it_breaks(VideoSource(server.address("whole", clip(".ts")), live=True))
        assert frames == []
        assert "did not come back: it ended" in error
        assert server.asked == ["whole"] * (1 + module.RECONNECTS)

    def test_closing_while_another_thread_reads(self, server: Any, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "READ_SECONDS", 30.0)
        source = VideoSource(server.address("stall", clip(".ts", noise=20)))
        frames: list[Frame] = []
        reader = threading.Thread(target=lambda: frames.extend(source))
        reader.start()
        server.stalls.wait()
        source.close()  # must not pull the container from under the reader
        server.goes_on.set()
        reader.join()
        assert len(frames) < 30


@pytest.mark.real
def test_real_clips_are_read_to_the_end(data: Path) -> None:
    for path in sorted((data / "clips").iterdir()):
        with VideoSource.file(str(path)) as source:
            frames, error = until_it_breaks(source)
        assert error == ""
        assert source.skipped == 0
        assert source.frames is not None
        assert abs(len(frames) - source.frames) <= 2
        assert forward(frames)
