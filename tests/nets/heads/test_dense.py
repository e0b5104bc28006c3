from __future__ import annotations

import math
from types import SimpleNamespace

import torch

from sharedbb.nets.heads import depth, keypoints, segmentation

CHANNELS = {4: 6, 8: 5, 16: 7, 32: 9}


def maps(taps: tuple[int, ...], batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, CHANNELS[s], 96 // s, 160 // s, generator=generator) for s in taps]


def test_segmentation_answers_at_the_finest_tap() -> None:
    head = segmentation(SimpleNamespace(taps=(8, 32), classes=("a", "b", "c"), channels=16), CHANNELS).eval()
    answer = head(maps((8, 32)))
    assert {name: tuple(value.shape) for name, value in answer.items()} == {"logits": (2, 3, 12, 20)}


def test_every_tap_matters_and_every_weight_learns() -> None:
    head = segmentation(SimpleNamespace(taps=(4, 16, 32), classes=("a", "b"), channels=16), CHANNELS).train()
    inputs = [value.requires_grad_() for value in maps((4, 16, 32))]
    head(inputs)["logits"].square().mean().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in inputs)
    assert all(weight.grad is not None for weight in head.parameters())


def test_depth_lies_between_its_bounds_evenly_in_the_logarithm() -> None:
    head = depth(SimpleNamespace(taps=(4,), channels=16, min_m=0.5, max_m=80.0), CHANNELS).eval()
    for raw, metres in ((-50.0, 0.5), (0.0, math.sqrt(0.5 * 80.0)), (50.0, 80.0)):
        torch.nn.init.zeros_(head.predict.weight)
        torch.nn.init.constant_(head.predict.bias, raw)
        answer = head(maps((4,)))["depth"]
        assert answer.shape == (2, 1, 24, 40)
        torch.testing.assert_close(answer, torch.full_like(answer, metres), rtol=1e-5, atol=1e-5)


def test_keypoints_start_out_nowhere() -> None:
    torch.manual_seed(0)
    head = keypoints(SimpleNamespace(taps=(8,), points=("nose", "tail"), channels=16), CHANNELS).eval()
    heat = head(maps((8,)))["heatmaps"]
    assert heat.shape == (2, 2, 12, 20)
    assert heat.sigmoid().mean() < 0.05
