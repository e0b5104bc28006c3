"""Shared weights in training: what is one value stays one value."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sharedbb.learn.network import Network


def ties(network: Network) -> Callable[[nn.Module], None]:
    """What keeps weights shared in training: weights that are one value in ``network`` become their mean again.

    To be called on the module after every step of the optimizer: the mean over a value's weights moves by the mean of
    their gradients, which is Han's sum of gradients by another step size. Zeros of sparse weights stay zero. A network
    without codebooks gives a function that does nothing.
    """
    state = network.module.state_dict()
    members: dict[str, list[str]] = {}
    for name, coding in network.coding.items():
        if coding["type"] == "codebook":
            members.setdefault(coding.get("group") or name, []).append(name)
    shared = []
    for names in members.values():
        flat = torch.cat([state[name].flatten() for name in names])
        values, indices = torch.unique(flat, return_inverse=True)
        zero = values == 0 if any(network.coding[name].get("sparse") for name in names) else torch.zeros_like(values)
        shared.append((names, indices, torch.bincount(indices).double(), zero.bool()))

    @torch.no_grad()
    def tie(module: nn.Module) -> None:
        for names, indices, counts, zero in shared:
            weights = [module.get_parameter(name) for name in names]
            sums = torch.bincount(indices, torch.cat([weight.flatten() for weight in weights]).cpu().double())
            means = (sums / counts).masked_fill(zero, 0.0).float()[indices].to(weights[0].device)
            parts = torch.split(means, [weight.numel() for weight in weights])
            for weight, part in zip(weights, parts, strict=True):
                weight.copy_(part.view_as(weight))

    return tie
