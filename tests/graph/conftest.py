"""Every built-in backbone as torchvision has it, captured once for all tests of the room."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torchvision

from sharedbb.graph.capture import capture
from sharedbb.graph.ir import Graph


@pytest.fixture(scope="session")
def backbone_graph() -> Callable[[str], Graph]:
    """``backbone_graph(name)``: a randomly initialised classifier on three pictures of 40×896.

    Wide and flat, so that the reach of deep features ends inside the picture.
    """

    @cache
    def captured(name: str) -> Graph:
        torch.manual_seed(0)
        return capture(getattr(torchvision.models, name)(weights=None), torch.zeros(3, 3, 40, 896), name)

    return captured
