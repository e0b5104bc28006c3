"""How a training goes: how long, at which rate, on crops of which size, and how far it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from sharedbb.errors import CompressionError
from sharedbb.learn.balance import Balancing
from sharedbb.learn.distillation import Distill

LONGEST_STEP = 20.0
"""A step counts for so many seconds at most, so that pauses cost no schedule."""

CROPS = ((0.0, 0.6), (0.6, 0.75), (0.85, 0.93))
"""Share of the training at which it begins, size of the crops as a share of what the network sees of a picture."""


@dataclass(frozen=True, slots=True)
class Course:
    """Everything that decides how training goes. ``steps`` or ``minutes`` of work end it; ``steps`` wins if given.

    ``crop``: height and width of the crops, multiples of 32; None for CROPS. ``lr`` falls along half a cosine after
    ``warm_up``, a share of the training; ``averaging`` is the decay of the weights' moving average. ``labels``: weight
    of what labels say. ``overlap``: weight of IoU in what segmentation learns (``losses.overlap_loss``). ``balance``:
    how the losses of heads are weighed (``balance``); ``heads``: their given weights, where they are not those of
    ``losses.WEIGHTS`` (``fixed``) or 1 (the others). ``bf16``: compute in bfloat16 where that is enough (weights and
    sums stay float32).
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 8
    crop: tuple[int, int] | None = None
    lr: float = 1e-3
    weight_decay: float = 0.02
    warm_up: float = 0.05
    averaging: float = 0.998
    labels: float = 1.0
    overlap: float = 0.0
    distill: Distill | None = None
    balance: Balancing = "fixed"
    heads: Mapping[str, float] = field(default_factory=dict)
    bf16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise CompressionError("a training needs an end: give steps or minutes")
        if self.balance not in get_args(Balancing):
            raise CompressionError(f"no balance is called {self.balance!r}; there are {', '.join(get_args(Balancing))}")
        if self.crop and (self.crop[0] % 32 or self.crop[1] % 32 or min(self.crop) < 32):
            raise CompressionError(f"the sides of a crop are multiples of 32, got {self.crop[0]}x{self.crop[1]}")
        if self.crop == (32, 32) and self.batch == 1:
            raise CompressionError("batch norms learn nothing from one crop of 32x32; take larger ones, or several")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self) | {"crop": list(self.crop) if self.crop else None}

    def rate(self, progress: float) -> float:
        """Learning rate at ``progress`` in 0–1: a linear warm-up, then half a cosine."""
        if progress < self.warm_up:
            return self.lr * (0.02 + 0.98 * progress / self.warm_up)
        return self.lr * (0.005 + 0.995 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)

    def crop_at(self, progress: float, content: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the crops at ``progress`` in 0–1; ``content`` is what the network sees of a picture."""
        if self.crop:
            return self.crop
        share = [size for begin, size in CROPS if progress >= begin][-1]
        height, width = (max(32, round(share * side / 32) * 32) for side in content)
        return height, width


@dataclass(slots=True)
class Clock:
    """Steps done, seconds worked, and the running mean of the loss (over about fifty steps)."""

    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0

    def progress(self, course: Course) -> float:
        """Share of the training done, 0–1."""
        if course.steps is not None:
            return self.step / course.steps if course.steps else 1.0
        assert course.minutes is not None
        return self.seconds / (60 * course.minutes) if course.minutes else 1.0

    def tick(self, seconds: float, loss: float) -> None:
        """One more step, which took ``seconds`` on the wall."""
        self.step += 1
        self.loss += (loss - self.loss) / min(self.step, 50)
        self.seconds += min(seconds, LONGEST_STEP)
