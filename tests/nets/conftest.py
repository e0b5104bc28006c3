from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "vehicle", "pedestrian", "cyclist")


def street_pipeline(arch: str = "mobilenet_v2", *, neck: bool = True, weights: str | None = None) -> Any:
    heads = {
        "surface": SimpleNamespace(type="segmentation", taps=(4, 16), classes=CLASSES, channels=64),
        "objects": SimpleNamespace(type="detection", taps=(8, 16, 32), classes=("vehicle", "sign"), channels=64),
        "edges": SimpleNamespace(type="segmentation", taps=(4,), classes=("inside", "edge"), channels=32),
        "scene": SimpleNamespace(type="tags", taps=(16, 32), labels=CLASSES),
    }
    fpn = SimpleNamespace(type="fpn", channels=64, strides=(4, 8, 16, 32)) if neck else None
    return SimpleNamespace(backbone=SimpleNamespace(arch=arch, weights=weights), neck=fpn, heads=heads)


@pytest.fixture
def street() -> Any:
    """A pipeline of four heads on MobileNetV2 with a pyramid, as the nets see it."""
    return street_pipeline()
