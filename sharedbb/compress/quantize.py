"""Quantization: values of few bits, calibrated on pictures, taken from every picture, or learnt.

What is rounded, and to which grid, is a ``Scheme`` of the graph: it survives merging, cutting and folding, a backend
with integer kernels runs it on integers, and every other one shows what that costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sharedbb.coding import decode, encode
from sharedbb.compress import nncf, pt2e, ranges
from sharedbb.compress.answers import images
from sharedbb.compress.calibration import left_alone, prepared, weight_grids
from sharedbb.errors import CompressionError
from sharedbb.graph.ir import Graph
from sharedbb.graph.quantization import Grid, Scheme, edges
from sharedbb.learn.data import Data
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport

METHODS = ("static", "dynamic", "qat", "weights")
TOOLS = ("nncf", "pt2e", "own")
DYNAMIC = frozenset({"linear", "matmul"})
"""Operators whose operand has a largest value that is worth looking for in every picture: few values, many weights."""

Bits = int | Mapping[str, int]


def quantize(
    network: Network,
    data: Data | None = None,
    *,
    method: str = "static",
    bits: int = 8,
    weight_bits: int | None = None,
    layers: Mapping[str, int] | None = None,
    symmetric: bool = True,
    per_channel: bool = True,
    pictures: int = 128,
    tool: str = "nncf",
    ignore: Sequence[str] = (),
    **training: Any,
) -> tuple[Network, StepReport]:
    """Round weights, and activations as ``method`` says, to grids of ``bits`` bits.

    ``static``: activations on grids calibrated by ``tool`` on ``pictures`` pictures of ``data``. ``dynamic``: of linear
    layers alone, on grids taken from each picture. ``qat``: as static, then trained with the rounding in place
    (``training`` goes to ``finetune``: ``steps`` or ``minutes``, ``lr``, ``teacher``, ...), then calibrated again.
    ``weights``: weights alone, which makes the artifact smaller and nothing faster.

    ``weight_bits``: of weights, where they differ; ``layers``: of some weights, by module, the innermost one counts
    (mixed precision).
    ``symmetric``: grids without a zero point of their own. ``per_channel``: a grid for each output channel of a weight.
    ``ignore``: modules that stay in floating point, as the convolutions that read the picture always do.

    Raises CompressionError for settings that do not fit, missing pictures or tools, a network quantized already.
    """
    counts = _weight_bits(network, bits, weight_bits, layers)
    _check(network, data, method, tool, bits, training)
    graph = prepared(network.graph())
    alone = left_alone(graph, ignore)
    settings: dict[str, Any] = {
        "method": method,
        "bits": bits,
        "weight_bits": bits if weight_bits is None else weight_bits,
        "layers": dict(layers or {}),
        "symmetric": symmetric,
        "per_channel": per_channel,
        "ignore": list(ignore),
    }
    weights = partial(weight_grids, alone=alone, bits=counts, symmetric=symmetric, per_channel=per_channel)
    if method == "weights":
        network = _stored(network, graph, weights(graph), counts, symmetric=symmetric)
        said = ("weights are whole numbers in the artifact alone: nothing runs faster",)
        rounded = sum(told["type"] == "uniform" for told in network.coding.values())
        report = StepReport("quantize", settings, {"weights": rounded}, said)
        return network.then(report), report
    if method == "dynamic":
        kept = _of_linear_layers(graph, weights(graph))
        network = _stored(network, graph, kept, counts, symmetric=symmetric)
        graph = prepared(network.graph())
        scheme = Scheme(_of_linear_layers(graph, weights(graph)) | _by_picture(kept, bits))
    else:
        assert data is not None
        settings |= {"tool": tool, "pictures": min(pictures, len(data))}
        calibrate = partial(_calibrated, data=data, pictures=pictures, bits=bits, symmetric=symmetric, tool=tool)
        if method == "qat":
            before, _ = calibrate(network, graph, alone)
            network, learnt = _trained(network, data, Scheme(before | weights(graph)), counts, training)
            settings["training"] = dict(learnt.settings)
            graph = prepared(network.graph())
        network = _stored(network, graph, weights(graph), counts, symmetric=symmetric)
        graph = prepared(network.graph())
        activations, biases = calibrate(network, graph, alone)
        scheme = Scheme(activations | weights(graph), biases)
    report = StepReport("quantize", settings, _facts(graph, scheme))
    return network.then(report, scheme=scheme), report


def _check(network: Network, data: Data | None, method: str, tool: str, bits: int, training: Mapping[str, Any]) -> None:
    """Raise CompressionError for settings that mean nothing together."""
    for name, value, known in (("method", method, METHODS), ("tool", tool, TOOLS)):
        if value not in known:
            raise CompressionError(f"no {name} {value!r} of quantization (there are: {', '.join(known)})")
    if network.scheme is not None:
        raise CompressionError("the network is quantized already: begin with the one before that step")
    if method in ("static", "qat") and not data:
        raise CompressionError(f"method {method!r} needs pictures to calibrate with: give data, 128 of them, say")
    if training and method != "qat":
        raise CompressionError(f"method {method!r} trains nothing, so {min(training)!r} has no meaning; use 'qat'")
    if bits != 8 and tool != "own" and method in ("static", "qat"):
        raise CompressionError(f"tool {tool!r} calibrates 8 bits; for {bits} give tool='own'")


def _weight_bits(network: Network, bits: int, weight_bits: int | None, layers: Mapping[str, int] | None) -> Bits:
    """Bits of weights: one number, or by module."""
    every = bits if weight_bits is None else weight_bits
    for name, count in {"activations": bits, "weights": every, **(layers or {})}.items():
        if not isinstance(count, int) or not 2 <= count <= 8:
            raise CompressionError(f"bits of {name} are 2 to 8, got {count!r}")
    if not layers:
        return every
    modules = dict(network.module.named_modules())
    if unknown := [name for name in layers if name not in modules]:
        raise CompressionError(f"no layer {unknown[0]!r} to give {layers[unknown[0]]} bits")
    return {name: _nearest(name, layers, every) for name in modules}


def _nearest(module: str, layers: Mapping[str, int], every: int) -> int:
    """What is given for a module, or for the innermost one around it."""
    around = [name for name in layers if f"{module}.".startswith(f"{name}.")]
    return layers[max(around, key=len)] if around else every


def _calibrated(
    network: Network,
    graph: Graph,
    alone: frozenset[str],
    *,
    data: Data,
    pictures: int,
    bits: int,
    symmetric: bool,
    tool: str,
) -> tuple[dict[str, Grid], dict[str, Tensor]]:
    """Grids of activations, and corrected biases, from the tool."""
    taken = images(network, data, pictures)
    match tool:
        case "nncf":
            return nncf.calibrated(graph, taken, alone, symmetric=symmetric)
        case "pt2e":
            return pt2e.calibrated(graph, taken, alone, symmetric=symmetric)
    return ranges.calibrated(graph, taken, alone, symmetric=symmetric, bits=bits)


def _of_linear_layers(graph: Graph, weights: Mapping[str, Grid]) -> dict[str, Grid]:
    """The grids of those weights that are read by linear layers."""
    found = {edge: weights[edge] for edge, node, _, _ in edges(graph) if edge in weights and node.kind in DYNAMIC}
    if not found:
        raise CompressionError("method 'dynamic' rounds linear layers, and the network has none; use 'static'")
    return found


def _by_picture(weights: Iterable[str], bits: int) -> dict[str, Grid]:
    """Grids, by edge, that every picture gives anew: of what the calls read whose weights (by edge) are rounded."""
    top = 2 ** (bits - 1) - 1
    grid = Grid(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), -top, top, dynamic=True)
    return {f"{edge.rpartition('|')[0]}|0": grid for edge in weights}


def _trained(
    network: Network, data: Data | None, scheme: Scheme, bits: Bits, training: Mapping[str, Any]
) -> tuple[Network, StepReport]:
    """The network trained with the rounding in place."""
    from sharedbb.compress.finetune import finetune
    from sharedbb.compress.qat import rounding

    if data is None or not ({"steps", "minutes"} & training.keys()):
        raise CompressionError("method 'qat' needs an end of its training: give steps or minutes")
    return finetune(network, data, around=lambda module: rounding(module, scheme, bits), **training)


def _stored(network: Network, graph: Graph, grids: Mapping[str, Grid], bits: Bits, *, symmetric: bool) -> Network:
    """The network with its weights on their grids, and told to store them as the grids' integers.

    Weights that are stored in another way already stay as they are, and those whose output channels are not their first
    axis: no coding has a scale for each.
    """
    own = network.module.state_dict()
    coding: dict[str, Mapping[str, Any]] = {}
    for edge, node, _, _ in edges(graph):
        name = f"{node.origin}.weight"
        if edge in grids and grids[edge].axis in (None, 0) and name in own and network.is_uncoded(name):
            count = bits if isinstance(bits, int) else bits.get(node.origin, 8)
            coding[name] = {"type": "uniform", "bits": count, "axis": grids[edge].axis, "symmetric": symmetric}
    module, stored = network.copy(), network.recoded(coding)
    module.load_state_dict(own | decode(encode({name: own[name] for name in coding}, {n: stored[n] for n in coding})))
    return replace(network, module=module.eval(), coding=stored)


def _facts(graph: Graph, scheme: Scheme) -> dict[str, Any]:
    """How much of the work integers do."""
    from sharedbb.graph.cost import cost

    costs = cost(graph)
    rounded = {node.name for edge, node, place, _ in edges(graph) if edge in scheme.grids and place == 1}
    whole = sum(item.macs for item in costs.values())
    return {
        "grids": len(scheme.grids),
        "dynamic": sum(grid.dynamic for grid in scheme.grids.values()),
        "biases_corrected": len(scheme.constants),
        "macs_in_integers": round(sum(costs[name].macs for name in rounded) / whole, 4) if whole else 0.0,
    }
