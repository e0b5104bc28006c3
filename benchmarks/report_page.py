"""The benchmark report as a page: what decides, suite by suite what was measured, and at the end what is missing."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import weights
from benchmarks.report_charts import FAR_APART, curves, goal_bar, measure, stacks, times, top_of, written
from benchmarks.report_tables import crossed, details, plain_rows, table, title_of, whole
from benchmarks.schema import Conditions, Number, Suite
from sharedbb.profiling.markup import escaped, percent
from sharedbb.profiling.page import facts, page, section

STYLE = Path(__file__).with_name("report.css")  # beside that of all reports
FOLDED = 30  # a chart of more bars than these is folded


def report_page(suites: Mapping[str, Suite], pictures: Mapping[str, str]) -> str:
    """The page as text: of suites by name, in order, and for some the text of an SVG."""
    goals = [one for suite in suites.values() for one in suite.numbers.values() if one.goal is not None]
    cards = {name: _suite(name, suite, pictures.get(name, "")) for name, suite in suites.items()}
    text = page(
        title="sharedbb · benchmarks",
        heading="sharedbb, side by side",
        subtitle=_subtitle(suites),
        numbers=_tiles(suites, goals),
        body=[
            cards.pop("headline", ""),
            section("Suites", _overview(suites), _OVERVIEW_NOTE),
            *cards.values(),
            section("What is missing", _missing(suites), _MISSING_NOTE),
            section("Machine", _machine(suites), _MACHINE_NOTE),
        ],
        footer="Every number is in benchmarks/results, as JSON with a schema; each command measures its suite anew.",
    )
    return text.replace("</head>", f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>", 1)


_OVERVIEW_NOTE = (
    "Quiet: other processes took at most a tenth of the cores meanwhile, and a fixed piece of work took at most a "
    "tenth longer at the end than at the beginning."
)
_MISSING_NOTE = "Every goal that is not reached, from all suites, and everything that could not be compared."
_CROSSED_NOTE = "How many times as fast, and below it the head that agrees least."
_MACHINE_NOTE = "Where suites were measured in different conditions, all of them are given."


def bound(number: Number) -> str:
    """A goal as it is to be read: ``≥ 3 ×``; nothing without one."""
    if number.goal is None:
        return ""
    sign = "≥" if number.better == "higher" else "≤"
    return f"{sign} {number.goal:.9g} {number.unit}".strip().replace(" ", "\N{NO-BREAK SPACE}")


def fate(number: Number) -> str:
    """What became of a goal: met, missed, not measured; nothing without one."""
    if number.goal is None:
        return ""
    return {True: "met", False: "missed", None: "not measured"}[number.is_met]


def measured(number: Number) -> str:
    """A number with its unit, a dash for one that was not measured."""
    return "–" if number.measured is None else measure(number.measured, number.unit, number.goal)


def interval(number: Number) -> str:
    """The 95 % confidence interval; nothing without one."""
    return "" if number.low is None or number.high is None else f"{written(number.low)}–{written(number.high)}"


def reasons(numbers: Iterable[Number]) -> dict[str, int]:
    """The reasons for what is not met, each once, numbered from 1."""
    given = dict.fromkeys(one.why for one in numbers if one.why and not one.is_met)
    return {why: place for place, why in enumerate(given, 1)}


def reason_mark(number: Number, known: Mapping[str, int]) -> str:
    """The number of its reason, raised, as HTML; nothing where it has none to give."""
    return f"<sup>{known[number.why]}</sup>" if number.why in known and not number.is_met else ""


def _subtitle(suites: Mapping[str, Suite]) -> str:
    machines = dict.fromkeys(suite.conditions.machine for suite in suites.values())
    dates = sorted(suite.conditions.date for suite in suites.values())
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"{' · '.join(machines)} · {when}"


def _tiles(suites: Mapping[str, Suite], goals: list[Number]) -> str:
    """The large numbers on top: the headline's goals, how many are met in all, and whether the machine was quiet."""
    headline = suites["headline"].numbers if "headline" in suites else {}
    decides = [(name, one) for name, one in headline.items() if one.goal is not None]
    tiles = [(name, measured(one), f"{bound(one)} {fate(one)}", fate(one)) for name, one in decides[:4]]
    met = sum(one.is_met is True for one in goals)
    quiet = sum(suite.conditions.quiet for suite in suites.values())
    tiles += [
        ("goals met", f"{met} of {len(goals)}", "all suites", ""),
        ("machine quiet", f"{quiet} of {len(suites)}", "suites", ""),
    ]
    return "".join(
        f'<div><dt>{escaped(name)}</dt><dd class="{style}">{escaped(value)}</dd><small>{escaped(below)}</small></div>'
        for name, value, below, style in tiles
    )


def is_former(suite: Suite) -> bool:
    """Whether a suite, or a section of it, was measured with other weights than those shipped now, or nobody knows."""
    told = [part["measured"] for part in suite.details.values() if isinstance(part, dict) and "measured" in part]
    known = (suite.conditions.weights, *(one.get("weights") for one in told))
    return any(not own or not own.items() <= weights().items() for own in known)  # one shipped since changes nothing


def _overview(suites: Mapping[str, Suite]) -> str:
    rows = []
    for name, suite in suites.items():
        goals = [one for one in suite.numbers.values() if one.goal is not None]
        met = sum(one.is_met is True for one in goals)
        asks = f"{_link(name)}{_small(suite.about)}"
        state = _badge("quiet", "met") if suite.conditions.quiet else _badge("not quiet", "missed")
        state += f" {_badge('former networks', 'missed')}" if is_former(suite) else ""
        reached = f"{met} of {len(goals)}" if goals else "–"
        rows.append([asks, reached, state, _duration(suite.conditions.seconds), suite.conditions.date])
    return table(("Suite", "goals met", "machine", "took", "measured"), rows, "suites cards")


def _duration(seconds: int | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds} s"


def _link(name: str) -> str:
    return f'<a href="#{escaped(name)}">{escaped(title_of(name))}</a>'


def _small(text: str) -> str:
    return f"<small>{escaped(text)}</small>" if text else ""


def _badge(text: str, style: str) -> str:
    return f'<span class="badge {style.replace(" ", "-")}">{escaped(text)}</span>' if text else ""


def _suite(name: str, suite: Suite, picture: str) -> str:
    """A card with all that a suite has."""
    bars = times(suite.timings, suite.limits) if suite.timings else ""
    fold = len(suite.timings) > FOLDED or "series" in suite.details
    parts = [
        _disturbed(suite.conditions),
        _numbers(suite.numbers),
        _part("Case by case", crossed(suite.details), _CROSSED_NOTE),
        _part("How it grows", _series(suite.details)),
        _part("Times", _folded(bars, f"{len(suite.timings)} cases") if fold else bars),
        _part("Where the time goes", stacks(suite.spent) if suite.spent else ""),
        _part("How far from the limit" if suite.limits else "Notes", _list(suite.notes) + _limits(suite)),
        _part("Picture", _picture(picture, suite.about)),
        _part("Could not run here", _facts(suite.absent)),
        _folded(details(name, suite.details), "details"),
    ]
    card = section(title_of(name), "".join(parts) or "<p>Nothing but its conditions was kept.</p>", suite.about)
    return card.replace("<section>", f'<section id="{escaped(name)}">', 1)


def _part(title: str, content: str, note: str = "") -> str:
    """A heading with what stands below it; nothing without that."""
    lead = f'<p class="note">{escaped(note)}</p>' if note else ""
    return f"<h3>{escaped(title)}</h3>{lead}{content}" if content else ""


def _disturbed(conditions: Conditions) -> str:
    if conditions.quiet:
        return ""
    if conditions.others is None or conditions.drift is None:
        text = "Nobody watched the machine meanwhile: whether it was quiet is not known."
    else:
        text = (
            f"Not quiet: other processes took {percent(conditions.others)} of the cores, the same work took "
            f"{percent(abs(conditions.drift))} {'longer' if conditions.drift > 0 else 'shorter'} at the end, and the "
            f"load at the beginning was {conditions.load[0]:g}. Measure again before you believe small differences."
        )
    return f'<p class="warning">{escaped(text)}</p>'


def _numbers(numbers: Mapping[str, Number]) -> str:
    """Every number beside its goal, and below them why some are missed."""
    names = ("Number", "", "measured", "95 % interval", "goal", "")
    tops, known = _scales(numbers), reasons(numbers.values())
    rows = [
        [
            escaped(name),
            goal_bar(one, tops[name]),
            escaped(measured(one)),
            interval(one),
            escaped(bound(one)),
            f"{_badge(fate(one), fate(one))}{reason_mark(one, known)}",
        ]
        for name, one in numbers.items()
    ]
    below = "".join(f"<li>{escaped(why)}</li>" for why in known)
    listed = f'<ol class="reasons">{below}</ol>' if known else ""
    return table(names, rows, "numbers cards") + listed if rows else ""


def _scales(numbers: Mapping[str, Number]) -> dict[str, float]:
    """By number the end of its scale: one for all in ×, or all of them without a goal, that are not far apart.

    Without a goal a bar on a scale of its own would say nothing; those that are far apart share theirs all the same.
    """
    own = {name: top_of([one]) for name, one in numbers.items()}
    ratios = {name: own[name] for name, one in numbers.items() if one.unit == "×" and one.measured is not None}
    if ratios and max(ratios.values()) >= FAR_APART * min(ratios.values()):
        ratios = {name: top for name, top in ratios.items() if numbers[name].goal is None}
    return own | dict.fromkeys(ratios, max(ratios.values(), default=1.0))


def _facts(rows: Mapping[str, str]) -> str:
    return facts(rows) if rows else ""


def _folded(content: str, what: str) -> str:
    return f"<details><summary>{what}</summary>{content}</details>" if content else ""


def _list(sentences: Iterable[str]) -> str:
    lines = "".join(f"<li>{escaped(sentence)}</li>" for sentence in sentences)
    return f'<ul class="notes">{lines}</ul>' if lines else ""


def _limits(suite: Suite) -> str:
    rows = [
        [f"{escaped(name)}{_small(limit.how)}", escaped(measure(limit.value, limit.unit))]
        for name, limit in suite.limits.items()
    ]
    return table(("Limit", "measured"), rows) if rows else ""


def _series(kept: Mapping[str, Any]) -> str:
    charts = "".join(curves(name, one) for name, one in kept.get("series", {}).items())
    return f'<div class="pair">{charts}</div>' if charts else ""


def _picture(svg: str, about: str) -> str:
    """An SVG as a picture: its style stays its own."""
    if not svg:
        return ""
    data = base64.b64encode(svg.encode()).decode("ascii")
    return (
        f'<div class="scroll"><img class="drawn" src="data:image/svg+xml;base64,{data}" alt="{escaped(about)}"></div>'
    )


def _missing(suites: Mapping[str, Suite]) -> str:
    rows = "".join(_open_goals(name, suite.numbers) for name, suite in suites.items())
    goals = whole(("Goal", "measured", "goal", ""), rows, "cards")
    absent = {f"{title_of(name)}: {peer}": why for name, suite in suites.items() for peer, why in suite.absent.items()}
    return (goals if rows else "<p>Every goal is reached.</p>") + _part("Could not run here", _facts(absent))


def _open_goals(suite: str, numbers: Mapping[str, Number]) -> str:
    """Rows of what a suite misses, those with the same reason together above it."""
    by_reason: dict[str, list[list[str]]] = {}
    for name, one in numbers.items():
        if one.goal is not None and not one.is_met:
            cells = [escaped(name), escaped(measured(one)), escaped(bound(one)), _badge(fate(one), fate(one))]
            by_reason.setdefault(one.why, []).append(cells)
    across = '<tr><th scope="rowgroup" colspan="4" class="{}">{}</th></tr>'
    found = "".join(
        plain_rows(rows) + (across.format("why", escaped(why)) if why else "") for why, rows in by_reason.items()
    )
    return across.format("group", _link(suite)) + found if found else ""


def _machine(suites: Mapping[str, Suite]) -> str:
    """What the machine and its software were, each value once."""
    conditions = [suite.conditions for suite in suites.values()]
    rows = {
        "machine": [one.machine for one in conditions],
        "system": [one.system for one in conditions],
        "cores used": [", ".join(map(str, one.cores)) for one in conditions],
        "clock": [f"{one.mhz} MHz" for one in conditions if one.mhz],
        "hottest": [f"{one.celsius:.0f} °C" for one in conditions if one.celsius],
        "load at the beginning": [f"{one.load[0]:.1f}" for one in conditions],
        "python": [one.python for one in conditions],
    }
    for package in dict.fromkeys(name for one in conditions for name in one.versions):
        rows[package] = [one.versions[package] for one in conditions if package in one.versions]
    return facts({name: "; ".join(dict.fromkeys(values)) for name, values in rows.items()})
