"""The roofline and what it is compared with: counted from OpenVINO's graphs, against the counts of our own graphs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import openvino as ov
import pytest
import torch
from torch import nn

import sharedbb as sb
from benchmarks import dense, limits, networks, roofline
from benchmarks.machine import described, pin
from benchmarks.roofline import ARRANGING, MIB, Operator, Roofline
from benchmarks.schema import Suite
from benchmarks.timing import Measurement, Rounds
from sharedbb.graph.capture import capture
from sharedbb.graph.cost import cost, total
from sharedbb.types import Normalization

ROOFLINE = Roofline({1 * MIB: 100e9, 8 * MIB: 120e9, 64 * MIB: 10e9}, {"f32": 1e9, "bf16": 4e9, "int8": 8e9})

PIPELINE = """
name: small
input: {size: [64, 96], fit: stretch}
backbone: {arch: resnet18}
heads:
  map: {type: segmentation, taps: [8], classes: [a, b], channels: 8}
  tags: {type: tags, taps: [16], labels: [x, y]}
runtime: {device: cpu, backend: openvino, precision: f32, threads: 1}
"""


def operator(**more: Any) -> Operator:
    return replace(Operator("one", "convolutions", "f32", macs=0, moved=0), **more)


@pytest.fixture(scope="module")
def pipeline() -> sb.Pipeline:
    return sb.loads(PIPELINE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHAREDBB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def engine(pipeline: sb.Pipeline, cache: None) -> sb.Engine:
    """Compiled anew."""
    return sb.compile(pipeline, use_cache=True, profile=False)


@pytest.fixture(scope="module")
def cached(pipeline: sb.Pipeline, engine: sb.Engine) -> sb.Engine:
    """From the cache."""
    return sb.compile(pipeline, use_cache=True, profile=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "ten.mp4"
    with sb.VideoSink(path) as sink:
        for level in range(10):
            sink.write(np.full((64, 96, 3), 20 * level, np.uint8))
    return path


class TestRoofline:
    def test_the_longer_of_computing_and_moving_counts(self) -> None:
        assert ROOFLINE.ms(operator(macs=2_000_000)) == pytest.approx(2.0)
        assert ROOFLINE.ms(operator(macs=2_000_000, precision="bf16")) == pytest.approx(0.5)
        assert ROOFLINE.ms(operator(macs=2_000_000, precision="u8")) == pytest.approx(0.25)
        assert ROOFLINE.ms(operator(macs=1, moved=64 * MIB)) == pytest.approx(64 * MIB / 10e9 * 1e3)

    def test_a_precision_without_a_rate_of_its_own_is_bounded_by_f32(self) -> None:
        assert ROOFLINE.ms(operator(macs=3_000_000, precision="i32")) == pytest.approx(3.0)

    def test_a_working_set_moves_at_the_best_rate_of_those_that_are_no_smaller(self) -> None:
        rates = [ROOFLINE.bandwidth_at(size) for size in (1, 2 * MIB, 8 * MIB, 8 * MIB + 1, 1024 * MIB)]
        assert rates == [120e9, 120e9, 120e9, 10e9, 10e9]

    def test_arranging_could_be_left_out(self) -> None:
        arranging = operator(kind=ARRANGING, macs=10**9, moved=10**9)
        assert ROOFLINE.ms(arranging) == 0.0
        assert ROOFLINE.total_ms([arranging, operator(macs=10**6), operator(macs=10**6)]) == pytest.approx(2.0)

    def test_it_survives_json(self) -> None:
        assert Roofline.from_dict(json.loads(json.dumps(ROOFLINE.to_dict()))) == ROOFLINE

    def test_its_limits_tell_memory_from_caches(self) -> None:
        found = ROOFLINE.limits()
        assert (found["memory bandwidth"].value, found["cache bandwidth"].value) == (10.0, 120.0)
        assert "64 MiB" in found["memory bandwidth"].how
        assert found["multiply-adds, int8"].value == 8


class TestOfMachine:
    @pytest.fixture
    def kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
        monkeypatch.setattr(roofline, "_measured", lambda: Roofline({1: 1.0}, {"f32": 1.0}))
        options = SimpleNamespace(cores=None, out=tmp_path)
        return Measurement("limits", "about", options).keep(details={"roofline": ROOFLINE.to_dict()})

    def test_what_was_kept_of_this_machine_is_used(self, kept: Suite, tmp_path: Path) -> None:
        assert kept.conditions.machine == described()
        assert Roofline.of_machine(folder=tmp_path) == ROOFLINE

    @pytest.mark.parametrize("other", [{"machine": "another"}, {"cores": [*pin(), 99]}])
    def test_what_was_kept_of_another_is_not(self, kept: Suite, tmp_path: Path, other: dict[str, Any]) -> None:
        moved = kept.model_copy(update={"conditions": kept.conditions.model_copy(update=other)})
        moved.write(tmp_path)
        assert Roofline.of_machine(folder=tmp_path).peak == {"f32": 1.0}

    def test_nor_where_it_is_to_be_measured_anew(self, kept: Suite, tmp_path: Path) -> None:
        assert Roofline.of_machine(cached=False, folder=tmp_path).peak == {"f32": 1.0}
        assert Roofline.of_machine(folder=tmp_path / "nothing").peak == {"f32": 1.0}


class TestMeasuring:
    def test_every_working_set_has_a_rate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(roofline, "LEAST_TRAFFIC", MIB)
        monkeypatch.setattr(roofline, "REPEATS", 1)
        assert all(rate > 0 for rate in roofline.bandwidths([4096, 65536]).values())

    def test_adding_adds(self) -> None:
        into, left, right = np.zeros(4), np.arange(4.0), np.ones(4)
        roofline._add([into, left, right], 2)
        assert into.tolist() == [1, 2, 3, 4]
        roofline._copy([into, left], 2)
        assert into.tolist() == left.tolist()

    def test_what_is_beyond_the_caches_leaves_memory_to_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(roofline, "last_cache", lambda: 10**15)
        free = SimpleNamespace(available=4096 * MIB)
        monkeypatch.setattr(roofline.psutil, "virtual_memory", lambda: free)
        assert roofline.beyond_caches() == 1024 * MIB

    @pytest.mark.parametrize("make", roofline.MODELS)
    @pytest.mark.parametrize("quantized", [False, True])
    def test_the_models_of_the_peak_run_what_they_say(self, make: Any, quantized: bool) -> None:
        model, macs = make(quantized, 2)
        native = roofline.networks.TYPES["f32"]
        found = limits.operators(networks.openvino_compiled(model, native))
        layers = [one for one in found if one.macs]
        assert sum(one.macs for one in layers) == macs
        assert {roofline.BOUND_BY[one.precision] for one in layers} == {"int8" if quantized else "f32"}


class Layers(nn.Module):
    """One of each kind that multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.full = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.grouped = nn.Conv2d(16, 32, 3, padding=1, groups=4)
        self.transposed = nn.ConvTranspose2d(32, 8, 2, stride=2)
        self.linear = nn.Linear(8, 5)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.grouped(torch.relu(self.depthwise(self.full(picture)))))
        return self.linear(self.transposed(features).mean((2, 3)))


@pytest.fixture(scope="module")
def found() -> list[Operator]:
    model = networks.openvino_model(Layers().eval(), Normalization((1, 1, 1), (2, 2, 2)), (1, 3, 16, 24))
    counted = limits.Counted.of_models([model], ov.Type.f32, np.zeros((1, 16, 24, 3), np.uint8))
    for _ in range(5):
        counted()
    return counted.operators()


class TestOperators:
    def test_multiply_adds_are_those_of_our_own_graph(self, found: list[Operator]) -> None:
        graph = capture(Layers().eval(), torch.zeros(1, 3, 16, 24), "")
        assert sum(one.macs for one in found) == total(cost(graph).values()).macs

    def test_depthwise_convolutions_are_told_from_others(self, found: list[Operator]) -> None:
        (depthwise,) = (one for one in found if one.kind == "depthwise convolutions")
        assert depthwise.macs == 16 * 8 * 12 * 9
        assert sum(one.kind == "convolutions" for one in found) == 3

    def test_maps_and_weights_move(self, found: list[Operator]) -> None:
        (depthwise,) = (one for one in found if one.kind == "depthwise convolutions")
        maps, weights, biases = 2 * 16 * 8 * 12, 16 * 9, 16
        assert depthwise.moved == 4 * (maps + weights + biases)

    def test_times_are_counted_where_asked_for(self, found: list[Operator]) -> None:
        assert sum(one.ms for one in found) > 0

    @pytest.mark.parametrize(
        ("layer", "given", "weight", "result", "expected"),
        [
            ("Convolution", (1, 3, 8, 8), (16, 3, 3, 3), (1, 16, 4, 4), 16 * 16 * 27),
            ("Convolution", (1, 8, 4, 4), (2, 3, 4, 1, 1), (1, 6, 4, 4), 6 * 16 * 4),
            ("Deconvolution", (1, 8, 4, 4), (8, 3, 2, 2), (1, 3, 8, 8), 8 * 16 * 12),
            ("FullyConnected", (2, 7), (5, 7), (2, 5), 70),
            ("Pooling", (1, 3, 8, 8), (), (1, 3, 4, 4), 0),
        ],
    )
    def test_by_hand(self, layer: str, given: Any, weight: Any, result: Any, expected: int) -> None:
        assert limits.macs(layer, given, weight, result) == expected


class TestPrograms:
    def test_multiply_adds_are_those_of_its_stages(self, engine: sb.Engine) -> None:
        stages = engine.program.stages_for(frozenset(engine.program.heads))
        counted = limits.Counted.of_program(engine.program)
        counted()
        assert sum(one.macs for one in counted.operators()) == sum(stage.facts.macs for stage in stages)

    def test_the_roofline_needs_no_times(self, engine: sb.Engine) -> None:
        counted = ROOFLINE.total_ms(limits.Counted.of_program(engine.program).operators())
        assert limits.roofline_ms(engine.program, ROOFLINE) == pytest.approx(counted)

    def test_one_from_the_cache_has_a_roofline_but_no_times(self, engine: sb.Engine, cached: sb.Engine) -> None:
        expected = limits.roofline_ms(engine.program, ROOFLINE)
        assert limits.roofline_ms(cached.program, ROOFLINE) == pytest.approx(expected)
        with pytest.raises(ValueError, match="compile with use_cache=False"):
            limits.Counted.of_program(cached.program)

    def test_of_another_backend_nothing_is_known(self, engine: sb.Engine) -> None:
        other = replace(engine.program, device=SimpleNamespace(name="eager"))
        with pytest.raises(ValueError, match="this program runs on eager"):
            limits.Counted.of_program(other)

    def test_the_network_alone_is_what_a_step_runs(self, engine: sb.Engine) -> None:
        picture = networks.picture_of(engine.program.size)
        networks.engine_call(engine, picture, "alone")()
        engine.step(picture[0], order="rgb", stream="whole")
        alone, whole = engine.state("alone").features, engine.state("whole").features
        for head in engine.program.heads.values():
            for feature in head.answers.values():
                np.testing.assert_array_equal(alone[feature].array, whole[feature].array)


class TestAccount:
    TIMED = (
        operator(kind="convolutions", ms=3.0, macs=2 * 10**6),
        operator(kind="convolutions", ms=1.0),
        operator(kind=ARRANGING, ms=0.5),
        operator(kind="others"),
    )

    def test_parts_add_up_to_the_whole(self) -> None:
        parts = limits.spent(self.TIMED, 5.0)
        assert parts == {"convolutions": 4.0, ARRANGING: 0.5, "between operators": 0.5}

    def test_also_where_the_counted_runs_took_longer(self) -> None:
        parts = limits.spent(self.TIMED, 2.25)
        assert parts == {"convolutions": 2.0, ARRANGING: 0.25, "between operators": 0.0}

    def test_nothing_counted_is_all_between(self) -> None:
        assert limits.spent([], 2.0) == {"between operators": 2.0}

    def test_the_sentence_has_the_numbers(self) -> None:
        said = limits.account("ours", 5.0, self.TIMED, ROOFLINE)
        assert "ours: 5.00 ms" in said
        assert "convolutions 4.00" in said
        assert "2.00 ms, 40% of the time" in said

    def test_the_furthest_from_the_roofline_come_first(self) -> None:
        rows = limits.furthest(self.TIMED, ROOFLINE)
        assert [row["ms"] for row in rows] == [3.0, 1.0, 0.5, 0.0]
        assert rows[0]["roofline_ms"] == 2.0


class TestDecoding:
    def test_all_frames_or_the_first(self, clip: Path) -> None:
        assert limits.decode(clip) == 10
        assert limits.decode(clip, 4) == 4
        assert limits.decode_ms(clip) > 0

    def test_every_round_gives_a_time_of_a_frame(self, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        now = iter(range(100))
        monkeypatch.setattr(limits.time, "perf_counter", lambda: next(now) * 1.0)
        monkeypatch.setattr(limits.time, "process_time", lambda: 0.0)
        found = limits.Decoding.of([clip], rounds=3, frames=5)
        assert found.passed == {"ten.mp4": [0.2, 0.2, 0.2]}
        assert found.limits()["decode only, ten.mp4"].value == 5.0
        assert found.timings()["decode only, ten.mp4"].runs == 3

    def test_the_clips_of_the_data(self, clip: Path, tmp_path: Path) -> None:
        (tmp_path / "clips").mkdir()
        for name in ("b.avi", "a.mp4", "notes.txt"):
            (tmp_path / "clips" / name).touch()
        assert [path.name for path in limits.clips(tmp_path, tmp_path)] == ["a.mp4", "b.avi"]


def test_the_bandwidths_make_a_chart() -> None:
    assert limits._series(ROOFLINE) == {"x": ["1", "8", "64"], "lines": {"all cores": [100, 120, 10]}, "unit": "GB/s"}


class TestDense:
    PARTS: ClassVar = {"convolutions": 6.0, "between operators": 5.0}

    @staticmethod
    def rounds(ours: float) -> Rounds:
        others = {dense.MERGED: 10.0, dense.FOUR: 30.0, dense.THROUGHPUT: 25.0, dense.MERGED_THROUGHPUT: 8.0}
        return Rounds({dense.OURS: [ours] * 5, **{name: [ms] * 5 for name, ms in others.items()}})

    def test_goals_that_are_met_need_no_reason(self) -> None:
        numbers = dense._numbers(self.rounds(10.0), self.PARTS)
        assert [(one.measured, one.why) for one in numbers.values()] == [(1.0, ""), (3.0, ""), (2.5, ""), (0.8, "")]

    def test_those_that_are_missed_say_where_the_time_goes(self) -> None:
        numbers = dense._numbers(self.rounds(11.0), self.PARTS)
        assert [one.is_met for one in numbers.values()] == [False, False, None, None]
        why = numbers["engine over hand-merged"].why
        assert "convolutions 6.00 ms, between operators 5.00 ms" in why
        assert not numbers["separate with throughput hint, per frame, over engine"].why
