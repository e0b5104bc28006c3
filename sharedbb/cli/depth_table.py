"""What ``share-depth`` found, as a table for the terminal, and the words and numbers that its page has, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sharedbb.cli.compression_table import macs
from sharedbb.learn.sharing_record import named

if TYPE_CHECKING:
    from rich.console import Group

Told = Mapping[str, Any]
"""What ``Sharing.to_dict`` gave, or a part of it."""


def row_name(row: Told) -> str:
    """What a row shares: ``up to 8``, or ``road up to 4, objects up to 16``."""
    if row["depth"] is not None:
        return named(row["depth"])
    return ", ".join(f"{name} {named(after)}" for name, after in row["depths"].items())


def chosen(told: Told) -> Told:
    """The chosen row."""
    found: Told = told["rows"][told["chosen"]]
    return found


def worst(told: Told, row: Told) -> tuple[str, float]:
    """The specialists' head that keeps the smallest share of its quality, and the share."""
    return min(((head, row["quality"][head]["share"]) for head in told["floors"]), key=lambda found: found[1])


def milliseconds(row: Told) -> str:
    """What a frame takes; a dash where that was not measured."""
    return "–" if row["ms"] is None else f"{row['ms']:.2f} ms"


def fate(told: Told, row: Told) -> str:
    """What is to be said of a row: chosen, holds, or which head is below its floor."""
    if row is chosen(told):
        return "chosen"
    low = [head for head, floor in told["floors"].items() if row["quality"][head]["share"] < floor]
    return f"{', '.join(low)} below the floor" if low else "holds"


def depth_table(told: Told) -> Group:
    """Every depth with its cost and its worst head, then each head alone and in the chosen network."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    depths = Table(title=Text(f"{told['pipeline']}: how deep to share"), title_style="bold", title_justify="left")
    depths.add_column("shared", overflow="fold")
    for name in ("multiply-adds", "frame", "worst head"):
        depths.add_column(name, justify="right", no_wrap=True)
    depths.add_column("", overflow="fold")
    for row in told["rows"]:
        head, share = worst(told, row)
        style = "bold" if row is chosen(told) else "" if row["holds"] else "dim"
        cost = macs(row["macs"]), milliseconds(row)
        depths.add_row(Text(row_name(row)), *cost, f"{head} {share:.1%}", fate(told, row), style=style)

    heads = Table(title="on the validation set", title_style="bold", title_justify="left")
    for name in ("head", "specialist", "shared", "kept", "floor"):
        heads.add_column(name, justify="left" if name == "head" else "right")
    for head, floor in told["floors"].items():
        alone, found = told["rows"][0]["quality"][head], chosen(told)["quality"][head]
        numbers = f"{alone['headline']:.4f}", f"{found['headline']:.4f}", f"{found['share']:.1%}", f"{floor:.1%}"
        heads.add_row(Text(head), *numbers)
    return Group(depths, *map(Text, told["said"]), heads)
