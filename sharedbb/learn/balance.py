"""How much the loss of each head counts in the sum: as given, by its uncertainty, or by the length of its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sharedbb.errors import CompressionError

Balancing = Literal["fixed", "uncertainty", "gradnorm"]

RATE = 0.02
"""Share of the way to the balance of its gradients that ``GradNorm`` goes in a step."""

ASYMMETRY = 0.5
"""How much more a head counts that lags behind in its training; 0 for not at all."""

FARTHEST = 4.0
"""Logarithm of how far ``GradNorm`` moves a weight up or down."""

SMOOTHING = 0.05
"""Share of a new loss in the running mean by which ``GradNorm`` sees how far a head has come."""

LEAST_GRADIENT = 1e-10
"""A gradient shorter than this says nothing."""

PROBE = 64
"""Side of the picture by which the shared layers are found."""


class Balance(nn.Module, ABC):
    """The weighted sum of the losses of heads; what it learns is in its parameters and buffers.

    ``given``: by head, the weight that it has in any case, in the order in which the balance keeps them.
    """

    def __init__(self, given: Mapping[str, float]) -> None:
        super().__init__()
        self.given = dict(given)

    @abstractmethod
    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """What is minimised, a scalar; ``losses`` are scalars with gradients, of the heads that learn in this step."""

    def current(self) -> dict[str, float]:
        """By head, how much its loss counts now."""
        return dict(self.given)

    def _places(self, losses: Mapping[str, Tensor]) -> list[int]:
        order = list(self.given)
        return [order.index(head) for head in losses]

    def _constants(self, losses: Mapping[str, Tensor]) -> Tensor:
        return _stacked(losses).new_tensor([self.given[head] for head in losses])


class Fixed(Balance):
    """Weights as they are given."""

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Σ wᵢ Lᵢ."""
        return (self._constants(losses) * _stacked(losses)).sum()


class Uncertainty(Balance):
    """Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, 2018.

    ``log_variances`` [heads] are trained with the network: a head whose loss stays large is uncertain and counts less.
    A loss of exactly 0 is that of a head of which nothing was known, and teaches nothing.
    """

    def __init__(self, given: Mapping[str, float]) -> None:
        super().__init__(given)
        self.log_variances = nn.Parameter(torch.zeros(len(self.given)))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Σ wᵢ (Lᵢ exp(−sᵢ) + sᵢ / 2), s being log σ²; smallest where exp(−sᵢ) is 1 / 2Lᵢ."""
        stacked, variances = _stacked(losses), self.log_variances[self._places(losses)]
        known = stacked.detach() != 0
        return (self._constants(losses) * (stacked * (-variances).exp() + variances / 2 * known)).sum()

    def current(self) -> dict[str, float]:
        """wᵢ exp(−sᵢ)."""
        factors = (-self.log_variances.detach()).exp().tolist()
        return {head: weight * factor for (head, weight), factor in zip(self.given.items(), factors, strict=True)}


class GradNorm(Balance):
    """Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing, 2018.

    Every head is to pull at ``shared``, the last weight that all heads share, with a gradient Gᵢ of the same length,
    longer where its loss has fallen less than those of others: Gᵢ = mean(G) · (rᵢ / mean(r)) ^ ASYMMETRY, r being loss
    over first loss. The weights approach this, the least of the paper's |G − target|, by RATE of the way in a step, in
    logarithms, instead of by a second optimizer. Their mean stays 1.
    """

    log_weights: Tensor
    first: Tensor
    recent: Tensor

    def __init__(self, given: Mapping[str, float], shared: nn.Parameter) -> None:
        super().__init__(given)
        self._shared = (shared,)  # in a tuple, or the balance would own it
        self.register_buffer("log_weights", torch.zeros(len(self.given)))
        self.register_buffer("first", torch.full((len(self.given),), torch.nan))
        self.register_buffer("recent", torch.full((len(self.given),), torch.nan))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Σ wᵢ vᵢ Lᵢ, v being what is learnt; asks for the gradient of each loss at one layer."""
        places, given = self._places(losses), self._constants(losses)
        lengths = torch.stack([self._length(loss) for loss in losses.values()])
        with torch.no_grad():
            self._approach(torch.tensor(places, device=lengths.device), given * lengths, _stacked(losses))
        factors = given * self.log_weights[places].exp()
        return (factors * _stacked(losses)).sum()

    def _length(self, loss: Tensor) -> Tensor:
        """Of the gradient of a loss, 0 where it does not depend on the layer."""
        (gradient,) = torch.autograd.grad(loss, self._shared, retain_graph=True, allow_unused=True)
        length: Tensor = loss.new_zeros(()) if gradient is None else gradient.float().norm()
        return length

    def _approach(self, places: Tensor, lengths: Tensor, losses: Tensor) -> None:
        """Move the weights of the heads at ``places`` towards balance."""
        usable = (lengths > LEAST_GRADIENT) & lengths.isfinite() & losses.isfinite()
        places, lengths, losses = places[usable], lengths[usable], losses[usable]
        before = self.recent[places]
        self.first[places] = torch.where(self.first[places].isnan(), losses, self.first[places])
        self.recent[places] = torch.where(before.isnan(), losses, torch.lerp(before, losses, SMOOTHING))
        pulls = lengths * self.log_weights[places].exp()
        left = self.recent[places] / self.first[places].clamp(min=1e-6)
        wanted = pulls.mean() * (left / left.mean()).clamp(min=1e-3) ** ASYMMETRY
        self.log_weights[places] += RATE * (wanted / pulls).log()
        self.log_weights -= self.log_weights.exp().mean().log()
        self.log_weights.clamp_(-FARTHEST, FARTHEST)

    def current(self) -> dict[str, float]:
        """wᵢ vᵢ."""
        factors = self.log_weights.exp().tolist()
        return {head: weight * factor for (head, weight), factor in zip(self.given.items(), factors, strict=True)}


def balance_of(kind: Balancing, given: Mapping[str, float], module: nn.Module) -> Balance:
    """The balance of this kind for the heads of ``given``. Raises CompressionError where it does not fit ``module``."""
    match kind:
        case "fixed":
            return Fixed(given)
        case "uncertainty":
            return Uncertainty(given)
        case "gradnorm":
            return GradNorm(given, last_shared(module, list(given)))


def last_shared(module: nn.Module, heads: Sequence[str]) -> nn.Parameter:
    """The last weight of two dimensions or more, in the module's order, that every one of ``heads`` depends on.

    ``module`` maps an image to parts by "head.part", and is asked about a small grey picture. Raises CompressionError
    where no weight that is trained is shared.
    """
    weights = [weight for weight in module.parameters() if weight.ndim > 1 and weight.requires_grad]
    training, device = module.training, next(module.parameters()).device
    with torch.enable_grad():
        raw = module.eval()(torch.zeros(1, 3, PROBE, PROBE, device=device))
        module.train(training)
        reached = [_reached([raw[key] for key in raw if key.partition(".")[0] == head], weights) for head in heads]
    for place in reversed(range(len(weights))):
        if all(found[place] for found in reached):
            return weights[place]
    raise CompressionError(
        f"gradnorm needs a layer that {', '.join(heads)} share, and there is none; balance otherwise"
    )


def _reached(parts: Sequence[Tensor], weights: Sequence[nn.Parameter]) -> list[bool]:
    """Which of the weights the parts of a head depend on."""
    if not weights:
        return []
    total = torch.stack([part.float().sum() for part in parts]).sum()
    return [found is not None for found in torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)]


def _stacked(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()])
