"""A training as one HTML file: how each head learnt, how good it is, and what it was taught by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from sharedbb.cli.compression_table import macs
from sharedbb.learn.judge import AGREEMENT, HEADLINE
from sharedbb.profiling.markup import escaped, tick_label, ticks
from sharedbb.profiling.page import facts, headline, legend, listed, page, section
from sharedbb.profiling.plot import HEIGHT, SHORT_TOP, hover_columns, plane, plot, x_axis, y_tick

Told = Mapping[str, Any]
"""What ``training.record`` gave, or a part of it."""

Points = Sequence[tuple[int, float]]

_WEIGHTS_NOTE = "By how much the loss of each head counts in the sum that is minimised."
_QUALITY_NOTE = "The first number of each head is its headline; shares are 0 to 1."


def headline_name(told: Told, head: str) -> str:
    """Which metric a head's headline is; a dash where it was not measured."""
    metrics = told.get("val", {}).get(head) or told.get("test", {}).get(head) or {}
    return next((name for name in (*HEADLINE.values(), AGREEMENT) if metrics.get(name) is not None), "–")


def training_page(told: Told) -> str:
    """The page as text."""
    return page(
        title=f"{told['pipeline']} · training",
        heading=told["pipeline"],
        subtitle=_subtitle(told),
        numbers=_headline(told),
        body=[
            *(section(f"How {head} learnt", _learnt(told, head)) for head in told["heads"]),
            section("How the losses were weighed", _weights(told), _WEIGHTS_NOTE),
            *(
                section(f"Quality on {part}", _quality(told, part), _QUALITY_NOTE)
                for part in ("val", "test")
                if part in told
            ),
            section("What taught it", _sets(told["sets"])),
            section("What there is to say", listed(told["said"])),
            section("Environment", _environment(told)),
        ],
        footer=f"Artifact digest {told['digest']}",
    )


def _subtitle(told: Told) -> str:
    kept = f"weights of step {told['best_step']} kept" if told["best_step"] else "last weights kept"
    sets = ", ".join(one["name"] for one in told["sets"])
    return f"{told['steps']} steps, {told['seconds'] / 60:.1f} minutes of work · {kept} · {sets}"


def _headline(told: Told) -> str:
    part = "test" if "test" in told else "val"
    scores = [
        (f"{head}, {headline_name(told, head)} on {part}", f"{one[part]:.3f}")
        for head, one in told["heads"].items()
        if one.get(part) is not None
    ]
    size = [("parameters", f"{told['parameters'] / 1e6:.2f} M"), ("multiply-adds", macs(told["macs"]))]
    return headline([*scores, *size])


def _learnt(told: Told, head: str) -> str:
    """Loss and validations of a head over the steps, one chart under the other."""
    losses = told["curves"].get(f"loss/{head}", [])
    validations = [(one["step"], one["headlines"].get(head)) for one in told["validations"]]
    measured = [(step, value) for step, value in validations if value is not None]
    charts = []
    if losses:
        charts.append(curve(f"Loss of {head}", losses, told["steps"], high=max(value for _, value in losses)))
    if measured:
        name = headline_name(told, head)
        charts.append(
            curve(f"{name} of {head}", measured, told["steps"], high=1.0, mark=told["best_step"], style="other")
        )
    keys = [("full", "loss against labels, by step")] if losses else []
    keys += [("other", f"{headline_name(told, head)} of the averaged weights, those that were kept marked")] * bool(
        measured
    )
    return "".join(charts) + (legend(keys) if charts else "")


def _weights(told: Told) -> str:
    """The weights over the steps, where they are learnt."""
    curves = {head: told["curves"].get(f"weight/{head}", []) for head in told["heads"]}
    high = max((value for points in curves.values() for _, value in points), default=1.0)
    return "".join(
        curve(f"Weight of {head}", points, told["steps"], high=high) + legend([("full", head)])
        for head, points in curves.items()
        if points
    )


def curve(label: str, points: Points, steps: int, *, high: float, mark: int | None = None, style: str = "") -> str:
    """A line through values by step, on a scale from 0 to ``high``, over so many ``steps``; ``mark`` is one of them."""
    high, last = high or 1.0, max(steps, points[-1][0], 1)
    places = [(1000 * step / last, 100 * (1 - min(value / high, 1.0))) for step, value in points]
    line = " ".join(f"{x:.1f},{y:.2f}" for x, y in ([(0.0, places[0][1]), *places] if len(places) == 1 else places))
    drawn = f'<polyline class="mean{f" {style}" if style else ""}" points="{line}"></polyline>'
    grid = "".join(y_tick(tick_label(at), 1 - at / high, SHORT_TOP) for at in ticks(0.0, high, 4))
    edges = [0.0, *((a + b) / 2000 for (a, _), (b, _) in pairwise(places)), 1.0]
    titles = (f"{label} after {step} steps: {value:.4g}" for step, value in points)
    marked = "".join(_mark(x, y) for (step, _), (x, y) in zip(points, places, strict=True) if step == mark)
    content = (
        plane(drawn, SHORT_TOP)
        + grid
        + marked
        + hover_columns(edges, titles, SHORT_TOP)
        + x_axis(0.0, last, "", SHORT_TOP)
    )
    return plot(f"{label}: {points[-1][1]:.4g} after {points[-1][0]} steps", content, SHORT_TOP)


def _mark(x: float, y: float) -> str:
    """A dot at a place of the plane."""
    return (
        f'<rect class="partial" x="{x / 10:.2f}%" y="{SHORT_TOP + HEIGHT * y / 100:.1f}" width="10" height="10" rx="5"'
        ' transform="translate(-5 -5)"></rect>'
    )


def _quality(told: Told, part: str) -> str:
    """Every number of every head."""
    rows = "".join(
        f'<tr><th scope="row">{escaped(head)}</th><td>{escaped(name)}</td><td>{_number(value)}</td></tr>'
        for head, metrics in told[part].items()
        for name, value in _numbers(metrics, headline_name(told, head))
    )
    return f"<table><thead><tr><th>Head</th><th>metric</th><th>value</th></tr></thead><tbody>{rows}</tbody></table>"


def _numbers(metrics: Told, first: str) -> list[tuple[str, Any]]:
    """Metrics by name, the headline first; of those by class, one for each class."""
    names = sorted(metrics, key=lambda name: (name != first, isinstance(metrics[name], Mapping)))
    found: list[tuple[str, Any]] = []
    for name in names:
        value = metrics[name]
        by_class = [(f"{name} of {one}", each) for one, each in value.items()] if isinstance(value, Mapping) else None
        found += by_class or [(name, value)]
    return found


def _number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else escaped(value)


def _sets(sets: Sequence[Told]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escaped(one["name"])}</th><td>{one["pictures"]:,}</td><td>{one["share"]:.0%}</td>'
        f"<td>{escaped(', '.join(one['heads']))}</td></tr>"
        for one in sets
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Set", "pictures", "of a batch", "teaches"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _environment(told: Told) -> str:
    course = {name: _plain(value) for name, value in told["course"].items() if value not in (None, {}, [])}
    return facts({**course, "machine": told["machine"], **told["versions"]})


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)
