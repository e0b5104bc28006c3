"""How wide every layer should be: what layers cost at any width, and the cheapest loss for a cost to reach."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sharedbb.compress.channels import ChannelGroup
from sharedbb.compress.liveness import unread


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or linear layer as a cost model sees it, for one picture.

    ``kernel`` is the number of taps, ``reads`` how many channels one output channel reads in a grouped or depthwise
    convolution (0: all of them). Positions count the places of the maps it reads and gives, over all its calls.
    """

    name: str
    channels_in: int
    channels_out: int
    kernel: int
    reads: int
    positions_in: int
    positions_out: int
    transposed: bool = False

    def parameters(self, channels_in: int, channels_out: int) -> int:
        """Weights at these widths, without biases."""
        return channels_out * (self.reads or channels_in) * self.kernel

    def macs(self, channels_in: int, channels_out: int) -> int:
        """Multiply-adds at these widths."""
        positions = self.positions_in if self.transposed else self.positions_out
        return positions * self.parameters(channels_in, channels_out)

    def elements(self, channels_in: int, channels_out: int) -> int:
        """Elements of the maps that are read and written at these widths."""
        return self.positions_in * channels_in + self.positions_out * channels_out


LayerCost = Callable[[Layer, int, int], float]
"""What a layer costs with so many channels in and out; any unit that adds up over layers."""

MACS_PER_ELEMENT = 80
"""Multiply-adds that a processor does while it moves one element of a feature map, in ``latency``."""


def latency(layer: Layer, channels_in: int, channels_out: int) -> float:
    """A roofline without a machine: multiply-adds, and the elements moved as ``MACS_PER_ELEMENT`` each.

    This is what makes thin layers at high resolution as expensive as they are on a machine.
    """
    return layer.macs(channels_in, channels_out) + MACS_PER_ELEMENT * layer.elements(channels_in, channels_out)


COSTS: Mapping[str, LayerCost] = {"macs": Layer.macs, "parameters": Layer.parameters, "latency": latency}


def trace(module: nn.Module, shape: Sequence[int]) -> dict[str, Layer]:
    """Every convolution and linear layer that answers to an image of ``shape`` (NCHW) need, by path, in their order.

    A layer that runs several times counts once, with the positions of all calls. The module must be in eval mode.
    """
    positions: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    kinds, idle = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear), unread(module, shape)
    layers = {n: m for n, m in module.named_modules() if isinstance(m, kinds) and n not in idle}

    def count(name: str, axis: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before, after = (tensor.numel() // tensor.shape[axis] for tensor in (inputs[0], output))
            positions[name] = (positions[name][0] + before, positions[name][1] + after)

        return hook

    hooks = [
        layer.register_forward_hook(count(name, -1 if isinstance(layer, nn.Linear) else 1))
        for name, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            module(torch.zeros(*shape))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _layer(name, layer, *positions[name]) for name, layer in layers.items() if name in positions}


def retrace(layers: Mapping[str, Layer], module: nn.Module) -> dict[str, Layer]:
    """Traced layers with the widths that they have in ``module``, those that are gone left out.

    Narrowing and leaving out layers does not change where the others run, so that nothing has to.
    """
    there = dict(module.named_modules())
    return {
        name: _layer(name, there[name], layer.positions_in, layer.positions_out)
        for name, layer in layers.items()
        if name in there
    }


def total(layers: Mapping[str, Layer], cost: LayerCost) -> float:
    """What the layers cost together at the widths they have."""
    return sum(cost(layer, layer.channels_in, layer.channels_out) for layer in layers.values())


def _layer(name: str, layer: nn.Module, before: int, after: int) -> Layer:
    if isinstance(layer, nn.Linear):
        return Layer(name, layer.in_features, layer.out_features, 1, 0, before, after)
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    reads = 0 if layer.groups == 1 else layer.in_channels // layer.groups
    widths = (layer.in_channels, layer.out_channels)
    return Layer(name, *widths, math.prod(layer.kernel_size), reads, before, after, layer.transposed)


@dataclass(slots=True, eq=False)
class _Candidate:
    """A group on its way to fewer units: those that are left, the least important first."""

    group: ChannelGroup
    order: Tensor
    """Units, the least important first."""
    mass: list[float]
    """Importance of what is left after so many units have gone."""
    scale: float
    """What losing all but a trace would count."""
    gone: int = 0

    def loss(self, then: int) -> float:
        """What going on to ``then`` units gone would lose: importance, counted by what share of the rest it is."""
        now, rest = self.mass[self.gone], self.mass[then]
        if now <= rest:
            return 0.0
        return self.scale * math.log(now / rest) if rest > 0 else math.inf

    def step(self, round_to: int) -> int:
        """Units gone after the smallest step to widths that are multiples of ``round_to``; 0 where there is none."""
        sizes = {len(member.channels) // self.group.units for member in self.group.side("out", "both")}
        multiple = math.lcm(*(round_to // math.gcd(round_to, size) for size in sizes))
        left = self.group.units - self.gone
        smaller = (left - 1) // multiple * multiple
        return self.group.units - smaller if smaller > 0 else 0


@dataclass(slots=True, eq=False)
class Choice:
    """Which units go (a bool mask [units] a group), and the cost before and after."""

    gone: list[tuple[ChannelGroup, Tensor]]
    before: float
    after: float


@dataclass(slots=True, eq=False)
class _Widths:
    """The widths of all layers while groups shrink, and what they cost."""

    layers: Mapping[str, Layer]
    cost: LayerCost
    lost: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def of(self, name: str, extra: Mapping[tuple[str, str], int]) -> float:
        """The cost of a layer with ``extra`` channels lost as well."""
        layer = self.layers[name]
        lost = [self.lost[name, side] + extra.get((name, side), 0) for side in ("in", "out")]
        return self.cost(layer, layer.channels_in - lost[0], layer.channels_out - lost[1])

    def saved(self, taken: Mapping[tuple[str, str], int]) -> float:
        """What losing these channels would save now."""
        return sum(self.of(name, {}) - self.of(name, taken) for name in dict.fromkeys(name for name, _ in taken))

    def channels(self, group: ChannelGroup, units: int) -> dict[tuple[str, str], int]:
        """How many channels of each layer and side go with so many units of a group."""
        taken: dict[tuple[str, str], int] = defaultdict(int)
        for member in group.members:
            if member.layer in self.layers:
                sides = ("in", "out") if member.side == "both" else (member.side,)
                for side in sides:
                    taken[member.layer, side] += len(member.channels) * units // group.units
        return taken


def choose(
    groups: Sequence[ChannelGroup],
    importance: Sequence[Tensor],
    layers: Mapping[str, Layer],
    goal: float,
    *,
    cost: LayerCost = Layer.macs,
    round_to: int = 8,
    weights: Sequence[float] | None = None,
) -> Choice:
    """Which units to take so that the network costs ``goal`` at most (of what it costs now, in units of ``cost``).

    ``importance``: one float tensor [units] a group, not negative; what a group loses is its importance in relation
    to what is left of it, times its weight, so that no group empties while others are whole. One step narrows the
    group that loses least for the cost it saves, to the next multiple of ``round_to`` channels; groups never vanish.
    """
    widths = _Widths(layers, cost)
    before = after = total(layers, cost)
    pairs = zip(groups, importance, weights or [1.0] * len(groups), strict=True)
    candidates = [_candidate(*pair) for pair in pairs]
    neighbours = _neighbours(groups)
    rates: dict[int, tuple[float, float]] = {}
    stale = set(range(len(groups)))
    while after > goal:
        for index in sorted(stale):
            rates[index] = _rate(candidates[index], widths, round_to)
        best = min(rates, key=lambda index: (rates[index][0], -rates[index][1]), default=None)
        if best is None or math.isinf(rates[best][0]):
            break
        chosen = candidates[best]
        then = chosen.step(round_to)
        taken = widths.channels(chosen.group, then - chosen.gone)
        after -= widths.saved(taken)
        for place, count in taken.items():
            widths.lost[place] += count
        chosen.gone = then
        stale = neighbours[best]
    gone = [(each.group, _mask(each)) for each in candidates if each.gone]
    return Choice(gone, before, after)


def _candidate(group: ChannelGroup, importance: Tensor, weight: float) -> _Candidate:
    order = importance.argsort(stable=True)
    left = importance[order].double().flip(0).cumsum(0).flip(0)
    return _Candidate(group, order, [*left.tolist(), 0.0], weight * float(left[0]))


def _rate(candidate: _Candidate, widths: _Widths, round_to: int) -> tuple[float, float]:
    """Loss for each unit of cost saved by the next step, and the saving itself; infinite where there is no step."""
    then = candidate.step(round_to)
    if not then:
        return math.inf, 0.0
    saved = widths.saved(widths.channels(candidate.group, then - candidate.gone))
    return (candidate.loss(then) / saved, saved) if saved > 0 else (math.inf, 0.0)


def _neighbours(groups: Sequence[ChannelGroup]) -> list[set[int]]:
    """For each group those that share a layer with it, itself among them."""
    readers: dict[str, set[int]] = defaultdict(set)
    for index, group in enumerate(groups):
        for member in group.members:
            readers[member.layer].add(index)
    return [{other for member in group.members for other in readers[member.layer]} for group in groups]


def _mask(candidate: _Candidate) -> Tensor:
    mask = torch.zeros(candidate.group.units, dtype=torch.bool)
    mask[candidate.order[: candidate.gone]] = True
    return mask
