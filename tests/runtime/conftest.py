"""A small program without a network: stages are plain functions, so that what is tested is the runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from sharedbb.program import HeadPlan, Program, Stage, StageFacts
from sharedbb.transforms import RgbIntake
from sharedbb.types import Normalization, Size

SIZE = Size(32, 64)


class Call:
    """An executable that applies a function to its features and counts its runs."""

    def __init__(self, function: Callable[..., tuple[Any, ...]]) -> None:
        self.function = function
        self.runs = 0

    def session(self) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
        def run(features: Sequence[Any]) -> tuple[Any, ...]:
            self.runs += 1
            return self.function(*features)

        return run


class Plain:
    """A device whose features are NumPy arrays."""

    name, precision, device = "plain", "f32", "cpu"

    class Picture:
        def __init__(self, size: Size) -> None:
            self.planes = {"input": np.zeros((1, size.height, size.width, 3), np.uint8)}
            self.features = self.planes

    def picture(self, size: Size, planes: Any) -> Picture:
        return self.Picture(size)

    def upload(self, picture: Picture) -> None:
        pass

    def answer(self, feature: Any) -> Any:
        return np.asarray(feature, np.float32)


class Mean:
    """An answer that is one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value}


def decode(raw: Any, geometry: Any) -> Mean:
    return Mean(float(raw["output"]))


def stage(name: str, inputs: Sequence[str], outputs: Sequence[str], heads: Sequence[str], call: Call) -> Stage:
    shapes = tuple(() for _ in outputs)
    facts = StageFacts(name, tuple(inputs), tuple(outputs), tuple(heads), None, shapes, (), False, 1, 0, 0)
    return Stage(facts, call)


@pytest.fixture
def program() -> Program:
    """trunk → (fast, slow); slow runs every third frame through a stage of its own."""
    return Program(
        name="plain",
        size=SIZE,
        stages=(
            stage("trunk", ["input"], ["mean"], ["fast", "slow"], Call(lambda picture: (picture.mean(),))),
            stage("middle", ["mean"], ["double"], ["slow"], Call(lambda mean: (mean * 2,))),
            stage("fast", ["mean"], ["a"], ["fast"], Call(lambda mean: (mean + 1,))),
            stage("slow", ["double"], ["b"], ["slow"], Call(lambda double: (double + 1,))),
        ),
        heads={
            "fast": HeadPlan("fast", {"output": "a"}, decode),
            "slow": HeadPlan("slow", {"output": "b"}, decode, every=3),
        },
        device=Plain(),
        intake=lambda planes: RgbIntake(planes["input"], "stretch", Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
    )


@pytest.fixture
def grey() -> Callable[[int], np.ndarray]:
    return lambda level: np.full((32, 64, 3), level, np.uint8)
