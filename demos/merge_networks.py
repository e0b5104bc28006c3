"""Three networks that were fine-tuned apart from one trunk become one: what they share is found, and costs once.

python demos/merge_networks.py [--size 256 384]
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
import torchvision
from torch import nn

import sharedbb as sb


def networks() -> dict[str, nn.Module]:
    """Three heads on copies of a ResNet-18 trunk; the third one's last block was trained on."""
    torch.manual_seed(0)
    trunk = nn.Sequential(*list(torchvision.models.resnet18().eval().children())[:-2])
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    named = {
        "kind": nn.Sequential(copy.deepcopy(trunk), pooled, nn.Linear(512, 10)),
        "mood": nn.Sequential(copy.deepcopy(trunk), pooled, nn.Linear(512, 3)),
        "area": nn.Sequential(copy.deepcopy(trunk), nn.Conv2d(512, 5, 1)),
    }
    with torch.no_grad():
        named["area"][0][7][1].conv2.weight.add_(0.01)
    return {name: network.eval() for name, network in named.items()}


def milliseconds(call: object, rounds: int = 5) -> float:
    """The best of a few calls."""
    assert callable(call)
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return 1e3 * min(taken)


def main() -> None:
    """Merge, compare, and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 384), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    apart = networks()
    picture = torch.rand(1, 3, *options.size)
    shared = sb.merge(apart, picture)
    print(shared.explain())
    with torch.inference_mode():
        answers = shared(picture)
        print("bit-equal:", all(torch.equal(answers[name], network(picture)) for name, network in apart.items()))
        separate = milliseconds(lambda: [network(picture) for network in apart.values()])
        print(f"eager torch: {separate:.1f} ms apart, {milliseconds(lambda: shared(picture)):.1f} ms merged")


if __name__ == "__main__":
    main()
