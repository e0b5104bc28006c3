"""``sharedbb profile``: where the time goes, without drawing or writing a video."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
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
    from sharedbb.cli.session import Screen
    from sharedbb.media import Source

FRAMES = 200
GENERATED_FRAMES, GENERATED_SIZE = 40, (384, 640)  # of the street, which is played again and again
WARM_UP = 10  # frames that are run and forgotten first


def profile(
    pipeline: PipelineArgument,
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="As for run; without one, a generated street.")
    ] = None,
    frames: Annotated[
        int, typer.Option("--frames", metavar="N", min=1, max=MOST, help="Measure so many frames.")
    ] = FRAMES,
    summary: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="The numbers, in the form of run's summary.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Trace for ui.perfetto.dev or chrome://tracing.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="HTML report with charts and pictures.")
    ] = None,
    overrides: SetOption = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    no_cache: NoCacheOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure the time of every stage; no video is written.

    Warms up, runs, and shows p50, p95, p99 and each stage's share of the frame.
    """
    from sharedbb import media
    from sharedbb.cli.files import Files
    from sharedbb.cli.session import Screen, record, warm_up

    files = Files(report=report, trace=trace, summary=summary)
    spec = read_pipeline(pipeline, overrides, device=device, backend=backend, precision=precision)
    files.check(source or "", find(pipeline), spec.backbone.weights or "")
    screen = Screen.for_files(files, quiet=quiet)
    with ExitStack() as stack:
        named = media.open_source(source, motion=spec.reuse.by_codec) if source else None
        opened = stack.enter_context(named or _street(stack, frames, screen, motion=spec.reuse.by_codec))
        engine = compiled(spec, screen.progress, source=opened, no_cache=no_cache)
        warm_up(engine, WARM_UP)
        record(engine, opened, files, screen, frames)


def _street(stack: ExitStack, frames: int, screen: Screen, *, motion: bool) -> Source:
    """A generated street as a video file, for as long as ``stack`` is open."""
    from sharedbb.cli.clip import Repeated, street_clip
    from sharedbb.types import Size

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sharedbb-"))
    clip = street_clip(Path(folder), min(frames, GENERATED_FRAMES), Size(*GENERATED_SIZE), screen)
    return Repeated(clip, "generated street", frames, motion=motion)
