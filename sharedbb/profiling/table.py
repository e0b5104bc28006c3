"""The stages of a run as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from sharedbb.profiling.summary import ReuseSummary, StageSummary, Summary


def stage_table(summary: Summary) -> Table:
    """A rich table: for each stage p50, p95, p99 in ms and its share of the frame as a bar; the frame comes last.

    Names are shown as they are, never read as markup; a long one goes on in the next line, numbers are never cut.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(headline(summary)), title_style="bold", title_justify="left", caption_justify="left")
    table.add_column("stage", overflow="fold", min_width=12)
    for name in ("p50 ms", "p95 ms", "p99 ms"):
        table.add_column(name, justify="right", no_wrap=True, min_width=6)
    table.add_column("share", justify="right", no_wrap=True, min_width=7)
    table.add_column("of the frame", min_width=12, max_width=24)
    for name, stage in summary.stages.items():
        _add_stage(table, name, stage)
    latency = summary.latency
    table.add_section()
    table.add_row("frame", f"{latency.p50_ms:.2f}", f"{latency.p95_ms:.2f}", f"{latency.p99_ms:.2f}", "", style="bold")
    lines = [
        f"{name}: ran {head.ran}, reused {head.reused}, dropped {head.dropped}" for name, head in summary.heads.items()
    ]
    if summary.reuse is not None:
        lines.append(reuse_line(summary.reuse))
    if lines:
        table.caption = Text("\n".join(lines))
    return table


def reuse_line(reuse: ReuseSummary) -> str:
    """One line: frames by mode, the share that was computed, and the heads' errors where they were audited."""
    modes = ", ".join(f"{count} {mode}" for mode, count in sorted(reuse.modes.items(), key=lambda item: -item[1]))
    errors = ", ".join(f"{head} {error:.1%}" for head, error in reuse.errors.items())
    return f"frames: {modes}; {reuse.work:.0%} computed" + (f"; differing: {errors}" if errors else "")


def headline(summary: Summary) -> str:
    """One line: frames, rate, median latency, and what was left out."""
    parts = [f"{summary.frames} frames", f"{summary.fps:.1f} fps", f"{summary.latency.p50_ms:.2f} ms a frame (p50)"]
    if summary.dropped_frames:
        parts.append(f"{summary.dropped_frames} dropped")
    if summary.skipped_frames:
        parts.append(f"{summary.skipped_frames} skipped")
    return " · ".join(parts)


def _add_stage(table: Table, name: str, stage: StageSummary) -> None:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    share, bar = (
        ("outside", Text(""))
        if stage.background
        else (f"{stage.share:.1%}", ProgressBar(total=1.0, completed=stage.share))
    )
    table.add_row(Text(name), f"{stage.p50_ms:.2f}", f"{stage.p95_ms:.2f}", f"{stage.p99_ms:.2f}", share, bar)
