"""Series of numbers that stay small however long a run lasts: a uniform sample and a coarsening timeline."""

from __future__ import annotations

import random
from array import array
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Reservoir:
    """A uniform random sample of at most ``size`` of the values added; count, sum and largest stay exact.

    Until ``size`` values have been added it holds all of them, so quantiles are exact; after that every value added so
    far is in the sample with the same probability (Vitter 1985, algorithm R; seeded, so that runs repeat).
    """

    __slots__ = ("_random", "count", "largest", "size", "total", "values")

    def __init__(self, size: int) -> None:
        self.size = size
        self.values = array("d")
        self.count = 0
        self.total = 0.0
        self.largest = 0.0
        self._random = random.Random(size).random

    def add(self, value: float) -> None:
        """Take one value, any unit, not negative."""
        self.count += 1
        self.total += value
        if value > self.largest:
            self.largest = value
        values = self.values
        if len(values) < self.size:
            values.append(value)
        else:
            place = int(self._random() * self.count)
            if place < self.size:
                values[place] = value

    @property
    def mean(self) -> float:
        """Mean of every value added, not only of the sample; 0 when there is none."""
        return self.total / self.count if self.count else 0.0

    def sample(self) -> NDArray[np.float64]:
        """The sample, shape [min(count, size)], float64, in no order of meaning once it is full."""
        return np.array(self.values, dtype=np.float64)

    def percentiles(self, *points: float) -> tuple[float, ...]:
        """Percentiles (0–100) of the sample, interpolated linearly as NumPy does; zeros when it is empty."""
        if not self.values:
            return (0.0,) * len(points)
        return tuple(float(value) for value in np.percentile(self.sample(), points))


class Bucket(NamedTuple):
    """Some neighbouring values of a timeline: when the first began (ns), how many, their sum and their largest."""

    start: int
    number: int
    total: float
    largest: float

    @property
    def mean(self) -> float:
        """Mean of the bucket's values."""
        return self.total / self.number


class Timeline:
    """Values over the whole run in at most ``size`` buckets of equally many values.

    A bucket holds one value at first. When all are taken, neighbours merge and from then on a bucket holds twice as
    many: the picture of a long run gets coarser, never longer, and no peak is lost. ``size`` must be even.
    """

    __slots__ = ("_buckets", "_open", "_per_bucket", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._buckets: list[Bucket] = []
        self._open: Bucket | None = None
        self._per_bucket = 1

    def add(self, start: int, value: float) -> None:
        """Take one value and when it began, in ns."""
        bucket = Bucket(start, 1, value, value)
        if self._open is not None:
            bucket = _joined(self._open, bucket)
        if bucket.number < self._per_bucket:
            self._open = bucket
            return
        self._open = None
        if len(self._buckets) == self.size:
            pairs = zip(self._buckets[::2], self._buckets[1::2], strict=True)
            self._buckets = [_joined(first, second) for first, second in pairs]
            self._per_bucket *= 2
            self._open = bucket
        else:
            self._buckets.append(bucket)

    def buckets(self) -> tuple[Bucket, ...]:
        """All buckets, oldest first; the last may hold fewer values than the others."""
        return (*self._buckets, self._open) if self._open is not None else tuple(self._buckets)


def _joined(first: Bucket, second: Bucket) -> Bucket:
    return Bucket(
        first.start, first.number + second.number, first.total + second.total, max(first.largest, second.largest)
    )
