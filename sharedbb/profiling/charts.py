"""The report's charts: SVG that stretches with the page while its text keeps its size.

Horizontal places are percentages of the chart's width, vertical ones pixels; nothing depends on the page's width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sharedbb.profiling.markup import escaped, milliseconds, percent, tick_label, ticks
from sharedbb.profiling.plot import HEIGHT, TOP, anchor, hover_columns, plane, plot, x_axis, y_tick
from sharedbb.profiling.recording import SpanRecord
from sharedbb.profiling.series import Bucket
from sharedbb.profiling.summary import HeadSummary, Latency

_BINS = 48
_POINTS = 160


def bar(parts: Iterable[tuple[float, str]], title: str) -> str:
    """A horizontal bar of 10 pixels' height: (share 0–1, style class) from left to right; ``title`` shows on hover."""
    rects, left = [], 0.0
    for share, style in parts:
        if share > 0:
            rects.append(f'<rect class="{style}" x="{left:.3f}%" width="{share * 100:.3f}%" height="10"></rect>')
        left += share * 100
    return (
        f'<svg class="bar" role="img" aria-label="{escaped(title)}" height="10"><title>{escaped(title)}</title>'
        f'<rect class="rail" width="100%" height="10"></rect>{"".join(rects)}</svg>'
    )


def head_bar(name: str, head: HeadSummary) -> str:
    """How often a head ran, was reused and was dropped, as parts of one bar."""
    whole = max(1, head.ran + head.reused + head.dropped)
    title = f"{name}: ran {head.ran}, reused {head.reused}, dropped {head.dropped}"
    return bar([(head.ran / whole, "full"), (head.reused / whole, "reused"), (head.dropped / whole, "dropped")], title)


def frame_timeline(spans: Sequence[SpanRecord]) -> str:
    """One frame as rows of bars on a common time axis: the frame's span first, then its stages and marks by start.

    A row for every stage and head, in order of first start, nested stages indented; bars are coloured by why.
    """
    frame, inside = spans[0], spans[1:]
    whole = max(frame.duration, 1)
    marks = ticks(0.0, whole / 1e6)
    lines = "".join(
        f'<line x1="{at * 1e8 / whole:.3f}%" x2="{at * 1e8 / whole:.3f}%" y2="100%"></line>' for at in marks
    )
    rows: dict[tuple[str, str | None], list[SpanRecord]] = {}
    for span in inside:
        rows.setdefault((span.stage, span.head), []).append(span)
    body = "".join(_timeline_row(row, frame, _depth(row[0], inside), lines) for row in rows.values())
    labels = "".join(
        f'<text x="{at * 1e8 / whole:.3f}%" y="14" text-anchor="{anchor(at * 1e6 / whole)}">{tick_label(at)}</text>'
        for at in marks
    )
    axis = f'<li aria-hidden="true"><span></span><svg class="axis" height="20">{labels}</svg><span>ms</span></li>'
    return f'<ol class="timeline">{body}{axis}</ol>'


def _timeline_row(row: list[SpanRecord], frame: SpanRecord, depth: int, lines: str) -> str:
    whole = max(frame.duration, 1)
    timed = [span for span in row if span.kind == "stage"]
    rects = "".join(
        f'<rect class="{style_of(span.why)}" x="{(span.start - frame.start) * 100 / whole:.3f}%" y="5" height="14"'
        f' rx="2" width="{max(span.duration * 100 / whole, 0.15):.3f}%">'
        f"<title>{escaped(_hover(span, frame))}</title></rect>"
        for span in timed
    )
    name, took = row[0].stage, sum(span.duration for span in timed)
    shown = milliseconds(took / 1e6) if timed else escaped(row[0].why)
    return (
        f'<li><span class="name" style="padding-left:{min(depth, 4) * 12}px" title="{escaped(name)}">{escaped(name)}'
        f'</span><svg height="24" aria-hidden="true"><g class="grid">{lines}</g>{rects}</svg>'
        f'<span class="value" title="{escaped(row[0].why)}">{shown}</span></li>'
    )


def _depth(span: SpanRecord, spans: Sequence[SpanRecord]) -> int:
    """In how many other stages it lies."""
    return sum(
        other is not span
        and other.kind == "stage"
        and other.start <= span.start
        and span.end <= other.end
        and other.duration > span.duration
        for other in spans
    )


def _hover(span: SpanRecord, frame: SpanRecord) -> str:
    head = f", head {span.head}" if span.head else ""
    begin = milliseconds((span.start - frame.start) / 1e6)
    return f"{span.stage}{head}: {span.why}, {milliseconds(span.duration / 1e6)}, from {begin}"


def style_of(why: str) -> str:
    """The style class of a reason, by its first word."""
    word = why.split(" ", 1)[0]
    return word if word in ("full", "partial", "reused", "skipped", "dropped", "failed") else "full"


def histogram(latencies_ms: NDArray[np.float64], latency: Latency) -> str:
    """The distribution of the frames' latencies with marks at p50, p95 and p99; a far tail is gathered at the right."""
    low, high = float(latencies_ms.min()), float(latencies_ms.max())
    high = min(high, low + 1.35 * max(latency.p99_ms - low, 1e-3))
    low, high = max(0.0, low - 0.03 * (high - low)), high + 0.01 * (high - low) + 1e-6
    counts, edges = np.histogram(np.minimum(latencies_ms, high), bins=_BINS, range=(low, high))
    width, tallest = 100 / _BINS, max(1, int(counts.max()))
    rects = "".join(
        f'<rect class="full" x="{place * width + 0.1:.3f}%" width="{width - 0.2:.3f}%"'
        f' y="{TOP + HEIGHT * (1 - count / tallest):.1f}" height="{HEIGHT * count / tallest:.1f}">'
        f"<title>{_bin_title(edges, place)}: {percent(count / len(latencies_ms))} of the frames</title></rect>"
        for place, count in enumerate(counts.tolist())
        if count
    )
    marks = "".join(
        _quantile_mark(name, value, (value - low) / (high - low), row)
        for row, (name, value) in enumerate([("p50", latency.p50_ms), ("p95", latency.p95_ms), ("p99", latency.p99_ms)])
    )
    label = (
        f"Distribution of latencies: p50 {milliseconds(latency.p50_ms)}, p95 {milliseconds(latency.p95_ms)}, "
        f"p99 {milliseconds(latency.p99_ms)}"
    )
    return plot(label, rects + marks + x_axis(low, high, "ms"))


def _bin_title(edges: NDArray[np.float64], place: int) -> str:
    if place == _BINS - 1:
        return f"{milliseconds(edges[place])} and more"
    return f"{milliseconds(edges[place])} to {milliseconds(edges[place + 1])}"


def _quantile_mark(name: str, value: float, place: float, row: int) -> str:
    x, top = f"{place * 100:.3f}%", 12 + 13 * row
    before = place > 0.6
    return (
        f'<g class="{name}"><line x1="{x}" x2="{x}" y1="{top - 10}" y2="{TOP + HEIGHT}"></line>'
        f'<text x="{x}" y="{top}" dx="{-5 if before else 5}" text-anchor="{"end" if before else "start"}">'
        f"{name} {milliseconds(value)}</text></g>"
    )


def latency_over_time(timeline: Sequence[Bucket], latency: Latency) -> str:
    """The frames' latencies over the run: the mean as a line, the longest as an area behind it.

    The scale leaves out single very long frames; their hover text and the page's headline have them.
    """
    points = _fewer(timeline)
    begin = points[0].start
    span = max(points[-1].start - begin, 1)
    top = max(min(latency.max_ms, 2.5 * latency.p95_ms), 1e-3) * 1.06
    x = [(point.start - begin) * 1000 / span if len(points) > 1 else 500.0 for point in points]
    mean = [100 * (1 - min(point.mean / 1e6 / top, 1)) for point in points]
    peak = [100 * (1 - min(point.largest / 1e6 / top, 1)) for point in points]
    line = " ".join(f"{across:.1f},{down:.2f}" for across, down in zip(x, mean, strict=True))
    area = " ".join(f"{across:.1f},{down:.2f}" for across, down in zip(x, peak, strict=True))
    curves = plane(
        f'<polygon class="peak" points="{x[0]:.1f},100 {area} {x[-1]:.1f},100"></polygon>'
        f'<polyline class="mean" points="{line}"></polyline>'
    )
    grid = "".join(y_tick(tick_label(at) + (" ms" if at else ""), 1 - at / top) for at in ticks(0.0, top, 4))
    label = f"Latency over the run: mean {milliseconds(latency.mean_ms)}, longest {milliseconds(latency.max_ms)}"
    return plot(label, curves + grid + _hover_columns(points, begin, span) + x_axis(0.0, span / 1e9, "s"))


def _fewer(timeline: Sequence[Bucket]) -> list[Bucket]:
    """At most ``_POINTS`` buckets, neighbours merged."""
    group = -(-len(timeline) // _POINTS)
    merged = []
    for first in range(0, len(timeline), group):
        part = timeline[first : first + group]
        merged.append(
            Bucket(part[0].start, sum(b.number for b in part), sum(b.total for b in part), max(b.largest for b in part))
        )
    return merged


def _hover_columns(points: Sequence[Bucket], begin: int, span: int) -> str:
    titles = (
        f"{(point.start - begin) / 1e9:.2f} s: mean {milliseconds(point.mean / 1e6)},"
        f" longest {milliseconds(point.largest / 1e6)}"
        for point in points
    )
    return hover_columns([*((point.start - begin) / span for point in points), 1.0], titles)
