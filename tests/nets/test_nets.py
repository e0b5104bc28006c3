from __future__ import annotations

import pytest

import sharedbb.nets
import sharedbb.nets.heads
from sharedbb.registry import BACKBONES, HEADS, resolve


@pytest.mark.parametrize("room", [sharedbb.nets, sharedbb.nets.heads])
def test_exports_are_sorted_and_there(room: object) -> None:
    names = room.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert all(hasattr(room, name) for name in names)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_registered_head_has_its_builder(head: str) -> None:
    assert resolve(HEADS[head].build) is getattr(sharedbb.nets.heads, head)


@pytest.mark.parametrize("arch", sorted(BACKBONES))
def test_every_registered_backbone_has_its_builder(arch: str) -> None:
    assert resolve(BACKBONES[arch].build).__name__ == arch
