"""Structured pruning: narrower layers, rounds of it, and what to say about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sharedbb.compress import importance
from sharedbb.compress.answers import forms, images, network_shape
from sharedbb.compress.channels import ChannelGroup, Held, cut, within
from sharedbb.compress.torch_pruning import channel_groups
from sharedbb.compress.widths import Layer, LayerCost, choose, retrace, total, trace
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Sample
from sharedbb.learn.network import Network

TRACED_SIDE = 64
"""Side of the picture on which dependencies are found; they do not depend on it."""

PICTURES = 16
"""As many are asked for importance ``taylor``; each costs a pass forward and one backward for every answer."""

Between = Callable[[Network], Network]
"""What is done to the network between two rounds, such as training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """How channels are chosen; the fields are the settings of ``prune``, ``cautions`` its sensitivity by layer.

    With ``neurons``, only hidden units of linear layers are free to go.
    """

    importance: str = "l2"
    cost: LayerCost = Layer.macs
    round_to: int = 8
    keep: Sequence[str] = ()
    cautions: Mapping[str, float]
    head_weights: Mapping[str, float]
    data: Sequence[Sample] | None = None
    neurons: bool = False
    seed: int = 0


def narrow(
    network: Network, asked: Narrowing, amount: float, rounds: int = 1, between: Between | None = None
) -> tuple[Network, dict[str, Any]]:
    """The network without the share ``amount`` of its cost, and facts: widths before and after, the share left.

    The cost falls by equal ratios in each round, with ``between`` after each but the last.
    """
    before = trace(network.module, network_shape(network))
    whole = total(before, asked.cost)
    current, after, held = network, before, list[Held]()
    for number in range(1, rounds + 1):
        current, held = _round(current, asked, after, whole * (1 - amount) ** (number / rounds))
        after = retrace(after, current.module)
        if between is not None and number < rounds:
            current = between(current)
    facts = {
        "left": round(total(after, asked.cost) / whole, 6),
        "widths": {
            name: [*_widths(before[name]), *_widths(after[name])] for name in before if before[name] != after[name]
        },
        "held": {each.name: each.why for each in held},
    }
    return current, facts


def neuron_cost(network: Network, keep: Sequence[str]) -> LayerCost:
    """A cost that counts the hidden units of the linear layers. Raises CompressionError where there are none."""
    groups, _ = _free(network, network.copy(), keep, neurons=True)
    makers = {member.layer for group in groups for member in group.side("out")}
    return lambda layer, _, channels_out: float(channels_out) if layer.name in makers else 0.0


def _round(network: Network, asked: Narrowing, layers: Mapping[str, Layer], goal: float) -> tuple[Network, list[Held]]:
    """The network narrowed until it costs ``goal``, and the channels that could not be touched."""
    module = network.copy()
    groups, held = _free(network, module, asked.keep, asked.neurons)
    choice = choose(
        groups,
        _scores(network, module, groups, asked),
        layers,
        goal,
        cost=asked.cost,
        round_to=asked.round_to,
        weights=[_caution(group, asked.cautions) for group in groups],
    )
    cut(module, choice.gone)
    return replace(network, module=module.eval()), held


def _free(
    network: Network, module: nn.Module, keep: Sequence[str], neurons: bool
) -> tuple[list[ChannelGroup], list[Held]]:
    """The groups that may go and the channels that may not. Raises CompressionError where none may."""
    groups, held = channel_groups(module, torch.zeros(1, 3, TRACED_SIDE, TRACED_SIDE))
    layers = dict(module.named_modules())
    free = [group for group in groups if not _is_kept(group, keep)]
    if neurons:
        free = [group for group in free if all(isinstance(layers[m.layer], nn.Linear) for m in group.side("out"))]
    if not free:
        what = "hidden linear layer; method structured takes channels" if neurons else "channel that may go"
        raise CompressionError(f"{network.pipeline.name} has no {what}")
    return free, held


def _scores(network: Network, module: nn.Module, groups: Sequence[ChannelGroup], asked: Narrowing) -> list[Tensor]:
    match asked.importance:
        case "l2":
            return importance.l2(module, groups)
        case "bn":
            return importance.bn(module, groups)
        case _:
            return importance.taylor(
                module,
                groups,
                images(network, asked.data, PICTURES),
                forms=forms(network),
                head_weights=asked.head_weights,
                seed=asked.seed,
            )


def _is_kept(group: ChannelGroup, keep: Sequence[str]) -> bool:
    """Whether ``keep`` names a layer, or a module around one, that makes or passes on the group's channels."""
    return any(within(member.layer, keep) for member in group.side("out", "both"))


def _caution(group: ChannelGroup, cautions: Mapping[str, float]) -> float:
    """The largest caution of the layers that make the group's channels; 1 where nothing is known."""
    return max((cautions[m.layer] for m in group.side("out", "both") if m.layer in cautions), default=1.0)


def _widths(layer: Layer) -> tuple[int, int]:
    return layer.channels_in, layer.channels_out
