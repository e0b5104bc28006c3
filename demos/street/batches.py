"""Batches of the street: real and synthetic crops, the slots of one worker, and second views of every crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sharedbb.learn.augment import training_crop
from sharedbb.learn.batches import Batch, Batches
from sharedbb.learn.data import Sample
from street.steady import next_frame


@dataclass(slots=True)
class Mix(Batches):
    """Real pictures, and synthetic ones as ``extra``.

    ``unlabelled`` ones come on top, one for every second labelled one, where crops are seen twice.
    """

    unlabelled: Sequence[Sample] = ()

    def of_slots(self, step: int, size: int, crop: tuple[int, int], slots: Sequence[int]) -> Batch:
        """Of the batch of step ``step``, ``size`` crops of ``crop`` (height, width), those of ``slots``."""
        return Batch.of([self._crop(step, slot, size, crop) for slot in slots], self.tasks)

    def views(self, step: int, size: int, crop: tuple[int, int], slots: Sequence[int]) -> tuple[Batch, int, int]:
        """As ``of_slots``, with crops of unlabelled pictures after the labelled ones, then a second view of each crop.

        The targets are those of the labelled ones. Also returns how many of these there are, and how many crops, that
        is half of the images.
        """
        labelled = [self._crop(step, slot, size, crop) for slot in slots]
        more = [slot for slot in slots if slot % 4 < 2] if self.unlabelled else []
        crops = [*labelled, *(self._unlabelled_crop(step, slot, crop) for slot in more)]
        rng = np.random.default_rng((self.seed, step, *slots, 2))
        seen = [replace(sample, rgb=next_frame(sample.rgb, rng)) for sample in crops]
        images, targets = Batch.of([*crops, *seen], {}).images, Batch.of(labelled, self.tasks).targets
        return Batch(images, targets), len(labelled), len(crops)

    def _unlabelled_crop(self, step: int, slot: int, crop: tuple[int, int]) -> Sample:
        rng = np.random.default_rng((self.seed, step, slot, 1))
        return training_crop(self.unlabelled[rng.integers(len(self.unlabelled))], crop, rng)
