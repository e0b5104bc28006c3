"""Where results go, frame by frame: an annotated video, JSON lines, and a few pictures for the report."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb import media
from sharedbb.cli.files import STDOUT
from sharedbb.errors import SinkError
from sharedbb.types import FrameResult

if TYPE_CHECKING:
    from sharedbb.profiling import Profiler

Picture = NDArray[np.uint8]

SNAPSHOT_WIDTH = 1280  # pixels; wider pictures are made smaller for the report
SNAPSHOT_QUALITY = 85  # of JPEG, 0 to 100


class Sink(Protocol):
    """Takes every result of a run, in order."""

    def take(self, result: FrameResult) -> None:
        """Do with one result what the sink is for. Raises SinkError when it cannot be written."""
        ...

    def close(self) -> None:
        """Finish what was begun; called once, also after an error."""
        ...


class JsonLines:
    """One JSON line a frame, each of them on disk (or through the pipe) before the next frame begins."""

    def __init__(self, path: Path, profiler: Profiler) -> None:
        self._path = path
        self._profiler = profiler
        self._file: TextIO | None = sys.stdout if path == STDOUT else None

    def take(self, result: FrameResult) -> None:
        """Write one line. The first one replaces what the file held: a run without a frame leaves it alone."""
        with self._profiler.span("jsonl", stream=result.stream, frame=result.index):
            try:
                self._file = self._file or self._path.open("w", encoding="utf-8")
                self._file.write(result.to_json() + "\n")
                self._file.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                with suppress(SinkError):
                    self.close()  # with what could not be written in its buffer
                raise self._failed(error) from error

    def close(self) -> None:
        """Close the file; stdout stays open."""
        if self._file is None or self._path == STDOUT:
            return
        try:
            self._file.close()
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> SinkError:
        return SinkError(f"cannot write {self._path}: {error.strerror or error}")


class Pictures:
    """Draws results: every one for the video, now and then one for the report; each of the two is optional."""

    def __init__(self, video: media.VideoSink | None, snapshots: Snapshots | None, profiler: Profiler) -> None:
        self._video = video
        self._snapshots = snapshots
        self._profiler = profiler

    def take(self, result: FrameResult) -> None:
        """Draw the result where the picture is wanted."""
        kept = self._snapshots is not None and self._snapshots.wants_next()
        if self._video is None and not kept:
            return
        with self._profiler.span("draw", stream=result.stream, frame=result.index):
            picture = media.draw(result)
        if self._video is not None:
            with self._profiler.span("write", stream=result.stream, frame=result.index):
                self._video.write(picture)
        if kept:
            assert self._snapshots is not None
            self._snapshots.add(f"frame {result.index}, {result.timestamp:.2f} s", picture)

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.close()


class Snapshots:
    """A few pictures spread evenly over a run of unknown length, each drawn when its frame comes by.

    Every ``step``-th frame is kept as JPEG. When there are more than ``most``, every other one is let go and the step
    doubles: a run of n frames draws some most/2 · log₂ n pictures and holds at most ``most`` + 1.
    """

    def __init__(self, most: int = 12) -> None:
        self._most = most
        self._step = 1
        self._frames = 0
        self._kept: list[tuple[str, bytes]] = []

    def wants_next(self) -> bool:
        """Count one more frame; whether its picture should be added."""
        self._frames += 1
        return (self._frames - 1) % self._step == 0

    def add(self, caption: str, picture: Picture) -> None:
        """Keep a picture, HWC uint8 RGB."""
        self._kept.append((caption, jpeg(picture)))
        if len(self._kept) > self._most:
            self._kept = self._kept[::2]
            self._step *= 2

    def chosen(self) -> list[tuple[str, bytes]]:
        """Caption and JPEG of an early, a middle and a late one; fewer of a run of fewer frames."""
        last = len(self._kept) - 1
        places = sorted({round(last * part) for part in (0.15, 0.5, 0.85)}) if self._kept else []
        return [self._kept[place] for place in places]


def jpeg(picture: Picture, most: int = SNAPSHOT_WIDTH) -> bytes:
    """A picture, HWC uint8 RGB, as JPEG, made smaller if it is wider than ``most`` pixels. Raises SinkError."""
    height, width = picture.shape[:2]
    if width > most:
        size = (most, max(1, round(height * most / width)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).view(np.uint8)
    done, coded = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, SNAPSHOT_QUALITY]
    )
    if not done:
        raise SinkError(f"cannot encode a picture of {width}x{height} as JPEG")
    return coded.tobytes()
