"""Planning with laws made by hand, so that every number can be worked out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sharedbb.compress.costs import FEATURES, CostModel, Law
from sharedbb.compress.operators import Operator
from sharedbb.compress.planning import EXPECTED, OBSERVING, Choice, Outlook, Piece, Plan, Subject, plan, smaller
from sharedbb.errors import CompressionError
from sharedbb.registry import HEADS
from sharedbb.types import Size


def law(per_call: float = 0.0, **milliseconds: float) -> Law:
    """So many milliseconds a million of some features, and so many a call."""
    given = {name.replace("_", " "): value for name, value in milliseconds.items()} | {"calls": 1000 * per_call}
    return Law(tuple(given.get(name, 0.0) for name in FEATURES), error=0.1, factor=1.5, anchored=1.2, networks=9)


MODEL = CostModel("", {"x f32": law(pointwise_macs=1.0), "x int8": law(pointwise_macs=0.25)})


def layer(channels: int, places: int) -> Operator:
    return Operator("pointwise", channels, channels, places, places)


SUBJECT = Subject(
    "street",
    Size(384, 640),
    {"surface": "segmentation", "scene": "tags"},
    (
        Piece("trunk", frozenset({"surface", "scene"}), (layer(64, 1000), layer(64, 1000)), margin=64.0),
        Piece("surface", frozenset({"surface"}), (layer(64, 1000),), margin=16.0),
        Piece("scene", frozenset({"scene"}), (layer(64, 1000),), margin=None),
    ),
)
ONE = 64 * 64 * 1000 / 1e6  # milliseconds of a layer


def of(found: Plan, choice: Choice) -> Outlook:
    return next(one for one in (found.now, *found.alone, *found.together) if one.choice == choice)


def test_the_network_as_it_is_and_its_heads_apart() -> None:
    found = plan(MODEL, SUBJECT, ["x f32"])
    assert found.now.time.milliseconds == pytest.approx(4 * ONE)
    assert found.now.time.high == pytest.approx(4 * ONE * 1.5)
    assert found.now.macs == 4 * 64 * 64 * 1000
    assert found.now.worst == 0
    assert found.apart.milliseconds == pytest.approx(6 * ONE)


def test_what_was_measured_is_not_predicted_and_anchors_the_rest() -> None:
    found = plan(MODEL, replace(SUBJECT, measured={"x f32": 10.0}), ["x f32", "x int8"])
    assert found.now.measured
    assert found.now.time.low == found.now.time.high == 10.0
    pruned = of(found, Choice("x f32", pruning=0.5))
    assert not pruned.measured
    assert pruned.time.milliseconds == pytest.approx(10.0 * pruned.macs / found.now.macs)
    assert pruned.time.high == pytest.approx(pruned.time.milliseconds * 1.2)
    integers = of(found, Choice("x int8"))
    assert not integers.measured
    assert integers.time.milliseconds == pytest.approx(ONE)


def test_each_change_alone() -> None:
    found = plan(MODEL, SUBJECT, ["x f32", "x int8"])
    assert of(found, Choice("x f32", pruning=0.75)).macs == found.now.macs / 4
    half = of(found, Choice("x f32", side=0.5))
    assert half.size == Size(192, 320)
    assert half.time.milliseconds == pytest.approx(ONE)
    assert half.losses == pytest.approx({"surface": 0.12, "scene": 0.036})
    assert all(one.choice != found.now.choice for one in found.alone)
    assert len(found.alone) == 1 + 3 + 3 + 2


def test_reuse_pays_where_tiles_are_worth_their_margins() -> None:
    found = plan(MODEL, SUBJECT, ["x f32"], recomputed=(1.0, 0.1))
    reused = of(found, Choice("x f32", recomputed=0.1))
    trunk, surface = 0.1 * (128 / 64) ** 2, 0.1 * (80 / 64) ** 2
    assert reused.time.milliseconds == pytest.approx(OBSERVING + ONE * (2 * trunk + surface + 1), rel=0.01)
    half = of(plan(MODEL, SUBJECT, ["x f32"]), Choice("x f32", recomputed=0.5))
    assert half.time.milliseconds == pytest.approx(OBSERVING + ONE * (2 + 0.5 * (80 / 64) ** 2 + 1), rel=0.01)


def test_the_target_is_reached_with_the_smallest_loss() -> None:
    found = plan(MODEL, SUBJECT, ["x f32", "x int8"], target_ms=1.01 * ONE)
    assert found.best is not None
    assert found.best.choice == Choice("x int8")
    assert all(one.time.milliseconds <= 1.01 * ONE for one in found.together)
    worst = [one.worst for one in found.together]
    assert worst == sorted(worst)


def test_floors_leave_out_what_loses_more() -> None:
    floors = {"surface": 0.995, "scene": 0.99}
    found = plan(MODEL, SUBJECT, ["x f32", "x int8"], floors=floors)
    assert {one.choice.side for one in found.together} == {1.0}
    assert {one.choice.pruning for one in found.together} == {0.0, 0.25}
    assert all(1 - one.losses["surface"] >= 0.995 for one in found.together)
    assert found.fastest is not None
    assert found.fastest.choice == Choice("x int8")


def test_a_target_beyond_reach_names_the_fastest() -> None:
    found = plan(MODEL, SUBJECT, ["x f32"], target_ms=0.001)
    assert found.best is None
    assert found.together == ()
    assert found.fastest is not None
    assert found.fastest.choice == Choice("x f32", pruning=0.75, side=0.5)


def test_a_network_that_is_quantized_loses_nothing_by_staying_so() -> None:
    found = plan(MODEL, SUBJECT, ["x int8", "x f32"], floors={"surface": 1.0})
    assert found.now.worst == of(found, Choice("x f32")).worst == 0
    assert of(found, Choice("x int8", pruning=0.5)).losses["surface"] == pytest.approx(0.02)


def test_losses_add_up_as_if_independent() -> None:
    loss = EXPECTED["segmentation"].of(Choice("x int8", pruning=0.5, side=5 / 6, recomputed=0.5), Choice("x f32"))
    assert loss == pytest.approx(1 - 0.995 * 0.98 * 0.98 * 0.99)
    assert EXPECTED["segmentation"].of(Choice("x f32", pruning=0.375), Choice("x f32")) == pytest.approx(0.0125)


def test_every_kind_of_head_has_an_expectation() -> None:
    assert set(HEADS) <= EXPECTED.keys()
    strange = plan(MODEL, replace(SUBJECT, heads={"surface": "of_my_own"}), ["x f32"])
    pruned = of(strange, Choice("x f32", pruning=0.5))
    assert pruned.worst == pytest.approx(EXPECTED["detection"].pruning[0.5])


def test_smaller_sizes_are_multiples_of_32() -> None:
    assert smaller(Size(384, 640), 5 / 6) == Size(320, 544)
    assert smaller(Size(32, 32), 0.5) == Size(32, 32)
    assert smaller(Size(90, 100), 1.0) == Size(90, 100)
    tiny = plan(MODEL, replace(SUBJECT, size=Size(32, 32)), ["x f32"])
    assert {one.choice.side for one in tiny.together} == {1.0}


def test_floors_of_heads_that_there_are_not() -> None:
    with pytest.raises(CompressionError, match="there is no head 'road' to hold a floor; the heads are surface, scene"):
        plan(MODEL, SUBJECT, ["x f32"], floors={"road": 0.9})


def test_a_plan_is_plain_json() -> None:
    told = plan(MODEL, SUBJECT, ["x f32"], target_ms=2 * ONE).to_dict()
    assert told["now"]["milliseconds"] == pytest.approx(4 * ONE)
    assert told["together"][0]["way"] == "x f32"
    assert told["alone"][0].keys() == told["fastest"].keys()
