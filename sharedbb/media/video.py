"""Video through PyAV: files, cameras and addresses, frame by frame, with the decoder's planes untouched."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import av
import av.error
import av.logging

from sharedbb.errors import SourceError
from sharedbb.types import Frame, Size

OPEN_SECONDS, READ_SECONDS = 10.0, 10.0
RECONNECTS = 3  # how often a live address that breaks off is opened again, without a frame in between
CAMERA_FORMATS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}


class VideoSource:
    """Frames of a video stream as the decoder gives them (``Frame.video``), timestamps in seconds from the first.

    Damaged frames are skipped and counted in ``skipped``; a stream that ends early ends the iteration. A live address
    that breaks off is opened again up to three times in a row. Timestamps that are missing or run backwards continue
    at the stream's rate. A rotation in the container's metadata is not applied: frames are as they were coded.

    Raises SourceError when it cannot be opened, has no video, or no frame of it can be decoded.
    """

    def __init__(
        self, name: str, *, live: bool = False, format_: str | None = None, address: str | None = None
    ) -> None:
        self.name = name
        self.live = live
        self.skipped = 0
        self._format = format_
        self._address = address or name
        self._container: Any = self._open()
        stream = self._container.streams.video[0]
        rate = stream.average_rate or stream.guessed_rate
        self.fps: float | None = float(rate) if rate else None
        self.frames: int | None = None if live else stream.frames or self._estimated(stream)
        context = stream.codec_context
        self.size: Size | None = Size(context.height, context.width) if context.height and context.width else None

    @classmethod
    def camera(cls, number: int) -> Self:
        """A camera attached to this machine."""
        format_, address = CAMERA_FORMATS.get(sys.platform, CAMERA_FORMATS["linux"])
        return cls(f"camera {number}", live=True, format_=format_, address=address.format(number))

    def _open(self) -> Any:
        av.logging.set_level(av.logging.PANIC)
        options = {"rtsp_transport": "tcp"} if self._address.startswith("rtsp") else {}
        try:
            timeout = (OPEN_SECONDS, READ_SECONDS)
            container = av.open(self._address, format=self._format, options=options, timeout=timeout)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"cannot open {self.name}: {_said(error)}") from error
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            container.close()
            raise SourceError(f"{self.name} has no video stream, only {kinds}")
        container.streams.video[0].thread_type = "AUTO"
        return container

    def _estimated(self, stream: Any) -> int | None:
        if stream.duration and stream.time_base and self.fps:
            return max(1, round(float(stream.duration * stream.time_base) * self.fps))
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file or connection."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def __iter__(self) -> Iterator[Frame]:
        clock = _Clock(self.fps)
        index = 0
        for video in self._decoded():
            yield Frame(index, clock.at(video), video=video)
            index += 1
        if index == 0:
            raise SourceError(f"{self.name}: no frame can be decoded ({self.skipped} damaged)")

    def _decoded(self) -> Iterator[av.VideoFrame]:
        tries = 0
        while True:
            try:
                for video in self._frames_of_connection():
                    tries = 0
                    yield video
                if not self.live:
                    return
            except (av.error.FFmpegError, OSError) as error:
                if not self.live:
                    raise SourceError(f"{self.name} broke off: {_said(error)}") from error
            tries += 1
            if tries > RECONNECTS:
                return
            self.close()
            self._container = self._open()

    def _frames_of_connection(self) -> Iterator[av.VideoFrame]:
        """Every frame that can be decoded, until the container ends or cannot be read any more."""
        container = self._container
        stream = container.streams.video[0]
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.InvalidDataError:
                self.skipped += 1
                continue
            except av.error.EOFError:
                return
            if packet is None:
                return
            try:
                frames = packet.decode()
            except (av.error.InvalidDataError, av.error.ArgumentError, av.error.UndefinedError):
                self.skipped += 1
                continue
            for video in frames:
                if video.is_corrupt:
                    self.skipped += 1
                else:
                    yield video


class _Clock:
    """Seconds since the first frame; never backwards."""

    def __init__(self, fps: float | None) -> None:
        self._step = 1.0 / fps if fps else 0.04
        self._first: float | None = None
        self._last: float | None = None

    def at(self, video: av.VideoFrame) -> float:
        """The frame's time; the last one's plus one step where it has none or an earlier one."""
        time = video.time
        if time is not None and self._first is None:
            self._first = time
        seconds = time - self._first if time is not None and self._first is not None else None
        if self._last is not None and (seconds is None or seconds <= self._last):
            seconds = self._last + self._step
        self._last = seconds if seconds is not None else 0.0
        return self._last


def _said(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
