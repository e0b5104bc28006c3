"""Where frames come from, by name: a file, a folder, a camera, an address, a synthetic street."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import cv2
import numpy as np

from sharedbb.errors import FrameError, SourceError
from sharedbb.media.video import VideoSource
from sharedbb.types import Frame, Size

PICTURES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
PICTURES_PER_SECOND = 25.0  # the rate at which a folder of pictures counts as a video
LIVE_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "udp://", "srt://")
ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@runtime_checkable
class Source(Protocol):
    """Frames in order, once.

    ``live``: frames come in their own time, and are lost when nobody takes them. ``fps``, ``frames`` (how many are
    expected) and ``size`` are None where unknown. ``skipped`` counts damaged frames left out so far.
    """

    name: str
    live: bool
    fps: float | None
    frames: int | None
    size: Size | None
    skipped: int

    def __iter__(self) -> Iterator[Frame]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: Any) -> None: ...


def open_source(source: Any) -> Any:
    """Open what a user names.

    ``source``: a video file; a folder or glob pattern of pictures (natural order); a camera's number, ``0`` or ``"0"``;
    an ``rtsp://`` or ``http(s)://`` address; ``synthetic:street?motion=drive&frames=300``; a Source; or an iterable of
    pictures (arrays are BGR) or frames.

    Raises SourceError when there is nothing there, or nothing that can be read.
    """
    if isinstance(source, int) or (isinstance(source, str) and source.isdecimal()):
        return VideoSource.camera(int(source))
    if isinstance(source, Path | str):
        return _named(str(source))
    if isinstance(source, Source):
        return source
    if isinstance(source, Iterable):
        return PictureSource("pictures", source)
    raise SourceError(f"cannot read frames from a {type(source).__name__}; give a path, address, number or iterable")


def _named(name: str) -> Any:
    if name.startswith("synthetic:"):
        from sharedbb.media.synthetic import open_synthetic

        return open_synthetic(name.removeprefix("synthetic:"))
    if ADDRESS.match(name):
        return VideoSource(name, live=name.lower().startswith(LIVE_SCHEMES))
    path = Path(name)
    if path.is_dir():
        return _pictures(name, [file for file in path.iterdir() if file.suffix.lower() in PICTURES])
    if path.is_file():
        return _pictures(name, [path]) if path.suffix.lower() in PICTURES else VideoSource(name)
    if glob.has_magic(name):
        return _pictures(name, [Path(file) for file in glob.glob(name, recursive=True)])
    raise SourceError(f"no file, folder or address {name!r}")


def _pictures(name: str, files: list[Path]) -> PictureSource:
    if not files:
        raise SourceError(f"{name} holds no pictures ({', '.join(sorted(PICTURES))})")
    return PictureSource(name, sorted(files, key=_natural), len(files))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts 10 after 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part]


class PictureSource:
    """Picture files, arrays or frames, 25 to the second. Files that cannot be read are skipped and counted.

    16-bit pictures are brought to 8 bits, grey ones to three channels, alpha is dropped.
    """

    live = False
    fps: float | None = PICTURES_PER_SECOND
    size: Size | None = None

    def __init__(self, name: str, pictures: Iterable[Any], frames: int | None = None) -> None:
        self.name = name
        self.skipped = 0
        self.frames = frames if frames is not None else _length(pictures)
        self._pictures = pictures

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to close."""

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        for picture in self._pictures:
            timestamp = index / PICTURES_PER_SECOND
            found = _read(picture) if isinstance(picture, Path) else picture
            if found is None:
                self.skipped += 1
                continue
            yield Frame.of(found, index=index, timestamp=timestamp)
            index += 1
        if index == 0:
            raise SourceError(f"{self.name}: none of the {self.skipped} pictures can be read")


def _length(pictures: Any) -> int | None:
    return len(pictures) if hasattr(pictures, "__len__") else None


def _read(path: Path) -> Any:
    """A picture file as BGR or grey; None when it is damaged."""
    try:
        data = np.fromfile(path, np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error, FrameError):
        return None
