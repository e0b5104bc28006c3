"""Samples and timelines that stay small: exact while they can be, bounded and unbiased afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedbb.profiling.series import Bucket, Reservoir, Timeline

FRAMES = 5_000


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=50))
def test_quantiles_are_numpys_while_everything_fits(values: list[float]) -> None:
    reservoir = Reservoir(50)
    for value in values:
        reservoir.add(value)
    assert reservoir.percentiles(50, 95, 99) == pytest.approx(np.percentile(values, [50, 95, 99]))
    assert reservoir.mean == pytest.approx(np.mean(values))
    assert (reservoir.count, reservoir.largest) == (len(values), max(values))


def test_a_full_reservoir_grows_no_more_and_counts_on() -> None:
    reservoir = Reservoir(256)
    for value in range(FRAMES):
        reservoir.add(value)
    sample = reservoir.sample()
    assert len(sample) == len(set(sample)) == 256
    assert (reservoir.count, reservoir.largest, reservoir.mean) == (FRAMES, FRAMES - 1, (FRAMES - 1) / 2)


def test_every_value_has_the_same_chance_to_be_in_the_sample() -> None:
    reservoir = Reservoir(1_000)
    for value in range(FRAMES):
        reservoir.add(value)
    quarters, _ = np.histogram(reservoir.sample(), bins=4, range=(0, FRAMES))
    assert np.abs(quarters - 250).max() < 60  # 4 standard deviations
    assert reservoir.percentiles(50)[0] == pytest.approx(FRAMES / 2, rel=0.1)


def test_equal_runs_give_equal_samples() -> None:
    first, second = Reservoir(16), Reservoir(16)
    for value in range(500):
        first.add(value)
        second.add(value)
    np.testing.assert_array_equal(first.sample(), second.sample())


def test_an_empty_reservoir_gives_zeros() -> None:
    empty = Reservoir(4)
    assert (empty.percentiles(50, 99), empty.mean, empty.sample().shape) == ((0.0, 0.0), 0.0, (0,))


def test_a_short_timeline_has_every_value() -> None:
    timeline = Timeline(8)
    for index in range(5):
        timeline.add(index, index * 10.0)
    assert timeline.buckets() == tuple(Bucket(index, 1, index * 10.0, index * 10.0) for index in range(5))


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129, 1_000, FRAMES])
def test_a_timeline_merges_neighbours_and_loses_nothing(count: int) -> None:
    timeline, values = Timeline(64), np.random.default_rng(0).integers(0, 1_000, count).astype(float)
    for index, value in enumerate(values):
        timeline.add(index, float(value))
    buckets = timeline.buckets()
    assert len(buckets) <= 65  # the last one is still open
    assert sum(bucket.number for bucket in buckets) == count
    assert len({bucket.number for bucket in buckets[:-1]}) <= 1
    for bucket in buckets:
        part = values[bucket.start : bucket.start + bucket.number]
        assert (bucket.total, bucket.largest, bucket.mean) == (part.sum(), part.max(), pytest.approx(part.mean()))
