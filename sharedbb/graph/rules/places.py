"""Operators that stay within one place of the picture: they carry reach on, or bring branches together."""

from __future__ import annotations

from sharedbb.graph.axis import Global, Reach
from sharedbb.graph.ir import Value, Weight, leaves
from sharedbb.graph.rules.call import Call


def pointwise(call: Call) -> Reach | Global:
    """Operands of one grid, place by place: the widest reach of all."""
    reaches = list(call.read.values())
    y, x, dims = reaches[0].y, reaches[0].x, reaches[0].dims
    if any(reach.dims != dims for reach in reaches):
        return call.refuse("brings together maps whose axes lie differently")
    if any((reach.y.stride, reach.x.stride) != (y.stride, x.stride) for reach in reaches):
        return call.refuse("brings together maps of different strides")
    for name in call.read:
        if any(call.shape(Value(name))[dim] != call.after[dim] for dim in dims):
            return call.refuse("spreads one place of a map over many")
    if _reads_varying_constant(call, dims):
        return call.refuse("reads a constant that differs from place to place")
    for reach in reaches[1:]:
        y, x = y.widest(reach.y), x.widest(reach.x)
    return Reach(y, x, dims)


def _reads_varying_constant(call: Call, dims: tuple[int, int]) -> bool:
    for leaf in leaves((call.node.args, call.node.kwargs)):
        if isinstance(leaf, Weight) or (isinstance(leaf, Value) and leaf.name in call.constants):
            shape = call.shape(leaf)
            if any(len(shape) >= -dim and shape[dim] != 1 for dim in dims):
                return True
    return False


def join(call: Call) -> Reach | Global:
    """``cat`` along a dimension that is not the picture's."""
    rank = len(call.after)
    if any(call.args["dim"] % rank - rank in reach.dims for reach in call.read.values()):
        return call.refuse("joins maps side by side")
    return pointwise(call)


def carry(call: Call) -> Reach | Global:
    """Every place by itself, all channels alike."""
    return call.carried


def over_channels(call: Call) -> Reach | Global:
    """Weights per channel, the channels in the second dimension."""
    return call.refuse("takes an axis of the picture for channels") if 1 in call.picture else call.carried


def batch_norm(call: Call) -> Reach | Global:
    """Local with running statistics."""
    if call.args["training"] or call.args["running_mean"] is None:
        return call.refuse("normalises by statistics of the whole picture")
    return over_channels(call)


def over_axis(call: Call) -> Reach | Global:
    """Weights per place of one axis, which must not be the picture's."""
    (axis,) = call.positions("axis")
    return call.refuse("takes an axis of the picture for channels") if axis in call.picture else call.carried


def along(call: Call) -> Reach | Global:
    """Softmax, split and the like: mix or divide what lies along the given dimensions, all of them if none is given."""
    if call.args.get("dim") in (None, ()):
        return call.refuse("mixes the whole picture")
    if set(call.positions("dim")) & set(call.picture):
        return call.refuse("works along an axis of the picture")
    return call.carried


def over_last(call: Call) -> Reach | Global:
    """Layer norm, linear and matrix products: mix the last dimensions."""
    count = len(call.args["normalized_shape"]) if "normalized_shape" in call.args else 1
    if any(dim >= -count for dim in call.carried.dims):
        return call.refuse("mixes along an axis of the picture")
    return call.carried


def matmul(call: Call) -> Reach | Global:
    """A product with one matrix."""
    if len(call.shape(call.args["other"])) > 2:
        return call.refuse("multiplies by more than one matrix")
    return over_last(call)
