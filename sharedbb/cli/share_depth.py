"""``sharedbb share-depth``: how deep heads with trunks of their own can share one, and the network that comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharedbb.cli.options import (
    ArtifactOption,
    BatchOption,
    CropOption,
    NoCacheOption,
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
    from sharedbb.cli.files import Files
    from sharedbb.learn.sharing_record import Sharing

RECORD_VERSION = 1
"""Of the form of the record that ``--json`` writes."""

STEPS = 500
"""How long each training is, where nobody says anything about it."""


def share_depth(
    pipeline: PipelineArgument,
    specialists: Annotated[
        list[str],
        typer.Argument(
            metavar="[HEADS=]SPECIALIST...",
            help="Artifacts or pipeline files of networks trained for some of the heads, such as road,edges=road.sbb.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option("--data", metavar="SET", help="Pictures: camvid:DIR, coco:DIR, a folder, a video, ..."),
    ],
    out: ArtifactOption,
    depths: Annotated[
        str | None,
        typer.Option(
            "--depths", metavar="D,D,...", help="Strides, steps such as features.5, or all; all strides if absent."
        ),
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option("--floor", metavar="HEAD=SHARE", help="Least share of its specialist's quality; 0.98 if absent."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=0, help="Of each training; 500 if absent, 0 for none.")
    ] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", metavar="M", min=0, help="Of each, instead.")] = None,
    batch: BatchOption = 8,
    lr: RateOption = 5e-4,
    crop: CropOption = None,
    seed: SeedOption = 0,
    judged: Annotated[
        int | None, typer.Option("--judge", metavar="N", min=1, help="Judge on N pictures; on all of val if absent.")
    ] = None,
    timing: Annotated[bool, typer.Option(help="Whether a frame is timed with each network.")] = True,
    overrides: SetOption = None,
    work: WorkOption = None,
    json_file: RecordOption = None,
    report: ReportOption = None,
    no_cache: NoCacheOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find out how deep specialists can share a trunk.

    A specialist is a network of its own for some of the pipeline's heads. At each depth the first steps are the
    pipeline's, frozen, and the rest is trained on from the specialist. Written is the cheapest network whose heads all
    keep their floor, with a branch for each specialist. Stopped at any moment, the same command goes on where it was.
    """
    from sharedbb.cli.compress import Watching
    from sharedbb.cli.depth_table import depth_table
    from sharedbb.cli.depths import Stopwatch, pictures_of, question_of, specialists_of
    from sharedbb.cli.files import Files
    from sharedbb.cli.session import Screen
    from sharedbb.cli.shipped import find
    from sharedbb.cli.training import crop_of
    from sharedbb.errors import CompressionError
    from sharedbb.learn.course import Course
    from sharedbb.learn.distillation import Distill
    from sharedbb.learn.journal import Journal
    from sharedbb.learn.sharing import share

    if steps is not None and minutes is not None:
        raise CompressionError("a training ends after --steps or after --minutes; give one of them")
    spec = read_pipeline(pipeline, overrides)
    given, floors = specialists_of(specialists), numbers_of("--floor", floor or (), most=1)
    files = Files(report=report, summary=json_file, artifact=out)
    files.check(find(pipeline), spec.backbone.weights or "", *(path for path, _ in given))
    course = Course(
        steps=STEPS if steps is None and minutes is None else steps,
        minutes=minutes,
        batch=batch,
        lr=lr,
        crop=crop_of(crop),
        distill=Distill(),
        seed=seed,
    )
    screen = Screen.for_files(files, quiet=quiet)
    measure = Stopwatch(use_cache=False if no_cache else None) if timing else None
    with Watching(screen) as watch:
        watch("reading networks", None)
        question = question_of(spec, given, depths, course, floors)
        pictures = pictures_of(data, spec.input.size, judged, watch)
        journal = Journal(work or out.with_suffix(".work"))
        found = share(question, pictures, journal, measure=measure, watch=watch)
        told = record(found, [sentence for one in pictures for sentence in one.said])
        write(found, told, out, files)
    tell(depth_table(told), files, screen)


def record(found: Sharing, said: Sequence[str]) -> dict[str, Any]:
    """The record with its version, what there is to say of the pictures, and what it was made on."""
    from sharedbb.profiling.summary import installed_versions, machine_name

    told = {"schema": RECORD_VERSION, **found.to_dict(), "said": list(dict.fromkeys(said))}
    return {**told, "machine": machine_name(), "versions": installed_versions()}


def write(found: Sharing, told: Mapping[str, Any], out: Path, files: Files) -> None:
    """Write the artifact with a pipeline file beside it, and the record as asked for."""
    from sharedbb.cli.depth_page import depth_page

    found.save(out)
    keep(told, files, lambda: depth_page(told))
