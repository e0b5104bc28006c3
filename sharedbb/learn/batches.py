"""Batches for training: which pictures, which crops, what is wanted of each head; the same for a seed and a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharedbb.errors import DataError
from sharedbb.learn.augment import training_crop
from sharedbb.learn.data import Data, Rgb, Sample
from sharedbb.learn.known import Known, known_by_labels
from sharedbb.learn.labels import Asked
from sharedbb.learn.losses import Task
from sharedbb.spec import Input
from sharedbb.types import Geometry, Size

PERIOD, GOLDEN = 65_536, 40_503
"""After how many batches the division among sets repeats, and the golden ratio of that, odd, so that all differ."""


@dataclass(frozen=True, slots=True)
class Batch:
    """``images`` uint8 [N, 3, H, W] RGB, channels last in memory, and the target of each head that has a task."""

    images: Tensor
    targets: Mapping[str, Any]

    @classmethod
    def of(
        cls, rgb: Sequence[Rgb], tasks: Mapping[str, Task] | None = None, known: Sequence[Mapping[str, Known]] = ()
    ) -> Batch:
        """From pictures of one size, whose sides are multiples of 32, and what is ``known`` of the first of them."""
        images = torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2)
        size = rgb[0].shape[0], rgb[0].shape[1]
        targets = {name: task.target([one.get(name) for one in known], size) for name, task in (tasks or {}).items()}
        return cls(images, targets)

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``."""
        return Batch(self.images.to(device), {name: target.to(device) for name, target in self.targets.items()})


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures of one set, what their labels can ask of each head, and their share of the batches."""

    pictures: Sequence[Sample]
    questions: Mapping[str, Asked]
    share: float = 1.0


def shares_of(sets: Sequence[tuple[Data, float | None]]) -> list[tuple[Data, float]]:
    """The sets with their shares of a batch: as asked, and of what is left by number of pictures. Raises DataError."""
    left = 1 - sum(share or 0.0 for _, share in sets)
    unasked = sum(len(data) for data, share in sets if share is None)
    if left < -1e-9 or (unasked and left <= 1e-9):
        raise DataError(f"the shares of sets add up to {1 - left:g}, and leave nothing to others; lower them")
    return [(data, round(left * len(data) / unasked, 9) if share is None else share) for data, share in sets]


@dataclass(slots=True)
class Batches:
    """Random crops of pictures, batch by batch: of each pool every picture once a round, in an order shuffled anew.

    ``input`` says at which scale the network sees a picture. Labels go before what teachers say of the same head.
    """

    pools: Sequence[Pool]
    tasks: Mapping[str, Task]
    input: Input
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.pools or not all(len(pool.pictures) for pool in self.pools):
            raise DataError("there is no picture to train on; give a set whose training part has some")
        if min(pool.share for pool in self.pools) <= 0:
            raise DataError(f"shares of a batch are above 0, got {[pool.share for pool in self.pools]}")

    def batch(self, step: int, size: int, crop: tuple[int, int]) -> Batch:
        """The batch of step ``step``: ``size`` crops of ``crop`` (height, width; multiples of 32)."""
        crops = [self.crop(step, slot, size, crop) for slot in range(size)]
        return Batch.of([sample.rgb for sample, _ in crops], self.tasks, [known for _, known in crops])

    def content(self) -> tuple[int, int]:
        """Height and width of what the network sees of the first picture, without letterbox bars."""
        _, _, width, height = self._geometry(self.pools[0].pictures[0]).placed
        return min(self.input.size[0], height), min(self.input.size[1], width)

    def crop(self, step: int, slot: int, size: int, crop: tuple[int, int]) -> tuple[Sample, dict[str, Known]]:
        """The crop at one place of a batch of ``size``, and what is known of it."""
        starts, taken = _divided(tuple(pool.share for pool in self.pools), step, size)
        place = int(np.searchsorted(starts, slot, side="right")) - 1
        pool, position = self.pools[place], int(taken[place]) + slot - int(starts[place])
        sample = pool.pictures[_shuffled(len(pool.pictures), position, self.seed)]
        geometry = self._geometry(sample)
        rng = np.random.default_rng((self.seed, step, slot))
        made = training_crop(sample, crop, rng, (geometry.scale_x, geometry.scale_y))
        return made, {**made.known, **known_by_labels(made, pool.questions)}

    def _geometry(self, sample: Sample) -> Geometry:
        return Geometry.fit(Size(*sample.rgb.shape[:2]), self.input.network_size, self.input.fit)


def _divided(shares: tuple[float, ...], step: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """At which of its places each set's pictures begin in a batch, and how many of the set came in those before."""
    starts, taken = _period(shares, size)
    rounds, turn = divmod(step, PERIOD)
    return starts[turn], rounds * taken[-1] + taken[turn]


@lru_cache(maxsize=4)
def _period(shares: tuple[float, ...], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each of PERIOD batches: where its sets begin, and how many pictures of each came before; and behind the last.

    A share that is no whole number of pictures is rounded up in some batches and down in the others: each batch divides
    its places by the shares from another offset on, and offsets at the golden ratio spread evenly.
    """
    bounds = np.round(size * np.cumsum((0.0, *shares)) / sum(shares), 9)
    offsets = GOLDEN * np.arange(PERIOD) % PERIOD / PERIOD
    at = np.ceil(bounds - offsets[:, None]).astype(np.int64)
    taken = np.cumsum(np.diff(at, axis=1), axis=0)
    return at[:, :-1], np.concatenate([np.zeros_like(taken[:1]), taken])


def _shuffled(count: int, position: int, seed: int) -> int:
    """The ``position``-th index of an endless sequence that visits all ``count`` once a round, shuffled anew."""
    turn, place = divmod(position, count)
    return int(np.random.default_rng((seed, turn, count)).permutation(count)[place])
