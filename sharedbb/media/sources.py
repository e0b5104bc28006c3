"""Where frames come from, by name: a file, a folder, a camera, an address, a synthetic street."""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import FrameError, SourceError
from sharedbb.media.jpeg import Jpeg
from sharedbb.media.video import VideoSource
from sharedbb.types import Frame, Size

PICTURES = frozenset((".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
PICTURES_PER_SECOND = 25.0  # the rate at which a folder of pictures counts as a video
LIVE_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "rtp://", "udp://", "srt://")
ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@runtime_checkable
class Source(Protocol):
    """Frames in order.

    ``live``: frames come in their own time, and are lost when nobody takes them. ``fps``, ``frames`` (how many are
    expected) and ``size`` are None where unknown. ``skipped`` counts the damaged frames left out so far.

    Iterating again starts again at the first frame where the source can do that: files, pictures, synthetic video. A
    live source goes on with what comes; an iterator is used up. Leaving the ``with`` block closes files and devices.
    """

    name: str
    live: bool
    fps: float | None
    frames: int | None
    size: Size | None
    skipped: int

    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(source: Any, *, motion: bool = False) -> Source:
    """Open what a user names.

    ``source``: a video file; a picture, or a folder or glob pattern of pictures (natural order); a camera's number,
    ``0`` or ``"0"``; an ``rtsp://`` or ``http(s)://`` address; ``synthetic:street?motion=drive&frames=300``; a Source;
    one picture as an array (BGR) or tensor (RGB); or an iterable of those, of frames, or of picture files. With
    ``motion`` the frames of videos carry their blocks' motion vectors, where the codec has them.

    Raises SourceError when there is nothing there, or nothing that can be read.
    """
    if isinstance(source, int) and not isinstance(source, bool):
        return VideoSource.camera(source, motion=motion)
    if isinstance(source, Path | str):
        try:
            return _named(str(source), motion)
        except OSError as error:
            raise SourceError(f"cannot open {source}: {error.strerror or error}") from error
    if isinstance(source, Source):
        return source
    if getattr(source, "ndim", 4) < 4:
        return PictureSource("picture", [source])
    if isinstance(source, Iterable):
        return PictureSource("pictures", source)
    raise SourceError(f"cannot read frames from a {type(source).__name__}; give a path, address, number or iterable")


def _named(name: str, motion: bool) -> Source:
    if name.isdecimal():
        return VideoSource.camera(int(name), motion=motion)
    if name.startswith("synthetic:"):
        from sharedbb.media.synthetic import open_synthetic

        return open_synthetic(name.removeprefix("synthetic:"))
    if ADDRESS.match(name):
        live = name.lower().startswith(LIVE_SCHEMES)
        return VideoSource.stream(name, motion=motion) if live else VideoSource(name, motion=motion)
    path = Path(name)
    if name and path.is_dir():
        return _pictures(name, path.iterdir())
    if path.is_file():
        if path.stat().st_size == 0:
            raise SourceError(f"cannot open {name}: the file is empty")
        return _pictures(name, [path]) if path.suffix.lower() in PICTURES else VideoSource.file(name, motion=motion)
    if glob.has_magic(name):
        return _pictures(name, map(Path, glob.glob(name, recursive=True)))
    if name and path.exists():
        raise SourceError(f"{name} is neither a file nor a folder; a camera is named by its number")
    raise SourceError(f"no file, folder or address {name!r}")


def _pictures(name: str, found: Iterable[Path]) -> PictureSource:
    files = sorted((file for file in found if file.suffix.lower() in PICTURES and file.is_file()), key=_natural)
    if not files:
        raise SourceError(f"{name} holds no pictures ({', '.join(sorted(PICTURES))})")
    return PictureSource(name, files)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts 10 after 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part]


class PictureSource:
    """Picture files, arrays, tensors or frames, 25 to the second; sizes may differ.

    A ``Frame`` keeps its time and number where they are later than those of the frame before.

    Files that cannot be read are skipped and counted. Those of 16 bits are brought to 8, grey ones to three channels,
    alpha is dropped, EXIF's orientation applied.

    Whoever needs only so many pixels of a picture sets ``at_least``, which takes its size and gives the smallest that
    will do: JPEG files at least twice as large are then decoded at 1/2, 1/4 or 1/8 of their size, and once more in full
    only where ``Frame.rgb`` is asked for.

    Iterating raises SourceError at the end when there was nothing to read, FrameError at an array that is no picture.
    """

    live = False
    fps: float | None = PICTURES_PER_SECOND
    size: Size | None = None
    at_least: Callable[[Size], Size] | None = None

    def __init__(self, name: str, pictures: Iterable[Any]) -> None:
        self.name = name
        self.skipped = 0
        self.frames = len(pictures) if isinstance(pictures, Sized) else None
        self._pictures = pictures

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def __iter__(self) -> Iterator[Frame]:
        self.skipped = 0
        index, last = 0, -math.inf
        for given in self._pictures:
            picture = _read(Path(given), self.at_least) if isinstance(given, Path | str) else given
            if picture is None:
                self.skipped += 1
                continue
            due = index / PICTURES_PER_SECOND
            due = due if due > last else last + 1 / PICTURES_PER_SECOND
            if isinstance(picture, Jpeg):
                frame = Frame(index, due, encoded=picture)
            else:
                frame = Frame.of(picture, index=index, timestamp=due)
            if frame.index < index or not frame.timestamp > last:
                time = frame.timestamp if frame.timestamp > last else due
                frame = replace(frame, index=max(index, frame.index), timestamp=time)
            yield frame
            index, last = frame.index + 1, frame.timestamp
        if index == 0:
            reason = (
                f"not a single picture can be read ({self.skipped} damaged)" if self.skipped else "no pictures in it"
            )
            raise SourceError(f"{self.name}: {reason}")


def _read(path: Path, at_least: Callable[[Size], Size] | None) -> NDArray[np.uint8] | Jpeg | None:
    """A picture file as HWC uint8 BGR, or decoded in part; None when it is missing or damaged."""
    try:
        data = np.fromfile(path, np.uint8)
        if at_least is not None and (reduced := Jpeg.reduced(data, at_least)) is not None:
            return reduced
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, ValueError, cv2.error, FrameError):
        return None
    return None if picture is None else picture.view(np.uint8)
