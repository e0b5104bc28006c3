"""Low-rank factorisation: convolutions and linear layers become products of thinner ones, where that saves work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from sharedbb.compress.decompose import Factors, cp, least, stacked, svd, tucker
from sharedbb.compress.layers import Weighted, watched, weighted_layers
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Data
from sharedbb.learn.judge import AGREEMENT, judge
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport

METHODS = ("svd", "cp", "tucker")
LOOSEST, TIGHTEST, TRIES = 0.5, 1e-4, 7
"""What a floor lets the energy lose, at the most and at the least, and how many values between are tried."""


@dataclass(slots=True)
class _Outcome:
    """What became of a network: layers that were replaced, layers that were not and why."""

    module: nn.Module
    layers: list[dict[str, Any]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


def factorize(
    network: Network,
    *,
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    method: str = "svd",
    energy: float = 0.95,
    rank: int | Mapping[str, int] | None = None,
    floor: float | None = None,
    data: Data | None = None,
) -> tuple[Network, StepReport]:
    """Replace layers by products of thinner ones; layers where that would not save multiply-adds stay.

    ``method``, for kernels larger than 1x1: ``"svd"`` (the kernel with fewer outputs, then 1x1), ``"tucker"`` (1x1,
    kernel, 1x1) or ``"cp"`` (1x1, depthwise, 1x1). Matrices (1x1, linear) are always factorised in two. A batch norm
    stays behind the last.

    The rank is the least that keeps ``energy``, a share of the kernel's squared norm; or ``rank``, for all or by name
    of layer; or that of the least energy with which every head still agrees with ``network`` by ``floor`` (0–1) on
    ``data``. With ``data`` and ``"svd"``, energy is the variance of the layer's outputs on those pictures, and their
    means are kept by a bias. ``layers`` and ``exclude``: names of layers, or of modules around some.

    Raises CompressionError for settings that do not fit, and for a network that is quantized already.
    """
    _check(network, method, energy, rank, floor, data)
    names = list(weighted_layers(network.module, layers, exclude))
    moments = _moments(network, names, data) if data is not None and method == "svd" else {}
    if floor is None:
        outcome = _replaced(network, names, method, energy, rank, moments)
    else:
        assert data is not None
        energy, outcome = _at_floor(network, names, method, floor, data, moments)
    settings = {"method": method, "energy": energy, "layers": layers and list(layers), "exclude": list(exclude)}
    settings |= {"rank": dict(rank) if isinstance(rank, Mapping) else rank, "floor": floor}
    return _next(network, outcome, settings)


def _next(network: Network, outcome: _Outcome, settings: Mapping[str, Any]) -> tuple[Network, StepReport]:
    """The next network; replaced weights and biases lose their coding."""
    gone = {f"{told['layer']}.weight" for told in outcome.layers}
    own = outcome.module.state_dict().keys()
    coding = {name: how for name, how in network.coding.items() if name in own}
    after = replace(network, module=outcome.module.eval(), coding=coding)
    facts = {
        "macs_before": network.macs,
        "macs_after": after.macs,
        "parameters_before": network.parameters,
        "parameters_after": after.parameters,
        "layers": outcome.layers,
        "refused": outcome.refused,
    }
    said = [] if outcome.layers else ["no layer was factorised: none would have fewer multiply-adds"]
    if unshared := sorted(gone & network.coding.keys()):
        said.append(f"{len(unshared)} of the replaced weights were pruned, clustered or rounded; their factors are not")
    report = StepReport("factorize", settings, facts, tuple(said))
    return after.then(report), report


def _check(network: Network, method: str, energy: float, rank: Any, floor: float | None, data: Data | None) -> None:
    if network.scheme is not None:
        raise CompressionError("the network is quantized: factorize first, then quantize")
    if method not in METHODS:
        raise CompressionError(f"no factorisation is called {method!r} (known: {', '.join(METHODS)})")
    if not 0 < energy <= 1:
        raise CompressionError(f"energy is a share above 0, up to 1; got {energy}")
    ranks = list(rank.values()) if isinstance(rank, Mapping) else [1 if rank is None else rank]
    if min(ranks, default=1) < 1:
        raise CompressionError(f"a rank is at least 1, got {min(ranks)}")
    if floor is not None and (rank is not None or data is None):
        raise CompressionError("a floor finds the ranks itself, by judging on data: give data, and no rank")


def _at_floor(
    network: Network, names: Sequence[str], method: str, floor: float, data: Data, moments: Mapping[str, Tensor]
) -> tuple[float, _Outcome]:
    """The least energy, on a geometric ladder, with which every head agrees by ``floor``; the most, where none does."""
    steps = 2**TRIES - 2
    losses = [TIGHTEST * (LOOSEST / TIGHTEST) ** (step / steps) for step in range(steps + 1)]
    energy, best = 1.0, _Outcome(network.copy(), [], dict.fromkeys(names, "every try broke the floor"))
    low, high = 0, len(losses)
    while low < high:
        middle = (low + high) // 2
        outcome = _replaced(network, names, method, 1 - losses[middle], None, moments)
        if _agreement(network, outcome.module, data) >= floor:
            energy, best, low = 1 - losses[middle], outcome, middle + 1
        else:
            high = middle
    return energy, best


def _agreement(network: Network, module: nn.Module, data: Data) -> float:
    """How far the head that differs most agrees with ``network``, 0–1."""
    changed = replace(network, module=module.eval())
    quality = judge(changed.predictor(), data, network.pipeline.heads, network.predictor())
    return min(float(metrics[AGREEMENT]) for metrics in quality.values())


def _replaced(
    network: Network,
    names: Sequence[str],
    method: str,
    energy: float,
    rank: int | Mapping[str, int] | None,
    moments: Mapping[str, Tensor],
) -> _Outcome:
    """A copy of the module with its layers replaced."""
    outcome = _Outcome(network.copy())
    for name in names:
        layer: Any = outcome.module.get_submodule(name)
        if why := _unfit(layer):
            outcome.refused[name] = why
            continue
        asked = rank.get(name) if isinstance(rank, Mapping) else rank
        if isinstance(rank, Mapping) and asked is None:
            outcome.refused[name] = "no rank is given for it"
            continue
        before, stride = layer.weight.numel(), _stride(layer)
        factors = _factors(layer, method, energy, asked, moments.get(name))
        if factors is None or factors.macs(stride) >= before:
            outcome.refused[name] = "would not save multiply-adds"
            continue
        _put(outcome.module, name, stacked(layer, factors))
        told: dict[str, Any] = {"layer": name, "ranks": list(factors.ranks), "of": list(layer.weight.shape[:2])}
        told |= {"energy": round(factors.energy, 6), "macs_left": round(factors.macs(stride) / before, 4)}
        outcome.layers.append(told)
    return outcome


def _unfit(layer: Weighted) -> str | None:
    """Why a layer cannot be factorised, None where it can."""
    if isinstance(layer, nn.ConvTranspose2d):
        return "transposed convolutions are not factorised"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return "sees groups of channels already"
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"pads with {layer.padding_mode}, not with zeros"
    return None


def _factors(
    layer: nn.Conv2d | nn.Linear, method: str, energy: float, rank: int | None, moments: Tensor | None
) -> Factors | None:
    """The decomposition of a layer; None where a CP decomposition cannot keep ``energy`` and save multiply-adds."""
    kernel = layer.weight.detach()
    kernel = kernel[:, :, None, None] if isinstance(layer, nn.Linear) else kernel
    if method == "svd" or kernel.shape[2:].numel() == 1:
        return svd(kernel, moments, energy=energy, rank=rank)
    if method == "tucker":
        return tucker(kernel, energy=energy, rank=rank)
    if rank is not None:
        return cp(kernel, rank)
    outputs, inputs, height, width = kernel.shape
    most = (kernel.numel() - 1) // (outputs + inputs * _stride(layer) + height * width)
    return least(range(1, most + 1), energy, kernel)


def _stride(layer: nn.Conv2d | nn.Linear) -> int:
    """Input places per output place."""
    return 1 if isinstance(layer, nn.Linear) else layer.stride[0] * layer.stride[1]


def _put(module: nn.Module, name: str, made: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, made)


def _moments(network: Network, names: Sequence[str], data: Data) -> dict[str, Tensor]:
    """Second moments of the patches that each layer sees."""
    every = weighted_layers(network.module)
    layers = {name: every[name] for name in names if not _unfit(every[name]) and _explicit(every[name])}
    return watched(network, layers, data, _patches)


def _explicit(layer: Weighted) -> bool:
    """Whether the padding is given in pixels, rather than as ``"same"``."""
    return not isinstance(getattr(layer, "padding", 0), str)


def _patches(layer: Weighted, features: Tensor) -> Tensor:
    """The mean products of the patches of one input, each with a 1 behind it, [in·height·width + 1]²."""
    if isinstance(layer, nn.Linear):
        rows = features.flatten(0, -2)
    else:
        assert not isinstance(layer.padding, str)
        rows = functional.unfold(features, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        rows = rows.movedim(1, -1).flatten(0, -2)
    rows = functional.pad(rows.double(), (0, 1), value=1.0)
    return rows.T @ rows / rows.shape[0]
