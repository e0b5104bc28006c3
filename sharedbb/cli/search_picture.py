"""The picture of a search: every trial as a point, and what nothing beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sharedbb.profiling.markup import escaped, tick_label, ticks

if TYPE_CHECKING:
    from sharedbb.compress.optuna_search import Trial

WIDTH, HEIGHT, MARGIN = 640, 400, 56


def picture(known: Sequence[Trial], best: Sequence[Trial], titles: Mapping[int, str], cost: str) -> str:
    """All trials as an SVG: cost to the right, the worst head's loss upwards, the front joined by a line.

    ``titles`` has a text for each trial, by number, that is shown under the pointer; ``cost`` says what the cost is.
    """
    points = {trial.number: trial.objectives for trial in known if trial.objectives is not None}
    spans = [_span([point[axis] for point in points.values()]) for axis in (0, 1)]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = ((value - low) / (high - low) for value, (low, high) in zip(point, spans, strict=True))
        return MARGIN + x * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - y * (HEIGHT - 2 * MARGIN)

    chosen = {trial.number for trial in best}
    marks = []
    for trial in known:
        if trial.number in points:
            x, y = place(points[trial.number])
            title = escaped(titles[trial.number])
            kind = "best" if trial.number in chosen else "other"
            marks.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{title}</title></circle>')
    corners = " ".join("{:.1f},{:.1f}".format(*place(points[trial.number])) for trial in best)
    across = [
        f'<text x="{place((at, spans[1][0]))[0]:.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">'
        f"{tick_label(at)}</text>"
        for at in ticks(*spans[0])
    ]
    upwards = [
        f'<text x="{MARGIN - 8}" y="{place((spans[0][0], at))[1] + 4:.1f}" text-anchor="end">'
        f"{tick_label(at * 100)} %</text>"
        for at in ticks(*spans[1])
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>Trials by cost and loss</title><style>{_STYLE}</style>"
        f'<path class="axes" d="M{MARGIN} {MARGIN / 2}V{HEIGHT - MARGIN}H{WIDTH - MARGIN / 2}"/>'
        f"{''.join((*across, *upwards))}"
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 14}" text-anchor="middle">{escaped(cost)}</text>'
        f'<text x="{MARGIN}" y="{MARGIN / 2 - 8}">loss of the worst head</text>'
        f'<polyline points="{corners}"/>{"".join(marks)}</svg>\n'
    )


_STYLE = (
    "svg{background:#fff;font:12px system-ui,sans-serif}text{fill:#444}.axes{stroke:#999;fill:none}"
    "polyline{fill:none;stroke:#0a6e5c;stroke-width:1.5}.best{fill:#0a6e5c}.other{fill:#b9c2c0}"
)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the most, with some room; of a width in any case."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = (high - low) * 0.05 or max(abs(high), 1.0) * 0.05
    return low - room, high + room
