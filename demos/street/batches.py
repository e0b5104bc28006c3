"""Batches for training: which pictures, which crops, and all targets; the same for the same seed and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from street.augment import training_crop
from street.labels import VOID, Boxes, boxes_of, edge_target, tags_of
from street.pictures import Labelled
from street.steady import next_frame


@dataclass(frozen=True, slots=True)
class Batch:
    """``images`` uint8 [N, 3, H, W] RGB and the targets that ``loss.multi_task_loss`` wants, with ``boxes`` apart."""

    images: Tensor
    targets: dict[str, Tensor]
    boxes: list[Boxes]

    @classmethod
    def of(cls, pictures: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> Batch:
        """From HWC uint8 pictures and HW uint8 labels of one size, a multiple of 32; pictures may outnumber labels."""
        images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        targets = {
            "labels": torch.from_numpy(np.stack(labels)),
            "edges": torch.from_numpy(np.stack([edge_target(one) for one in labels])),
            "tags": torch.from_numpy(np.stack([tags_of(one) for one in labels])).float(),
        }
        return cls(images, targets, [boxes_of(one) for one in labels])

    def to(self, device: torch.device) -> Batch:
        """The same with images and targets on ``device`` (boxes stay in host memory)."""
        return Batch(self.images.to(device), {name: t.to(device) for name, t in self.targets.items()}, self.boxes)


@dataclass(frozen=True, slots=True)
class Mix:
    """Real pictures and synthetic ones; ``share`` of each batch is synthetic, where there are any.

    ``unlabelled`` ones come on top, one for every second labelled one, where crops are seen twice.
    """

    real: Sequence[Labelled]
    synthetic: Sequence[Labelled]
    share: float = 0.25
    seed: int = 0
    unlabelled: Sequence[Labelled] = ()

    def batch(self, step: int, size: int, crop: tuple[int, int], slots: Sequence[int] | None = None) -> Batch:
        """The batch of step ``step``: ``size`` crops of ``crop`` (height, width), or those of ``slots`` among them."""
        pairs = [self._sample(step, slot, size, crop) for slot in (range(size) if slots is None else slots)]
        return Batch.of([rgb for rgb, _ in pairs], [labels for _, labels in pairs])

    def views(self, step: int, size: int, crop: tuple[int, int], slots: Sequence[int]) -> tuple[Batch, int]:
        """As ``batch``, with crops of unlabelled pictures after the labelled ones, and then a second view of each crop.

        Also returns how many crops there are, that is half of the images.
        """
        pairs = [self._sample(step, slot, size, crop) for slot in slots]
        pictures = [rgb for rgb, _ in pairs]
        for slot in slots if self.unlabelled else ():
            if slot % 4 < 2:
                rng = np.random.default_rng((self.seed, step, slot, 1))
                pictures.append(training_crop(self.unlabelled[rng.integers(len(self.unlabelled))], crop, rng)[0])
        rng = np.random.default_rng((self.seed, step, *slots, 2))
        seen = [next_frame(rgb, rng) for rgb in pictures]
        return Batch.of([*pictures, *seen], [labels for _, labels in pairs]), len(pictures)

    def _sample(self, step: int, slot: int, size: int, crop: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, step, slot))
        synthetic = len(self.synthetic) > 0 and slot >= round(size * (1 - self.share))
        pool = self.synthetic if synthetic else self.real
        return training_crop(pool[_shuffled(len(pool), step * size + slot, self.seed)], crop, rng)


def _shuffled(count: int, position: int, seed: int) -> int:
    """The ``position``-th index of an endless sequence that visits all ``count`` once a round, shuffled anew."""
    turn, place = divmod(position, count)
    return int(np.random.default_rng((seed, turn, count)).permutation(count)[place])


def class_weights(pictures: Sequence[Labelled]) -> Tensor:
    """Mild weights for rare classes, 1 / ln(1.15 + frequency) (Paszke et al. 2016), scaled to a mean of 1 per pixel."""
    counts = np.zeros(VOID + 1)
    for picture in pictures:
        counts += np.bincount(picture.labels.ravel(), minlength=VOID + 1)
    frequency = counts[:VOID] / counts[:VOID].sum()
    weight = 1 / np.log(1.15 + frequency)
    return torch.tensor(weight / (weight * frequency).sum(), dtype=torch.float32)
