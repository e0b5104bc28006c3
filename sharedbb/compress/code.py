"""How the artifact stores weights to which no step has given a coding: in fewer bits, as what they then are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sharedbb.coding import decode, encode
from sharedbb.errors import CompressionError
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport

FLOATS = {16: "f16", 32: "f32"}
FLOAT32_BYTES = 4


def code(network: Network, *, bits: int = 16, norms: int = 32) -> tuple[Network, StepReport]:
    """Give every weight of two dimensions or more a coding, unless it has one, and make it what decoding gives back.

    ``bits``: 32 leaves weights as they are, 16 rounds them to float16, 2 to 8 to evenly spaced values per output
    channel. ``norms``: 16 rounds norms and biases to float16 as well, 32 leaves them; running statistics stay float32.

    The report tells the bytes of all parameters in float32, and those of what is stored (with running statistics).
    Raises CompressionError for another number of bits, ArtifactError for weights that float16 cannot hold.
    """
    if bits not in FLOATS and not 2 <= bits <= 8:
        raise CompressionError(f"weights are stored in 2 to 8, 16 or 32 bits, got {bits}")
    if norms not in FLOATS:
        raise CompressionError(f"norms and biases are stored in 16 or 32 bits, got {norms}")
    module, state = network.copy(), network.module.state_dict()
    given = {
        name: _coding(bits if weight.ndim > 1 else norms)
        for name, weight in _uncoded(network).items()
        if weight.ndim > 1 or norms == 16
    }
    coding = network.recoded(given)
    module.load_state_dict(decode(encode(state, {name: coding[name] for name in given})))
    before, after = FLOAT32_BYTES * network.parameters, len(encode(module.state_dict(), coding))
    facts = {
        "weights": len(given),
        "off_by": _largest_difference(state, module),
        "bytes_before": before,
        "bytes_after": after,
        "ratio": round(before / after, 2),
    }
    report = StepReport("code", {"bits": bits, "norms": norms}, facts)
    return network.then(report, module=module, coding=coding), report


def _uncoded(network: Network) -> dict[str, Tensor]:
    """The parameters by state-dict name, those shared under each of their names, without those that have a coding."""
    parameters = network.module.named_parameters(remove_duplicate=False)
    return {name: weight for name, weight in parameters if network.is_uncoded(name)}


def _coding(bits: int) -> dict[str, Any]:
    if bits in FLOATS:
        return {"type": "plain", "dtype": FLOATS[bits]}
    return {"type": "uniform", "bits": bits, "axis": 0, "symmetric": True}


def _largest_difference(before: dict[str, Tensor], module: nn.Module) -> float:
    """The largest distance between a weight and what is stored of it."""
    after = module.state_dict()
    return max(float((weight - after[name]).abs().max()) for name, weight in before.items() if weight.numel())
