"""Lanes: what is put on one comes off it in order, in few bytes, and never in more than were declared."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest

from sharedbb.coding.lanes import LaneReader, LaneWriter, deflated, inflated
from sharedbb.errors import ArtifactError

DRAW = np.random.default_rng(0)
SYMBOLS = {
    "nothing": b"",
    "one": b"x",
    "noise": DRAW.integers(0, 256, 5000, dtype=np.uint8).tobytes(),
    "few": DRAW.integers(0, 3, 5000, dtype=np.uint8).tobytes(),
    "alike": bytes(5000),
}


@pytest.mark.parametrize("name", SYMBOLS)
def test_streams_come_back_and_are_never_longer(name: str) -> None:
    symbols = SYMBOLS[name]
    packed = deflated(symbols)
    assert len(packed) <= len(symbols)
    assert inflated(packed, len(symbols)) == symbols


def test_no_more_is_inflated_than_was_declared() -> None:
    packed = deflated(bytes(2**24))
    tracemalloc.start()
    try:
        assert len(inflated(packed, 30_000)) <= 30_001
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_damaged_streams_give_nothing() -> None:
    packed = deflated(SYMBOLS["few"])
    assert inflated(packed[:-1], 5000) == b""
    assert inflated(packed + b"x", 5000) == b""
    assert inflated(zlib.compress(SYMBOLS["few"]), 5000) == b""


def test_symbols_and_numbers_are_taken_in_the_order_they_were_put() -> None:
    writer = LaneWriter()
    numbers = [np.linspace(-1, 1, 9, dtype="<f4"), np.arange(-3, 4, dtype="<i8"), np.array([True, False])]
    for values in numbers:
        writer.put("marks", np.array([[1, 2], [3, values.size]], np.uint8))
        writer.put_numbers(values)
    packed = writer.packed()
    sizes = {lane: (len(stream), size) for lane, (stream, size) in packed.items()}
    body = b"".join(stream for stream, _ in packed.values())
    reader = LaneReader(body, sizes, 200)
    for values in numbers:
        assert reader.take("marks", 4).tolist() == [1, 2, 3, values.size]
        assert np.array_equal(reader.take_numbers(values.size, values.dtype), values)
    reader.finish()
    with pytest.raises(ArtifactError, match="lane 'marks' ends too early"):
        reader.take("marks", 1)
    with pytest.raises(ArtifactError, match="is longer than the weights on it"):
        LaneReader(body, sizes, 200).finish()
    with pytest.raises(ArtifactError, match="more symbols than the weights can have"):
        LaneReader(body, sizes, 10)


def test_a_lane_of_less_than_nothing_is_refused_before_memory_is_taken() -> None:
    packed = deflated(bytes(2**24))
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="less than nothing"):
            LaneReader(packed, {"a": (len(packed), 2**24), "b": (0, -(2**24))}, 100)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
