"""Batches for training: which pictures, which crops, what is wanted of each head; the same for a seed and a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharedbb.errors import DataError
from sharedbb.learn.augment import training_crop
from sharedbb.learn.data import Sample
from sharedbb.learn.losses import Task
from sharedbb.spec import Input
from sharedbb.types import Geometry, Size


@dataclass(frozen=True, slots=True)
class Batch:
    """``images`` uint8 [N, 3, H, W] RGB, channels last in memory, and the target of each head that has a task."""

    images: Tensor
    targets: Mapping[str, Any]

    @classmethod
    def of(cls, samples: Sequence[Sample], tasks: Mapping[str, Task]) -> Batch:
        """From pictures of one size, whose sides are multiples of 32."""
        images = torch.from_numpy(np.stack([sample.rgb for sample in samples])).permute(0, 3, 1, 2)
        return cls(images, {name: task.target(samples) for name, task in tasks.items()})

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``."""
        return Batch(self.images.to(device), {name: target.to(device) for name, target in self.targets.items()})


@dataclass(slots=True)
class Batches:
    """Random crops of pictures, batch by batch: every picture once a round, in an order shuffled anew.

    ``input`` says at which scale the network sees a picture. ``extra`` pictures (rendered ones, say), where there are
    any, fill ``share`` of each batch.
    """

    pictures: Sequence[Sample]
    tasks: Mapping[str, Task]
    input: Input
    extra: Sequence[Sample] = ()
    share: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.pictures):
            raise DataError("there is no picture to train on; give a set whose training part has some")

    def batch(self, step: int, size: int, crop: tuple[int, int]) -> Batch:
        """The batch of step ``step``: ``size`` crops of ``crop`` (height, width; multiples of 32)."""
        return Batch.of([self._crop(step, slot, size, crop) for slot in range(size)], self.tasks)

    def content(self) -> tuple[int, int]:
        """Height and width of what the network sees of the first picture, without letterbox bars."""
        _, _, width, height = self._geometry(self.pictures[0]).placed
        return min(self.input.size[0], height), min(self.input.size[1], width)

    def _crop(self, step: int, slot: int, size: int, crop: tuple[int, int]) -> Sample:
        extra = len(self.extra) > 0 and slot >= round(size * (1 - self.share))
        pool = self.extra if extra else self.pictures
        sample = pool[_shuffled(len(pool), step * size + slot, self.seed)]
        geometry = self._geometry(sample)
        rng = np.random.default_rng((self.seed, step, slot))
        return training_crop(sample, crop, rng, (geometry.scale_x, geometry.scale_y))

    def _geometry(self, sample: Sample) -> Geometry:
        return Geometry.fit(Size(*sample.rgb.shape[:2]), self.input.network_size, self.input.fit)


def _shuffled(count: int, position: int, seed: int) -> int:
    """The ``position``-th index of an endless sequence that visits all ``count`` once a round, shuffled anew."""
    turn, place = divmod(position, count)
    return int(np.random.default_rng((seed, turn, count)).permutation(count)[place])
