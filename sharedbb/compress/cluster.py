"""Weight sharing: the weights of a layer, or of many, take few different values, and indices into those are stored.

Han, Mao and Dally, "Deep Compression", ICLR 2016. Weighted by what comes into the layers: Choi et al., "Towards the
Limit of Network Quantization", ICLR 2017.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharedbb.compress.kmeans import kmeans, nearest
from sharedbb.compress.layers import Weighted, require_finite, watched, weighted_layers
from sharedbb.compress.ties import ties
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Data
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport

GROUPS = ("layer", "shape", "all")
MOST_LEVELS = 256
PRUNED = 1 / 8
"""Share of zeros from which on a weight counts as pruned: its zeros stay, apart from the codebook."""


def cluster(
    network: Network,
    *,
    bits: int = 4,
    levels: int | None = None,
    group: str = "layer",
    layers: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    init: str = "kmeans++",
    data: Data | None = None,
    finetune: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[Network, StepReport]:
    """Move weights to the nearest of 2 to the power of ``bits`` values, or of ``levels``, found by k-means.

    ``group``: who shares the values: the weights of a layer, of layers with kernels of one shape, or all. ``layers``
    and ``exclude``: names of layers, or of modules around some. Zeros of pruned weights stay zero and take no value.
    ``init``: see ``kmeans``. With ``data``, a weight counts as much as the mean square of what it multiplies, so that
    the layers' outputs are kept rather than the weights. ``finetune``: settings of ``compress.finetune``, which then
    trains the values themselves on ``data``: weights that are one value stay one.

    The result is in the weights, and in their coding. Raises CompressionError for settings that do not fit, and for a
    network that is quantized already.
    """
    levels = _checked(network, bits, levels, group, data, finetune)
    require_finite(network.module)
    module = network.copy()
    chosen = weighted_layers(module, layers, exclude)
    counts = _importances(network, list(chosen), data)
    coding, told = dict(network.coding), []
    taken = {str(one["group"]) for one in network.coding.values() if one.get("group")}
    for key, names in _groups(chosen, group).items():
        kept = {name: _kept(chosen[name].weight, network.coding.get(f"{name}.weight", {})) for name in names}
        flat = np.concatenate([_array(chosen[name].weight)[kept[name]] for name in names])
        weights = np.concatenate([counts[name][kept[name]] for name in names]) if counts else None
        centres = kmeans(flat, levels, weights=weights, init=init, seed=seed)
        for name in names:
            told.append({"layer": name, "values": len(centres), **_move(chosen[name].weight, kept[name], centres)})
            book = None if group == "layer" else _unlike(key, taken)
            coding[f"{name}.weight"] = _coding(levels, book, not kept[name].all())
    settings = {"bits": (levels - 1).bit_length(), "levels": levels, "group": group, "init": init, "seed": seed}
    settings |= {"layers": layers and list(layers), "exclude": list(exclude)}
    facts = {"layers": told, "weights": sum(layer.weight.numel() for layer in chosen.values())}
    report = StepReport("cluster", settings, facts)
    found = network.then(report, module=module, coding=coding)
    return (found if finetune is None else _finetuned(found, data, finetune)), report


def _checked(
    network: Network, bits: int, levels: int | None, group: str, data: Data | None, finetune: Mapping[str, Any] | None
) -> int:
    """How many values a codebook has."""
    if network.scheme is not None:
        raise CompressionError("the network is quantized, which a codebook would undo: cluster first, then quantize")
    if group not in GROUPS:
        raise CompressionError(f"no group of codebooks is called {group!r} (known: {', '.join(GROUPS)})")
    if finetune is not None and data is None:
        raise CompressionError("fine-tuning of a codebook needs data to learn from")
    found = 2**bits if levels is None else levels
    if not 2 <= found <= MOST_LEVELS:
        asked = f"bits={bits}" if levels is None else f"levels={levels}"
        raise CompressionError(f"a codebook has 2 to {MOST_LEVELS} values (1 to 8 bits), got {asked}")
    return found


def _groups(layers: Mapping[str, Weighted], group: str) -> dict[str, list[str]]:
    """Codebook → the layers that share it."""
    found: dict[str, list[str]] = {}
    for name, layer in layers.items():
        key = {"layer": name, "shape": _shape(layer), "all": "all"}[group]
        found.setdefault(key, []).append(name)
    return found


def _unlike(name: str, taken: Collection[str]) -> str:
    """A name that no codebook has yet: ``all``, ``all 2``, ``all 3``."""
    names = chain((name,), (f"{name} {turn}" for turn in count(2)))
    return next(one for one in names if one not in taken)


def _shape(layer: Weighted) -> str:
    """What is alike between layers that share a codebook by shape: the kernel, and whether it sees one channel."""
    if isinstance(layer, nn.Linear):
        return "linear"
    kernel = "x".join(str(side) for side in layer.kernel_size)
    return f"{kernel} depthwise" if layer.groups == layer.in_channels > 1 else kernel


def _kept(weight: Tensor, coding: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Which weights take a value of the codebook: all, or those that pruning has left."""
    array = _array(weight)
    pruned = coding.get("sparse", False) or np.mean(array == 0) >= PRUNED
    return array != 0 if pruned else np.ones(array.shape, np.bool_)


def _move(weight: Tensor, kept: NDArray[np.bool_], centres: NDArray[np.float32]) -> dict[str, Any]:
    """Put a weight on its codebook, in place; returns what that changed, as the root mean square over the weight's."""
    before = _array(weight).copy()
    after = before.copy()
    after[kept] = centres[nearest(before[kept], centres)]
    with torch.no_grad():
        weight.copy_(torch.from_numpy(after))
    error = float(np.linalg.norm((after - before).astype(np.float64)))
    return {"error": round(error / (float(np.linalg.norm(before.astype(np.float64))) or 1.0), 6)}


def _coding(levels: int, group: str | None, sparse: bool) -> dict[str, Any]:
    coding: dict[str, Any] = {"type": "codebook", "bits": (levels - 1).bit_length()}
    return coding | ({"group": group} if group else {}) | ({"sparse": True} if sparse else {})


def _importances(network: Network, names: Sequence[str], data: Data | None) -> dict[str, NDArray[np.float64]]:
    """How much each weight counts, of the weights' shapes; empty without pictures."""
    if data is None:
        return {}
    layers = {name: layer for name, layer in weighted_layers(network.module).items() if name in names}
    seen = watched(network, layers, data, _squares)
    return {name: _spread(layer, seen[name].numpy()) for name, layer in layers.items() if name in seen} | {
        name: np.ones(tuple(layer.weight.shape)) for name, layer in layers.items() if name not in seen
    }


def _squares(layer: Weighted, features: Tensor) -> Tensor:
    """The mean square of each channel that comes in."""
    last = isinstance(layer, nn.Linear)
    return (features if last else features.movedim(1, -1)).double().square().flatten(0, -2).mean(0)


def _spread(layer: Weighted, squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean square of what each weight multiplies, of the weight's shape."""
    shape = tuple(layer.weight.shape)
    if isinstance(layer, nn.Linear):
        return np.broadcast_to(squares, shape)
    if isinstance(layer, nn.ConvTranspose2d):
        return np.broadcast_to(squares[:, None, None, None], shape)
    rows = np.repeat(squares.reshape(layer.groups, shape[1]), shape[0] // layer.groups, axis=0)
    return np.broadcast_to(rows[:, :, None, None], shape)


def _array(weight: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = weight.detach().cpu().numpy()
    return array


def _finetuned(network: Network, data: Data | None, settings: Mapping[str, Any]) -> Network:
    """The network with its values trained; the training's report is the last step's."""
    from sharedbb.compress.finetune import finetune

    assert data is not None
    return finetune(network, data, constrain=ties(network), **settings)[0]
