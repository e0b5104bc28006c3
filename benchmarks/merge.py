"""How long merging takes, and what is left: networks fine-tuned from one trunk, and networks with nothing in common."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn

import sharedbb as sb
from benchmarks.schema import Number
from benchmarks.timing import Measurement, Parser, interleaved, show

TRUNKS = {"mobilenet_v2": 1280, "resnet50": 2048, "efficientnet_b0": 1280}
PICTURE = (1, 3, 384, 640)
GOAL_MS = 5000


def with_heads(arch: str, count: int) -> dict[str, nn.Module]:
    """Copies of one trunk, each with a head of its own."""
    network = getattr(torchvision.models, arch)().eval()
    trunk = getattr(network, "features", None) or nn.Sequential(*list(network.children())[:-2])
    return {
        f"n{i}": nn.Sequential(copy.deepcopy(trunk), nn.Conv2d(TRUNKS[arch], 4 + i, 1)).eval() for i in range(count)
    }


def cases() -> dict[str, dict[str, nn.Module]]:
    """Networks to merge, by what they are."""
    apart = {
        name: getattr(torchvision.models, name)().eval() for name in ("mobilenet_v2", "resnet18", "shufflenet_v2_x1_0")
    }
    return {
        "three mobilenet_v2": with_heads("mobilenet_v2", 3),
        "six mobilenet_v2": with_heads("mobilenet_v2", 6),
        "six resnet50": with_heads("resnet50", 6),
        "six efficientnet_b0": with_heads("efficientnet_b0", 6),
        "three with nothing in common": apart,
    }


def main() -> None:
    """Measure and keep ``results/merge.json``."""
    options = Parser(__doc__, rounds=6).options()
    measurement = Measurement("merge", __doc__, options)
    picture = torch.rand(PICTURE)
    operators: dict[str, Any] = {}

    def merging(label: str, networks: dict[str, nn.Module]) -> Callable[[], None]:
        def call() -> None:
            merged = sb.merge(networks, picture).merged
            operators[label] = {"apart": merged.separate, "merged": merged.graph.operators}

        return call

    calls = {label: merging(label, networks) for label, networks in cases().items()}
    timings = interleaved(calls, options.rounds, warm=1).timings
    show("sb.merge at 640x384", timings, "three mobilenet_v2")
    slowest = max(timings.values(), key=lambda case: case.median_ms)
    number = Number(
        measured=slowest.median_ms, low=slowest.low_ms, high=slowest.high_ms, goal=GOAL_MS, better="lower", unit="ms"
    )
    measurement.keep(timings=timings, numbers={"slowest merge": number}, details={"operators": operators})


if __name__ == "__main__":
    main()
