"""Unstructured pruning: single weights made zero, in layers that keep their shape.

It makes the artifact smaller (zeros are coded as gaps); dense engines are not faster for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sharedbb.compress.channels import within
from sharedbb.compress.narrowing import Between
from sharedbb.errors import CompressionError
from sharedbb.learn.network import SPARSE, Network


def with_zeros(
    network: Network,
    amount: float,
    method: str,
    keep: Sequence[str] = (),
    cautions: Mapping[str, float] | None = None,
    rounds: int = 1,
    between: Between | None = None,
) -> tuple[Network, dict[str, Any]]:
    """The network with the share ``amount`` of its weights zero, and facts: the share left, sparsity by weight.

    What is left falls by equal ratios in each round, with ``between`` after each but the last.
    """
    current = network
    for number in range(1, rounds + 1):
        goal = 1 - (1 - amount) ** (number / rounds)
        current = masked(current, masks(weights_of(current.module, keep), goal, method, cautions))
        if between is not None and number < rounds:
            current = between(current)
    weights = weights_of(current.module, keep)
    left = sum(int(weight.count_nonzero()) for weight in weights.values())
    whole = sum(weight.numel() for weight in weights.values())
    sparsity = {name: round(1 - int(weight.count_nonzero()) / weight.numel(), 4) for name, weight in weights.items()}
    return current, {"left": round(left / whole, 6), "sparsity": sparsity}


def weights_of(module: nn.Module, keep: Sequence[str] = ()) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers, by state-dict name, but for those in modules that ``keep`` names.

    Raises CompressionError where there are none.
    """
    found = {
        f"{name}.weight": layer.weight.detach()
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not within(name, keep)
    }
    if not found:
        raise CompressionError("there is no convolution or linear layer whose weights may go")
    return found


def masks(
    weights: Mapping[str, Tensor], amount: float, method: str, cautions: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Which weights stay: a bool tensor in the shape of each; the share ``amount`` of all of them goes.

    ``threshold``: those below one magnitude for all layers (Han et al., 2015). ``magnitude``: those of the least
    magnitude in relation to what their layer keeps (LAMP; Lee et al., "Layer-Adaptive Sparsity for the Magnitude-Based
    Pruning", ICLR 2021), which does not depend on how a layer is scaled, as batch norms leave open.
    ``cautions``: layer to how much more its weights count.
    """
    scores = []
    for name, weight in weights.items():
        score = weight.double().abs().flatten() if method == "threshold" else _lamp(weight)
        scores.append(score * (cautions or {}).get(name.removesuffix(".weight"), 1.0))
    joined = torch.cat(scores)
    keep = torch.ones(len(joined), dtype=torch.bool)
    keep[joined.argsort(stable=True)[: round(amount * len(joined))]] = False
    parts = torch.split(keep, [weight.numel() for weight in weights.values()])
    return {name: part.view(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)}


def masked(network: Network, kept: Mapping[str, Tensor]) -> Network:
    """The network with zeros where ``kept`` is False, which the artifact stores as gaps."""
    module = network.copy()
    state = module.state_dict()
    with torch.no_grad():
        for name, mask in kept.items():
            state[name].mul_(mask)
    coding: dict[str, Mapping[str, Any]] = {
        name: {**network.coding.get(name, SPARSE), "sparse": True} for name, mask in kept.items() if not mask.all()
    }
    return replace(network, module=module, coding={**network.coding, **coding})


def _lamp(weight: Tensor) -> Tensor:
    """Each squared weight over the sum of squares of those not smaller, itself included: float64, flat, 0–1."""
    squares = weight.double().flatten().square()
    order = squares.argsort(stable=True)
    ascending = squares[order]
    rest = ascending.flip(0).cumsum(0).flip(0)
    score = torch.zeros_like(squares)
    score[order] = torch.where(rest > 0, ascending / rest, 0.0)
    return score
