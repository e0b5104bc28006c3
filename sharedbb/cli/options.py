"""Arguments and options that several commands share, and what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharedbb.cli.shipped import find

if TYPE_CHECKING:
    from rich.console import Console

    from sharedbb.media import Source
    from sharedbb.runtime import Engine
    from sharedbb.spec import Pipeline

MOST = 2**31 - 1
"""Frames that may be asked for: more than a year of them, and a number that everything can count to."""

PipelineArgument = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="A pipeline file, or the name of one from `sharedbb pipelines`.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the pipeline, such as heads.road.every=2."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", metavar="auto|cpu|cuda", help="Same as --set runtime.device=...")
]
BackendOption = Annotated[
    str | None, typer.Option("--backend", metavar="NAME", help="Same as --set runtime.backend=...")
]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", metavar="auto|f32|bf16|f16", help="Same as --set runtime.precision=...")
]
NoCacheOption = Annotated[
    bool, typer.Option("--no-cache", help="Compile and measure anew, and keep nothing of it on disk.")
]
ArtifactOption = Annotated[
    Path, typer.Option("--out", metavar="FILE.sbb", help="The artifact; its pipeline file is written beside it.")
]
WorkOption = Annotated[
    Path | None,
    typer.Option("--work", metavar="FOLDER", help="Where to resume from; FILE.work beside the artifact if absent."),
]
RecordOption = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The record as JSON.")]
ReportOption = Annotated[Path | None, typer.Option("--report", metavar="FILE", help="HTML report.")]
BatchOption = Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Pictures of a step.")]
RateOption = Annotated[float, typer.Option("--lr", metavar="RATE", min=0, help="Highest learning rate.")]
CropOption = Annotated[
    str | None, typer.Option("--crop", metavar="HxW", help="Size of the crops; growing with the training if absent.")
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Equal seeds give equal weights.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]


def read_pipeline(
    name: str,
    overrides: Sequence[str] | None = None,
    *,
    device: str | None = None,
    backend: str | None = None,
    precision: str | None = None,
) -> Pipeline:
    """The pipeline that a command line names, with what the command line changes in it. Raises SpecError."""
    from sharedbb.spec import load

    runtime = {"device": device, "backend": backend, "precision": precision}
    shorthands = [f"runtime.{field}={value}" for field, value in runtime.items() if value is not None]
    return load(find(name), [*shorthands, *(overrides or ())])


def compiled(pipeline: Pipeline, console: Console, *, source: Source | None = None, no_cache: bool = False) -> Engine:
    """The engine for a pipeline on a source; a terminal shows meanwhile that this may take a while."""
    from rich.text import Text

    from sharedbb.compiler import compile_pipeline

    with console.status(Text(f"compiling {pipeline.name}"), spinner_style="dim"):
        return compile_pipeline(pipeline, source=source, use_cache=False if no_cache else None)


def numbers_of(option: str, texts: Sequence[str], most: float = math.inf) -> dict[str, float]:
    """Numbers by head from ``HEAD=NUMBER``, each from 0 to ``most``. Raises CompressionError naming the option."""
    from sharedbb.errors import CompressionError

    found: dict[str, float] = {}
    for text in texts:
        head, _, given = text.partition("=")
        try:
            number = float(given)
        except ValueError:
            number = math.nan
        if not head or not 0 <= number <= most or number == math.inf:
            bounds = f"from 0 to {most:g}" if most < math.inf else "from 0 up"
            raise CompressionError(f"{option} is written HEAD=NUMBER, with a number {bounds}, got {text!r}")
        found[head] = number
    return found
