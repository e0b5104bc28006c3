"""One run: a source through an engine into sinks, and what is written about it at the end.

``run``, ``profile`` and ``demo`` are this with different files.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sharedbb import media
from sharedbb.cli.files import Files, write, write_each
from sharedbb.cli.interrupts import between
from sharedbb.cli.progress import Progress
from sharedbb.cli.sinks import JsonLines, Pictures, Sink, Snapshots
from sharedbb.errors import SourceError
from sharedbb.profiling import stage_table, write_report, write_trace

if TYPE_CHECKING:
    from rich.console import Console

    from sharedbb.media import Source
    from sharedbb.runtime import Engine

FPS = 25.0
"""Of the annotated video where the source does not say."""


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a run speaks: ``results`` gets the table and the list of files, ``progress`` the bar."""

    results: Console
    progress: Console
    quiet: bool = False

    @classmethod
    def for_files(cls, files: Files, *, quiet: bool = False) -> Screen:
        """Results on stdout, unless one of the files is stdout."""
        from rich.console import Console

        errors = Console(stderr=True)
        results = errors if files.to_stdout else Console(highlight=False)
        return cls(results, errors, quiet)


def record(engine: Engine, source: Source, files: Files, screen: Screen, max_frames: int | None = None) -> None:
    """Run the engine over the source, write the files, and print the stage table and where the files are.

    Whatever ends the run, an error or a signal included, everything is closed and what has been measured is written.
    Raises SourceError when the source breaks or has no frames, SinkError when a file cannot be written.
    """
    profiler = engine.profiler
    profiler.describe(source=source.name)
    snapshots = Snapshots() if files.report else None
    with ExitStack() as stack:
        stack.callback(finish, engine, source, files, snapshots, screen)
        sinks: list[Sink] = []
        if files.video or snapshots:
            video = media.VideoSink(files.video, source.fps or FPS) if files.video else None
            sinks.append(stack.enter_context(closing(Pictures(video, snapshots, profiler))))
        if files.jsonl:
            sinks.append(stack.enter_context(closing(JsonLines(files.jsonl, profiler))))
        play(engine, source, sinks, screen, max_frames)
    if not profiler.summary().frames:
        raise SourceError(f"{source.name}: not a single frame came out of it")


def play(engine: Engine, source: Source, sinks: Sequence[Sink], screen: Screen, max_frames: int | None = None) -> None:
    """Run the engine over the source and give every result to every sink."""
    counts = [count for count in (max_frames, source.frames) if count is not None]
    progress = Progress(screen.progress, engine.program.name, min(counts, default=None), quiet=screen.quiet)
    results = engine.stream(source, max_frames=max_frames)
    with progress, closing(results):
        for result in between(results):
            for sink in sinks:
                sink.take(result)
            progress.advance()


def warm_up(engine: Engine, frames: int) -> None:
    """Run black frames through the engine's stream and forget them, so that nothing is done for the first time."""
    size = engine.program.size
    black = np.zeros((size.height, size.width, 3), np.uint8)
    for _ in range(frames):
        engine.step(black)
    engine.reset()
    engine.profiler.reset()


def finish(engine: Engine, source: Source, files: Files, snapshots: Snapshots | None, screen: Screen) -> None:
    """Write what was measured, if there was a frame, and print it."""
    recording = engine.profiler.recording()
    if not recording.summary.frames:
        return
    try:
        write_each(
            (files.summary, lambda path: write(path, recording.summary.to_json())),
            (files.trace, lambda path: write_trace(path, recording)),
            (files.report, lambda path: write_report(path, recording, snapshots.chosen() if snapshots else ())),
        )
    finally:
        if not screen.quiet:
            screen.results.print(stage_table(recording.summary))
            files.tell(screen.results)
