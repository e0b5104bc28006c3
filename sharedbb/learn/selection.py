"""Which weights of a training to keep: those that were validated best, over all heads, each by its own measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Validation:
    """The headline of each head, 0–1, after so many steps."""

    step: int
    headlines: Mapping[str, float]


@dataclass(slots=True)
class Selection:
    """The validations of a training so far, and the weights of the best of them, on the CPU.

    A validation's score is the mean over heads of headline over the head's best headline so far, so that no head
    decides for being easy. The best is compared with each new one by the bests as they are then.
    """

    validations: list[Validation] = field(default_factory=list)
    best: int | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def add(self, step: int, headlines: Mapping[str, float], weights: Mapping[str, Tensor]) -> bool:
        """Take note of a validation; whether it is the best, in which case ``weights`` are kept.

        As long as no head has anything, or nothing could be measured, none is the best.
        """
        self.validations.append(Validation(step, dict(headlines)))
        if self.best is None and not any(headlines.values()):
            return False
        scores = self.scores()
        if self.best is not None and scores[-1] <= scores[self.best]:
            return False
        self.best, self.weights = len(self.validations) - 1, dict(weights)
        return True

    def scores(self) -> list[float]:
        """The score of each validation, 0–1; 0 where no head could be measured."""
        heads = list(dict.fromkeys(head for one in self.validations for head in one.headlines))
        most = {head: max(one.headlines.get(head, 0.0) for one in self.validations) for head in heads}
        return [
            sum(one.headlines.get(head, 0.0) / most[head] if most[head] else 1.0 for head in heads) / max(1, len(heads))
            for one in self.validations
        ]

    @property
    def step(self) -> int | None:
        """After how many steps the best was; None without validations."""
        return None if self.best is None else self.validations[self.best].step

    @property
    def since_best(self) -> int:
        """How many validations have not been better than the best."""
        return 0 if self.best is None else len(self.validations) - 1 - self.best

    def to_dict(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""
        return {"validations": [asdict(one) for one in self.validations], "best": self.best}

    @classmethod
    def of(cls, told: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Self:
        """From what ``to_dict`` gave and the weights of the best."""
        return cls([Validation(**one) for one in told["validations"]], told["best"], dict(weights))
