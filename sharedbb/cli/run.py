"""``sharedbb run``: a pipeline on a video, with everything that can be written about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def run(
    pipeline: PipelineArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A video file, a folder or glob of pictures, a camera's number, an rtsp:// or http:// address, "
            "or a generated video such as synthetic:street?motion=drive&frames=300.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Annotated video, H.264.")] = None,
    jsonl: Annotated[
        Path | None, typer.Option("--jsonl", metavar="FILE|-", help="One JSON line a frame, - for stdout.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="HTML report with charts and pictures.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Trace for ui.perfetto.dev or chrome://tracing.")
    ] = None,
    summary: Annotated[
        Path | None, typer.Option("--summary", metavar="FILE", help="The numbers of the run as JSON.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option("--max-frames", metavar="N", min=1, max=MOST, help="Stop after so many frames.")
    ] = None,
    overrides: SetOption = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    no_cache: NoCacheOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a pipeline on a video, a camera or pictures.

    Ctrl-C stops it; what was written until then is complete and can be read.
    """
    from sharedbb import media
    from sharedbb.cli.files import Files
    from sharedbb.cli.session import Screen, record

    files = Files(out, jsonl, report, trace, summary)
    spec = read_pipeline(pipeline, overrides, device=device, backend=backend, precision=precision)
    files.check(source, find(pipeline), spec.backbone.weights or "")
    screen = Screen.for_files(files, quiet=quiet)
    with media.open_source(source, motion=spec.reuse.by_codec) as opened:
        engine = compiled(spec, screen.progress, source=opened, no_cache=no_cache)
        record(engine, opened, files, screen, max_frames)
