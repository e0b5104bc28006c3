"""What charts share: a plane with an axis below and marks at the left, in SVG that stretches with the page.

Horizontal places are percentages of the chart's width, vertical ones pixels; nothing depends on the page's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from sharedbb.profiling.markup import escaped, tick_label, ticks

TOP, HEIGHT = 42, 150  # of the plane, in pixels; above it is room for marks
SHORT_TOP = 16  # where there are no marks above


def plot(label: str, content: str, top: int = TOP) -> str:
    """A chart of the page's width; ``label`` is what it shows, for those who cannot see it."""
    height = top + HEIGHT + 26
    return f'<svg class="plot" role="img" aria-label="{escaped(label)}" height="{height}">{content}</svg>'


def plane(curves: str, top: int = TOP) -> str:
    """Curves in a plane of 1000 × 100 units, which is stretched over the chart."""
    box = 'viewBox="0 0 1000 100" preserveAspectRatio="none"'
    return f'<svg y="{top}" width="100%" height="{HEIGHT}" {box}>{curves}</svg>'


def y_tick(text: str, place: float, top: int = TOP) -> str:
    """A line across the chart with its value, at a place from 0 (above) to 1."""
    y = top + HEIGHT * place
    line = f'<g class="grid"><line x2="100%" y1="{y:.1f}" y2="{y:.1f}"></line></g>'
    return f'{line}<text x="0" y="{y - 4:.1f}">{text}</text>'


def x_axis(low: float, high: float, unit: str, top: int = TOP) -> str:
    """The line below the chart, and round numbers of ``unit`` under it."""
    bottom = top + HEIGHT
    labels = []
    for at in ticks(low, high):
        place = (at - low) / (high - low) if high > low else 0.5
        labels.append(
            f'<text x="{place * 100:.3f}%" y="{bottom + 18}" text-anchor="{anchor(place)}">'
            f"{tick_label(at)} {unit}</text>"
        )
    return f'<g class="base"><line x2="100%" y1="{bottom}" y2="{bottom}"></line></g>{"".join(labels)}'


def anchor(place: float) -> str:
    """Which end of a text stands at its place (0–1), so that no text leaves the chart."""
    return "start" if place < 0.08 else "end" if place > 0.92 else "middle"


def hover_columns(places: Sequence[float], titles: Iterator[str], top: int = TOP) -> str:
    """Columns that show a text each under the pointer; ``places`` (0–1) are where they begin, one more than texts."""
    return "".join(
        f'<rect class="hover" x="{left * 100:.3f}%" width="{max((right - left) * 100, 0.2):.3f}%" y="{top}"'
        f' height="{HEIGHT}"><title>{escaped(title)}</title></rect>'
        for title, (left, right) in zip(titles, pairwise(places), strict=True)
    )
