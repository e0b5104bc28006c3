"""``sharedbb compare``: how much faster a pipeline is with other settings, and what that costs in agreement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharedbb.cli.options import (
    MOST,
    BackendOption,
    DeviceOption,
    NoCacheOption,
    PipelineArgument,
    PrecisionOption,
    QuietOption,
    SetOption,
    compiled,
    read_pipeline,
)
from sharedbb.cli.shipped import find

if TYPE_CHECKING:
    from sharedbb.cli.comparison import Comparison
    from sharedbb.cli.files import Files
    from sharedbb.cli.session import Screen
    from sharedbb.types import Frame

WARM_UP = 4  # of the first frames, which both engines run once before anything is timed
RUN = 16  # frames that one engine takes before it is the other one's turn


def compare(
    pipeline: PipelineArgument,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="As for run.")],
    overrides: SetOption = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="FIELD=VALUE", help="Set a field for the other side, which is the truth."),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The numbers as JSON.")] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="HTML report with charts and the worst frames.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option("--max-frames", metavar="N", min=1, max=MOST, help="Stop after so many frames.")
    ] = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    no_cache: NoCacheOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare two settings of a pipeline: speed and agreement.

    Every frame is decoded once and goes through both engines, sixteen frames each in turns; only the engines are timed.
    """
    from sharedbb import media
    from sharedbb.cli.comparison import Comparison, Side
    from sharedbb.cli.files import Files
    from sharedbb.cli.session import Screen
    from sharedbb.cli.worst import WorstFrames

    files = Files(report=report, summary=json_file)
    settings = [
        (given or (), read_pipeline(pipeline, given, device=device, backend=backend, precision=precision))
        for given in (overrides, against)
    ]
    files.check(source, find(pipeline), *(spec.backbone.weights or "" for _, spec in settings))
    screen = Screen.for_files(files, quiet=quiet)
    motion = any(spec.reuse.by_codec for _, spec in settings)
    with media.open_source(source, motion=motion) as opened:
        ours, other = (
            Side(compiled(spec, screen.progress, source=opened, no_cache=no_cache), given) for given, spec in settings
        )
        comparison = Comparison(ours, other, WorstFrames() if report else None)
        counts = [count for count in (max_frames, opened.frames) if count is not None]
        play(comparison, islice(opened, max_frames), min(counts, default=None), opened.name, files, screen)


def play(
    comparison: Comparison, frames: Iterable[Frame], total: int | None, source: str, files: Files, screen: Screen
) -> None:
    """Take all frames, then write the files and print the table; whatever ends it, of what was compared until then.

    Raises SourceError when there is no frame.
    """
    from sharedbb.cli.interrupts import between
    from sharedbb.cli.progress import Progress
    from sharedbb.errors import SourceError

    with ExitStack() as stack:
        stack.callback(finish, comparison, source, files, screen)
        progress = stack.enter_context(Progress(screen.progress, "comparing", total, quiet=screen.quiet))
        for run in between(runs(warmed(comparison, frames))):
            comparison.take(run)
            progress.advance(len(run))
    if not comparison.numbers:
        raise SourceError(f"{source}: not a single frame came out of it")


def warmed(comparison: Comparison, frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames, all of them, after both engines have run and forgotten the first few."""
    rest = iter(frames)
    first = list(islice(rest, WARM_UP))
    comparison.warm_up(first)
    yield from chain(first, rest)


def runs(frames: Iterable[Frame], length: int = RUN) -> Iterator[list[Frame]]:
    """The frames, a few at a time; what breaks their source is raised after those that came before it."""
    rest = iter(frames)
    while True:
        run: list[Frame] = []
        broken: Exception | None = None
        try:
            run.extend(islice(rest, length))
        except Exception as error:  # whatever it is
            broken = error
        if run:
            yield run
        if broken is not None:
            raise broken
        if len(run) < length:
            return


def finish(comparison: Comparison, source: str, files: Files, screen: Screen) -> None:
    """Write and print what was compared, if there was a frame."""
    from sharedbb.cli.comparison_page import comparison_page
    from sharedbb.cli.comparison_table import comparison_table
    from sharedbb.cli.results import keep, tell

    if not comparison.numbers:
        return
    told = comparison.to_dict(source)
    try:
        keep(told, files, lambda: comparison_page(comparison, told))
    finally:
        tell(comparison_table(told), files, screen)
