"""``sharedbb plan``: what sharing, precision, pruning, resolution and reuse would give, before any of it is done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharedbb.cli.options import BackendOption, DeviceOption, PipelineArgument, SetOption, numbers_of, read_pipeline
from sharedbb.cli.shipped import find

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sharedbb.compress.costs import CostModel, Estimate
    from sharedbb.compress.planning import Outlook, Plan, Subject

SHOWN = 5
"""Combinations in the table."""

POOR = 0.5
"""Median error of a cost model above which it was measured on a machine that was not quiet."""


def plan(
    pipeline: PipelineArgument,
    target_ms: Annotated[
        float | None, typer.Option("--target-ms", metavar="MS", min=0.0, help="How long a frame may take.")
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option("--floor", metavar="HEAD=SHARE", help="The least share of its quality that a head must keep."),
    ] = None,
    recomputed: Annotated[
        float | None,
        typer.Option(
            "--recomputed", metavar="SHARE", min=0.01, max=1.0, help="Of the picture, what changes in a frame."
        ),
    ] = None,
    overrides: SetOption = None,
    device: DeviceOption = None,
    backend: BackendOption = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE|-", help="Write everything as JSON, - for stdout.")
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Measure this machine's cost model anew.")] = False,
) -> None:
    """Show what would make a pipeline faster, before it is done.

    It shows each change alone, and which combination reaches a target at the least expected loss. Times come from a
    cost model that is fitted once to this machine (a few minutes). Losses are not predicted but assumed, as networks of
    a kind usually lose them.
    """
    import json

    from rich.console import Console
    from rich.text import Text

    from sharedbb.cli.costing import cost_model, subject, ways
    from sharedbb.cli.files import Files, write
    from sharedbb.compress.planning import RECOMPUTED, check_floors
    from sharedbb.compress.planning import plan as planned
    from sharedbb.learn.network import Network

    files, floors = Files(summary=json_file), numbers_of("--floor", floor or (), most=1)
    spec = read_pipeline(pipeline, overrides, device=device, backend=backend)
    files.check(find(pipeline), spec.backbone.weights or "")
    check_floors(floors, spec.heads)
    asked, errors = ways(spec.runtime), Console(stderr=True)
    with errors.status("looking for the cost model of this machine", spinner_style="dim") as status:

        def tell(what: str, done: int, total: int) -> None:
            status.update(Text(f"measuring this machine, {done + 1} of {total}: {what}"))

        model = cost_model(asked, spec.runtime.threads, anew=anew, tell=tell)
        status.update(Text(f"measuring {spec.name}"))
        network = Network.of(spec)
        known = subject(network, [way for way in asked if str(way) in model.laws])
    runnable = _in_order(known, quantized=network.scheme is not None)
    shares = RECOMPUTED if recomputed is None else tuple(dict.fromkeys((1.0, recomputed)))
    found = planned(model, known, runnable, target_ms=target_ms, floors=floors, recomputed=shares)
    told = {"pipeline": spec.name, "model": model.to_dict(), **found.to_dict()}
    if not files.to_stdout:
        show(found, known, model, Console(highlight=False))
    if files.summary is not None:
        write(files.summary, json.dumps(told, indent=2) + "\n")
    files.tell(errors)


def _in_order(known: Subject, *, quantized: bool) -> list[str]:
    """The ways that were measured, as it runs now first: the fastest, in floats unless the network is quantized."""
    from sharedbb.compress.costs import precision_of
    from sharedbb.errors import BackendError

    if not known.measured:
        raise BackendError(f"{known.name} does not run on any backend that was asked for; see `sharedbb doctor`")
    by_time = sorted(known.measured, key=lambda way: known.measured[way])
    now = next((way for way in by_time if (precision_of(way) == "int8") == quantized), by_time[0])
    return [now, *(way for way in by_time if way != now)]


def show(found: Plan, known: Subject, model: CostModel, console: Console) -> None:
    """Print the plan: what each change gives alone, the best combinations, and what is known how well."""
    from rich.text import Text

    for line in _heading(found, known):
        console.print(Text(line))
    alone = _table("Each change alone")
    for one in found.alone:
        alone.add_row(*_cells(one, found.now))
    console.print(alone)
    if found.together:
        reaching = "" if found.target_ms is None else f" that reach {found.target_ms:g} ms"
        together = _table(f"Combinations{reaching}, least expected loss first")
        for one in found.together[:SHOWN]:
            together.add_row(*_cells(one, found.now))
        console.print(together)
    for line in _verdict(found, model):
        console.print(Text(line))


def _heading(found: Plan, known: Subject) -> list[str]:
    now = found.now
    return [
        f"{known.name}: {now.time.milliseconds:.2f} ms on {now.choice.way} at {now.size}, "
        f"{now.macs / 1e9:.2f} G multiply-adds (measured)",
        f"its {len(known.heads)} heads as networks of their own: {_time(found.apart)} "
        f"({found.apart.milliseconds / now.time.milliseconds:.1f} times as long; predicted)",
    ]


def _table(title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for column in ("change", "ms", "nine of ten", "faster", "loss", "of"):
        table.add_column(column, justify="left" if column in ("change", "of") else "right", overflow="fold")
    return table


def _cells(one: Outlook, now: Outlook) -> Sequence[str]:
    worst = max(one.losses, key=lambda head: one.losses[head])
    return (
        _change(one, now),
        f"{one.time.milliseconds:.2f}",
        "measured" if one.measured else f"{one.time.low:.2f}–{one.time.high:.2f}",
        f"{now.time.milliseconds / one.time.milliseconds:.2f}×",
        f"{one.worst:.1%}",
        worst if one.worst else "",
    )


def _change(one: Outlook, now: Outlook) -> str:
    """What a choice changes, in words."""
    choice = one.choice
    words = [choice.way] if choice.way != now.choice.way else []
    words += [f"prune {choice.pruning:.0%}"] if choice.pruning else []
    words += [f"at {one.size}"] if one.size != now.size else []
    words += [f"reuse ({choice.recomputed:.0%} anew)"] if choice.recomputed < 1 else []
    return ", ".join(words) or "nothing"


def _time(estimate: Estimate) -> str:
    if estimate.low == estimate.high:
        return f"{estimate.milliseconds:.2f} ms"
    return f"{estimate.milliseconds:.2f} ms ({estimate.low:.2f}–{estimate.high:.2f})"


def _verdict(found: Plan, model: CostModel) -> list[str]:
    """Whether the target is reached, and how far the numbers can be trusted."""
    law = model.law(found.now.choice.way)
    said = [
        "Times that were not measured are predicted, nine of ten to lie in the interval. Losses are assumed, not "
        "predicted: of the head that loses most. Pruning is of multiply-adds; reuse is of frames in which so much of "
        "the picture is computed anew.",
        f"The model of {found.now.choice.way} was fitted to {law.networks} networks, "
        f"median error {law.error:.0%} on those it had not seen.",
    ]
    if law.error > POOR:
        said.append("That says little: the machine was busy, as it seems. --anew measures again when it is not.")
    if found.fastest is None:
        return ["Nothing keeps these floors, not even the network as it is.", *said]
    if found.target_ms is None:
        return said
    if found.best is None:
        fastest = found.fastest
        return [
            f"Nothing reaches {found.target_ms:g} ms above the floors; the fastest is {_change(fastest, found.now)}: "
            f"{_time(fastest.time)}.",
            *said,
        ]
    return [f"Best for {found.target_ms:g} ms: {_change(found.best, found.now)}: {_time(found.best.time)}.", *said]
