"""K-means of plain numbers: sorted once, so that each round of Lloyd's algorithm looks only at the borders."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import CompressionError

Floats = NDArray[np.float64]

ROUNDS = 200
"""Rounds after which Lloyd's algorithm ends at the latest."""


def kmeans(
    values: NDArray[np.float32], k: int, *, weights: Floats | None = None, init: str = "kmeans++", seed: int = 0
) -> NDArray[np.float32]:
    """At most ``k`` centres, ascending: each is the mean of the ``values`` nearest to it (a local optimum).

    ``weights``: how much each value counts, at least 0. ``init``: ``"kmeans++"``, drawn far from each other by ``seed``
    (Arthur and Vassilvitskii, 2007); ``"linear"``, evenly from the least to the greatest value (Han et al., 2016); or
    ``"density"``, at evenly spaced quantiles. Where there are no more than
    ``k`` different values, the centres are those. Raises CompressionError for another ``init``.
    """
    if init not in _BEGINNINGS:
        raise CompressionError(f"no beginning of k-means is called {init!r} (known: {', '.join(_BEGINNINGS)})")
    distinct, positions = np.unique(values.ravel(), return_inverse=True)
    if distinct.size <= k:
        return distinct
    points = distinct.astype(np.float64)
    mass = np.bincount(positions, None if weights is None else weights.ravel(), points.size).astype(np.float64)
    mass = np.maximum(mass, 1e-9 * mass.mean() or 1.0)
    return np.unique(_lloyd(points, mass, _BEGINNINGS[init](points, mass, k, seed)).astype(np.float32))


def nearest(values: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """The position of the centre nearest to each value; ``centres`` ascend."""
    return np.searchsorted(_borders(centres.astype(np.float64)), values)


def _lloyd(points: Floats, mass: Floats, centres: Floats) -> Floats:
    """Centres that are the means of their points; ``points`` ascend, each counts ``mass``."""
    masses, moments = (np.concatenate(([0.0], np.cumsum(part))) for part in (mass, mass * points))
    for _ in range(ROUNDS):
        ends = np.concatenate(([0], np.searchsorted(points, _borders(centres)), [points.size]))
        counted = np.diff(ends) > 0
        moved = np.divide(np.diff(moments[ends]), np.diff(masses[ends]), out=centres.copy(), where=counted)
        if not counted.all():
            moved[~counted] = _worst(points, mass, centres, int((~counted).sum()))
        moved = np.sort(moved)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _worst(points: Floats, mass: Floats, centres: Floats, count: int) -> Floats:
    """The points that cost most where they are: a centre without points is better off there."""
    distance = points - centres[np.searchsorted(_borders(centres), points)]
    return points[np.argsort(-mass * distance**2, kind="stable")[:count]]


def _borders(centres: Floats) -> Floats:
    return (centres[1:] + centres[:-1]) / 2


def _linear(points: Floats, mass: Floats, k: int, seed: int) -> Floats:
    return np.linspace(points[0], points[-1], k)


def _density(points: Floats, mass: Floats, k: int, seed: int) -> Floats:
    share = np.cumsum(mass) / mass.sum()
    return points[np.searchsorted(share, (np.arange(k) + 0.5) / k)]


def _plus_plus(points: Floats, mass: Floats, k: int, seed: int) -> Floats:
    draw = np.random.default_rng(seed)
    chosen = [draw.choice(points, p=mass / mass.sum())]
    distance = np.full(points.size, np.inf)
    for _ in range(k - 1):
        distance = np.minimum(distance, (points - chosen[-1]) ** 2)
        cost = mass * distance
        chosen.append(draw.choice(points, p=cost / cost.sum()))
    return np.sort(chosen)


_BEGINNINGS: Mapping[str, Callable[[Floats, Floats, int, int], Floats]] = {
    "linear": _linear,
    "density": _density,
    "kmeans++": _plus_plus,
}
