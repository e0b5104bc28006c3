"""What each operator does to reach: one rule a family, ``rule(call) -> Reach | Global``.

A rule sees one call whose picture-dependent operands are all local. Everything it cannot prove local it refuses.
"""

from __future__ import annotations

import torch

from sharedbb.graph.axis import Global, Reach
from sharedbb.graph.capture import operator_of
from sharedbb.graph.ir import Value
from sharedbb.graph.rules import places, shapes, windows
from sharedbb.graph.rules.call import Call, Rule

_FAMILIES: tuple[tuple[Rule, tuple[str, ...]], ...] = (
    (places.carry, ("getitem", "to", "_to_copy", "type_as", "contiguous", "dropout", "alias", "detach")),
    (places.carry, ("hardswish", "log_sigmoid", "fake_quantize_per_tensor_affine")),
    (places.over_axis, ("fake_quantize_per_channel_affine",)),
    (places.over_channels, ("prelu", "_prelu_kernel", "channel_shuffle")),
    (places.batch_norm, ("batch_norm",)),
    (places.along, ("softmax", "_softmax", "log_softmax", "_log_softmax", "cumsum", "glu", "topk", "index_select")),
    (places.along, ("chunk", "split", "split_with_sizes", "tensor_split")),
    (places.over_last, ("layer_norm", "rms_norm", "linear")),
    (places.matmul, ("matmul",)),
    (shapes.reduce, ("mean", "sum", "amax", "amin", "argmax", "argmin", "var", "std", "logsumexp")),
    (shapes.reduce, ("linalg_vector_norm",)),
    (shapes.permute, ("permute",)),
    (shapes.transpose, ("transpose", "swapaxes")),
    (shapes.movedim, ("movedim",)),
    (shapes.unsqueeze, ("unsqueeze",)),
    (shapes.squeeze, ("squeeze",)),
    (shapes.select, ("select", "unbind")),
    (shapes.reshape, ("reshape", "view", "_unsafe_view", "flatten", "unflatten")),
    (windows.convolution, ("conv2d", "convolution", "conv_transpose2d")),
    (windows.pool, ("max_pool2d", "avg_pool2d")),
    (windows.pad, ("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d")),
    (windows.slice_, ("slice",)),
    (windows.resample, ("upsample_nearest2d", "_upsample_nearest_exact2d")),
    (windows.resample, ("upsample_bilinear2d", "upsample_bicubic2d")),
    (windows.shuffle_up, ("pixel_shuffle",)),
    (windows.shuffle_down, ("pixel_unshuffle",)),
)

# Operators that read the whole picture by their nature: nothing to prove, but a better reason to give.
_WHOLE = {
    "adaptive_avg_pool2d": "pools the whole picture",
    "adaptive_max_pool2d": "pools the whole picture",
    "group_norm": "normalises by statistics of the whole picture",
    "instance_norm": "normalises by statistics of the whole picture",
    "scaled_dot_product_attention": "attends over the whole picture",
}


def _reads_one(rule: Rule) -> Rule:
    """The rule, for calls in which only the first operand depends on the picture."""

    def guarded(call: Call) -> Reach | Global:
        first = call.args["self"]
        if not isinstance(first, Value) or set(call.read) != {first.name}:
            return call.refuse("takes weights that depend on the picture")
        return rule(call)

    return guarded


def _expand(call: Call) -> Reach | Global:
    """``expand_as`` reads only the shape of its second operand."""
    first = call.args["self"]
    if not isinstance(first, Value) or first.name not in call.read:
        return call.refuse("spreads a constant over the picture")
    return shapes.expand(call)


def _extremum(call: Call) -> Reach | Global:
    """``max`` and ``min``: of two maps, along a dimension, or of everything."""
    return places.pointwise(call) if "other" in call.args else _reads_one(shapes.reduce)(call)


RULES: dict[str, Rule] = {
    **{kind: _reads_one(rule) for rule, kinds in _FAMILIES for kind in kinds},
    "cat": places.join,
    "expand": _expand,
    "expand_as": _expand,
    "max": _extremum,
    "min": _extremum,
}


def apply(call: Call) -> Reach | Global:
    """The reach of a call's result; global, with the reason, for operators that nothing is known about."""
    kind = call.node.kind
    if kind in RULES:
        return RULES[kind](call)
    if kind in _WHOLE:
        return call.refuse(_WHOLE[kind])
    if torch.Tag.pointwise in operator_of(call.node.op).tags:
        return places.pointwise(call)
    return call.refuse(f"runs {call.node.op}, which is not known to be local")
