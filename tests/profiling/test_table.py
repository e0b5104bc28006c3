"""The terminal's table: it fits, and no number is ever cut."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from rich.console import Console

from sharedbb.profiling import HeadSummary, Latency, Recording, StageSummary, Summary, stage_table
from sharedbb.profiling.table import headline


def _shown(summary: Summary, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(stage_table(summary))
    return out.getvalue()


def _slow(name: str) -> Summary:
    return Summary(
        frames=10,
        fps=3.0,
        latency=Latency(123456.78, 234567.89, 345678.90, 1.0, 1.0),
        stages={
            name: StageSummary(10, 12345.67, 23456.78, 34567.89, 1.0, 0.505),
            "trunk": StageSummary(10, 1.25, 2.5, 3.75, 1.0, 0.25),
            "draw": StageSummary(10, 7.0, 8.0, 9.0, 1.0, 0.0, background=True),
        },
        heads={"h" * 70: HeadSummary(6, 3, 1)},
    )


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("name", ["network", "head." + "x" * 90, "one stage of many words " * 4, "路" * 40])
def test_it_fits_and_cuts_no_number(name: str, width: int) -> None:
    shown = _shown(_slow(name), width)
    assert max(cell_len(line) for line in shown.splitlines()) <= width
    for number in ("12345.67", "23456.78", "34567.89", "123456.78", "234567.89", "345678.90", "50.5%", "25.0%"):
        assert f" {number} " in shown
    assert "…" not in shown
    assert _letters("".join(line.split("│")[1] for line in shown.splitlines() if "│" in line)).startswith(
        _letters(name)
    )


def _letters(text: str) -> str:
    return "".join(text.split())


def test_every_stage_is_a_row_and_the_frame_is_last(record: Callable[..., Recording]) -> None:
    lines = _shown(record(frames=9).summary, 80).splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert [row[0] for row in rows] == ["transform", "trunk", "network", "head road", "draw", "frame"]
    assert rows[0][1:4] == ["2.00", "2.00", "2.00"]
    assert rows[4][4] == "outside"
    assert "road: ran 3, reused 6, dropped 0" in lines[-1]


def test_names_are_no_markup() -> None:
    assert "[red]x[/red]" in _shown(Summary(stages={"[red]x[/red]": StageSummary(1, 1, 1, 1, 1, 1)}), 80)


def test_the_headline_tells_what_was_left_out() -> None:
    summary = Summary(frames=12, fps=29.97, latency=Latency(p50_ms=7.5))
    assert headline(summary) == "12 frames · 30.0 fps · 7.50 ms a frame (p50)"
    lossy = Summary(frames=1, dropped_frames=2, skipped_frames=3)
    assert headline(lossy).endswith(" · 2 dropped · 3 skipped")
