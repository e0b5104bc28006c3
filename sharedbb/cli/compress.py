"""``sharedbb compress``: a recipe's steps, judged and measured one by one, to a smaller and faster artifact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

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
    from sharedbb.cli.session import Screen
    from sharedbb.compress.costs import CostModel
    from sharedbb.compress.record import Run

RECORD_VERSION = 1
"""Of the form of the record that ``--json`` writes."""


def compress(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file.")],
    out: ArtifactOption,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the recipe, such as steps.0.amount=0.3."),
    ] = None,
    work: WorkOption = None,
    json_file: RecordOption = None,
    report: ReportOption = None,
    no_cache: NoCacheOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a network smaller and faster by a recipe.

    Every head may have a floor under its quality: a step that breaks one is weakened or left out, as is one that claims
    speed and is not measured faster. Stopped at any moment, the same command goes on where it was.
    """
    from sharedbb.cli.compression import Stopwatch
    from sharedbb.cli.compression_table import compression_table
    from sharedbb.cli.costing import fitted
    from sharedbb.cli.files import Files
    from sharedbb.cli.session import Screen
    from sharedbb.compress.recipe import files_of, run
    from sharedbb.spec import load
    from sharedbb.spec.recipe import load_recipe

    read = load_recipe(recipe, overrides or ())
    files = Files(report=report, summary=json_file, artifact=out)
    pipeline = load(read.pipeline)
    needed = (path for step in read.steps for path in files_of(step).values())
    files.check(recipe, read.pipeline, pipeline.backbone.weights or "", *needed)
    screen = Screen.for_files(files, quiet=quiet)
    with Watching(screen) as watch:
        use_cache = False if no_cache else None
        result = run(read, work or out.with_suffix(".work"), measure=Stopwatch(read.measure, use_cache), watch=watch)
        watch("writing", None)
        told = write(result, record(result, fitted(pipeline.runtime)), out, files, use_cache)
    tell(compression_table(told), files, screen)


class Watching:
    """What is being done, and how far it is, as a line that moves; nothing where the screen is quiet or no terminal."""

    def __init__(self, screen: Screen) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            console=screen.progress,
            transient=True,
            refresh_per_second=5,
            disable=screen.quiet or not screen.progress.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __call__(self, doing: str, share: float | None) -> None:
        """Show what is being done, and which share of it is done, 0 to 1."""
        self._bar.update(self._task, description=doing, total=None if share is None else 1.0, completed=share or 0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def write(result: Run, told: Mapping[str, Any], out: Path, files: Files, use_cache: bool | None) -> dict[str, Any]:
    """Write the artifact with a pipeline file beside it, and the record as asked for.

    Returns the record with that artifact's digest and size: unlike the work folder's it holds the report.
    """
    from sharedbb import artifact
    from sharedbb.cli.compression import pictures
    from sharedbb.cli.compression_page import compression_page

    result.save(out)
    written = {"digest": artifact.digest(out), "bytes": out.stat().st_size}
    last = max(place for place, row in enumerate(told["rows"]) if row["fate"] == "kept")
    rows = [row | written if place == last else row for place, row in enumerate(told["rows"])]
    told = {**told, "rows": rows, "digest": written["digest"]}
    keep(told, files, lambda: compression_page(told, pictures(result, use_cache)))
    return told


def record(result: Run, model: CostModel | None) -> dict[str, Any]:
    """The record with its version, what a cost model predicts of each step, and what it was made on."""
    from sharedbb.cli.compression import predictions
    from sharedbb.profiling.summary import installed_versions, machine_name

    told = {"schema": RECORD_VERSION, **result.to_dict(), "machine": machine_name(), "versions": installed_versions()}
    by_row = predictions(result, model) if model else [[] for _ in result.rows]
    for row, found in zip(told["rows"], by_row, strict=True):
        row["predicted"] = [asdict(one) for one in found]
    return told | {"cost_model": model.fingerprint if model else None}
