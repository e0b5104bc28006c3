from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharedbb.errors import GraphError
from sharedbb.graph.axis import Axis, Crop, Global, Reach, crop, dirty, needed, valid

# A window as the field writes it: kernel, stride, padding, dilation. Padding stays within the kernel, as torch asks.
Window = tuple[int, int, int, int]


@st.composite
def windows(draw: st.DrawFn) -> list[Window]:
    found = []
    for _ in range(draw(st.integers(1, 4))):
        kernel, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 2))
        padding = draw(st.integers(0, dilation * (kernel - 1)))
        found.append((kernel, draw(st.integers(1, 3)), padding, dilation))
    return found


def axis_of(chain: list[Window]) -> Axis:
    axis = Axis()
    for kernel, stride, padding, dilation in chain:
        axis = axis.compose(Axis(stride, padding, dilation * (kernel - 1) - padding))
    return axis


def inputs_of(chain: list[Window], output: int) -> set[int]:
    """The inputs that an output reads, tap by tap, as if the picture had no end."""
    read = {output}
    for kernel, stride, padding, dilation in reversed(chain):
        read = {u * stride - padding + dilation * tap for u in read for tap in range(kernel)}
    return read


@given(windows(), st.integers(-20, 20))
def test_needed_is_the_span_of_what_is_read(chain: list[Window], u: int) -> None:
    read = inputs_of(chain, u)
    assert needed(axis_of(chain), u, u) == (min(read), max(read))


@given(windows(), st.integers(-30, 30), st.integers(0, 9))
def test_dirty_is_exactly_what_reads_across_the_change(chain: list[Window], a: int, more: int) -> None:
    axis = axis_of(chain)
    first, last = dirty(axis, a, a + more)
    spans = {u: inputs_of(chain, u) for u in range(first - 3, last + 4)}
    assert [u for u, read in spans.items() if max(read) >= a and min(read) <= a + more] == list(range(first, last + 1))


@given(windows(), windows(), windows())
def test_composition_is_associative(a: list[Window], b: list[Window], c: list[Window]) -> None:
    first, second, third = axis_of(a), axis_of(b), axis_of(c)
    assert first.compose(second).compose(third) == first.compose(second.compose(third)) == axis_of(a + b + c)


def test_the_stem_of_a_resnet() -> None:
    stem = axis_of([(7, 2, 3, 1), (3, 2, 1, 1)])
    assert stem == Axis(4, 5, 5)
    assert dirty(stem, 100, 107) == (24, 28)
    assert needed(stem, 24, 28) == (91, 117)
    assert str(stem) == "stride 4, reach -5..+5"


def test_inputs_that_nothing_reads_dirty_nothing() -> None:
    first, last = dirty(Axis(4, 0, 0), 1, 3)
    assert first > last


def test_upsampling_back_keeps_the_alignment_of_the_way() -> None:
    down, up = Axis(4, 1, 1), Axis(Fraction(1, 4), Fraction(3, 4), 0)
    there = down.compose(up)
    assert there.stride == 1
    assert isinstance(there.stride, int)
    assert there.align == 4
    assert up.compose(down).align == 1  # what was enlarged by 4 may be read from any place
    assert Axis(Fraction(3, 4)).compose(Axis(Fraction(3, 4))).align == 9
    assert there.widest(Axis(1, 7, 0)) == Axis(1, 7, there.right, 4)


def test_crop_reads_the_least_that_is_aligned() -> None:
    axis = Axis(4, 5, 5)
    assert crop(axis, 10, 12, 200) == Crop((32, 55), (10, 12), 8)
    assert crop(axis, 0, 0, 200) == Crop((0, 7), (0, 0), 0)
    assert crop(axis, 49, 49, 198) == Crop((188, 197), (49, 50), 47)  # to the picture's end, nothing spoilt there


@given(windows(), st.integers(20, 90), st.data())
def test_crop_gives_what_was_asked(chain: list[Window], size: int, data: st.DataObject) -> None:
    axis = axis_of(chain)
    last = max(0, (size - 1) // axis.stride)
    u0 = data.draw(st.integers(0, last))
    u1 = data.draw(st.integers(u0, last))
    plan = crop(axis, u0, u1, size)
    assert plan.inputs[0] % axis.align == 0
    assert plan.inputs[1] == size - 1 or (plan.inputs[1] + 1) % axis.align == 0
    assert plan.origin * axis.stride == plan.inputs[0]
    assert plan.outputs[0] <= u0 <= u1 <= plan.outputs[1]
    assert plan.outputs[0] == valid(axis, *plan.inputs, size)[0]
    if plan.inputs[1] < size - 1:
        assert plan.outputs == valid(axis, *plan.inputs, size)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Axis(0), "must be positive, got 0"),
        (lambda: Axis(2).widest(Axis(4)), "stride 2 and 4"),
        (lambda: valid(Axis(4), 2, 9, 20), "multiple of 4 and end before one, got 2 to 9"),
        (lambda: valid(Axis(4), 4, 20, 20), "within 0 to 19, got 4 to 20"),
        (lambda: crop(Axis(), 3, 2, 20), "got 3 to 2"),
    ],
)
def test_errors_say_what_was_got(call: object, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        call()  # type: ignore[operator]


def test_reach_composes_axis_by_axis_and_global_stays() -> None:
    first = Reach(Axis(2, 1, 0), Axis(2, 3, 3))
    second = Reach(Axis(2, 1, 1), Axis(1, 2, 2), (-3, -2))
    together = first.compose(second)
    assert together == Reach(Axis(4, 3, 2), Axis(2, 7, 7), (-3, -2))
    assert str(together) == "y: stride 4, reach -3..+2; x: stride 2, reach -7..+7"
    everywhere = Global("pool pools the whole picture")
    assert first.compose(everywhere) is everywhere
    assert everywhere.compose(first) is everywhere
    assert str(everywhere) == "global: pool pools the whole picture"
