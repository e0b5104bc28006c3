"""Sweeps: what they are made of, and what is computed from their times."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from torch import nn

from benchmarks import networks, scaling
from benchmarks.limits import Counted
from benchmarks.roofline import Roofline
from benchmarks.scaling import EACH, MERGED_AT_ONCE, OURS, SEPARATE, SEPARATE_AT_ONCE, STEPS, Measured, Setup, Sweep
from benchmarks.timing import Rounds
from sharedbb.types import Normalization

SETUP = Setup("f32", Roofline({1: 1e9}, {"f32": 1e9}), quick=False)


def measured(name: str, x: list[Any], milliseconds: Mapping[str, list[float]], **more: Any) -> Measured:
    """As if every line had taken these milliseconds at every place, three times."""
    sweep = Sweep(name, x, {line: [lambda: None] * len(x) for line in milliseconds}, **more)
    seconds = {
        sweep.case(line, at): [ms / 1e3] * 3 for line, taken in milliseconds.items() for at, ms in enumerate(taken)
    }
    return Measured(sweep, Rounds(seconds))


HEADS = measured("heads", [1, 4, 8], {OURS: [5, 8, 12], SEPARATE: [6, 24, 48]}, known={"roofline": [1.0, 2.0, 3.0]})
FOUND = {
    "heads": HEADS,
    "resolution": measured("resolution", ["448x256", "1280x736"], {OURS: [5, 40], SEPARATE: [15, 160]}),
    "streams": measured(
        "streams",
        [1, 8],
        {
            OURS: [10, 80],
            STEPS: [11, 88],
            EACH: [18, 64],
            SEPARATE: [30, 240],
            MERGED_AT_ONCE: [10, 64],
            SEPARATE_AT_ONCE: [30, 200],
        },
        frames=[1, 8],
    ),
    "threads": measured("threads", [1, 2], {OURS: [18, 10], SEPARATE: [60, 30]}),
}


class TestMeasured:
    def test_a_series_has_a_median_a_place_and_what_need_not_run(self) -> None:
        series = HEADS.series()
        assert series["x"] == [1, 4, 8]
        assert series["lines"] == {OURS: [5, 8, 12], SEPARATE: [6, 24, 48], "roofline": [1, 2, 3]}
        assert series["unit"] == "ms"

    def test_runs_of_several_frames_are_shown_by_their_rate(self) -> None:
        series = FOUND["streams"].series()
        assert series["unit"] == "frames/s"
        assert series["lines"][OURS] == pytest.approx([100, 100])
        assert series["lines"][MERGED_AT_ONCE] == pytest.approx([100, 125])

    def test_ratios_are_by_frame(self) -> None:
        assert HEADS.ratio((SEPARATE, -1), (OURS, -1)).measured == 4.0
        assert FOUND["streams"].ratio((OURS, 0), (OURS, -1)).measured == 1.0
        assert FOUND["streams"].ratio((MERGED_AT_ONCE, 0), (MERGED_AT_ONCE, -1)).measured == 1.25

    def test_a_step_is_between_the_ends(self) -> None:
        assert HEADS.step(OURS).measured == 1.0
        assert HEADS.step(SEPARATE).measured == 6.0
        assert measured("heads", [1], {OURS: [5]}).step(OURS).measured is None

    def test_every_case_runs_in_every_round_and_so_does_what_is_counted(self) -> None:
        runs: list[str] = []
        lines = {"a": [lambda: runs.append("a1"), lambda: runs.append("a2")]}
        found = Sweep("x", [1, 2], lines, largest=Counted(lambda: runs.append("counted"), [])).measured(2)
        assert {name: one.runs for name, one in found.timings.items()} == {"x 1: a": 2, "x 2: a": 2}
        assert runs.count("a1") == runs.count("a2") == runs.count("counted") > 2


def test_numbers_are_of_both_ends() -> None:
    numbers = {name: number.measured for name, number in scaling.numbers_of(FOUND).items()}
    assert numbers == {
        "heads 1: separate over sharedbb": 1.2,
        "heads 8: separate over sharedbb": 4.0,
        "resolution 448x256: separate over sharedbb": 3.0,
        "resolution 1280x736: separate over sharedbb": 4.0,
        "streams 1: separate over sharedbb": 3.0,
        "streams 8: separate over sharedbb": 3.0,
        "threads 1: separate over sharedbb": pytest.approx(60 / 18, abs=1e-3),
        "threads 2: separate over sharedbb": 3.0,
        "one head more, sharedbb": 1.0,
        "one head more, separate OpenVINO networks": 6.0,
        "all threads over one, sharedbb": 1.8,
        "all threads over one, separate OpenVINO networks": 2.0,
        "streams 8 over 1, frames/s, sharedbb": 1.0,
        "streams 8: sharedbb, an engine of one thread for each core, over one of all, frames/s": 1.25,
        "streams 8: separate OpenVINO networks, throughput hint over sharedbb": 2.5,
        "streams 8: hand-merged OpenVINO network, throughput hint over sharedbb": 0.8,
    }


def test_the_note_has_the_rates() -> None:
    said = scaling._of_streams(FOUND["streams"])
    assert "100 frames/s with one stream, 100 with 8" in said
    assert f"{MERGED_AT_ONCE} 125" in said


class TestSetup:
    def test_the_first_heads_are_the_streets(self) -> None:
        street = list(networks.street().heads)
        for count in scaling.HEADS:
            heads = list(SETUP.pipeline(heads=count).heads)
            assert len(heads) == count
            assert heads[:4] == street[:count]

    def test_size_and_threads(self) -> None:
        for size in scaling.SIZES:
            assert SETUP.pipeline(size=size).input.size == size
        runtime = SETUP.pipeline(threads=1).runtime
        assert (runtime.threads, runtime.precision, runtime.backend) == (1, "f32", "openvino")

    def test_a_network_is_converted_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[tuple[int, ...]] = []
        monkeypatch.setattr(networks, "build_network", lambda pipeline: list(pipeline.heads))
        monkeypatch.setattr(
            networks, "openvino_model", lambda network, _, shape: made.append(shape) or (network, shape)
        )
        setup = Setup("f32", SETUP.roofline, quick=False)
        all_of_them = setup.models(setup.pipeline(heads=8))
        assert [network for network, _ in all_of_them] == [[name] for name in setup.pipeline(heads=8).heads]
        assert setup.models(setup.pipeline(heads=4, threads=1)) == all_of_them[:4]
        assert made == [(1, 3, 384, 640)] * 8
        setup.models(setup.pipeline(heads=1, size=(256, 448)))
        assert made[8:] == [(1, 3, 256, 448)]

    def test_quick_runs_see_the_ends(self) -> None:
        quick = Setup("f32", SETUP.roofline, quick=True)
        assert quick.some([1, 2, 3]) == [1, 3]
        assert quick.some([1]) == [1]
        assert SETUP.some([1, 2, 3]) == [1, 2, 3]

    def test_every_place_has_an_engine_and_its_networks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every sweep, with networks that count instead of compiling."""
        asked: list[Any] = []
        monkeypatch.setattr(Setup, "engine", lambda _, pipeline: asked.append(pipeline) or SimpleNamespace(program=0))
        monkeypatch.setattr(Setup, "calls", lambda _, pipeline: [(lambda: None) for _ in pipeline.heads])
        monkeypatch.setattr(scaling, "_alone", lambda _: lambda: None)
        monkeypatch.setattr(scaling, "roofline_ms", lambda *_: 1.0)
        monkeypatch.setattr(Counted, "of_program", lambda _: None)
        for name in ("heads", "resolution", "threads"):
            asked.clear()
            sweep = scaling.SWEEPS[name](SETUP)
            assert sweep.name == name
            assert len(asked) == len(sweep.x)
            assert all(len(line) == len(sweep.x) for line in (*sweep.lines.values(), *sweep.known.values()))


def test_threads_side_by_side_do_what_each_was_dealt() -> None:
    done: list[int] = []
    both = Barrier(2)  # who ran one after the other would wait for ever
    shares = [[lambda: both.wait(10), lambda: done.append(1)], [lambda: both.wait(10), lambda: done.append(2)]]
    with ThreadPoolExecutor(2) as pool:
        scaling._side_by_side(pool, shares)
        assert sorted(done) == [1, 2]
        with pytest.raises(ZeroDivisionError):
            scaling._side_by_side(pool, [[lambda: 1 // 0]])


def test_frames_in_flight_all_run_and_give_what_one_gives() -> None:
    torch_network = nn.Conv2d(3, 2, 1).eval()
    shape = (1, 3, 8, 12)
    model = networks.openvino_model(torch_network, Normalization((0, 0, 0), (1, 1, 1)), shape)
    picture = np.random.default_rng(0).integers(0, 256, (1, 8, 12, 3), np.uint8)
    with torch.no_grad():
        expected = torch_network(torch.from_numpy(picture).permute(0, 3, 1, 2).float()).numpy()
    call = networks.openvino_throughput([model, model], ov.Type.f32, picture, 3)
    for count, requests in ((2, call(2)), (3, call())):
        assert len({id(request) for request in requests}) == 2 * count
        assert all(np.allclose(one.get_output_tensor(0).data, expected, atol=1e-2) for one in requests)
