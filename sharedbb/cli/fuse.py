"""``sharedbb fuse``: several networks, a teacher each, become heads on one trunk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharedbb.cli.options import (
    ArtifactOption,
    NoCacheOption,
    QuietOption,
    RecordOption,
    ReportOption,
    WorkOption,
)
from sharedbb.cli.results import keep, tell

if TYPE_CHECKING:
    from sharedbb.cli.files import Files
    from sharedbb.learn.fusion import Fusion

RECORD_VERSION = 1
"""Of the form of the record that ``--json`` writes."""

MISSED = 1
"""Exit code where a head stays under its floor."""


def fuse(
    file: Annotated[str, typer.Argument(metavar="FUSE", help="A fuse file.")],
    out: ArtifactOption,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the file, such as training.steps=100."),
    ] = None,
    work: WorkOption = None,
    json_file: RecordOption = None,
    report: ReportOption = None,
    no_cache: NoCacheOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make one network of several, each a teacher of its heads.

    Teachers answer all pictures, the student learns from what they say, and every head is held against its teacher on
    pictures that were held out. Exits with 1 where a head stays under its floor; everything is written then, too.
    Stopped at any moment, the same command goes on where it was.
    """
    from sharedbb.cli.compress import Watching
    from sharedbb.cli.files import Files
    from sharedbb.cli.fuse_table import fuse_table
    from sharedbb.cli.fusing import speeds
    from sharedbb.cli.session import Screen
    from sharedbb.learn.fuse import fuse as run
    from sharedbb.spec.fuse import load_fuse

    spec = load_fuse(file, overrides or ())
    files = Files(report=report, summary=json_file, artifact=out)
    teachers = (getattr(one, one.kind) for one in spec.teachers.values() if one.kind != "module")
    files.check(file, spec.student, spec.start_file or "", *teachers)
    screen = Screen.for_files(files, quiet=quiet)
    with Watching(screen) as watch:
        result = run(spec, work or out.with_suffix(".work"), watch=watch)
        save(result, out)
        watch("measuring", None)
        told = record(result, speeds(result, use_cache=False if no_cache else None))
        watch("writing", None)
        write(result, told, files)
    tell(fuse_table(told), files, screen)
    if result.missed:
        raise typer.Exit(MISSED)


def record(result: Fusion, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The record with its version, the speeds, the course of the training, and what it was made on."""
    from sharedbb.cli.training import curves
    from sharedbb.learn.logbook import read_lines
    from sharedbb.profiling.summary import installed_versions, machine_name

    told = {"schema": RECORD_VERSION, **result.to_dict(), "speed": measured, "curves": curves(read_lines(result.log))}
    return told | {"machine": machine_name(), "versions": installed_versions()}


def save(result: Fusion, out: Path) -> None:
    """Write the artifact with a pipeline file beside it; whatever fails later, these are there."""
    from sharedbb.profiling.files import write_text

    teachers = {name: teacher.describe() for name, teacher in result.teachers.items()}
    result.network.save(out, report={"test": result.scores, "teachers": teachers})
    write_text(out.with_suffix(".yaml"), result.network.pipeline_text(out.name))


def write(result: Fusion, told: Mapping[str, Any], files: Files) -> None:
    """Write the record as asked for."""
    from sharedbb.cli.fuse_page import fuse_page
    from sharedbb.cli.fusing import pictures

    keep(told, files, lambda: fuse_page(told, pictures(result)))
