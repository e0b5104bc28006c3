"""Operators that move, add or remove dimensions: they carry reach on and say where y and x lie afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sharedbb.graph.axis import Global, Reach
from sharedbb.graph.rules.call import Call
from sharedbb.graph.rules.places import along


def permute(call: Call) -> Reach | Global:
    """Dimensions in a new order."""
    return _reordered(call, call.positions("dims"))


def transpose(call: Call) -> Reach | Global:
    """Two dimensions exchanged; ``swapaxes`` calls them otherwise."""
    first, second = ("dim0", "dim1") if "dim0" in call.args else ("axis0", "axis1")
    (a,), (b,) = call.positions(first), call.positions(second)
    order = list(range(len(call.before)))
    order[a], order[b] = b, a
    return _reordered(call, order)


def movedim(call: Call) -> Reach | Global:
    """Some dimensions to new places, the others keep their order."""
    sources, targets = call.positions("source"), call.positions("destination")
    order = [position for position in range(len(call.before)) if position not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source)
    return _reordered(call, order)


def _reordered(call: Call, order: Sequence[int]) -> Reach:
    y, x = call.picture
    return call.placed(order.index(y), order.index(x))


def unsqueeze(call: Call) -> Reach | Global:
    """A new dimension of size 1."""
    new = call.args["dim"] % len(call.after)
    y, x = (position + (position >= new) for position in call.picture)
    return call.placed(y, x)


def squeeze(call: Call) -> Reach | Global:
    """Dimensions of size 1 away."""
    given = call.positions("dim") if "dim" in call.args else range(len(call.before))
    return _without(call, {position for position in given if call.before[position] == 1})


def select(call: Call) -> Reach | Global:
    """One entry of a dimension, or each (``unbind``)."""
    return _without(call, set(call.positions("dim")))


def reduce(call: Call) -> Reach | Global:
    """Mean, sum, maximum and the like over dimensions."""
    carried = along(call)
    if isinstance(carried, Global) or call.args.get("keepdim"):
        return carried
    return _without(call, set(call.positions("dim")))


def _without(call: Call, dropped: set[int]) -> Reach | Global:
    if dropped & set(call.picture):
        return call.refuse("takes an axis of the picture away")
    y, x = (position - sum(gone < position for gone in dropped) for position in call.picture)
    return call.placed(y, x)


def expand(call: Call) -> Reach | Global:
    """Dimensions of size 1 repeated."""
    if any(call.before[dim] != call.after[dim] for dim in call.carried.dims):
        return call.refuse("spreads one place of a map over many")
    return call.carried


def reshape(call: Call) -> Reach | Global:
    """An axis lives on in a dimension of its size that has as many elements inside it."""
    found: list[int] = []
    for position in call.picture:
        places = [
            place
            for place in range(len(call.after))
            if call.after[place] == call.before[position]
            and math.prod(call.after[place + 1 :]) == math.prod(call.before[position + 1 :])
            and place not in found
        ]
        if not places:
            return call.refuse("folds an axis of the picture into another")
        found.append(position if position in places else places[-1])
    return call.placed(*found)
