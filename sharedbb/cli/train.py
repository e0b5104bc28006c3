"""``sharedbb train``: a pipeline's heads together, from one or several labelled sets, to an artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sharedbb.cli.options import (
    ArtifactOption,
    BatchOption,
    CropOption,
    PipelineArgument,
    QuietOption,
    RateOption,
    RecordOption,
    ReportOption,
    SeedOption,
    SetOption,
    WorkOption,
    numbers_of,
    read_pipeline,
)
from sharedbb.cli.results import keep, tell

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from sharedbb.cli.files import Files
    from sharedbb.learn.balance import Balancing

STEPS = 2000
"""How long a training is that nobody said anything about."""


def train(
    pipeline: PipelineArgument,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="SET[@SHARE]",
            help="Labelled pictures: camvid:DIR, coco:DIR, a folder, synthetic:street?...; may be given again.",
        ),
    ],
    out: ArtifactOption,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", min=0, help="How long; 2000 if absent.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", metavar="M", min=0, help="How long, instead.")] = None,
    balance: Annotated[
        str, typer.Option("--balance", metavar="fixed|uncertainty|gradnorm", help="How losses are weighed.")
    ] = "fixed",
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", metavar="HEAD=W", help="Weight of a head's loss; may be given again."),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", metavar="NAME", help="Train a network of only this head; or of several."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--start", metavar="FILE.sbb", help="Weights to begin with; new heads stay random.")
    ] = None,
    overlap: Annotated[
        float, typer.Option("--overlap", metavar="W", min=0, help="Weight of IoU beside segmentation's cross-entropy.")
    ] = 0.0,
    batch: BatchOption = 8,
    lr: RateOption = 1e-3,
    crop: CropOption = None,
    seed: SeedOption = 0,
    validate_every: Annotated[
        int | None, typer.Option("--validate-every", metavar="STEPS", min=1, help="A twentieth of --steps if absent.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", metavar="N", min=1, help="End after N validations without a new best.")
    ] = None,
    test: Annotated[
        bool, typer.Option("--test", help="Judge the result on the sets' test parts, once, at the end.")
    ] = False,
    overrides: SetOption = None,
    work: WorkOption = None,
    json_file: RecordOption = None,
    report: ReportOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a pipeline's heads on labelled pictures.

    A set may know some heads only. Stopped at any moment, the same command goes on where it was; the averaged weights
    that are best on the sets' validation parts are kept.
    """
    from sharedbb.cli.compress import Watching
    from sharedbb.cli.files import Files
    from sharedbb.cli.session import Screen
    from sharedbb.cli.shipped import find
    from sharedbb.cli.training import Wanted, crop_of, record, run, sets_of
    from sharedbb.errors import CompressionError
    from sharedbb.learn.course import Course

    if steps is not None and minutes is not None:
        raise CompressionError("a training ends after --steps or after --minutes; give one of them")
    spec = read_pipeline(pipeline, overrides)
    files = Files(report=report, summary=json_file, artifact=out)
    files.check(find(pipeline), start or "", spec.backbone.weights or "")
    course = Course(
        steps=STEPS if steps is None and minutes is None else steps,
        minutes=minutes,
        batch=batch,
        lr=lr,
        crop=crop_of(crop),
        overlap=overlap,
        balance=cast("Balancing", balance),
        heads=numbers_of("--weight", weight or ()),
        seed=seed,
    )
    wanted = Wanted(spec, sets_of(data), course, tuple(head or ()), start, validate_every, patience, test)
    folder = work or out.with_suffix(".work")
    screen = Screen.for_files(files, quiet=quiet)
    with Watching(screen) as watch:
        trained = run(wanted, folder, watch)
        watch("writing", None)
        trained.save(out)
        told = record(trained, out, folder)
    write(told, files)
    tell(shown(told), files, screen)


def write(told: Mapping[str, Any], files: Files) -> None:
    """Write the record as asked for."""
    from sharedbb.cli.training_page import training_page

    keep(told, files, lambda: training_page(told))


def shown(told: Mapping[str, Any]) -> Group:
    """The table, and what there is to say."""
    from rich.console import Group
    from rich.text import Text

    return Group(table(told), *map(Text, told["said"]))


def table(told: Mapping[str, Any]) -> Table:
    """Each head's headline on the parts that it was judged on."""
    from rich.table import Table
    from rich.text import Text

    from sharedbb.cli.training_page import headline_name

    parts = [part for part in ("val", "test") if part in told]
    title = f"{told['pipeline']}: {told['steps']} steps, best after {told['best_step'] or told['steps']}"
    shown = Table(title=Text(title), title_style="bold", title_justify="left")
    for name in ("head", "metric", *parts):
        shown.add_column(name, justify="right" if name in parts else "left", overflow="fold")
    for head, facts in told["heads"].items():
        numbers = ["–" if facts.get(part) is None else f"{facts[part]:.4f}" for part in parts]
        shown.add_row(Text(head), headline_name(told, head), *numbers)
    return shown
