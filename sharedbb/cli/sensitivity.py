"""``sharedbb sensitivity``: how far each head falls when one layer is pruned, quantized or clustered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharedbb.cli.options import PipelineArgument, QuietOption, SetOption, read_pipeline

if TYPE_CHECKING:
    from rich.table import Table

    from sharedbb.compress.sensitivity import Sensitivity

_CHANGING = "changing one layer after another"
SHOWN = 12
"""Layers in the table, those with the furthest falls."""


def sensitivity(
    pipeline: PipelineArgument,
    data: Annotated[
        str,
        typer.Option("--data", metavar="SET", help="Pictures: camvid:DIR, a folder, a video, synthetic:street?..."),
    ],
    methods: Annotated[
        str, typer.Option("--methods", metavar="NAME,...", help="Of prune, quantize and cluster.")
    ] = "prune,quantize,cluster",
    layers: Annotated[
        list[str] | None, typer.Option("--layer", metavar="NAME", help="Only this layer; may be given again.")
    ] = None,
    part: Annotated[str, typer.Option("--part", metavar="train|val|test", help="Part of the set.")] = "val",
    pictures: Annotated[int, typer.Option("--pictures", metavar="N", min=1, help="How many, evenly spread.")] = 8,
    overrides: SetOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="What recipes read, as JSON.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="HTML report with a heat map for each method.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Show which layers bear pruning, quantization and clustering.

    Each layer is changed alone, and every head's answers are compared with those of the unchanged network.
    """
    from rich.console import Console

    from sharedbb.cli.files import Files
    from sharedbb.cli.results import keep, tell
    from sharedbb.cli.sensitivity_page import sensitivity_page
    from sharedbb.cli.session import Screen
    from sharedbb.cli.shipped import find
    from sharedbb.compress.sensitivity import STRENGTHS
    from sharedbb.compress.sensitivity import sensitivity as measured
    from sharedbb.learn.data import open_data
    from sharedbb.learn.network import Network

    files = Files(report=report, summary=json_file)
    spec = read_pipeline(pipeline, overrides)
    files.check(find(pipeline), spec.backbone.weights or "")
    screen = Screen.for_files(files, quiet=quiet)
    chosen = open_data(data).of(part).spread(pictures)
    strengths = {method: STRENGTHS.get(method, ()) for method in _listed(methods)}
    network = Network.of(spec)
    with Console(stderr=True, quiet=quiet).status(_CHANGING, spinner_style="dim") as status:

        def advance(done: int, total: int) -> None:
            status.update(f"{_CHANGING}, {done} of {total}")

        found = measured(network, chosen, strengths=strengths, layers=layers or (), progress=advance)
    try:
        keep(found.to_dict(), files, lambda: sensitivity_page(found, chosen.name))
    finally:
        tell(_table(found), files, screen)


def _listed(methods: str) -> Sequence[str]:
    return tuple(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))


def _table(found: Sensitivity) -> Table:
    """The layers with the furthest falls, and how far the head that falls furthest falls, by method and strength."""
    from rich.table import Table
    from rich.text import Text

    from sharedbb.cli.sensitivity_page import strength_name

    title = f"{found.pipeline}: how far the worst head falls, {len(found.layers)} layers, {found.pictures} pictures"
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    table.add_column("layer", overflow="fold")
    by_layer = {layer.name: found.of(layer.name) for layer in found.layers}
    for trial in next(iter(by_layer.values()), []):
        table.add_column(strength_name(trial.method, trial.strength), justify="right")
    ranked = sorted(by_layer.items(), key=lambda item: -sum(trial.fall for trial in item[1]))
    for name, trials in ranked[:SHOWN]:
        table.add_row(Text(name), *(f"{trial.fall:.1%}" for trial in trials))
    if len(ranked) > SHOWN:
        table.caption = f"{len(ranked) - SHOWN} layers fall less"
    return table
