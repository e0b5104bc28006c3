"""``sharedbb doctor``: what this installation and this machine can do, and what ``auto`` makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from sharedbb.cli.machine import Fact
    from sharedbb.spec import Pipeline

STYLES = {"good": "green", "absent": "yellow", "broken": "red"}
MARKS = {"good": "+", "absent": "-", "broken": "!"}


def doctor() -> None:
    """Show what this machine has, and what `auto` makes of it.

    Versions, processor, GPUs, backends, and a quick measurement. Exits with 1 if nothing can run.
    """
    from rich.console import Console

    import sharedbb
    from sharedbb.cli import machine

    console = Console(highlight=False)
    console.print(f"sharedbb {sharedbb.__version__}", style="bold")
    _section(console, "Packages", machine.packages())
    _section(console, "Machine", (*machine.processor(), machine.cuda()))
    _section(console, "Backends", machine.backends())
    with Console(stderr=True).status("measuring what auto would choose", spinner_style="dim"):
        choice = auto()
    _section(console, "What auto would choose (measured on the first layers of a MobileNetV2)", choice)
    _section(console, "Disk", [machine.cache()])
    if any(fact.state == "broken" for fact in choice):
        raise typer.Exit(1)


def auto() -> tuple[Fact, ...]:
    """What was tried on a small network and what was chosen; one broken fact when nothing runs."""
    from sharedbb.cli.machine import Fact, reason

    try:
        from sharedbb.compiler import compile_pipeline
        from sharedbb.compiler.choose import PREFERRED

        program = compile_pipeline(probe(), use_cache=False, profile=False).program
    except Exception as error:  # any package may be broken: say so, do not fall over it
        return (Fact("auto", f"nothing can run: {reason(error)}", "broken"),)
    device = program.device
    order = ", ".join(PREFERRED.get(device.device, (device.name,)))
    return (
        Fact("chosen", f"{device.name} {device.precision} on {device.device}"),
        *(Fact("tried", line) for line in program.choices),
        Fact("why", f"the first backend that runs, of {order}; of its precisions the fastest"),
    )


def probe() -> Pipeline:
    """The first layers of a MobileNetV2 at 384×640 under the smallest head there is."""
    from sharedbb.spec import Pipeline

    head = {"type": "tags", "taps": [8], "labels": ["anything"]}
    return Pipeline.model_validate(
        {"name": "probe", "backbone": {"arch": "mobilenet_v2"}, "heads": {"probe": head}, "runtime": {"cache": False}}
    )


def _section(console: Console, title: str, facts: Iterable[Fact]) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(Text(f"\n{title}", style="bold"))
    table = Table.grid(padding=(0, 1))
    for fact in facts:
        table.add_row(Text(f" {MARKS[fact.state]}", style=STYLES[fact.state]), Text(fact.name), Text(fact.value))
    console.print(table)
