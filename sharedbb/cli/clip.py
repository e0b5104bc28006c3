"""The generated street as a video file, so that what it is run on is decoded like any other."""

from __future__ import annotations

from pathlib import Path

from sharedbb import media
from sharedbb.cli.progress import Progress
from sharedbb.cli.session import Screen

FPS = 25


def street_clip(folder: Path, frames: int, screen: Screen) -> Path:
    """A drive through the generated street as H.264 in ``folder``; one that is there already is taken as it is.

    Raises SinkError when it cannot be written.
    """
    path = folder / f"generated-street-{frames}.mp4"
    if path.is_file():
        return path
    unfinished = path.with_suffix(".part.mp4")
    source = f"synthetic:street?motion=drive&frames={frames}&seed=1&size=1280x720&fps={FPS}"
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
    finally:
        unfinished.unlink(missing_ok=True)
    return path
