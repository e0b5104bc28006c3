"""K-means of numbers: exact where it can be, never worse than where it began, the same for a seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sharedbb.compress.kmeans import kmeans, nearest
from sharedbb.errors import CompressionError

INITS = ("linear", "density", "kmeans++")
VALUES = np.random.default_rng(0).standard_normal(2000).astype(np.float32)


def cost(values: np.ndarray, centres: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The sum of the squared distances to the nearest centre, the plain way."""
    distance = np.abs(values[:, None].astype(np.float64) - centres[None]).min(axis=1) ** 2
    return float((distance * (1 if weights is None else weights)).sum())


@pytest.mark.parametrize("init", INITS)
def test_as_many_centres_as_values_are_the_values(init: str) -> None:
    values = np.array([3, -1, 3, 7, -1], np.float32)
    assert kmeans(values, 3, init=init).tolist() == [-1, 3, 7]
    assert kmeans(values, 200, init=init).tolist() == [-1, 3, 7]
    assert kmeans(np.zeros(0, np.float32), 4, init=init).size == 0


@pytest.mark.parametrize("init", INITS)
def test_clear_clusters_are_found(init: str) -> None:
    values = np.concatenate([VALUES[:50] * 0.01 + place for place in (-9, -2, 0, 5)]).astype(np.float32)
    assert kmeans(values, 4, init=init) == pytest.approx(np.array([-9, -2, 0, 5]) + VALUES[:50].mean() * 0.01, abs=1e-4)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("k", [2, 16])
def test_every_centre_is_the_mean_of_what_is_nearest_to_it(init: str, k: int) -> None:
    centres = kmeans(VALUES, k, init=init)
    assert len(centres) == k
    assert (np.diff(centres) > 0).all()
    plain = np.abs(VALUES[:, None] - centres).argmin(axis=1)
    assert np.array_equal(nearest(VALUES, centres), plain)
    assert centres == pytest.approx([VALUES[plain == at].mean() for at in range(k)], abs=1e-5)


@pytest.mark.parametrize("init", INITS)
def test_it_comes_near_to_the_best_of_all(init: str) -> None:
    values = np.sort(VALUES[:14])
    cuts = itertools.combinations(range(1, 14), 2)
    best = min(sum(float(((part - part.mean()) ** 2).sum()) for part in np.split(values, cut)) for cut in cuts)
    assert best <= cost(values, kmeans(values, 3, init=init)) + 1e-6 <= 1.5 * best + 1e-6


def test_weights_are_as_if_the_value_came_so_often() -> None:
    often = np.random.default_rng(1).integers(1, 5, VALUES.size)
    for init in ("linear", "density"):
        found = kmeans(VALUES, 8, weights=often.astype(np.float64), init=init)
        assert found == pytest.approx(kmeans(np.repeat(VALUES, often), 8, init=init), abs=1e-6)


def test_weights_of_zero_are_no_fault() -> None:
    weights = (VALUES > 0).astype(np.float64)
    found = kmeans(VALUES, 8, weights=weights)
    assert np.isfinite(found).all()
    assert cost(VALUES, found, weights) < cost(VALUES, kmeans(VALUES, 8), weights)
    assert len(kmeans(VALUES, 4, weights=np.zeros(VALUES.size))) == 4


def test_centres_without_values_are_put_where_they_help() -> None:
    values = np.array([*np.linspace(0, 1, 100), 1000], np.float32)  # evenly spread centres would all but two be empty
    assert cost(values, kmeans(values, 8, init="linear")) < 100 / 12 / 5**2


def test_the_same_seed_gives_the_same_centres() -> None:
    assert np.array_equal(kmeans(VALUES, 16, seed=3), kmeans(VALUES, 16, seed=3))
    assert not np.array_equal(kmeans(VALUES, 16, seed=3), kmeans(VALUES, 16, seed=4))


def test_an_unknown_beginning_is_named() -> None:
    with pytest.raises(CompressionError, match="called 'random' \\(known: linear, density, kmeans\\+\\+\\)"):
        kmeans(VALUES, 4, init="random")
