"""Batches of the street: real and synthetic crops, the slots of one worker, and second views of every crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sharedbb.learn.augment import training_crop
from sharedbb.learn.batches import Batch, Batches
from sharedbb.learn.data import Rgb, Sample
from street.steady import next_frame


@dataclass(slots=True)
class Mix(Batches):
    """Real and synthetic pictures.

    ``unlabelled`` ones come on top, one for every second labelled one, where crops are seen twice.
    """

    unlabelled: Sequence[Sample] = ()

    def of_slots(self, step: int, size: int, crop: tuple[int, int], slots: Sequence[int]) -> Batch:
        """Of the batch of step ``step``, ``size`` crops of ``crop`` (height, width), those of ``slots``."""
        crops = [self.crop(step, slot, size, crop) for slot in slots]
        return Batch.of([sample.rgb for sample, _ in crops], self.tasks, [known for _, known in crops])

    def views(self, step: int, size: int, crop: tuple[int, int], slots: Sequence[int]) -> tuple[Batch, int, int]:
        """As ``of_slots``, with crops of unlabelled pictures after the labelled ones, then a second view of each crop.

        The targets are those of the labelled ones. Also returns how many of these there are, and how many crops, that
        is half of the images.
        """
        labelled = [self.crop(step, slot, size, crop) for slot in slots]
        more = [slot for slot in slots if slot % 4 < 2] if self.unlabelled else []
        crops = [sample.rgb for sample, _ in labelled] + [self._unlabelled_crop(step, slot, crop) for slot in more]
        rng = np.random.default_rng((self.seed, step, *slots, 2))
        seen = [next_frame(rgb, rng) for rgb in crops]
        batch = Batch.of([*crops, *seen], self.tasks, [known for _, known in labelled])
        return batch, len(labelled), len(crops)

    def _unlabelled_crop(self, step: int, slot: int, crop: tuple[int, int]) -> Rgb:
        rng = np.random.default_rng((self.seed, step, slot, 1))
        return training_crop(self.unlabelled[rng.integers(len(self.unlabelled))], crop, rng).rgb
