"""A chart of numbers by frame: a line a series, and behind it how far the frames that it stands for spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sharedbb.profiling.markup import escaped, ticks
from sharedbb.profiling.plot import SHORT_TOP, hover_columns, plane, plot, x_axis, y_tick

POINTS = 160
"""A line has at most so many points; of a longer run each stands for several frames."""


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A number for every frame: its name, ``values`` float [N], and the style class of its line ("" or "other")."""

    name: str
    values: NDArray[np.float64]
    style: str = ""


def by_frame(
    curves: Sequence[Curve], low: float, high: float, written: Callable[[float], str], frames: Sequence[int]
) -> str:
    """A chart of curves of equal length, at least one value, on a scale from ``low`` to ``high``.

    ``written`` is how a number reads; ``frames`` [N] are the frames' own numbers. Numbers outside the scale are drawn
    at its edge; the text under the pointer has them.
    """
    count = len(frames)
    edges = np.unique(np.linspace(0, count, min(count, POINTS) + 1).round().astype(int))
    drawn = "".join(_drawn(curve, edges, low, high) for curve in curves)
    grid = "".join(y_tick(escaped(written(at)), (high - at) / (high - low), SHORT_TOP) for at in ticks(low, high, 4))
    titles = (
        f"{_frames(frames, first, last)}: "
        + ", ".join(f"{curve.name} {written(float(curve.values[first:last].mean()))}" for curve in curves)
        for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    )
    hover = hover_columns((edges / count).tolist(), titles, SHORT_TOP)
    axis = x_axis(float(frames[0]), float(frames[-1]), "", SHORT_TOP)
    label = ", ".join(f"{curve.name}: mean {written(float(curve.values.mean()))}" for curve in curves)
    return plot(f"By frame: {label}", plane(drawn, SHORT_TOP) + grid + hover + axis, SHORT_TOP)


def _drawn(curve: Curve, edges: NDArray[np.int64], low: float, high: float) -> str:
    """The line through the means, over the band from smallest to largest."""
    starts = edges[:-1]
    numbers = np.diff(edges)
    heights = [
        np.add.reduceat(curve.values, starts) / numbers,
        np.maximum.reduceat(curve.values, starts),
        np.minimum.reduceat(curve.values, starts),
    ]
    mean, most, least = (100 * (1 - np.clip((values - low) / (high - low), 0, 1)) for values in heights)
    across = (edges[:-1] + edges[1:]) * 500 / edges[-1]
    line, upper, lower = (_points(across, down) for down in (mean, most, least))
    band = f"{upper} {' '.join(reversed(lower.split(' ')))}"
    style = f" {curve.style}" if curve.style else ""
    spread = f'<polygon class="band{style}" points="{band}"></polygon>'
    return f'{spread}<polyline class="mean{style}" points="{line}"></polyline>'


def _points(across: NDArray[np.float64], down: NDArray[np.float64]) -> str:
    """Places of a line; one place alone becomes a line across the chart."""
    if len(across) == 1:
        across, down = np.array([0.0, 1000.0]), np.repeat(down, 2)
    return " ".join(f"{x:.1f},{y:.2f}" for x, y in zip(across.tolist(), down.tolist(), strict=True))


def _frames(frames: Sequence[int], first: int, last: int) -> str:
    return f"frame {frames[first]}" if last - first == 1 else f"frames {frames[first]} to {frames[last - 1]}"
