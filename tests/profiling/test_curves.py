"""The chart by frame: one line a series, of at most so many points, nothing outside of the plane."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sharedbb.profiling.curves import POINTS, Curve, by_frame


def lines(chart: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'<polyline class="mean[^"]*" points="([^"]*)"', chart)
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in line.split())] for line in found]


def test_a_point_a_frame_on_the_scale() -> None:
    curves = [Curve("ours", np.array([0.0, 5, 10])), Curve("<other>", np.array([20.0, -5, 10]), "other")]
    chart = by_frame(curves, 0.0, 10.0, lambda value: f"{value:g} ms", [4, 5, 9])
    ours, other = lines(chart)
    assert [y for _, y in ours] == [100, 50, 0]
    assert [y for _, y in other] == [0, 100, 0]  # what is outside of the scale stands at its edge
    assert [x for x, _ in ours] == pytest.approx([1000 / 6, 500, 5000 / 6], abs=0.1)
    assert "<title>frame 9: ours 10 ms, &lt;other&gt; 10 ms</title>" in chart


@pytest.mark.parametrize("count", [POINTS, POINTS + 1, 5 * POINTS + 7])
def test_a_long_run_keeps_its_mean_and_its_extremes(count: int) -> None:
    values = np.random.default_rng(count).uniform(0.2, 0.8, count)
    values[count // 2] = 0.0
    chart = by_frame([Curve("share", values)], 0.0, 1.0, str, range(count))
    (line,) = lines(chart)
    assert len(line) == POINTS
    numbers = np.diff(np.unique(np.linspace(0, count, POINTS + 1).round()))
    assert np.average([1 - y / 100 for _, y in line], weights=numbers) == pytest.approx(values.mean(), abs=1e-3)
    (band,) = re.findall(r'<polygon class="band" points="([^"]*)"', chart)
    assert max(float(point.split(",")[1]) for point in band.split()) == 100


def test_one_frame_is_a_line_across() -> None:
    (line,) = lines(by_frame([Curve("share", np.array([0.5]))], 0.0, 1.0, str, [7]))
    assert line == [(0, 50), (1000, 50)]
