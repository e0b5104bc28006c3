"""Torch modules: the picture arrives as the contract says, and whatever they return becomes arrays by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sharedbb.errors import CompressionError, GraphError
from sharedbb.learn.teachers.module_network import ModuleNetwork
from sharedbb.spec.fuse import TeacherInput

GIVEN = TeacherInput(size=(8, 12))
TEXT = """
import torch
from torch import nn

class Seen(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.weight = nn.Parameter(torch.full((5,), WEIGHT))
        self.drop = nn.Dropout(0.5)
        self.answer = answer

    def forward(self, x):
        return self.answer(self.drop(x))

def one(): return Seen(lambda x: x)
def several(): return Seen(lambda x: (x, x.sum()))
def named(): return Seen(lambda x: {"out": x.half()})
def detector(): return Seen(lambda x: [{"boxes": x[0, 0, :, :4], "labels": torch.ones(8, dtype=torch.int32)}])
def nested(): return Seen(lambda x: {"out": [x]})
def failing(): return Seen(lambda x: x.reshape(7))
def broken(): return 1 / 0
def other(): return 3
"""


@pytest.fixture
def module(write_module: Callable[[str, str], str]) -> Callable[..., ModuleNetwork]:
    def make(function: str, given: TeacherInput = GIVEN, weight: float = 1.0) -> ModuleNetwork:
        return ModuleNetwork(f"{write_module('seen_module', TEXT.replace('WEIGHT', str(weight)))}:{function}", given)

    return make


def test_order_mean_and_deviation_in_eval_mode(module: Any, rgb: np.ndarray) -> None:
    given = TeacherInput(size=(8, 12), order="bgr", mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0))
    found = module("one", given)(rgb[None])["0"]
    expected = (rgb[..., ::-1].astype(np.float32) - given.mean) / given.std
    assert np.allclose(found, expected.transpose(2, 0, 1)[None], atol=1e-5)


def test_whatever_is_returned_has_names(module: Any, rgb: np.ndarray) -> None:
    first = module("one")(rgb[None])["0"]
    assert [*module("several")(rgb[None])] == ["0", "1"]
    named = module("named")(rgb[None])
    assert ([*named], named["out"].dtype) == (["out"], np.float32)
    detected = module("detector")(rgb[None])
    assert detected["labels"].tolist() == [1] * 8
    assert np.array_equal(detected["boxes"], first[0, 0, :, :4])


def test_the_digest_is_that_of_weights_and_code(module: Any) -> None:
    digest = module("one").digest
    assert module("one").digest == digest
    assert module("one", weight=2.0).digest != digest
    assert module("one").parameters == 5


def test_what_cannot_be_used(module: Any, rgb: np.ndarray) -> None:
    with pytest.raises(CompressionError, match=r"seen_module:broken\(\) raised ZeroDivisionError"):
        module("broken")
    with pytest.raises(CompressionError, match=r"seen_module:other\(\) must return a torch module, got int"):
        module("other")
    with pytest.raises(GraphError, match="the module returns dict, not a tensor or tensors by name"):
        module("nested")(rgb[None])
    with pytest.raises(GraphError, match=r"the module cannot take float32 \[1, 3, 8, 12\]: RuntimeError") as caught:
        module("failing")(rgb[None])
    assert "\n" not in str(caught.value)
