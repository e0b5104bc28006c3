"""The charts of the benchmark report: bars beside goals, bars with intervals and limits, stacks, lines.

SVG that stretches with the page: horizontal places are percentages, vertical ones pixels. Colours are style classes of
the page; ``ours`` and ``s0`` are sharedbb's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.schema import Case, Limit, Number
from sharedbb.profiling.markup import escaped, tick_label, ticks
from sharedbb.profiling.page import legend
from sharedbb.profiling.plot import HEIGHT, SHORT_TOP, anchor, plane, plot, y_tick

COLOURS = 8
"""So many series are told apart by colour; those beyond share the last one."""
FAR_APART = 8
"""Groups whose longest times differ by more than this factor get a scale each."""


def written(value: float, goal: float | None = None) -> str:
    """Three significant digits, more where fewer would put the number on the other side of ``goal``."""
    for digits in range(3, 9):
        text = _significant(value, digits)
        if goal is None or (float(text) > goal, float(text) < goal) == (value > goal, value < goal):
            break
    return text


def _significant(value: float, digits: int) -> str:
    if not value:
        return "0"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def measure(value: float, unit: str, goal: float | None = None) -> str:
    """A number with its unit, never parted by a line's end."""
    return f"{written(value, goal)} {unit}".strip().replace(" ", "\N{NO-BREAK SPACE}")


def is_ours(name: str) -> bool:
    """Whether a case is sharedbb itself; every other is what it is compared with."""
    return "sharedbb" in name or "engine" in name


def goal_bar(number: Number, top: float) -> str:
    """A number as a bar with its interval and a mark at its goal, on a scale from 0 to ``top``."""
    if number.measured is None:
        return ""
    style = {True: "met", False: "missed", None: "plain"}[number.is_met]
    goal = [] if number.goal is None else [(number.goal, "goal")]
    return _row_picture(_lines(goal, top), _bar(number.measured, style, top) + _interval(number.low, number.high, top))


def top_of(numbers: Iterable[Number]) -> float:
    """The end of a scale that has these numbers, their intervals and their goals."""
    shown = [value for one in numbers for value in (one.measured, one.goal, one.high) if value is not None]
    return 1.06 * max(shown, default=0.0) or 1.0


def times(timings: Mapping[str, Case], limits: Mapping[str, Limit]) -> str:
    """Medians as bars with their 95 % intervals, over lines at those limits that are milliseconds.

    Cases named ``group: case`` stand in groups, in one chart unless they are far apart. A limit that is named
    ``group: limit`` is drawn in its group only.
    """
    groups: dict[str, dict[str, Case]] = {}
    for name, case in timings.items():
        group, colon, rest = name.partition(": ")
        groups.setdefault(group if colon else "", {})[rest if colon else name] = case
    lines = {name: limit.value for name, limit in limits.items() if limit.unit.split(" ")[0] == "ms"}
    longest = [max(map(_reach, cases.values())) for cases in groups.values()]
    if max(longest) < FAR_APART * min(longest):
        return _times(groups, lines)
    return "".join(_times({name: cases}, _belonging(lines, name, groups)) for name, cases in groups.items())


def _belonging(limits: Mapping[str, float], group: str, groups: Iterable[str]) -> dict[str, float]:
    """A group's own limits, and those of no group in particular."""
    others = tuple(f"{other}: " for other in groups if other and other != group)
    return {name: value for name, value in limits.items() if not name.startswith(others)}


def _times(groups: Mapping[str, Mapping[str, Case]], limits: Mapping[str, float]) -> str:
    """A chart of groups on one scale."""
    top = 1.04 * max(*(_reach(case) for cases in groups.values() for case in cases.values()), *limits.values(), 1e-6)
    styles = {name: f"s{1 + number % (COLOURS - 1)}" for number, name in enumerate(limits)}
    grid = [(at, "grid") for at in ticks(0.0, top)]
    rows = ""
    for group, cases in groups.items():
        marks = [(at, f"limit {styles[name]}") for name, at in _belonging(limits, group, groups).items()]
        behind = _lines([*grid, *marks], top)
        mixed = 0 < sum(map(is_ours, cases)) < len(cases)
        rows += f'<li class="group"><h4>{escaped(group)}</h4></li>' if group else ""
        for name, case in cases.items():
            rows += _time(name, case, "peer" if mixed and not is_ours(name) else "ours", top, behind)
    keys = legend((styles[name], f"{name}: {measure(at, 'ms')}") for name, at in limits.items()) if limits else ""
    return f'<ol class="bars">{rows}{_axis(top)}</ol>{keys}'


def _time(name: str, case: Case, style: str, top: float, behind: str) -> str:
    known = case.low_ms is not None and case.high_ms is not None
    interval = f"95 % interval {case.low_ms:g} to {case.high_ms:g}" if known else "too few runs for an interval"
    title = (
        f"{name}: median {case.median_ms:g} ms, {interval}, "
        f"10th to 90th percentile {case.p10_ms:g} to {case.p90_ms:g}, {case.runs} runs"
    )
    drawn = _bar(case.median_ms, style, top) + _interval(case.low_ms, case.high_ms, top)
    beside = f"{written(case.low_ms)}–{written(case.high_ms)}" if known else f"{case.runs} runs"
    return _row(name, _row_picture(behind, drawn, title), f"{measure(case.median_ms, 'ms')} <small>{beside}</small>")


def _reach(case: Case) -> float:
    """How far to the right a case is drawn."""
    return max(case.median_ms, case.high_ms or 0.0)


def stacks(spent: Mapping[str, Mapping[str, float]]) -> str:
    """Where the milliseconds go: a stacked bar a case, all on one scale, each with its parts in words below it."""
    totals: dict[str, float] = {}
    for parts in spent.values():
        for part, ms in parts.items():
            totals[part] = totals.get(part, 0.0) + ms
    by_size = sorted(totals, key=lambda part: -totals[part])
    styles = {part: f"s{min(number, COLOURS - 1)}" for number, part in enumerate(by_size)}
    top = 1.04 * max((sum(parts.values()) for parts in spent.values()), default=0.0) or 1.0
    rows = "".join(_stack(case, parts, styles, top) for case, parts in spent.items())
    return f'<ol class="bars">{rows}{_axis(top)}</ol>'


def _stack(case: str, parts: Mapping[str, float], styles: Mapping[str, str], top: float) -> str:
    drawn, left = "", 0.0
    for part, ms in parts.items():
        drawn += _bar(ms, styles[part], top, left, f"{part}: {measure(ms, 'ms')}")
        left += ms
    words = legend((styles[part], f"{part} {written(ms)}") for part, ms in parts.items())
    behind = _lines([(at, "grid") for at in ticks(0.0, top)], top)
    return _row(case, _row_picture(behind, drawn) + words, measure(left, "ms"))


def _row(name: str, picture: str, value: str) -> str:
    """A row: name, picture and value; all but the name are HTML."""
    what = f'<span class="what">{escaped(name)}</span>'
    return f'<li>{what}<div class="picture">{picture}</div><span class="value">{value}</span></li>'


def _row_picture(behind: str, drawn: str, title: str = "") -> str:
    hover = f"<title>{escaped(title)}</title>" if title else ""
    named = f'role="img" aria-label="{escaped(title)}"' if title else 'aria-hidden="true"'
    return f'<svg {named} height="24">{hover}{behind}{drawn}</svg>'


def _bar(value: float, style: str, top: float, left: float = 0.0, title: str = "") -> str:
    place = f'x="{left * 100 / top:.3f}%" width="{max(value * 100 / top, 0.0):.3f}%"'
    hover = f"<title>{escaped(title)}</title>" if title else ""
    return f'<rect class="{style}" {place} y="50%" height="14" transform="translate(0 -7)">{hover}</rect>'


def _interval(low: float | None, high: float | None, top: float) -> str:
    if low is None or high is None:
        return ""
    ends = f'x1="{low * 100 / top:.3f}%" x2="{high * 100 / top:.3f}%"'
    return f'<line class="interval" {ends} y1="50%" y2="50%"></line>'


def _lines(places: Iterable[tuple[float, str]], top: float) -> str:
    """Lines across a row: (value, style class)."""
    return "".join(
        f'<g class="{style}"><line x1="{at * 100 / top:.3f}%" x2="{at * 100 / top:.3f}%" y2="100%"></line></g>'
        for at, style in places
    )


def _axis(top: float) -> str:
    labels = "".join(
        f'<text x="{at * 100 / top:.3f}%" y="14" text-anchor="{anchor(at / top)}">{tick_label(at)}</text>'
        for at in ticks(0.0, top)
    )
    return f'<li class="axis" aria-hidden="true"><span></span><svg height="20">{labels}</svg><span>ms</span></li>'


def curves(name: str, series: Mapping[str, Any]) -> str:
    """A line chart of ``{"x": places, "lines": {name: values}, "unit": unit}``, over a table of its numbers.

    Numbers on the x axis stand at their distances, all else at even ones. A value that was not measured is None.
    """
    unit, xs, lines = str(series.get("unit", "")), series["x"], series["lines"]
    top = 1.06 * max((value for values in lines.values() for value in values if value is not None), default=0.0) or 1.0
    places = _places(xs)
    ours_first = sorted(lines, key=lambda line: not is_ours(line))
    styles = {line: f"s{number % COLOURS}" for number, line in enumerate(ours_first)}
    strokes, dots = "", ""
    for line in reversed(ours_first):  # ours is drawn last, over the others
        values = lines[line]
        known = [(place, x, value) for place, x, value in zip(places, xs, values, strict=True) if value is not None]
        corners = " ".join(f"{place * 1000:.1f},{100 * (1 - value / top):.2f}" for place, _, value in known)
        strokes += f'<polyline class="mean {styles[line]}" points="{corners}"></polyline>'
        for place, x, value in known:
            dots += _dot(place, 1 - value / top, styles[line], f"{line}, {name} {x}: {measure(value, unit)}")
    scale = [(at, f"{tick_label(at)} {unit}" if at else "") for at in ticks(0.0, top, 4)]
    grid = "".join(y_tick(escaped(text), 1 - at / top, SHORT_TOP) for at, text in scale)
    chart = plot(
        f"{name}: {', '.join(lines)}", grid + plane(strokes, SHORT_TOP) + dots + _x_labels(places, xs), SHORT_TOP
    )
    return f"<div><h4>By {escaped(name)}</h4>{chart}{_values(name, series, styles)}</div>"


def _places(xs: Sequence[Any]) -> list[float]:
    """Where each stands, from 0 to 1."""
    ends = 0.04, 0.96
    at = xs if all(isinstance(x, int | float) for x in xs) else range(len(xs))
    low, high = min(at, default=0), max(at, default=0)
    return [ends[0] + (ends[1] - ends[0]) * ((x - low) / (high - low) if high > low else 0.5) for x in at]


def _x_labels(places: Sequence[float], xs: Sequence[Any]) -> str:
    bottom = SHORT_TOP + HEIGHT
    labels = "".join(
        f'<text x="{place * 100:.3f}%" y="{bottom + 18}" text-anchor="middle">{escaped(x)}</text>'
        for place, x in zip(places, xs, strict=True)
    )
    return f'<g class="base"><line x2="100%" y1="{bottom}" y2="{bottom}"></line></g>{labels}'


def _dot(x: float, y: float, style: str, title: str) -> str:
    place = f'x="{x * 100:.3f}%" y="{SHORT_TOP + HEIGHT * y:.1f}" width="8" height="8" rx="4"'
    return f'<rect class="{style}" {place} transform="translate(-4 -4)"><title>{escaped(title)}</title></rect>'


def _values(name: str, series: Mapping[str, Any], styles: Mapping[str, str]) -> str:
    """The numbers of a line chart, its legend at the same time."""
    head = "".join(f'<th scope="col">{escaped(x)}</th>' for x in series["x"])
    rows = "".join(
        f'<tr><th scope="row"><i class="{styles[line]}"></i>{escaped(line)}</th>'
        + "".join(f"<td>{'–' if value is None else written(value)}</td>" for value in values)
        + "</tr>"
        for line, values in series["lines"].items()
    )
    first = f'<th scope="col">{escaped(name)} ({escaped(series.get("unit", ""))})</th>'
    table = f"<thead><tr>{first}{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table class="small">{table}</table></div>'
