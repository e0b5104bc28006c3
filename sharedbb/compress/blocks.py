"""Block pruning: whole blocks whose map can be passed on as it comes, taken out (Chen and Zhao, 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sharedbb.compress.answers import Form, formed, forms, images, network_shape, weighed
from sharedbb.compress.channels import within
from sharedbb.compress.widths import LayerCost, trace
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Sample
from sharedbb.learn.network import Network

PICTURES = 4
"""As many are asked; each costs a pass for every block."""

Shape = tuple[int, ...]


def without_blocks(
    network: Network,
    amount: float,
    cost: LayerCost,
    *,
    keep: Sequence[str] = (),
    head_weights: Mapping[str, float] | None = None,
    data: Sequence[Sample] | None = None,
) -> tuple[Network, dict[str, Any]]:
    """The network without the blocks of the share ``amount`` of its cost that the answers to ``data`` miss least.

    The facts name the blocks that are gone, the effect and the share of the cost of every block, and the share left.
    Raises CompressionError without pictures, and where no block may go.
    """
    module = network.copy()
    shape = network_shape(network)
    blocks = [block for block in passing_blocks(module, shape) if not _holds(block, keep)]
    if not blocks:
        raise CompressionError(f"{network.pipeline.name} has no block that gives a map of the shape it takes")
    pictures = images(network, data, PICTURES)
    effect = effects(module, blocks, pictures, form=forms(network), head_weights=head_weights)
    prices = {name: cost(each, each.channels_in, each.channels_out) for name, each in trace(module, shape).items()}
    gone = choose_blocks(effect, prices, sum(prices.values()) * (1 - amount))
    leave_out(module, gone)
    lost = sum(price for name, price in prices.items() if within(name, gone))
    facts = {
        "left": round(1 - lost / sum(prices.values()), 6),
        "gone": gone,
        "effects": {block: round(value, 6) for block, value in effect.items()},
    }
    return replace(network, module=module, coding=_without_coding(network, module)), facts


def _holds(block: str, keep: Sequence[str]) -> bool:
    """Whether a block is in one of the modules to keep, or around one."""
    return within(block, keep) or any(within(name, [block]) for name in keep)


def passing_blocks(module: nn.Module, shape: Sequence[int]) -> list[str]:
    """Paths of the outermost blocks that give a map of the shape they take, in the order in which they run.

    Blocks are modules with layers inside, weights among them, that run once on one tensor and are no mere
    ``Sequential``:     residual blocks, above all. ``shape`` is that of the image (NCHW).
    """
    seen: dict[str, list[tuple[Shape, Shape] | None]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            whole = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
            seen.setdefault(name, []).append((tuple(inputs[0].shape), tuple(output.shape)) if whole else None)

        return hook

    hooks = [block.register_forward_hook(watch(name)) for name, block in module.named_modules() if _is_block(block)]
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(*shape))
    finally:
        for hook in hooks:
            hook.remove()
    found = {name for name, calls in seen.items() if len(calls) == 1 and calls[0] and calls[0][0] == calls[0][1]}
    order = [name for name, _ in module.named_modules() if name in found]
    return [name for name in order if not any(name.startswith(f"{outer}.") for outer in found)]


def _is_block(block: nn.Module) -> bool:
    inside = [*block.modules()][1:]
    weighty = any(isinstance(layer, nn.Conv2d | nn.Linear) for layer in inside)
    return weighty and not isinstance(block, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def effects(
    module: nn.Module,
    blocks: Sequence[str],
    pictures: Sequence[Tensor],
    *,
    form: Mapping[str, Form] | None = None,
    head_weights: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """By block, how much the answers change when it alone is left out: the squared change of their forms.

    Each answer has one vote, shared among the blocks and multiplied by its head's weight.
    """
    votes: dict[str, Tensor] = {}
    with torch.no_grad():
        for picture in pictures:
            whole = formed(module(picture), form or {})
            for index, block in enumerate(blocks):
                with _without(module, block):
                    changed = formed(module(picture), form or {})
                for name, answer in whole.items():
                    vote = votes.setdefault(name, torch.zeros(len(blocks), dtype=torch.float64))
                    vote[index] += (changed[name] - answer).double().square().sum()
    return dict(zip(blocks, weighed(votes, head_weights or {}).tolist(), strict=True))


def choose_blocks(effect: Mapping[str, float], prices: Mapping[str, float], goal: float) -> list[str]:
    """Blocks to leave out, first those of the least effect for the cost they save, until the rest costs ``goal``.

    ``prices``: cost by layer. All blocks where that does not suffice.
    """
    saving = {block: sum(price for name, price in prices.items() if within(name, [block])) for block in effect}
    left, gone = sum(prices.values()), list[str]()
    for block in sorted((block for block in effect if saving[block]), key=lambda name: effect[name] / saving[name]):
        if left <= goal:
            break
        gone.append(block)
        left -= saving[block]
    return gone


def leave_out(module: nn.Module, blocks: Sequence[str]) -> None:
    """Put an ``Identity`` in the place of each block, in place."""
    for block in blocks:
        parent, _, name = block.rpartition(".")
        setattr(module.get_submodule(parent), name, nn.Identity())


def _without_coding(network: Network, module: nn.Module) -> dict[str, Mapping[str, Any]]:
    """The coding of those weights that are still there."""
    names = module.state_dict().keys()
    return {name: coding for name, coding in network.coding.items() if name in names}


@contextmanager
def _without(module: nn.Module, block: str) -> Iterator[None]:
    """The module with a block left out, while open."""
    kept = module.get_submodule(block)
    leave_out(module, [block])
    try:
        yield
    finally:
        parent, _, name = block.rpartition(".")
        setattr(module.get_submodule(parent), name, kept)
