"""The generated street as a video file, so that what it is run on is decoded like any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Self
from uuid import uuid4

from sharedbb import media
from sharedbb.cli.progress import Progress
from sharedbb.cli.session import Screen
from sharedbb.errors import SinkError
from sharedbb.types import Frame, Size

FPS = 25.0


def street_clip(folder: Path, frames: int, size: Size, screen: Screen) -> Path:
    """A drive through the generated street as H.264 in ``folder``; one that is there already is taken as it is.

    Raises SinkError when it cannot be written.
    """
    path = folder / f"generated-street-{size}-{frames}.mp4"
    if path.is_file():
        return path
    unfinished = path.with_name(f".{uuid4().hex}.mp4")
    source = f"synthetic:street?motion=drive&frames={frames}&seed=1&size={size}&fps={FPS}"
    try:
        with (
            Progress(screen.progress, "generating a street", frames, quiet=screen.quiet) as progress,
            media.open_source(source) as street,
            media.VideoSink(unfinished, FPS) as sink,
        ):
            for frame in street:
                sink.write(frame.rgb())
                progress.advance()
        unfinished.replace(path)
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return path


class Repeated:
    """A clip of ``FPS`` frames a second as a source of so many frames, begun again whenever it ends."""

    live = False
    fps: float | None = FPS
    size: Size | None = None
    skipped = 0

    def __init__(self, path: Path, name: str, frames: int, *, motion: bool = False) -> None:
        self.name = name
        self.frames: int | None = frames
        self._path, self._motion = path, motion

    def __iter__(self) -> Iterator[Frame]:
        for index, frame in enumerate(islice(self._again_and_again(), self.frames)):
            yield replace(frame, index=index, timestamp=index / FPS)

    def _again_and_again(self) -> Iterator[Frame]:
        while True:
            with media.open_source(self._path, motion=self._motion) as clip:
                yield from clip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close: the clip is closed where it is read."""
