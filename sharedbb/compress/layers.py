"""Layers with weights: chosen by name, and what comes into them when the network sees pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from sharedbb.errors import CompressionError
from sharedbb.learn.data import Sample
from sharedbb.learn.judge import Predictor
from sharedbb.learn.network import Network

Weighted = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def require_finite(module: nn.Module) -> None:
    """Raise CompressionError for weights that are no numbers, of which no step can say what matters."""
    for name, weight in module.named_parameters():
        if not bool(weight.isfinite().all()):
            raise CompressionError(f"weight {name!r} has numbers that are not finite; train the network anew")


def weighted_layers(
    module: nn.Module, layers: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> dict[str, Weighted]:
    """Convolutions, transposed convolutions and linear layers by name, in the module's order.

    ``layers`` and ``exclude`` name layers, or modules around some; ``layers`` None means all. Raises CompressionError
    for a name under which there is no such layer.
    """
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, Weighted)}
    for asked in (*(layers or ()), *exclude):
        if not any(_within(name, asked) for name in found):
            raise CompressionError(f"no layer with weights at {asked!r} (they begin with: {', '.join(_roots(found))})")
    return {
        name: layer
        for name, layer in found.items()
        if (layers is None or any(_within(name, asked) for asked in layers))
        and not any(_within(name, asked) for asked in exclude)
    }


@torch.no_grad()
def watched(
    network: Network,
    layers: Mapping[str, Weighted],
    pictures: Sequence[Sample],
    measure: Callable[[Weighted, Tensor], Tensor],
) -> dict[str, Tensor]:
    """The mean of ``measure(layer, input)`` of each layer over ``pictures``, float64, by name.

    A layer that is called several times for a picture counts each time; one that never is, is left out.
    """
    sums: dict[str, Tensor] = {}
    calls = dict.fromkeys(layers, 0)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, Weighted)
            measured = measure(layer, inputs[0]).double()
            sums[name] = sums[name] + measured if name in sums else measured
            calls[name] += 1

        return add

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        answer = Predictor(network.module, network.pipeline)
        for picture in pictures:
            answer(picture.rgb)
    finally:
        for each in hooks:
            each.remove()
    return {name: total / calls[name] for name, total in sums.items()}


def _within(name: str, asked: str) -> bool:
    return name == asked or name.startswith(f"{asked}.")


def _roots(names: Mapping[str, Weighted]) -> list[str]:
    return sorted({name.partition(".")[0] for name in names})
