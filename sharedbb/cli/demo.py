"""``sharedbb demo``: the shipped street pipeline, from a clip to everything that can be written about it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharedbb.cli.options import MOST, compiled, read_pipeline
from sharedbb.cli.shipped import shipped

GENERATED_FRAMES, GENERATED_SIZE = 150, (540, 960)


def demo(
    video: Annotated[
        str | None, typer.Option("--video", metavar="PATH", help="A video to run on; without one, a generated street.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the results go.")] = Path("demo-out"),
    frames: Annotated[
        int | None,
        typer.Option(
            "--frames",
            metavar="N",
            min=1,
            max=MOST,
            help=f"Stop after so many; {GENERATED_FRAMES} of the generated street.",
        ),
    ] = None,
) -> None:
    """Run the street pipeline on a clip, made here or yours.

    Leaves an annotated video, a report, a summary and JSON lines in a folder.
    """
    from sharedbb import media
    from sharedbb.cli.clip import street_clip
    from sharedbb.cli.files import Files
    from sharedbb.cli.session import Screen, record
    from sharedbb.types import Size

    files = Files(
        video=out / "street.mp4",
        jsonl=out / "results.jsonl",
        report=out / "report.html",
        summary=out / "summary.json",
    )
    files.check(*([video] if video else []))
    screen = Screen.for_files(files)
    pipeline = read_pipeline(str(shipped("street")))
    source = video or street_clip(out, frames or GENERATED_FRAMES, Size(*GENERATED_SIZE), screen)
    with media.open_source(source) as opened:
        record(compiled(pipeline, screen.progress, source=opened), opened, files, screen, frames)
