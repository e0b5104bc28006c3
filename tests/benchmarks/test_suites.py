"""What single suites compute from what they have measured."""

from __future__ import annotations

import builtins
import importlib
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import sharedbb as sb
from benchmarks import (
    compress,
    compress_costs,
    first_result,
    overhead,
    quality_rows,
    reuse_clips,
    reuse_keyframe,
    startup,
)
from benchmarks.overhead import PARTS, STEP, WITHOUT, Clock, clocked
from benchmarks.timing import Rounds
from sharedbb.program import HeadPlan, Program, Stage, StageFacts
from sharedbb.transforms import RgbIntake
from sharedbb.types import Normalization, Size


def row(speedup: float, surface: float = 1.0, objects: float = 1.0, **more: Any) -> dict[str, Any]:
    heads = {"surface": {"agreement": surface, "miou": surface}, "objects": {"agreement": objects, "f1": objects}}
    return {"speedup": speedup, "macs_saved_as_time": 0.7, "heads": heads, **more}


def test_the_bounded_numbers_are_the_mean_and_the_worst_of_the_clips() -> None:
    rows = {
        "a": row(2.0, objects=0.9, below_floor=0.2),
        "b": row(8.0, below_floor=1.5, macs_saved_as_time=None),
    }
    found = reuse_clips._numbers(rows, 3.0)
    assert {name: number.measured for name, number in found.items()} == {
        "speedup, geometric mean": 4.0,
        "speedup, least": 2.0,
        "segmentation below its floor, most": 1.5,
        "AP50 against dense, least": 0.9,
        "multiply-adds saved that became time, least": 0.7,
    }
    assert [number.is_met for number in found.values()] == [True, True, False, False, True]


def test_nothing_saved_has_no_share_that_became_time() -> None:
    (*_, share) = reuse_clips._numbers({"a": row(1.0, below_floor=0.0, macs_saved_as_time=None)}, None).values()
    assert share.measured is None
    assert share.is_met is None


def test_the_fastest_key_frames_within_the_loss_count() -> None:
    rows = {
        "fresh 0, key every 2": row(1.5, lost_points=0.1),
        "fresh 0, key every 4": row(2.6, lost_points=1.0),
        "fresh 0, key every 8": row(3.0, lost_points=1.1),
        "fresh 8, key every 2": row(2.0, lost_points=0.3),
        "bounded, budget 0.02": row(1.2, lost_points=0.6),
    }
    clips = {"key every 2": row(1.4, objects=0.95), "key every 5": row(2.9, objects=0.85)}
    found = reuse_keyframe._numbers(rows, clips)
    assert [number.measured for number in found.values()] == [2.6, 1.5, None, 1.4, 0.6]
    assert [number.goal for number in found.values()] == [2.5, 1.4, None, 2.5, 0.5]
    assert [number.is_met for number in found.values()] == [True, True, None, False, False]


def told(**rows: dict[str, Any]) -> dict[str, Any]:
    return {"reference": "street", "rows": rows}


def rode(network: str, family: str, speedup: float, lost: float) -> dict[str, Any]:
    speedups = {"median": speedup, "low": speedup - 0.1, "high": speedup + 0.1}
    return {"network": network, "family": family, "speedup": speedups, "lost": {"surface": lost}}


def test_quality_takes_the_fastest_reuse_that_loses_a_point_at_most() -> None:
    found = quality_rows.numbers(
        told(
            street=rode("street", "off", 1.0, 0.0),
            held=rode("street", "every", 5.0, 0.5),
            key=rode("street", "keyframe", 2.0, 1.0),
            far=rode("street", "keyframe", 3.0, 1.2),
            small=rode("street-small", "off", 4.0, 0.0),
            half=rode(quality_rows.HALF, "off", 1.4, 0.0),
        )
    )
    reuse, small, half = found.values()
    assert (reuse.measured, reuse.low, reuse.is_met) == (2.0, None, False)
    assert (small.measured, small.goal) == (4.0, None)
    assert (half.measured, half.is_met) == (1.4, False)
    assert half.why


def test_quality_says_so_where_no_reuse_is_good_enough() -> None:
    (reuse,) = quality_rows.numbers(
        told(street=rode("street", "off", 1.0, 0.0), key=rode("street", "keyframe", 2.0, 3.0))
    ).values()
    assert (reuse.measured, reuse.goal) == (None, quality_rows.GOAL_REUSE)


def test_the_parts_of_a_process_are_all_of_it() -> None:
    found = startup.parts(2.0, json.dumps({"imports": 0.5, "first frame": 0.25}))
    assert found == {"interpreter's start and end": 1250.0, "imports": 500.0, "first frame": 250.0}


def test_compression_is_compared_with_the_network_before() -> None:
    def network(macs: int, times_smaller: float, surface: float) -> dict[str, Any]:
        return {"macs": macs, "times_smaller": times_smaller, "quality": {"surface": surface, "objects": 0.4}}

    found = {
        compress.FLOAT: network(100, 2.0, 0.8),
        "street, int8": network(100, 4.0, 0.796),
        "street-medium, bf16": network(50, 6.0, 0.784),
        "street-small, bf16": network(40, 12.0, 0.6),
        "street-small, int8": network(40, 9.0, 0.8),
    }
    rounds = Rounds({name: [0.01 / speed] * 3 for name, speed in zip(found, (1, 1.25, 1.6, 2, 4), strict=True)})
    compress._compare(found)
    numbers = compress._numbers(rounds, found)
    assert {name: number.measured for name, number in numbers.items()} == {
        "street, int8: speedup": 1.25,
        "street, int8: quality kept by the worst head": 0.995,
        "street-medium, bf16: speedup": 1.6,
        "street-medium, bf16: quality kept by the worst head": 0.98,
        "street-medium, bf16: fewer multiply-adds": 2.0,
        "street-small, bf16: speedup": 2.0,
        "street-small, bf16: quality kept by the worst head": 0.75,
        "street-small, bf16: fewer multiply-adds": 2.5,
        "street-small, bf16: smaller than float32": 12.0,
        "street-small, int8: speedup": 4.0,
        "street-small, int8: quality kept by the worst head": 1.0,
    }
    missed = [name for name, number in numbers.items() if not number.is_met]
    assert missed == ["street, int8: speedup", "street-small, bf16: quality kept by the worst head"]


def test_an_error_counts_whatever_its_sign() -> None:
    rows = [compress_costs.row("n", "bf16", "plain", predicted, 10.0) for predicted in (8.0, 11.0, 13.0)]
    (number,) = compress_costs._numbers([*rows]).values()
    assert number.measured == 20.0
    assert number.is_met is False


def test_notes_say_where_the_rest_goes() -> None:
    assert startup.said({"imports": 20.4, "first frame": 100.0}) == "first frame 100 ms, imports 20 ms"
    parts = {"transform": 0.25, "networks": 9.0, "decode": 0.75}
    assert overhead.said(parts) == "90.0% of the step is networks; the rest is decode 0.75 ms, transform 0.25 ms"


def test_imports_within_imports_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(first_result.time, "perf_counter", lambda: clock[0])

    def load(name: str) -> str:
        clock[0] += 1.0
        if name != "leaf":
            importlib.import_module("leaf")
        return name

    monkeypatch.setattr(builtins, "__import__", builtins.__import__)
    monkeypatch.setattr(importlib, "import_module", load)
    imports = first_result.Imports()
    assert importlib.import_module("whole") == "whole"
    assert imports.seconds == 2.0


def test_a_clock_adds_up_calls_and_leaves_things_as_they_were() -> None:
    class Adder:
        def add(self, one: int, *, other: int) -> int:
            return one + other

    plain = Adder.add
    with clocked(Adder, "add") as clock:
        assert Adder().add(1, other=2) == 3
        assert Adder().add(2, other=3) == 5
        assert clock.calls == 2
        assert clock.seconds > 0
        clock.reset()
        assert (clock.seconds, clock.calls) == (0.0, 0)
    assert Adder.add is plain


def test_a_clock_counts_calls_that_fail() -> None:
    clock = Clock()
    with pytest.raises(ZeroDivisionError):
        clock.around(lambda: 1 // 0)()
    assert clock.calls == 1


class Session:
    """The mean of a picture, as a stage that takes its time would compute it."""

    def session(self) -> Session:
        return self

    def __call__(self, features: Sequence[Any]) -> tuple[Any, ...]:
        return (np.sort(features[0], axis=None).mean(),)


class Device:
    """A device whose features are arrays."""

    name, precision, device = "plain", "f32", "cpu"

    def picture(self, size: Size, planes: Any) -> SimpleNamespace:
        features = {"input": np.zeros((1, size.height, size.width, 3), np.uint8)}
        return SimpleNamespace(planes=features, features=features)

    def upload(self, picture: Any) -> None:
        pass

    def answer(self, feature: Any) -> Any:
        return feature


def test_the_parts_of_a_step_are_all_of_it() -> None:
    facts = StageFacts("trunk", ("input",), ("mean",), ("head",), None, ((),), (), False, 1, 0, 0)
    program = Program(
        name="plain",
        size=Size(64, 96),
        stages=(Stage(facts, Session()),),
        heads={"head": HeadPlan("head", {"output": "mean"}, lambda raw, geometry: raw["output"])},
        device=Device(),
        intake=lambda planes: RgbIntake(planes["input"], "stretch", Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
    )
    engine, step = sb.Engine(program), sb.Engine.step
    taken = overhead.per_frame(engine, overhead.decoded_frames(2, 64, 96), rounds=3)
    assert sb.Engine.step is step
    assert {len(seconds) for seconds in taken.values()} == {3}
    np.testing.assert_allclose(np.sum([taken[part] for part in PARTS], axis=0), taken[STEP])
    assert min(min(taken[part]) for part in PARTS) >= 0
    assert min(taken["networks"]) > 0
    found = overhead.summed(taken)
    assert found[STEP].median_ms > found["overhead"].median_ms > found[WITHOUT].median_ms > 0


def test_memory_is_compared_with_that_after_the_first_tenth() -> None:
    class Still:
        steps = 0

        def step(self, frame: Any) -> None:
            self.steps += 1

    engine: Any = Still()
    found = overhead.growth(engine, overhead.decoded_frames(2, 32, 32), 20)
    assert engine.steps == 20
    assert list(found) == ["frames", "after_2_mib", "at_end_mib", "grown_mib"]
    assert found["after_2_mib"] > 0
    assert found["grown_mib"] == pytest.approx(found["at_end_mib"] - found["after_2_mib"], abs=0.11)
