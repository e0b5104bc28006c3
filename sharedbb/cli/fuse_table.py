"""The record of a fusion as tables for the terminal, and the words that its page has, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sharedbb.cli.compression_table import macs, size

if TYPE_CHECKING:
    from rich.console import Group

Told = Mapping[str, Any]
"""What ``Fusion.to_dict`` gave, with the speeds, or a part of it."""

AGREEMENT, LABELLED = "agreement", "labelled"

LABEL_METRICS = ("miou", "map50", "f1", "delta1")
"""The headline metrics of what labels say, by type of head."""


def percent(share: float | None) -> str:
    """A share to a tenth of a percent; a dash for none."""
    return "–" if share is None else "100 %" if share == 1 else f"{share * 100:.1f} %"


def by_labels(head: Told) -> str:
    """The headline metric of what labels say of a head on a set: ``miou 0.652``; empty where they say nothing."""
    metrics = head.get(LABELLED, {})
    name = next((name for name in LABEL_METRICS if metrics.get(name) is not None), None)
    return "" if name is None else f"{name} {metrics[name]:.3f}"


def agreement(told: Told, head: str) -> Told:
    """What is known of a head on all sets together; empty for one that has no teacher."""
    found: Told = told["test"]["all"].get(head, {})
    return found


def fate(head: Told) -> str:
    """Whether a head reaches its floor."""
    if head["floor"] is None:
        return ""
    reached = head["score"] is not None and head["score"] >= head["floor"]
    return f"{'above' if reached else 'below'} its floor of {head['floor']:g}"


def speed_line(told: Told) -> str:
    """One speed: ``openvino bf16: 31.2 ms apart, 8.1 ms fused, 3.85× as fast``."""
    return (
        f"{told['target']}: {told['separate_ms']:.2f} ms apart, {told['fused_ms']:.2f} ms fused, "
        f"{told['ratio']:.2f}× as fast"
    )


def fuse_table(told: Told) -> Group:
    """Each head on the sets that were held out, over all and set by set; then speed."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    heads = Table(title=Text(f"{told['student']}: held-out sets"), title_style="bold", title_justify="left")
    for name in ("head", "teacher", "agreement", ""):
        heads.add_column(name, justify="right" if name == "agreement" else "left", overflow="fold")
    for name, head in told["heads"].items():
        heads.add_row(Text(name), Text(head["teacher"] or "labels"), percent(head["score"]), fate(head))
    sets = Table()
    sets.add_column("set", overflow="fold")
    for name in told["heads"]:
        sets.add_column(Text(name), justify="right", overflow="fold")
    for name, found in told["test"]["sets"].items():
        sets.add_row(Text(short(name)), *(_cell(found.get(head, {})) for head in told["heads"]))
    network = f"{macs(told['macs'])} multiply-adds, {told['parameters'] / 1e6:.2f} M parameters, {size(told['bytes'])}"
    trained = f"trained for {told['training']['steps']} steps, best on the sets to choose by after {told['best_step']}"
    lines = [*told["said"], network, trained, *map(speed_line, told["speed"])]
    return Group(heads, sets, *map(Text, lines))


def _cell(head: Told) -> str:
    shown = [percent(head[AGREEMENT])] if AGREEMENT in head else []
    return "\n".join([*shown, *filter(None, [by_labels(head)])]) or "–"


def short(name: str) -> str:
    """A set's name without its folders."""
    return name.rstrip("/").rpartition("/")[2] or name
