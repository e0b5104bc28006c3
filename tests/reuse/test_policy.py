"""What a frame is worth, case by case, and how a stage catches up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sharedbb.reuse.policy import LATER, UNEXPLAINED, WHOLE, Bargain, Mode, Sight, decide, how
from sharedbb.reuse.regions import Price
from sharedbb.types import Size

KEY_EVERY = 4
PICTURE = Size(160, 192)


def _chosen(mode: Mode, **sight: Any) -> str:
    seen = {"known": True, "dirty": 0.1, "crowded": False, "age": 1, **sight}
    return how(Bargain(mode), Sight(**seen), KEY_EVERY)


ALL: tuple[Mode, ...] = ("exact", "bounded", "keyframe", "auto")

CASES: list[tuple[str, dict[str, Any], tuple[str, str, str, str]]] = [
    # What is seen, and what is done in exact, bounded, keyframe and auto mode.
    ("nothing yet", {"known": False, "dirty": 1.0, "crowded": True}, ("dense", "dense", "key", "key")),
    ("nothing yet, still", {"known": False, "dirty": 0.0}, ("dense", "dense", "key", "dense")),
    ("little", {}, ("partial", "partial", "warped", "partial")),
    ("much", {"crowded": True, "dirty": 0.9}, ("dense", "dense", "warped", "warped")),
    ("nothing", {"dirty": 0.0}, ("still", "still", "still", "still")),
    ("nothing for long", {"dirty": 0.0, "age": 99, "overdue": True}, ("still", "still", "still", "still")),
    ("nothing new, but behind", {"dirty": 0.0, "behind": True}, ("partial", "partial", "warped", "partial")),
    ("a cut", {"cut": True}, ("dense", "dense", "key", "dense")),
    ("a cut in a crowd", {"cut": True, "crowded": True, "dirty": 1.0}, ("dense", "dense", "key", "key")),
    ("the last turn", {"crowded": True, "age": KEY_EVERY - 1}, ("dense", "dense", "warped", "warped")),
    ("a turn too many", {"crowded": True, "age": KEY_EVERY}, ("dense", "dense", "key", "key")),
    ("too old", {"crowded": True, "overdue": True}, ("dense", "dense", "key", "key")),
    ("too old, little", {"overdue": True, "age": 9}, ("partial", "partial", "key", "partial")),
    ("as good as explained", {"crowded": True, "unexplained": UNEXPLAINED}, ("dense", "dense", "warped", "warped")),
    ("unexplained", {"crowded": True, "unexplained": UNEXPLAINED + 0.01}, ("dense", "dense", "key", "key")),
    ("little, unexplained", {"unexplained": 1.0}, ("partial", "partial", "key", "partial")),
    ("moving is given up", {"crowded": True, "moves": False}, ("dense", "dense", "warped", "dense")),
    ("much, but not its turn", {"crowded": True, "tick": False}, ("held", "held", "warped", "warped")),
    ("a good part, but not its turn", {"dear": True, "tick": False}, ("held", "held", "warped", "warped")),
    ("a good part", {"dear": True}, ("partial", "partial", "warped", "warped")),
    ("a good part, moving is given up", {"dear": True, "moves": False}, ("partial", "partial", "warped", "partial")),
    ("a good part, but faint", {"dear": True, "faint": True}, ("partial", "partial", "warped", "partial")),
    ("little, not its turn", {"tick": False}, ("partial", "partial", "warped", "partial")),
    (
        "overdue before its turn",
        {"dear": True, "tick": False, "overdue": True},
        ("partial", "partial", "key", "key"),
    ),
    ("a cut before its turn", {"dear": True, "tick": False, "cut": True}, ("dense", "dense", "key", "key")),
    (
        "moving is given up, not its turn",
        {"crowded": True, "tick": False, "moves": False},
        ("held", "held", "warped", "held"),
    ),
    ("moving is given up, little", {"moves": False}, ("partial", "partial", "warped", "partial")),
]


@pytest.mark.parametrize(("sight", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_a_frame_is_worth(sight: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert tuple(_chosen(mode, **sight) for mode in ALL) == expected


@pytest.mark.parametrize("key_every", [1, 2, 7])
def test_a_key_frame_serves_as_long_as_it_may(key_every: int) -> None:
    ways = [how(Bargain("keyframe"), Sight(True, 0.5, True, age=age), key_every) for age in range(1, 10)]
    assert ways == ["warped"] * (key_every - 1) + ["key"] * (10 - key_every)


def _pending(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((10, 12), np.bool_)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = True
    return mask


PRICES = (Price(32, 4, 1.0), Price(64, 1, 1.2))
DENSE_MS = 3.5


def test_little_is_done_in_tiles_at_once() -> None:
    for wait in (False, True):
        work = decide(_pending((0, 0, 2, 2), (8, 10, 2, 2)), PRICES, 32, PICTURE, DENSE_MS, wait=wait)
        assert work.kind == "tiles"
        assert work.cover is not None
        assert work.cover.bucket == 0
        assert sorted(zip(work.cover.rows.tolist(), work.cover.columns.tolist(), strict=True)) == [(0, 0), (128, 160)]


@pytest.mark.parametrize(
    ("tick", "overdue", "expected"), [(False, False, "held"), (True, False, "partial"), (False, True, "partial")]
)
def test_faint_changes_wait_for_their_turn(tick: bool, overdue: bool, expected: str) -> None:
    sight = Sight(True, 0.05, False, faint=True, tick=tick, overdue=overdue)
    assert how(Bargain("bounded"), sight, 4) == expected
    assert how(Bargain("bounded"), replace(sight, faint=False), 4) == "partial"


def test_the_cheapest_bucket_is_taken() -> None:
    pending = _pending((0, 0, 4, 4))
    dearer = (Price(32, 4, 2.0), Price(64, 1, 1.2))
    works = [decide(pending, prices, 32, PICTURE, DENSE_MS, wait=False) for prices in (PRICES, dearer)]
    assert [work.cover and work.cover.bucket for work in works] == [0, 1]


def test_tiles_that_take_a_good_part_of_the_whole_wait_for_their_turn() -> None:
    pending = _pending((0, 0, 4, 12))
    for dense_ms, expected in ((4.0, "later"), (40.0, "tiles")):
        assert decide(pending, PRICES, 32, PICTURE, dense_ms, wait=True).kind == expected
        assert decide(pending, PRICES, 32, PICTURE, dense_ms, wait=False).kind == "tiles"


@pytest.mark.parametrize(
    ("pending", "prices"),
    [
        (None, PRICES),  # everything, or what cannot be divided
        (_pending((0, 0, 10, 12)), PRICES),
        (_pending((0, 0, 2, 2)), ()),
        (_pending((0, 0, 1, 1)), (Price(32, 4, DENSE_MS),)),
    ],
    ids=["all", "much", "no tiles", "dear tiles"],
)
def test_what_is_computed_whole_waits_when_told_to(pending: np.ndarray | None, prices: tuple[Price, ...]) -> None:
    assert decide(pending, prices, 32, PICTURE, DENSE_MS, wait=True) is LATER
    assert decide(pending, prices, 32, PICTURE, DENSE_MS, wait=False) is WHOLE
