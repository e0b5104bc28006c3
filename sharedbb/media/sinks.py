"""Where pictures go: an H.264 file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import SinkError
from sharedbb.media.placing import letterboxed

QUALITY = {"crf": "20", "preset": "veryfast"}


class VideoSink:
    """Writes RGB pictures as H.264 (yuv420p) at a constant rate, playable everywhere, also when closed early.

    The first picture sets the size (odd sizes lose their last row or column, which 4:2:0 cannot hold); later ones of
    another size are fitted into it with bars. Raises SinkError when the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float = 25.0) -> None:
        self.path = Path(path)
        self.frames = 0
        self._rate = Fraction(fps).limit_denominator(1001)
        self._stream: Any = None
        try:
            # Fragments make what is written so far playable when the process is killed.
            options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
            is_mp4 = self.path.suffix.lower() in (".mp4", ".m4v", ".mov")
            self._container: Any = av.open(str(path), "w", options=options if is_mp4 else {})
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Append one picture, (height, width, 3) uint8 RGB, at least 2×2."""
        try:
            if self._stream is None:
                self._begin(*picture.shape[:2])
            height, width = self._stream.height, self._stream.width
            if picture.shape[:2] != (height, width):
                fits = picture.shape[0] - height in (0, 1) and picture.shape[1] - width in (0, 1)
                picture = picture[:height, :width] if fits else letterboxed(picture, height, width)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self.frames
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(f"cannot write to {self.path}: {getattr(error, 'strerror', None) or error}") from error
        self.frames += 1

    def _begin(self, height: int, width: int) -> None:
        stream = self._container.add_stream("libx264", rate=self._rate, options=QUALITY)
        stream.height, stream.width, stream.pix_fmt = max(2, height // 2 * 2), max(2, width // 2 * 2), "yuv420p"
        stream.codec_context.time_base = 1 / self._rate
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Finish the file."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if self._stream is not None:
                container.mux(self._stream.encode(None))
            container.close()
        except (av.error.FFmpegError, OSError) as error:
            raise SinkError(f"cannot finish {self.path}: {getattr(error, 'strerror', None) or error}") from error
