"""Reach as arithmetic: which inputs an output reads along one axis of the picture, and what follows from it.

Along one axis, output u of a chain of local operators reads inputs within [u·S − L, u·S + R]. Intervals are
inclusive at both ends, in whole pixels (or rows and columns of a feature map).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from sharedbb.errors import GraphError

Number = int | Fraction
Interval = tuple[int, int]


def _exact(number: Number) -> Number:
    return number.numerator if number.denominator == 1 else number


@dataclass(frozen=True, slots=True)
class Axis:
    """Output u depends on inputs [u · stride − left, u · stride + right]; after upsampling the three are fractions.

    ``align``: a crop that starts at a multiple of it gives the same numbers as the whole picture; at least the
    stride's numerator, more where something coarser lies on the way (down by 4, up by 4: stride 1, align 4).
    """

    stride: Number = 1
    left: Number = 0
    right: Number = 0
    align: int = 1

    def __post_init__(self) -> None:
        if self.stride <= 0:
            raise GraphError(f"the stride of an axis must be positive, got {self.stride}")
        for name in ("stride", "left", "right"):
            object.__setattr__(self, name, _exact(getattr(self, name)))
        object.__setattr__(self, "align", math.lcm(self.align, self.stride.numerator))

    def compose(self, following: Axis) -> Axis:
        """This axis first, then ``following``, which reads what this one gives."""
        align = self.align * (Fraction(self.align) / (self.stride * following.align)).denominator
        return Axis(
            self.stride * following.stride,
            self.left + following.left * self.stride,
            self.right + following.right * self.stride,
            align,
        )

    def widest(self, other: Axis) -> Axis:
        """What reads either of two values of the same stride. Raises GraphError when the strides differ."""
        if self.stride != other.stride:
            raise GraphError(f"axes of stride {self.stride} and {other.stride} cannot be laid on one another")
        left, right = max(self.left, other.left), max(self.right, other.right)
        return Axis(self.stride, left, right, math.lcm(self.align, other.align))

    def __str__(self) -> str:
        return f"stride {self.stride}, reach -{self.left}..+{self.right}"


@dataclass(frozen=True, slots=True)
class Reach:
    """A local value: its reach along the picture's two axes.

    ``dims`` says where y and x lie in the value's shape, counted from the end: (-2, -1) in NCHW, (-3, -2) in NHWC.
    """

    y: Axis = Axis()
    x: Axis = Axis()
    dims: tuple[int, int] = (-2, -1)

    def compose(self, following: Reach | Global) -> Reach | Global:
        """This reach first, then ``following``, which starts from this value."""
        if isinstance(following, Global):
            return following
        return Reach(self.y.compose(following.y), self.x.compose(following.x), following.dims)

    def __str__(self) -> str:
        return str(self.y) if self.y == self.x else f"y: {self.y}; x: {self.x}"


@dataclass(frozen=True, slots=True)
class Global:
    """A value any part of which may depend on any part of the picture; ``reason`` is one line saying where and why."""

    reason: str

    def compose(self, following: Reach | Global) -> Global:
        """Whatever follows a global value is global, for the same reason."""
        return self

    def __str__(self) -> str:
        return f"global: {self.reason}"


@dataclass(frozen=True, slots=True)
class Crop:
    """What to read, and what to keep, to compute a part of a feature map.

    ``inputs``: the interval to read; it starts at a multiple of the axis's alignment and ends before one, or at the
    picture's end. ``outputs``: the interval of the map that the crop gives right; the rest is spoilt by padding that
    the whole picture does not have there. ``origin``: the place in the map of the crop's first output.

    The result is pasted as ``map[outputs[0] : outputs[1] + 1] = part[outputs[0] - origin : outputs[1] + 1 - origin]``.
    ``outputs[1]`` may lie past the end of the map, where both slices end with their tensors.
    """

    inputs: Interval
    outputs: Interval
    origin: int


def dirty(axis: Axis, a: int, b: int) -> Interval:
    """Outputs that can change when inputs a to b do: ⌈(a − R) / S⌉ to ⌊(b + L) / S⌋.

    Not clipped to the map; empty (first > last) when no output reads those inputs.
    """
    return -((axis.right - a) // axis.stride), (b + axis.left) // axis.stride


def needed(axis: Axis, u0: int, u1: int) -> Interval:
    """Inputs that outputs u0 to u1 read: ⌈u0 · S − L⌉ to ⌊u1 · S + R⌋, not clipped to the picture."""
    return -((axis.left - u0 * axis.stride) // 1), (u1 * axis.stride + axis.right) // 1


def valid(axis: Axis, x0: int, x1: int, size: int) -> Interval:
    """Outputs that come out right when only inputs x0 to x1 of ``size`` are given, padded like a whole picture.

    Where the crop ends with the picture, its padding is the picture's own and nothing is lost: all outputs up to the
    map's end are right, and the interval ends with the last that could read the picture, within the map or past it.
    Empty (first > last) when the crop is too small.

    Raises GraphError when the crop is not inside the picture, or does not start at a multiple of ``axis.align`` and
    end before one (or with the picture).
    """
    if not 0 <= x0 <= x1 < size:
        raise GraphError(f"a crop must lie within 0 to {size - 1}, got {x0} to {x1}")
    if x0 % axis.align or (x1 < size - 1 and (x1 + 1) % axis.align):
        raise GraphError(f"a crop must start at a multiple of {axis.align} and end before one, got {x0} to {x1}")
    first = 0 if x0 == 0 else (x0 - 1 + axis.left) // axis.stride + 1
    last = (x1 + axis.left) // axis.stride if x1 == size - 1 else -((axis.right - x1 - 1) // axis.stride) - 1
    return first, last


def crop(axis: Axis, u0: int, u1: int, size: int) -> Crop:
    """The smallest aligned crop of an input of ``size`` that gives outputs u0 to u1 right.

    Raises GraphError when u0 to u1 is empty or starts before 0.
    """
    if not 0 <= u0 <= u1:
        raise GraphError(f"outputs to compute must be an interval from 0 up, got {u0} to {u1}")
    first, last = (min(max(x, 0), size - 1) for x in needed(axis, u0, u1))
    first -= first % axis.align
    last = min(last + axis.align - last % axis.align, size) - 1
    begin, end = valid(axis, first, last, size)
    if last == size - 1:
        end = max(end, u1)
    return Crop((first, last), (begin, end), first // axis.stride)
