"""Knowledge as bytes: it comes back as it was, and nothing else does."""

from __future__ import annotations

import hashlib
import pickle
import zlib
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from sharedbb.learn.known import Classes, Direction, Known, Metres, Objects, Points, Present
from sharedbb.learn.labels import VOID, Boxes
from sharedbb.learn.teachers import stored
from sharedbb.learn.teachers.heads import TeacherHead
from sharedbb.learn.teachers.stored import arrays_of, packed, unpacked

SIZE = (6, 9)
RNG = np.random.default_rng(9)
HEADS = {
    "ground": TeacherHead("segmentation", ("road", "sky", "tree")),
    "cars": TeacherHead("detection", ("car", "bus"), 0.5),
    "far": TeacherHead("depth"),
    "scene": TeacherHead("tags", ("day", "rain"), 0.5),
    "face": TeacherHead("keypoints", ("left_eye", "right_eye", "nose")),
    "looks": TeacherHead("embedding"),
}


def known() -> dict[str, Known]:
    ground = RNG.integers(0, 3, SIZE, np.uint8)
    ground[0, 0] = VOID
    boxes = RNG.uniform(0, 6, (4, 4)).astype(np.float32)
    scores = RNG.uniform(0, 1, 4).astype(np.float32)
    return {
        "ground": Classes(ground),
        "cars": Objects(Boxes(boxes, np.array([0, 1, 1, 0]), np.zeros(4, np.bool_), scores)),
        "far": Metres(RNG.uniform(0.5, 80, SIZE).astype(np.float16).astype(np.float32)),
        "scene": Present(np.array([0.25, np.nan], np.float32)),
        "face": Points(RNG.uniform(0, 6, (3, 2)).astype(np.float32), np.ones(3, np.float32), (1, 0, 2)),
        "looks": Direction(RNG.normal(0, 1, 5).astype(np.float32)),
    }


def sealed(content: bytes) -> bytes:
    """Content as an attacker would write it: with its right digest."""
    return hashlib.sha256(content).digest() + content


def told(**arrays: Any) -> bytes:
    return sealed(zlib.compress(save(arrays)))


def test_everything_comes_back_and_equal_knowledge_is_equal_bytes() -> None:
    one = known()
    again = unpacked(packed(one), HEADS, SIZE)
    assert again is not None
    assert [*again] == [*HEADS]
    for head, value in one.items():
        assert type(again[head]) is type(value)
        found, expected = arrays_of(again[head]), arrays_of(value)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[part], expected[part], equal_nan=head == "scene") for part in found)
    assert getattr(again["face"], "mirror") == (1, 0, 2)  # noqa: B009
    assert not getattr(again["cars"], "boxes").ignored.any()  # noqa: B009
    assert packed(again) == packed(dict(reversed(one.items())))


def test_distances_are_rounded_and_impossible_ones_unknown() -> None:
    metres = np.array([[1 / 3, 1e6, np.nan, 1e-9]], np.float32)
    again: Any = unpacked(packed({"far": Metres(metres)}), {"far": HEADS["far"]}, (1, 4))
    assert again["far"].map[0, 0] == pytest.approx(1 / 3, rel=5e-4)
    assert np.isnan(again["far"].map[0, 1:]).all()


def test_every_damaged_byte_is_noticed() -> None:
    content = packed(known())
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1
        assert unpacked(bytes(damaged), HEADS, SIZE) is None
        assert unpacked(content[:place], HEADS, SIZE) is None


def test_another_head_another_size_or_other_classes_are_not_read() -> None:
    content = packed(known())
    assert unpacked(content, HEADS, (6, 8)) is None
    for head, other in {
        "ground": TeacherHead("segmentation", ("road", "sky")),
        "cars": TeacherHead("detection", ("car",)),
        "scene": TeacherHead("tags", ("day",)),
        "face": TeacherHead("keypoints", ("nose",)),
        "looks": TeacherHead("depth"),
    }.items():
        assert unpacked(content, {head: HEADS[head]}, SIZE) is not None
        assert unpacked(content, {head: other}, SIZE) is None
    assert unpacked(content, {"sky": HEADS["ground"]}, SIZE) is None


def test_hostile_content_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = np.zeros((2, 4), np.float32)
    cars = {"cars": HEADS["cars"]}

    class Hostile:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit('unpickled')",))

    assert unpacked(sealed(pickle.dumps(Hostile())), cars, SIZE) is None
    assert unpacked(sealed(zlib.compress(pickle.dumps(Hostile()))), cars, SIZE) is None
    fine = {"cars/boxes": boxes, "cars/scores": np.zeros(2, np.float32), "cars/classes": np.array([0, 1])}
    assert unpacked(told(**fine), cars, SIZE) is not None
    for changes in (
        {"cars/classes": np.array([0, 2])},
        {"cars/classes": np.array([0, -1])},
        {"cars/classes": np.array([0, 1, 1])},
        {"cars/scores": np.zeros(2, np.float64)},
        {"cars/boxes": np.zeros((2, 5), np.float32)},
        {"cars/more": np.zeros(1)},
    ):
        assert unpacked(told(**{**fine, **changes}), cars, SIZE) is None
    monkeypatch.setattr(stored, "MOST_BYTES", 100)
    assert unpacked(told(**fine), cars, SIZE) is None
