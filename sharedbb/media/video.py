"""Video through PyAV: files, cameras and addresses, frame by frame, with the decoder's planes untouched."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import av.error
import numpy as np
from av.codec.context import Flags2
from av.video.stream import VideoStream

from sharedbb.errors import FrameError, SourceError
from sharedbb.media.jpeg import Jpeg, reduction, stored_size
from sharedbb.types import Frame, Size

OPEN_SECONDS, READ_SECONDS = 10.0, 10.0  # without an answer, without data
RECONNECTS, RECONNECT_SECONDS = 3, 1.0  # how often a live address that breaks off is tried again, and the pause before
MOST_FAULTS = 100  # packets in a row that cannot be read before a stream is given up
LEAST_SHOWN, SLACK_SECONDS = 0.9, 0.5  # of the time a file should last, and less: one that ends earlier was cut
MOST_THREADS = 4  # of a decoder; each may hold a frame, and damage among the last frames takes those with it
MOST_FPS = 1000.0  # what claims more does not know its rate

CAMERAS: Mapping[str, tuple[str, str, dict[str, str]]] = {
    "linux": ("v4l2", "/dev/video{}", {}),
    "darwin": ("avfoundation", "{}:none", {"framerate": "30"}),
    "win32": ("vfwcap", "{}", {}),
}
"""Format, address and options of a camera by its number, for each ``sys.platform``."""

TEXT_ART = frozenset(("ansi", "bintext", "idf", "xbin"))  # what FFmpeg would make of a plain .txt: pictures of letters
CAMERA_OVER_HTTP = "mpjpeg"
FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG
COVER = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC


class VideoSource:
    """Frames of a video stream as the decoder gives them (``Frame.video``), timestamps in seconds from the first.

    Every iteration of a file starts at its first frame, with a decoder of its own; one of a live source goes on with
    what comes. ``skipped`` counts the damaged frames that the last iteration left out. Timestamps that are missing or
    run backwards continue at the stream's rate; while a live address is away, and for cameras over HTTP, which tell no
    times, the machine's own clock counts. A rotation in the container's metadata is not applied: frames are as
    they were coded. With ``motion`` frames carry the motion vectors of their blocks (``Frame.video.side_data``), where
    the codec has them: H.264, MPEG-1, 2 and 4.

    Whoever needs only so many pixels sets ``at_least``, which takes a picture's size and gives the smallest that will
    do: Motion JPEG at least twice as large is then decoded at 1/2, 1/4 or 1/8 of its size (``Frame.encoded``).

    ``close`` may be called while another thread iterates: that thread ends with the frame it waits for.

    Raises SourceError when it cannot be opened or has no video; while iterating, after the frames that came before,
    when no frame can be decoded, when a file or connection breaks off, and when a live address that breaks off does
    not come back.
    """

    at_least: Callable[[Size], Size] | None = None

    def __init__(
        self,
        name: str,
        *,
        address: str | None = None,
        live: bool = False,
        format_: str | None = None,
        options: Mapping[str, str] | None = None,
        motion: bool = False,
    ) -> None:
        self.name = name
        self.skipped = 0
        self._motion = motion
        self._address = address or name
        self._format = format_
        self._options = dict(options or {})
        self._is_live = live
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._opened: _Connection | None = self._connect()
        self.fps = self._opened.fps
        self.size = self._opened.size
        self.live = live or self._opened.format == CAMERA_OVER_HTTP
        self._endless = self.live and self._opened.seconds is None
        self.frames = None if self._endless else self._opened.expected

    @classmethod
    def file(cls, path: str, *, motion: bool = False) -> Self:
        """A video file. Raises SourceError as the class does."""
        # An absolute path, since FFmpeg would read "12:30.mp4" as an address of protocol "12".
        return cls(path, address=str(Path(path).absolute()), motion=motion)

    @classmethod
    def camera(cls, number: int, *, motion: bool = False) -> Self:
        """A camera attached to this machine. Raises SourceError when there is none of this number."""
        format_, address, options = CAMERAS.get(sys.platform, CAMERAS["linux"])
        address = address.format(number)
        name = f"camera {number} ({address})"
        return cls(name, address=address, live=True, format_=format_, options=options, motion=motion)

    @classmethod
    def stream(cls, address: str, *, motion: bool = False) -> Self:
        """A live address, read over TCP where it is RTSP. Raises SourceError as the class does."""
        options = {"rtsp_transport": "tcp"} if address.lower().startswith("rtsp") else {}
        return cls(address, live=True, options=options, motion=motion)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file or connection; an iteration in another thread closes its own as it ends."""
        with self._lock:
            self._closed.set()
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def __iter__(self) -> Iterator[Frame]:
        self.skipped = 0
        clock = _Clock(self.fps)
        index, fruitless = 0, 0
        connection: _Connection | None = self._first()
        while connection is not None:
            with closing(connection):
                for picture in connection.frames(self.at_least):
                    if self._closed.is_set():
                        return
                    if picture is None:
                        self.skipped += 1
                        continue
                    yield Frame(index, clock.at(picture.seconds), video=picture.video, encoded=picture.encoded)
                    index, fruitless = index + 1, 0
            broken = connection.broken
            connection = self._again(fruitless, broken) if self._endless else None
            clock.restart()
            fruitless += 1
        if self._closed.is_set():
            return
        if index == 0:
            reason = broken or (f"{self.skipped} damaged" if self.skipped else "there is none")
            raise SourceError(f"{self.name}: not a single frame can be decoded ({reason})")
        if broken:
            raise SourceError(f"{self.name} breaks off after {index} frame{'s' * (index > 1)}: {broken}")

    def _connect(self) -> _Connection:
        opened = _Connection(self.name, self._address, self._format, self._options, self._is_live)
        if self._motion:
            opened.export_motion()
        return opened

    def _first(self) -> _Connection:
        """The connection that the constructor opened, or a new one."""
        with self._lock:
            if self._closed.is_set():
                raise SourceError(f"{self.name} is closed")
            opened, self._opened = self._opened, None
        return opened or self._connect()

    def _again(self, fruitless: int, broken: str | None) -> _Connection | None:
        """A new connection to a live address that broke off; None when the source was closed meanwhile."""
        fault = broken or "it ended"
        for _ in range(fruitless, RECONNECTS):
            if self._closed.wait(RECONNECT_SECONDS):
                return None
            try:
                return self._connect()
            except SourceError as error:
                fault = str(error)
        raise SourceError(f"{self.name} broke off and did not come back: {fault}")


class _Connection:
    """One opened container and its video stream, read once.

    ``broken`` says after ``frames`` why there could be more of them; ``expected`` is how many the container announces.
    """

    def __init__(self, name: str, address: str, format_: str | None, options: Mapping[str, str], live: bool) -> None:
        self.broken: str | None = None
        self._is_whole = False
        timeout: Any = (OPEN_SECONDS, READ_SECONDS)  # the stub knows Real only, which float is not
        try:
            self._container = av.open(
                address, "r", format=format_, options=dict(options), metadata_errors="replace", timeout=timeout
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"cannot open {name}: {_said(error, OPEN_SECONDS)}") from error
        try:
            self._stream = _video_stream(name, self._container.streams)
        except SourceError:
            self._container.close()
            raise
        self.format = self._container.format.name
        # Frame threads would hold back a frame each.
        self._stream.codec_context.thread_type = "SLICE" if live or self._is_untimed else "AUTO"
        self._stream.codec_context.thread_count = min(MOST_THREADS, os.cpu_count() or 1)

    def export_motion(self) -> None:
        """Let the decoder hand over its blocks' motion vectors; to be called before the first frame."""
        self._stream.codec_context.flags2 |= Flags2.export_mvs

    def close(self) -> None:
        """Close the container."""
        self._container.close()

    @property
    def _is_untimed(self) -> bool:
        """Whether the pictures come without times, at a rate that FFmpeg makes up."""
        return self.format == CAMERA_OVER_HTTP

    @property
    def fps(self) -> float | None:
        """Frames a second, None where it is unknown."""
        if self._is_untimed:
            return None
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        return rate if 0 < rate <= MOST_FPS else None

    @property
    def size(self) -> Size | None:
        """The size that the container announces; frames may come in another one."""
        context = self._stream.codec_context
        return Size(context.height, context.width) if context.height and context.width else None

    @property
    def seconds(self) -> float | None:
        """How long the container says that it is; None for what has no end."""
        if self._stream.duration and self._stream.time_base:
            return float(self._stream.duration * self._stream.time_base)
        return self._container.duration / 1e6 if self._container.duration else None

    @property
    def expected(self) -> int | None:
        """How many frames to expect, None where there is nothing to tell."""
        if self._stream.frames:
            return self._stream.frames
        return max(1, round(self.seconds * self.fps)) if self.seconds and self.fps else None

    def frames(self, at_least: Callable[[Size], Size] | None) -> Iterator[_Picture | None]:
        """Decoded pictures in the order of showing; None for a damaged one. ``at_least`` as in ``VideoSource``.

        What cannot be decoded, what the decoder marks as corrupt and what the demuxer knows to be incomplete is
        damaged. Whatever ends the stream, the decoder's last frames still come.
        """
        cut, end = False, 0.0
        for packet in self._packets():
            if packet is None or packet.is_corrupt:
                cut = True
                yield None
                continue
            cut = cut and not packet.size
            end = max(end, _seconds(packet, packet.duration) or 0.0)
            for picture in self._decoded(packet, at_least):
                if picture is not None and self._is_untimed:
                    picture.seconds = time.monotonic()
                yield picture
        if cut:
            self.broken = self.broken or "its last frame is incomplete"
        elif self.broken is None and (announced := self._announced()) and end < announced * LEAST_SHOWN - SLACK_SECONDS:
            self.broken = f"its last frame ends at {end:.1f} s, and it should last {announced:.1f} s"

    def _announced(self) -> float | None:
        """When a Matroska file says that its video ends: its demuxer takes a file that was cut for a whole one."""
        if "matroska" not in self.format:
            return None
        tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)\0*", self._stream.metadata.get("DURATION", ""))
        if tag:
            return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
        return self.seconds if len(self._container.streams) == 1 else None

    def _packets(self) -> Iterator[av.Packet[VideoStream] | None]:
        """Packets as they are read, None for one that cannot be; at the end an empty one, which drains the decoder."""
        faults = 0
        while faults < MOST_FAULTS:
            try:
                for packet in self._container.demux(self._stream):
                    faults = 0
                    yield packet
                return
            except av.error.InvalidDataError:
                faults += 1
                yield None
            except (av.error.FFmpegError, OSError) as error:
                self.broken = _said(error, READ_SECONDS)
                break
        else:
            self.broken = f"{MOST_FAULTS} packets in a row cannot be read"
        empty: Any = av.Packet()
        if self._stream.time_base is not None:
            empty.time_base = self._stream.time_base
        yield empty

    def _decoded(
        self, packet: av.Packet[VideoStream], at_least: Callable[[Size], Size] | None
    ) -> Iterator[_Picture | None]:
        if at_least is not None and (by := self._reduction(packet, at_least)) > 1:
            yield _reduced(packet, by)
            return
        try:
            frames = self._stream.decode(packet)
        except (av.error.FFmpegError, OSError, ValueError):
            yield None
            return
        for video in frames:
            yield None if video.is_corrupt else _Picture(video.time, video=video)

    def _reduction(self, packet: av.Packet[VideoStream], at_least: Callable[[Size], Size]) -> int:
        """What the sides of a picture of Motion JPEG are divided by, 1 where it is decoded as usual.

        Once one is decoded as usual all are: a decoder with threads gives its pictures later than they come here.
        """
        if self._is_whole or not packet.size:
            return 1
        stored, context = stored_size(np.frombuffer(bytes(packet), np.uint8)), self._stream.codec_context
        full = context.color_range == FULL_RANGE or (context.pix_fmt or "").startswith("yuvj")  # as OpenCV takes it
        fits = context.name == "mjpeg" and full and stored == self.size  # a field of two is half as high
        by = reduction(stored, at_least(stored)) if fits and stored is not None else 1
        self._is_whole = by == 1
        return by


@dataclass(slots=True)
class _Picture:
    """What came of a packet: the container's seconds, and the decoder's frame or a JPEG picture."""

    seconds: float | None
    video: av.VideoFrame | None = None
    encoded: Jpeg | None = None


def _reduced(packet: av.Packet[VideoStream], by: int) -> _Picture | None:
    """A packet of Motion JPEG decoded in part; None for a damaged one, such as one that was cut off."""
    try:
        picture = Jpeg(np.frombuffer(bytes(packet), np.uint8), by, oriented=False)
    except FrameError:
        return None
    return _Picture(_seconds(packet), encoded=picture)


def _seconds(packet: av.Packet[VideoStream], after: int | None = 0) -> float | None:
    """When a packet is shown, so many units of its time later; None where it does not say."""
    if packet.pts is None or packet.time_base is None:
        return None
    return float((packet.pts + (after or 0)) * packet.time_base)


class _Clock:
    """Seconds since the first frame: the container's where they run forward, else a step after the frame before."""

    def __init__(self, fps: float | None) -> None:
        self._step = 1.0 / fps if fps else 0.04
        self._origin: float | None = None
        self._last: float | None = None
        self._seen: float | None = None
        self._was_away = False

    def at(self, told: float | None) -> float:
        """A frame's seconds, from what the container tells if it does; always after the frame before."""
        due, now = 0.0 if self._last is None else self._last + self._step, time.monotonic()
        if self._was_away and self._last is not None and self._seen is not None:
            due = max(due, self._last + now - self._seen)
        if told is not None and self._origin is None:
            self._origin = told - due
        seconds = due if told is None or self._origin is None else told - self._origin
        self._last = seconds if self._last is None or seconds > self._last else due
        self._seen, self._was_away = now, False
        return self._last

    def restart(self) -> None:
        """The container's times begin anew; the seconds go on, as many as pass on the machine until the next frame."""
        self._origin, self._was_away = None, True


def _video_stream(name: str, streams: av.container.streams.StreamContainer) -> VideoStream:
    """The first video stream that is not a cover picture. Raises SourceError when none can be decoded."""
    moving = [stream for stream in streams.video if not _is_cover(stream)]
    if not moving:
        kinds = ", ".join(sorted({stream.type for stream in streams if stream not in streams.video})) or "nothing"
        raise SourceError(f"{name} has no video stream, only {kinds}")
    # Reading the packets of a stream without a decoder would crash the process.
    codec: Any = moving[0].codec_context
    if codec is None:
        raise SourceError(f"{name}: there is no decoder for its video, or its headers are damaged")
    if codec.name in TEXT_ART:
        raise SourceError(f"cannot open {name}: it is text, not video")
    return moving[0]


def _is_cover(stream: Any) -> bool:
    disposition = getattr(stream, "disposition", 0)  # a number or an enumeration, or missing, by PyAV's version
    return bool(getattr(disposition, "value", disposition) & COVER)


def _said(error: BaseException, seconds: float) -> str:
    """What went wrong, in one line."""
    if isinstance(error, av.error.ExitError):
        return f"no data within {seconds:g} s"
    if isinstance(error, av.error.InvalidDataError):
        return "it is damaged, or no video"
    if isinstance(error, av.error.EOFError):
        return "it ends before its first frame"
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
