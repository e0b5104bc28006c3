from __future__ import annotations

import pytest

from sharedbb.errors import GraphError
from sharedbb.graph.ir import Node, Value, Weight
from sharedbb.graph.schema import arguments, pair


def test_defaults_and_keywords_are_filled_in() -> None:
    node = Node("c", "aten.conv2d.default", (Value("x"), Weight("w"), None, (2, 2)), (("groups", 4),))
    assert arguments(node) == {
        "self": Value("x"),
        "input": Value("x"),
        "weight": Weight("w"),
        "bias": None,
        "stride": (2, 2),
        "padding": (0, 0),
        "dilation": (1, 1),
        "groups": 4,
    }


def test_an_operator_with_its_own_self_keeps_it() -> None:
    node = Node("w", "aten.where.self", (Value("c"), Value("a"), Value("b")))
    assert arguments(node) == {"condition": Value("c"), "self": Value("a"), "other": Value("b")}


def test_getitem() -> None:
    assert arguments(Node("g", "getitem", (Value("chunk"), 1))) == {"self": Value("chunk"), "index": 1}


def test_unknown_operator() -> None:
    with pytest.raises(GraphError, match=r"no torch operator aten\.conv9d\.default"):
        arguments(Node("c", "aten.conv9d.default"))


def test_pair() -> None:
    assert pair(3) == pair((3,)) == (3, 3)
    assert pair((1, 2)) == (1, 2)
