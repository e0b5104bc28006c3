"""A scheme as plain values and tensors: what goes in comes out, and what is impossible is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from sharedbb.errors import GraphError
from sharedbb.graph.quantization import SMALLEST_SCALE, Grid, Scheme
from sharedbb.graph.scheme import described, restored

EDGE, ROWS = "trunk.0|conv2d|0|0", "trunk.0|conv2d|0|1"


def scheme() -> Scheme:
    zero = torch.tensor(0, dtype=torch.int32)
    return Scheme(
        {
            EDGE: Grid(torch.tensor(0.5), torch.tensor(128, dtype=torch.int32), 0, 255),
            ROWS: Grid(torch.tensor([SMALLEST_SCALE, 2.0]), torch.zeros(2, dtype=torch.int32), -7, 7, 0),
            "head|linear|0|0": Grid(torch.tensor(1.0), zero, -127, 127, dynamic=True),
        },
        {"trunk.0|conv2d|0|2": torch.tensor([0.1, -0.2])},
    )


def test_what_goes_in_comes_out() -> None:
    told, tensors = described(scheme())
    found = restored(json.loads(json.dumps(told)), tensors)
    assert found.grids.keys() == scheme().grids.keys()
    for edge, grid in scheme().grids.items():
        other = found.grids[edge]
        assert torch.equal(other.scale, grid.scale)
        assert torch.equal(other.zero_point, grid.zero_point)
        assert (other.low, other.high, other.axis, other.dynamic) == (grid.low, grid.high, grid.axis, grid.dynamic)
    assert torch.equal(found.constants["trunk.0|conv2d|0|2"], torch.tensor([0.1, -0.2]))


def test_equal_schemes_are_described_alike_in_any_order() -> None:
    turned = Scheme(dict(reversed(scheme().grids.items())), scheme().constants)
    (told, tensors), (other, others) = described(scheme()), described(turned)
    assert json.dumps(told) == json.dumps(other)
    assert list(tensors) == list(others)


def vector(*values: float) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("edge", "grid", "scale", "zero_point"),
    [
        (EDGE, {}, torch.tensor(float("nan")), None),
        (EDGE, {}, torch.tensor(float("inf")), None),
        (EDGE, {}, torch.tensor(0.0), None),
        (EDGE, {}, torch.tensor(-0.5), None),
        (EDGE, {}, torch.tensor(1e-40), None),
        (EDGE, {}, torch.tensor(0.5, dtype=torch.float64), None),
        (EDGE, {}, vector(0.5), None),
        (EDGE, {}, None, torch.tensor(256, dtype=torch.int32)),
        (EDGE, {}, None, torch.tensor(-1, dtype=torch.int32)),
        (EDGE, {}, None, torch.tensor(128)),
        (EDGE, {"axis": 0}, None, None),
        (EDGE, {"axis": 4}, vector(0.5), torch.tensor([0], dtype=torch.int32)),
        (EDGE, {"axis": -1}, vector(0.5), torch.tensor([0], dtype=torch.int32)),
        (EDGE, {"axis": True}, vector(0.5), torch.tensor([0], dtype=torch.int32)),
        (EDGE, {"low": 255}, None, None),
        (EDGE, {"low": 300}, None, None),
        (EDGE, {"high": 10**9}, None, None),
        (EDGE, {"high": 255.0}, None, None),
        (EDGE, {"high": None}, None, None),
        (EDGE, {"dynamic": 1}, None, None),
        (EDGE, {"dynamic": True}, None, None),
        (ROWS, {"axis": None}, None, None),
        (ROWS, {}, vector(1.0, 1.0, 1.0), None),
        (ROWS, {}, vector(1.0, 0.0), None),
        (ROWS, {}, vector(1.0, float("nan")), None),
    ],
)
def test_an_impossible_grid_is_refused_by_name(
    edge: str, grid: dict[str, Any], scale: Tensor | None, zero_point: Tensor | None
) -> None:
    told, tensors = described(scheme())
    told["grids"][edge] |= grid
    for name, value in (("scale", scale), ("zero_point", zero_point)):
        if value is not None:
            tensors[f"{edge}.{name}"] = value
    with pytest.raises(GraphError, match=r"damaged: edge 'trunk.0.conv2d.0.\d' has an impossible grid") as caught:
        restored(told, tensors)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "constant", [vector(float("nan"), 0.0), vector(float("-inf"), 0.0), torch.tensor([1, 2]), vector(1.0, 2.0).half()]
)
def test_an_impossible_constant_is_refused(constant: Tensor) -> None:
    told, tensors = described(scheme())
    tensors["trunk.0|conv2d|0|2.constant"] = constant
    with pytest.raises(GraphError, match="must be finite float32"):
        restored(told, tensors)


@pytest.mark.parametrize("name", [f"{EDGE}.scale", f"{ROWS}.zero_point", "trunk.0|conv2d|0|2.constant"])
def test_a_missing_tensor_is_named(name: str) -> None:
    told, tensors = described(scheme())
    del tensors[name]
    with pytest.raises(GraphError, match=r"the quantization scheme is damaged: .*trunk\.0"):
        restored(told, tensors)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"grids": {}},
        {"grids": [], "constants": []},
        {"grids": {EDGE: 3}, "constants": []},
        {"grids": {EDGE: {"low": 0}}, "constants": []},
        {"grids": {}, "constants": 3},
        {"grids": {}, "constants": [[[]]]},
    ],
)
def test_a_damaged_description_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(GraphError, match="the quantization scheme is damaged"):
        restored(told, described(scheme())[1])
