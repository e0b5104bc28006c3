"""Operators that read a window around each place: convolution, pooling, padding, slicing, resampling."""

from __future__ import annotations

from fractions import Fraction

from sharedbb.graph.axis import Axis, Global, Number, Reach
from sharedbb.graph.rules.call import Call
from sharedbb.graph.schema import pair


def convolution(call: Call) -> Reach | Global:
    """Two-dimensional, any stride, padding (numbers, "same", "valid"), dilation and groups, or transposed."""
    kernel = call.shape(call.args["weight"])[2:]
    if len(kernel) != 2:
        return call.refuse(f"convolves along {len(kernel)} axes")
    dilation, padding = pair(call.args["dilation"]), call.args["padding"]
    if padding == "same":
        before = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    else:
        before = pair(0 if padding == "valid" else padding)
    if call.args.get("transposed") or call.node.kind == "conv_transpose2d":
        return _transposed(call, kernel, before)
    return _slide(call, *map(_window, kernel, pair(call.args["stride"]), before, dilation))


def _transposed(call: Call, kernel: tuple[int, ...], padding: tuple[int, ...]) -> Reach | Global:
    """Output u reads v where u = v · stride − padding + dilation · tap.

    The lower bounds count the outputs that padding takes off the ends of a crop as reading past its ends.
    """
    settings = (pair(call.args[name]) for name in ("stride", "dilation", "output_padding"))
    axes = []
    for k, p, s, d, extra in zip(kernel, padding, *settings, strict=True):
        far = d * (k - 1)
        if p > far:
            return call.refuse("is a transposed convolution padded by more than its kernel")
        left, right = max(far - p, s - 1), max(p, s + 2 * p - far - 1 - extra)
        axes.append(Axis(Fraction(1, s), Fraction(left, s), Fraction(right, s)))
    return _slide(call, *axes)


def pool(call: Call) -> Reach | Global:
    """Maximum and average pooling; a last window hanging over the end (``ceil_mode``) reads no more than others."""
    kernel = pair(call.args["kernel_size"])
    stride = pair(call.args["stride"] or kernel)
    return _slide(call, *map(_window, kernel, stride, pair(call.args["padding"]), pair(call.args.get("dilation", 1))))


def _window(kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    return Axis(stride, padding, dilation * (kernel - 1) - padding)


def _slide(call: Call, rows: Axis, columns: Axis) -> Reach | Global:
    """A window over the last two dimensions, which must be the picture's."""
    if set(call.carried.dims) != {-2, -1}:
        return call.refuse("slides over axes that are not the picture's")
    return call.windowed({-2: rows, -1: columns})


def pad(call: Call) -> Reach | Global:
    """Padding by a constant, by reflection or by the border's own values; negative constant padding cuts off."""
    amounts = call.args["pad"] if "pad" in call.args else call.args["padding"]
    mode = {"reflection_pad2d": "reflect", "replication_pad2d": "replicate"}.get(call.node.kind, "constant")
    mode = call.args.get("mode", mode)
    if mode not in ("constant", "reflect", "replicate"):
        return call.refuse(f"pads in mode {mode}, which reads the far side of the picture")
    windows = {}
    for dim in call.carried.dims:
        before, after = (*amounts, *(0, 0) * len(call.before))[-2 * (dim + 1) :][:2]
        if mode == "constant":  # the lower bounds keep what is cut off a crop's ends out of ``valid``
            windows[dim] = Axis(1, max(before, 0), max(-before, -before - after))
        else:
            windows[dim] = Axis(1, before + 2 * after, before)
    return call.windowed(windows)


def slice_(call: Call) -> Reach | Global:
    """``x[..., start::step]`` along an axis of the picture; an end before the picture's is not local."""
    (position,) = call.positions("dim")
    if position not in call.picture:
        return call.carried
    start, end, step = call.args["start"] or 0, call.args["end"], call.args["step"]
    if start < 0 or (end is not None and end < call.before[position]):
        return call.refuse("cuts a fixed part out of the picture")
    return call.windowed({position - len(call.before): Axis(step, 0, start)})


# Each kind of resampling reads ⌊s⌋ + first to ⌊s⌋ + last of a position s, at the pixels' corners, centres, or between.
_TAPS = {
    "upsample_nearest2d": (0, 0),
    "_upsample_nearest_exact2d": (0, 0),
    "upsample_bilinear2d": (0, 1),
    "upsample_bicubic2d": (-1, 2),
}


def resample(call: Call) -> Reach | Global:
    """Nearest, bilinear and bicubic interpolation, up or down, by a ratio of whole numbers."""
    if call.args.get("align_corners"):
        return call.refuse("aligns corners, so that its stride depends on the picture's size")
    factors = call.args.get("scale_factors") or (call.args.get("scales_h"), call.args.get("scales_w"))
    axes = []
    for dim, factor in zip((-2, -1), factors, strict=True):
        scale = Fraction(call.before[dim], call.after[dim])
        if factor is not None:
            ratio = Fraction(factor).limit_denominator(64)
            if float(ratio) != factor:
                return call.refuse(f"scales by {factor}, not a ratio of small whole numbers")
            scale = 1 / ratio
        axes.append(_sampling(call.node.kind, scale))
    return _slide(call, *axes)


def _sampling(kind: str, scale: Fraction) -> Axis:
    """Output u samples at s = u · scale + offset. The bounds are tight where s is exact in floating point."""
    first, last = _TAPS[kind]
    offset = Fraction(0)
    if kind != "upsample_nearest2d":
        offset = scale / 2 if kind == "_upsample_nearest_exact2d" else (scale - 1) / 2
    beyond: set[Number] = {0, 1}  # s − ⌊s⌋, with ⌊s⌋ rounded either way
    whole_factor = scale.numerator == 1 and offset == 0 and scale.denominator <= 32
    if whole_factor or scale.denominator & (scale.denominator - 1) == 0:
        beyond = {(u * scale + offset) % 1 for u in range(scale.denominator)}
    return Axis(scale, max(beyond) - first - offset, last + offset - min(beyond))


def shuffle_up(call: Call) -> Reach | Global:
    """Channels into pixels."""
    factor = call.args["upscale_factor"]
    axis = Axis(Fraction(1, factor), Fraction(factor - 1, factor), 0)
    return _slide(call, axis, axis)


def shuffle_down(call: Call) -> Reach | Global:
    """Pixels into channels, also called space to depth."""
    factor = call.args["downscale_factor"]
    axis = Axis(factor, 0, factor - 1)
    return _slide(call, axis, axis)
