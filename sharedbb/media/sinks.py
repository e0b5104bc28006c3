"""Where pictures go: an H.264 file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from sharedbb.errors import SinkError
from sharedbb.media.placing import letterboxed, padded

MOST_FPS = 1000.0
SECONDS_AT_RISK = 2.0  # what of a video is lost at most when the process is killed, apart from what the encoder holds
# Without B-frames, which would need a list of edits for the first frame to be at 0 s, and FFmpeg before 8.1 writes
# broken files when that is combined with fragments.
QUALITY = {"crf": "20", "preset": "veryfast", "bf": "0"}
# In fragments while it is written, an ordinary file when it is closed.
FRAGMENTS = {"movflags": "hybrid_fragmented", "flush_packets": "1"}
CONTAINERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    ".m4v": ("mp4", FRAGMENTS),
    ".mkv": ("matroska", {"cluster_time_limit": str(round(SECONDS_AT_RISK * 1000)), "flush_packets": "1"}),
    ".mov": ("mov", FRAGMENTS),
    ".mp4": ("mp4", FRAGMENTS),
}
"""Format and options by the file's suffix."""


class VideoSink:
    """Writes RGB pictures as H.264 (4:2:0, BT.709) at a constant rate, playable everywhere.

    What is on disk can be played at any time, also when the process is killed: all but about the last two seconds. The
    first picture sets the size; an odd height or width, which 4:2:0 cannot hold, gets its last row or column twice.
    Later pictures of another size are fitted into it with bars. The first picture also replaces what the file held:
    closed without one, it leaves everything as it was.

    Raises SinkError for a suffix other than .mp4, .m4v, .mov or .mkv, a rate outside 0–1000, and a file that cannot be
    written.
    """

    def __init__(self, path: str | Path, fps: float = 25.0) -> None:
        self.path = Path(path)
        self.frames = 0
        if self.path.suffix.lower() not in CONTAINERS:
            raise SinkError(f"cannot write {path}: name a file that ends in one of {', '.join(sorted(CONTAINERS))}")
        self._rate = Fraction(fps).limit_denominator(1001) if 0 < fps <= MOST_FPS else Fraction(0)
        if self._rate == 0:
            raise SinkError(f"cannot write {path} at {fps} frames a second; the rate must be above 0, at most 1000")
        self._container: Any = None
        self._stream: Any = None
        self._reformatter: Any = VideoReformatter()  # the stub does not know names
        self._failed = self._closed = False
        try:
            is_new = not os.path.lexists(self.path)
            self.path.open("ab").close()
            if is_new:
                self.path.unlink()
        except (OSError, ValueError) as error:
            raise self._fault("cannot write", error) from error

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Append one picture, (height, width, 3) uint8 RGB. Raises SinkError when that cannot be done."""
        if self._closed:
            raise SinkError(f"{self.path} is closed already")
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
            raise SinkError(f"a picture must be (height, width, 3) uint8, got {picture.shape} {picture.dtype}")
        try:
            if self._stream is None:
                self._begin(*picture.shape[:2])
            self._container.mux(self._stream.encode(self._coded(picture)))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._fault("cannot write", error) from error
        self.frames += 1

    def _begin(self, height: int, width: int) -> None:
        format_, options = CONTAINERS[self.path.suffix.lower()]
        # An absolute path, since FFmpeg would read "12:30.mp4" as an address of protocol "12".
        self._container = av.open(str(self.path.absolute()), "w", format=format_, options=dict(options))
        keyframes = {"g": str(max(1, math.ceil(self._rate * SECONDS_AT_RISK)))}
        stream = self._container.add_stream("libx264", rate=self._rate, options=QUALITY | keyframes)
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self._rate
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709, in the numbers of H.273
        context.color_range = 1  # 16 to 235, in FFmpeg's
        self._stream = stream

    def _coded(self, picture: NDArray[np.uint8]) -> av.VideoFrame:
        """The picture at the video's size and in its colours, with its time."""
        height, width = self._stream.height, self._stream.width
        fits = height - picture.shape[0] in (0, 1) and width - picture.shape[1] in (0, 1)
        picture = padded(picture, height, width) if fits else letterboxed(picture, height, width)
        frame: av.VideoFrame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"),
            format="yuv420p",
            dst_colorspace="ITU709",
            dst_color_range="MPEG",
        )
        frame.pts = self.frames
        return frame

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the file; more than once does no harm. Raises SinkError when it cannot be finished."""
        container, self._container, self._closed = self._container, None, True
        if container is None:
            return
        if self._failed:  # said already, and what is on disk can be played
            with suppress(av.error.FFmpegError, OSError):
                container.close()
            return
        try:
            if self._stream is not None:
                container.mux(self._stream.encode(None))
            container.close()
        except (av.error.FFmpegError, OSError) as error:
            raise self._fault("cannot finish", error) from error

    def _fault(self, what: str, error: Exception) -> SinkError:
        self._failed = True
        return SinkError(f"{what} {self.path}: {getattr(error, 'strerror', None) or error}")
