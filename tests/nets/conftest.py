from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "vehicle", "pedestrian", "cyclist")


def street_pipeline(arch: str = "mobilenet_v2", *, neck: bool = True, weights: str | None = None) -> Any:
    heads = {
        "surface": SimpleNamespace(type="segmentation", taps=(4, 16), classes=CLASSES, channels=64),
        "objects": SimpleNamespace(type="detection", taps=(8, 16, 32), classes=("vehicle", "sign"), channels=64),
        "edges": SimpleNamespace(type="segmentation", taps=(4,), classes=("inside", "edge"), channels=32),
        "scene": SimpleNamespace(type="tags", taps=(16, 32), labels=CLASSES),
    }
    fpn = SimpleNamespace(type="fpn", channels=64, strides=(4, 8, 16, 32)) if neck else None
    backbone = SimpleNamespace(arch=arch, weights=weights, decomposition="none")
    return SimpleNamespace(backbone=backbone, neck=fpn, heads=heads)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These pictures are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def street() -> Any:
    """A pipeline of four heads on MobileNetV2 with a pyramid, as the nets see it."""
    return street_pipeline()
