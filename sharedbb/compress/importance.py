"""How much a network would miss each unit of a channel group: by its weights, its norms, or its effect on the heads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharedbb.compress.answers import Form, formed, weighed
from sharedbb.compress.channels import ChannelGroup, Member

TILES = 4
"""Sides of the grid in which a channel's effect is taken place by place: a 16th of the variance of a single gate."""


def l2(module: nn.Module, groups: Sequence[ChannelGroup]) -> list[Tensor]:
    """By the weights: the L2 norm that a unit lets through, from filters over norms to what reads it (Li et al., 2017).

    Filters, batch norms (as scale over running deviation), depthwise filters and reading columns each are a factor, the
    mean over the layers of that kind in the group. A unit that is dead in one of the four is worth nothing.
    A float tensor [units] a group, whose sum is the number of layers that make or read them.
    """
    layers = dict(module.named_modules())
    return [_touched(group) * _shares(_energy(group, layers).sqrt()) for group in groups]


def bn(module: nn.Module, groups: Sequence[ChannelGroup]) -> list[Tensor]:
    """By the scales of batch norms (Liu et al., "Network Slimming", 2017), the mean over the norms of a group.

    Groups without a norm count by ``l2``. A float tensor [units] a group, whose sum is as with ``l2``.
    """
    layers = dict(module.named_modules())
    found = []
    for group in groups:
        norms = [m for m in group.side("both") if isinstance(layers[m.layer], nn.BatchNorm2d)]
        scales = [_by_unit(group, m, _weight(layers[m.layer]).abs()) for m in norms]
        value = torch.stack([_shares(scale) for scale in scales]).mean(0) if norms else _energy(group, layers).sqrt()
        found.append(_touched(group) * _shares(value))
    return found


def taylor(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    images: Iterable[Tensor],
    *,
    forms: Mapping[str, Form] | None = None,
    head_weights: Mapping[str, float] | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """By what the heads' answers would change if a unit were gone, to second order, without labels.

    The change of an answer is ``½ ‖J δ‖²``, J its Jacobian by a gate on everything that reads the unit: the
    Gauss-Newton form of the Taylor expansion of Molchanov et al. (2019), whose gradient at a network's own answer would
    be zero. ‖J‖² is estimated with random signs (Hutchinson, 1990) on ``images`` (NCHW, normalised). Answers count in
    their ``forms``; each has one vote, shared among all units and multiplied by its head's weight.

    A float tensor [units] a group; over all groups the sum is that of the head weights.
    """
    generator = torch.Generator().manual_seed(seed)
    votes: dict[str, Tensor] = {}
    for image in images:
        with _gated(module, groups, len(image)) as gates, torch.enable_grad():
            for name, answer in formed(module(image), forms or {}).items():
                signs = torch.randint(0, 2, answer.shape, generator=generator).to(answer) * 2 - 1
                slopes = torch.autograd.grad((answer * signs).sum(), gates, retain_graph=True, allow_unused=True)
                vote = torch.cat([_squared(*pair) for pair in zip(slopes, gates, strict=True)])
                votes[name] = votes[name] + vote if name in votes else vote
    return list(torch.split(weighed(votes, head_weights or {}), [group.units for group in groups]))


def _squared(slope: Tensor | None, gate: Tensor) -> Tensor:
    """The squared slopes of a gate [N, units, TILES, TILES], summed over pictures and places: [units], float64."""
    return (torch.zeros_like(gate) if slope is None else slope).detach().double().square().sum((0, 2, 3))


@contextmanager
def _gated(module: nn.Module, groups: Sequence[ChannelGroup], pictures: int) -> Iterator[list[Tensor]]:
    """While open, everything that reads a group's units reads them times the group's gate of ones.

    A gate is [N, units, TILES, TILES], each of its tiles over that part of the map.
    """
    gates = [torch.ones(pictures, group.units, TILES, TILES, requires_grad=True) for group in groups]
    readers: dict[str, list[tuple[Member, Tensor]]] = defaultdict(list)
    for group, gate in zip(groups, gates, strict=True):
        for member in group.side("in"):
            readers[member.layer].append((member, gate))
    layers = dict(module.named_modules())
    hooks = [layers[name].register_forward_pre_hook(_times(found)) for name, found in readers.items()]
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()


def _times(found: Sequence[tuple[Member, Tensor]]) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        value = inputs[0]
        axis = -1 if isinstance(layer, nn.Linear) else 1
        width = value.shape[axis]
        factor = torch.ones(len(found[0][1]), width, TILES, TILES)
        for member, gate in found:
            factor = factor.index_copy(1, member.channels, gate[:, member.units])
        return (value * _spread(factor, value, axis),)

    return hook


def _spread(factor: Tensor, value: Tensor, axis: int) -> Tensor:
    """A factor [N, C, TILES, TILES] over the places of ``value``: NCHW, NHWC (``axis`` -1), or [N, C]."""
    if value.ndim == 2:
        return factor.mean((2, 3))
    places = value.shape[2:] if axis == 1 else value.shape[1:3]
    spread = F.interpolate(factor, size=places, mode="nearest")
    return spread if axis == 1 else spread.permute(0, 2, 3, 1)


def _touched(group: ChannelGroup) -> int:
    """How many convolutions and linear layers lose something when the group does."""
    return len(group.side("in", "out"))


def _energy(group: ChannelGroup, layers: Mapping[str, nn.Module]) -> Tensor:
    """The product of the mean energies of makers, norms, depthwise filters and readers: [units], float64."""
    kinds: dict[str, list[Tensor]] = defaultdict(list)
    for member in group.members:
        layer = layers[member.layer]
        if isinstance(layer, nn.BatchNorm2d):
            kinds["norm"].append(_shares(_by_unit(group, member, _norm_energy(layer))))
        else:
            kinds[member.side].append(_shares(_by_unit(group, member, _filter_energy(layer, member.side))))
    energy = torch.ones(group.units, dtype=torch.float64)
    for found in kinds.values():
        energy = energy * torch.stack(found).mean(0) * group.units
    return energy


def _filter_energy(layer: nn.Module, side: str) -> Tensor:
    """The sum of squares of the weights of each output channel, or (``side`` "in") of each input channel."""
    squares = _weight(layer).double().square()
    reads = side == "in"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1 and reads:
        return squares.reshape(layer.groups, -1, *squares.shape[1:]).sum((1, 3, 4)).flatten()
    axis = 1 if reads != bool(getattr(layer, "transposed", False)) else 0
    return squares.transpose(0, axis).flatten(1).sum(1)


def _norm_energy(norm: nn.BatchNorm2d) -> Tensor:
    scale, shift = _weight(norm).double(), norm.bias.detach().double()
    variance = torch.ones_like(scale) if norm.running_var is None else norm.running_var.double()
    return (scale.square() + shift.square()) / (variance + norm.eps)


def _weight(layer: nn.Module) -> Tensor:
    weight: Any = layer.weight
    return torch.as_tensor(weight).detach()


def _by_unit(group: ChannelGroup, member: Member, by_channel: Tensor) -> Tensor:
    """Values of a layer's channels summed by the unit they belong to: [units], float64."""
    total = torch.zeros(group.units, dtype=torch.float64)
    return total.index_add(0, member.units, by_channel.double()[member.channels])


def _shares(values: Tensor) -> Tensor:
    """Values of sum 1; even shares where all are zero."""
    whole = values.sum()
    return values.double() / whole if whole > 0 else torch.full_like(values.double(), 1 / len(values))
