"""The arguments of an operator call by name, as the operator's schema has them."""

from __future__ import annotations

from functools import cache
from typing import Any

from sharedbb.graph.capture import operator_of
from sharedbb.graph.ir import Node


def arguments(node: Node) -> dict[str, Any]:
    """Every argument of the call by its schema's name, defaults filled in, lists as tuples.

    Where no argument is called ``self``, the first can be had by that name too (some operators call it ``input``).
    ``getitem`` has ``self`` and ``index``. Raises GraphError for an operator that torch does not know.
    """
    if node.op == "getitem":
        return dict(zip(("self", "index"), node.args, strict=True))
    names, defaults = _schema(node.op)
    bound = {**defaults, **dict(zip(names, node.args, strict=False)), **dict(node.kwargs)}
    if names and names[0] in bound:
        bound.setdefault("self", bound[names[0]])
    return bound


@cache
def _schema(op: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    listed = operator_of(op)._schema.arguments
    defaults = {one.name: _as_tuple(one.default_value) for one in listed if one.has_default_value()}
    return tuple(one.name for one in listed), defaults


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """An argument given once for both axes or once for each: (y, x)."""
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])
