"""A comparison as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group


def comparison_table(told: Mapping[str, Any]) -> Group:
    """The two sides' times, then every head's agreement; ``told`` is what ``Comparison.to_dict`` gave."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = f"{told['frames']} frames · {told['speedup']:.2f}× as fast"
    times = Table(title=Text(title), title_style="bold", title_justify="left", caption_justify="left")
    times.add_column("side")
    times.add_column("settings", overflow="fold")
    for name in ("p50 ms", "p95 ms", "mean ms"):
        times.add_column(name, justify="right", no_wrap=True)
    for name in ("ours", "against"):
        side = told[name]
        numbers = (f"{side[field]:.2f}" for field in ("p50_ms", "p95_ms", "mean_ms"))
        times.add_row(name, Text(", ".join(side["settings"]) or "as in the file"), *numbers)
    times.add_section()
    ratios = (f"{told[field]:.2f}×" for field in ("speedup_p50", "speedup_p95", "speedup"))
    times.add_row("ratio", "", *ratios, style="bold")
    times.caption = Text("\n".join((modes_line(told["modes"]), saved_line(told))))

    heads = Table(title="agreement", title_style="bold", title_justify="left")
    heads.add_column("head", overflow="fold", min_width=8)
    for name in ("agreement", "worst decile", "worst frame"):
        heads.add_column(name, justify="right", no_wrap=True)
    heads.add_column("", overflow="fold")
    for name, head in told["heads"].items():
        shares = (f"{head[field]:.2%}" for field in ("agreement", "worst_decile"))
        heads.add_row(Text(name), *shares, str(head["worst_frame"]), Text(further(head)))
    return Group(times, heads)


def modes_line(modes: Mapping[str, float]) -> str:
    """How the frames of our side were computed."""
    return "frames: " + ", ".join(f"{share:.0%} {mode}" for mode, share in modes.items())


def saved_line(told: Mapping[str, Any]) -> str:
    """What was saved of the other side's multiply-adds, and what became of it."""
    if told["macs_saved_as_time"] is None:
        return "no multiply-adds saved"
    return f"{told['macs_saved']:.1%} of the multiply-adds saved, {told['macs_saved_as_time']:.0%} of them became time"


NAMES: Mapping[str, str] = {
    "miou": "mIoU",
    "f1": "F1",
    "ap50_weighted": "AP50 weighted",
    "relative_error": "relative error",
    "labels": "equal labels",
}


def further(head: Mapping[str, Any]) -> str:
    """The other numbers of a head's type, in a line: ``mIoU 93.1 %``."""
    shown = ((NAMES[field], head[field]) for field in NAMES if head.get(field) is not None)
    return ", ".join(f"{name} {value:.2%}" for name, value in shown)
