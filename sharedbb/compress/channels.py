"""Channels that can only go together: groups of them over the layers of a network, and cutting them out.

A group is a set of layers whose channels belong together one by one: those that make a channel (``out``), those that
pass each channel through by itself (``both``: batch norm, depthwise convolution), and those that read it (``in``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Side = Literal["out", "in", "both"]

_ENDS: tuple[Side, Side] = ("in", "out")

Convolution = nn.Conv2d | nn.ConvTranspose2d


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A layer's part in a group: channel ``channels[i]`` on that side goes when unit ``units[i]`` goes.

    ``layer`` is the module's path; both tensors are int64 [n]. A layer may read one unit in several channels.
    """

    layer: str
    side: Side
    channels: Tensor
    units: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """``units`` things that can be taken away one by one, each ``width`` channels of the layer ``name``.

    ``width`` is 1, except where a grouped convolution keeps channels together.
    """

    name: str
    units: int
    width: int
    members: tuple[Member, ...]

    def side(self, *sides: Side) -> tuple[Member, ...]:
        """The members on these sides."""
        return tuple(member for member in self.members if member.side in sides)


@dataclass(frozen=True, slots=True)
class Held:
    """Channels that stay, by the layer that makes them, and why."""

    name: str
    why: str


def within(layer: str, modules: Sequence[str]) -> bool:
    """Whether a layer is one of ``modules``, or inside one; all are paths."""
    return any(layer == name or layer.startswith(f"{name}.") for name in modules)


def is_grouped(layer: nn.Module) -> bool:
    """Whether a convolution has groups of more than one channel (a depthwise one has not)."""
    return isinstance(layer, Convolution) and 1 < layer.groups < layer.out_channels


def joined(groups: Sequence[ChannelGroup], layers: Mapping[str, nn.Module]) -> tuple[list[ChannelGroup], list[Held]]:
    """Groups on the two sides of a grouped convolution made one, whose unit is what one of its groups reads and gives.

    Where one side is in no group, and so must stay, the other is held.
    """
    sides = {
        (member.layer, member.side): index
        for index, group in enumerate(groups)
        for member in group.side("in", "out")
        if is_grouped(layers[member.layer])
    }
    parents = list(range(len(groups)))
    alone: set[int] = set()
    for name in dict.fromkeys(name for name, _ in sides):
        ends = [sides[name, side] for side in _ENDS if (name, side) in sides]
        _unite(parents, ends)
        alone.update(ends if len(ends) < len(_ENDS) else ())
    clusters: dict[int, list[int]] = defaultdict(list)
    for index in range(len(groups)):
        clusters[_root(parents, index)].append(index)
    free, held = [], []
    for indices in clusters.values():
        parts = [groups[index] for index in indices]
        if alone & set(indices):
            held.append(Held(parts[0].name, "a grouped convolution has them whose other side must stay"))
        else:
            free.append(_one(parts, layers) if set(indices) & set(sides.values()) else parts[0])
    return free, held


def _one(parts: Sequence[ChannelGroup], layers: Mapping[str, nn.Module]) -> ChannelGroup:
    """One group of several: units that a grouped convolution ties together become one unit."""
    starts = [sum(part.units for part in parts[:index]) for index in range(len(parts) + 1)]
    parents = list(range(starts[-1]))
    first: dict[tuple[str, int], int] = {}
    for part, start in zip(parts, starts, strict=False):
        for member in part.side("in", "out"):
            layer: Any = layers[member.layer]
            if not is_grouped(layer):
                continue
            size = (layer.in_channels if member.side == "in" else layer.out_channels) // layer.groups
            for channel, unit in zip(member.channels.tolist(), member.units.tolist(), strict=True):
                _unite(parents, [start + unit, first.setdefault((member.layer, channel // size), start + unit)])
    roots = [_root(parents, node) for node in range(len(parents))]
    numbers = {root: number for number, root in enumerate(sorted(set(roots)))}
    unit_of = torch.tensor([numbers[root] for root in roots])
    members = tuple(
        Member(member.layer, member.side, member.channels, unit_of[start + member.units])
        for part, start in zip(parts, starts, strict=False)
        for member in part.members
    )
    return ChannelGroup(parts[0].name, len(numbers), parts[0].units // len(numbers), members)


def _unite(parents: list[int], nodes: Sequence[int]) -> None:
    """Put nodes of a forest into one tree, whose root is the smallest."""
    roots = [_root(parents, node) for node in nodes]
    for root in roots:
        parents[root] = min(roots)


def _root(parents: list[int], node: int) -> int:
    while parents[node] != node:
        node = parents[node]
    return node


def cut(module: nn.Module, gone: Iterable[tuple[ChannelGroup, Tensor]]) -> None:
    """Take units out of ``module``, in place: each group with a bool mask [units] of those to go.

    Layers become narrower copies of what they were; where the module says how many channels its features have
    (``backbone.channels``, ``neck.channels``), it says the new ones.
    """
    layers = dict(module.named_modules())
    lost: dict[tuple[str, Side], list[int]] = defaultdict(list)
    for group, mask in gone:
        for member in group.members:
            lost[member.layer, member.side] += member.channels[mask[member.units]].tolist()
    for name in sorted({name for name, _ in lost}):
        by_side = {side: channels for (layer, side), channels in lost.items() if layer == name}
        both = by_side.get("both", [])
        _narrow(layers[name], by_side.get("out", both), by_side.get("in", both))
    _tell_widths(module)


def _narrow(layer: Any, outputs: Sequence[int], inputs: Sequence[int]) -> None:
    """Drop output and input channels of one layer."""
    if isinstance(layer, nn.BatchNorm2d):
        keep = _kept(layer.num_features, outputs)
        layer.num_features = len(keep)
        for name in ("weight", "bias", "running_mean", "running_var"):
            _select(layer, name, 0, keep)
        return
    is_linear = isinstance(layer, nn.Linear)
    names = ("in_features", "out_features") if is_linear else ("in_channels", "out_channels")
    keep_in, keep_out = (_kept(getattr(layer, name), lost) for name, lost in zip(names, (inputs, outputs), strict=True))
    out_axis = 1 if getattr(layer, "transposed", False) else 0
    _select(layer, "weight", out_axis, keep_out)
    _select(layer, "bias", 0, keep_out)
    if is_linear or layer.groups == 1:
        _select(layer, "weight", 1 - out_axis, keep_in)
    else:
        layer.groups = layer.groups * len(keep_out) // layer.out_channels
    for name, keep in zip(names, (keep_in, keep_out), strict=True):
        setattr(layer, name, len(keep))


def _kept(width: int, lost: Sequence[int]) -> Tensor:
    keep = torch.ones(width, dtype=torch.bool)
    keep[list(lost)] = False
    return keep.nonzero().flatten()


def _select(layer: nn.Module, name: str, axis: int, keep: Tensor) -> None:
    value: Tensor | None = getattr(layer, name)
    if value is None or value.shape[axis] == len(keep):
        return
    narrower = value.detach().index_select(axis, keep)
    if isinstance(value, nn.Parameter):
        setattr(layer, name, nn.Parameter(narrower, requires_grad=value.requires_grad))
    else:
        setattr(layer, name, narrower)


def _tell_widths(module: Any) -> None:
    """Set the channel counts that the backbone and the neck state to those of their maps."""
    if not hasattr(getattr(module, "backbone", None), "channels"):
        return
    training = module.training
    with torch.no_grad():
        features = module.eval().backbone(torch.zeros(1, 3, 64, 64))
        module.backbone.channels = {stride: value.shape[1] for stride, value in features.items()}
        if getattr(module, "neck", None) is not None:
            module.neck.channels = {stride: value.shape[1] for stride, value in module.neck(features).items()}
    module.train(training)
