"""Pruning: taking away the channels, neurons, single weights or whole blocks that the heads miss least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharedbb.compress.answers import network_shape
from sharedbb.compress.blocks import without_blocks
from sharedbb.compress.layers import require_finite
from sharedbb.compress.masks import with_zeros
from sharedbb.compress.narrowing import Between, Narrowing, narrow, neuron_cost
from sharedbb.compress.sensitivity import Sensitivity
from sharedbb.compress.widths import COSTS, Layer, LayerCost, retrace, total, trace
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Sample
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport

METHODS = ("structured", "magnitude", "threshold", "neuron", "block")
IMPORTANCES = ("l2", "bn", "taylor")

TOLERANCE = 1e-6
"""Less than this share too much is left: rounding."""


def prune(
    network: Network,
    *,
    method: str = "structured",
    amount: float = 0.5,
    target: str = "macs",
    importance: str = "l2",
    head_weights: Mapping[str, float] | None = None,
    round_to: int = 8,
    keep: Sequence[str] = (),
    sensitivity: Sensitivity | Mapping[str, Any] | None = None,
    iterations: int = 1,
    between: Between | None = None,
    data: Sequence[Sample] | None = None,
    cost: LayerCost | None = None,
    seed: int = 0,
) -> tuple[Network, StepReport]:
    """Take away what the heads miss least, in relation to what it saves.

    ``method``: ``structured`` narrows layers by whole channels, with everything that depends on them; ``neuron`` does
    so with hidden units of linear layers alone; ``block`` leaves out whole blocks; ``magnitude`` and ``threshold`` make
    single weights zero (``masks``).

    ``amount``: the share that goes, above 0 and below 1. With ``structured`` and ``block``, of what ``target`` counts:
    ``macs``, ``latency`` (``widths.latency``) or ``parameters``, or of ``cost(layer, channels_in, channels_out)``, such
    as milliseconds of a cost model. With ``neuron``, of the hidden units; otherwise of the weights.

    ``importance`` of channels: ``l2``, ``bn`` or ``taylor``, see ``sharedbb.compress.importance``; ``taylor`` and
    ``block`` ask the heads on a few pictures of ``data``, each head with its weight in ``head_weights`` (1 where not
    named). ``sensitivity``: what was measured, or its JSON, or a number by layer: sensitive layers lose less. ``keep``:
    paths of modules left alone. Widths that change are multiples of ``round_to``. ``iterations``: in as many rounds,
    with ``between`` after each but the last (to train, say).

    The report tells multiply-adds and parameters before and after, widths or sparsity by layer, and what was held.

    Raises CompressionError for settings that do not fit the network, without pictures where they are needed, and for a
    network that is quantized already.
    """
    settings = {
        "method": method,
        "amount": amount,
        "target": "cost" if cost else target,
        "importance": importance,
        "head_weights": dict(head_weights or {}),
        "round_to": round_to,
        "keep": list(keep),
        "iterations": iterations,
        "seed": seed,
    }
    _check(network, settings)
    require_finite(network.module)
    cautions = _cautions(sensitivity, network)
    counted, said = cost or COSTS[target], tuple[str, ...]()
    match method:
        case "block":
            pruned, facts = without_blocks(network, amount, counted, keep=keep, head_weights=head_weights, data=data)
        case "magnitude" | "threshold":
            pruned, facts = with_zeros(network, amount, method, keep, cautions, iterations, between)
        case _:
            asked = Narrowing(
                importance=importance,
                cost=neuron_cost(network, keep) if method == "neuron" else counted,
                round_to=round_to,
                keep=keep,
                cautions=cautions,
                head_weights=head_weights or {},
                data=data,
                neurons=method == "neuron",
                seed=seed,
            )
            network, said = network.unrounded()
            pruned, facts = narrow(network, asked, amount, iterations, between)
    return _reported(network, pruned, settings, facts, said)


def _reported(
    network: Network, pruned: Network, settings: Mapping[str, Any], facts: Mapping[str, Any], told: Sequence[str]
) -> tuple[Network, StepReport]:
    """The pruned network with its report; says where less went than was asked."""
    before = trace(network.module, network_shape(network))
    counts = {
        "macs_before": total(before, Layer.macs),
        "macs_after": total(retrace(before, pruned.module), Layer.macs),
        "parameters_before": network.parameters,
        "parameters_after": pruned.parameters,
    }
    said = list(told)
    asked, left = settings["amount"], facts["left"]
    if left > 1 - asked + TOLERANCE:
        said.append(f"asked to take {asked:.0%}, took {1 - left:.0%}: what is left must stay, or would not be a layer")
    if settings["method"] in ("magnitude", "threshold"):
        said.append("zeros make the artifact smaller; an engine computes them like any other weight")
    report = StepReport("prune", settings, {**counts, **facts}, tuple(said))
    return pruned.then(report), report


def _cautions(sensitivity: Sensitivity | Mapping[str, Any] | None, network: Network) -> Mapping[str, float]:
    """Caution by layer, of a measured sensitivity, its JSON, or plain numbers; of layers that the network has."""
    if isinstance(sensitivity, Mapping) and "layers" in sensitivity:
        sensitivity = Sensitivity.from_dict(sensitivity)
    found = sensitivity.cautions("prune") if isinstance(sensitivity, Sensitivity) else dict(sensitivity or {})
    if any(not isinstance(value, int | float) or value <= 0 for value in found.values()):
        raise CompressionError("sensitivity by layer must be numbers above 0, 1 for a layer like any other")
    modules = dict(network.module.named_modules())
    if found and not any(layer in modules for layer in found):
        raise CompressionError(
            f"{network.pipeline.name} has none of the layers whose sensitivity is given, such as {next(iter(found))!r}"
        )
    return found


def _check(network: Network, settings: Mapping[str, Any]) -> None:
    """Raise CompressionError for settings that mean nothing, or not for this network."""
    known = {"method": METHODS, "importance": IMPORTANCES, "target": (*COSTS, "cost")}
    for name, values in known.items():
        if settings[name] not in values:
            raise CompressionError(f"no {name} {settings[name]!r} of pruning (there are: {', '.join(values)})")
    if not 0 < settings["amount"] < 1:
        raise CompressionError(f"the amount to prune is a share above 0 and below 1, got {settings['amount']}")
    for name in ("round_to", "iterations"):
        if settings[name] < 1:
            raise CompressionError(f"{name} is 1 or more, got {settings[name]}")
    if network.scheme is not None:
        raise CompressionError("a quantized network cannot be pruned: prune first, then quantize")
    modules = dict(network.module.named_modules())
    if absent := [name for name in settings["keep"] if name not in modules]:
        raise CompressionError(f"there is no module {absent[0]!r} to keep in {network.pipeline.name}")
    weights = settings["head_weights"]
    if strange := [name for name in weights if name not in network.pipeline.heads]:
        raise CompressionError(
            f"no head {strange[0]!r} to weigh in {network.pipeline.name} (it has: {', '.join(network.pipeline.heads)})"
        )
    if any(weight < 0 for weight in weights.values()) or (
        weights and not any(weights.get(name, 1.0) for name in network.pipeline.heads)
    ):
        raise CompressionError("head_weights are 0 or more, and one of them above 0")
