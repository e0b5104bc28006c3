from __future__ import annotations

import subprocess
import sys

import pytest

import sharedbb.outputs
from sharedbb.registry import HEADS, resolve


def test_exports_are_sorted_and_there() -> None:
    names = sharedbb.outputs.__all__
    assert names == sorted(names)
    assert all(hasattr(sharedbb.outputs, name) for name in names)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_registered_head_has_its_decoder(head: str) -> None:
    assert resolve(HEADS[head].decoder) is getattr(sharedbb.outputs, f"{head}_decoder")


def test_answers_need_no_torch() -> None:
    code = "import sharedbb.outputs, sys; print([m for m in ('torch', 'torchvision', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
