"""``sharedbb explain``: what a pipeline becomes when it is compiled here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharedbb.cli.options import (
    BackendOption,
    DeviceOption,
    NoCacheOption,
    PipelineArgument,
    PrecisionOption,
    SetOption,
    compiled,
    read_pipeline,
)
from sharedbb.cli.shipped import find

if TYPE_CHECKING:
    from rich.console import Console

    from sharedbb.program import Program


def explain(
    pipeline: PipelineArgument,
    overrides: SetOption = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    no_cache: NoCacheOption = False,
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="FILE", help="What it will run on, for transforms that depend on it."),
    ] = None,
    dot_file: Annotated[
        Path | None, typer.Option("--dot", metavar="FILE|-", help="Write the graph for Graphviz, - for stdout.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE|-", help="Write everything as JSON, - for stdout.")
    ] = None,
) -> None:
    """Show the graph that a pipeline becomes, and what it costs.

    For each segment: its stride, what it gives, how far it reaches, multiply-adds, parameters, and its time when it
    was compiled here. For each head: what it needs, and what that would take alone.
    """
    import json
    from contextlib import nullcontext

    from rich.console import Console

    from sharedbb import media
    from sharedbb.cli.describe import describe, dot
    from sharedbb.cli.files import Files, write

    files = Files(summary=json_file, graph=dot_file)
    spec = read_pipeline(pipeline, overrides, device=device, backend=backend, precision=precision)
    files.check(source or "", find(pipeline), spec.backbone.weights or "")
    with media.open_source(source) if source else nullcontext() as opened:
        engine = compiled(spec, Console(stderr=True), source=opened, no_cache=no_cache)
    description = describe(engine.program)
    if not files.to_stdout:
        console = Console(highlight=False)
        _show(description, console)
        _list("Smaller sizes of the same network:", map(_size, engine.smaller), console)
    if files.graph is not None:
        write(files.graph, dot(description))
    if files.summary is not None:
        write(files.summary, json.dumps(description, indent=2) + "\n")
    files.tell(Console(stderr=True))


def _size(program: Program) -> str:
    """One size of a ladder: how large, and what all heads take there."""
    stages = program.stages_for(frozenset(program.heads))
    milliseconds = sum(stage.facts.measured_ms or 0.0 for stage in stages)
    return f"{program.size}: {milliseconds:.2f} ms for all heads"


def _show(description: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from sharedbb.cli.describe import fused_lines, head_rows, tree

    console.print(tree(description))
    table = Table(title="Each head, if it ran alone", title_justify="left", title_style="bold")
    for title in ("head", "runs", "MACs", "parameters", "time", "needs"):
        right = title in ("MACs", "parameters", "time")
        table.add_column(title, justify="right" if right else "left", no_wrap=title != "needs", overflow="fold")
    for row in head_rows(description):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    _list("The stem, as it reads the picture:", description["stem"], console)
    _list("Heads that are due together, and run as one:", fused_lines(description), console)
    _list("What was tried here:", description["choices"], console)


def _list(title: str, lines: Iterable[str], console: Console) -> None:
    from rich.text import Text

    for number, line in enumerate(lines):
        if number == 0:
            console.print(title, style="bold")
        console.print(Text(f"  {line}"))
