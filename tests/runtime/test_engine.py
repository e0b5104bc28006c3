"""The engine's loop: what runs on which frame, what is handed on, and that streams and failures stay apart."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from sharedbb.errors import FrameError, SourceError
from sharedbb.profiling import Profiler
from sharedbb.program import Program
from sharedbb.runtime import Engine
from sharedbb.types import Frame

Grey = Callable[[int], np.ndarray]


def _runs(program: Program) -> list[int]:
    return [stage.executable.runs for stage in program.stages]


def test_every_frame_runs_what_is_due_and_hands_on_the_rest(program: Program, grey: Grey) -> None:
    engine = Engine(program)
    results = [engine.step(grey(10 * i), timestamp=0.1 * i) for i in range(7)]
    assert [result["fast"].value for result in results] == [10 * i + 1 for i in range(7)]
    assert [result["slow"].value for result in results] == [1, 1, 1, 61, 61, 61, 121]
    assert [result.freshness["slow"].age_frames for result in results] == [0, 1, 2, 0, 1, 2, 0]
    assert results[5].freshness["slow"].age_ms == pytest.approx(200)
    assert [result.freshness["slow"].why for result in results[:2]] == ["full", "reused"]
    assert results[1]["slow"] is results[0]["slow"]
    assert _runs(program) == [7, 3, 7, 3]


def test_heads_asked_for_run_alone_and_only_with_what_they_need(program: Program, grey: Grey) -> None:
    engine = Engine(program)
    result = engine.step(grey(5), heads=["slow"])
    assert set(result) == {"slow"}
    assert _runs(program) == [1, 1, 0, 1]
    result = engine.step(grey(6), heads=["fast"])
    assert result["slow"].value == 11
    assert result["fast"].value == 7
    nothing = engine.step(grey(7), heads=[])
    assert nothing["fast"].value == 7
    assert _runs(program) == [2, 1, 1, 1]
    with pytest.raises(FrameError, match="no head named 'fsat'; this pipeline has fast, slow"):
        engine.step(grey(7), heads=["fsat"])


def test_streams_do_not_see_each_other(program: Program, grey: Grey) -> None:
    engine = Engine(program)
    engine.step(grey(10), stream="left")
    right = engine.step(grey(20), stream="right")
    left = engine.step(grey(30), stream="left")
    assert right["slow"].value == 41
    assert left["slow"].value == 21
    assert left.freshness["slow"].age_frames == 1
    engine.reset("left")
    assert engine.step(grey(40), stream="left")["slow"].value == 81
    assert engine.step(grey(50), stream="right")["slow"].value == 41
    engine.close("right")
    assert engine.step(grey(60), stream="right")["slow"].value == 121


def test_a_frame_that_cannot_be_read_leaves_the_stream_as_it_was(program: Program, grey: Grey) -> None:
    engine = Engine(program)
    engine.step(grey(10))
    for bad in (np.zeros((0, 4, 3), np.uint8), np.full((4, 4, 3), np.nan), np.zeros((2, 4, 4, 3), np.uint8), "picture"):
        with pytest.raises(FrameError):
            engine.step(bad)
    result = engine.step(grey(20))
    assert result.index == 1
    assert result["fast"].value == 21


def test_after_a_decoder_that_failed_no_head_keeps_an_answer_to_the_lost_frame(program: Program, grey: Grey) -> None:
    def fragile(raw: Any, geometry: Any) -> Any:
        if raw["output"] == 41:
            raise IndexError("no such box")
        return program.heads["fast"].decoder(raw, geometry)

    slow = replace(program.heads["slow"], decoder=fragile, every=1)
    engine = Engine(replace(program, heads={**program.heads, "slow": slow}))
    engine.step(grey(10))
    with pytest.raises(IndexError):
        engine.step(grey(20))
    result = engine.step(grey(30))
    assert (result.index, result["fast"].value, result["slow"].value) == (1, 31, 61)


def test_a_frame_of_another_size_midway(program: Program) -> None:
    engine = Engine(program)
    for size in ((32, 64), (1, 1), (97, 33), (32, 64)):
        result = engine.step(np.full((*size, 3), 9, np.uint8))
        assert result["fast"].value == 10
        assert (result.geometry.source.height, result.geometry.source.width) == size


def test_answers_to_another_size_are_not_handed_on(program: Program, grey: Grey) -> None:
    engine = Engine(program)
    engine.step(grey(10))
    assert not engine.step(grey(20)).freshness["slow"].ran
    larger = engine.step(np.full((64, 64, 3), 30, np.uint8))
    assert larger.freshness["slow"].ran
    assert larger["slow"].value == 61
    asked = engine.step(grey(5), heads=["fast"])
    assert set(asked) == {"fast"}


def test_a_deadline_drops_heads_and_says_so(program: Program, grey: Grey) -> None:
    costs = {"trunk": 4.0, "middle": 3.0, "fast": 1.0, "slow": 1.0}
    stages = tuple(replace(s, facts=replace(s.facts, measured_ms=costs[s.facts.name])) for s in program.stages)
    heads = {name: replace(head, every=1) for name, head in program.heads.items()}
    heads = {"fast": replace(heads["fast"], priority=1), "slow": replace(heads["slow"], max_age_ms=250.0)}
    tight = replace(program, stages=stages, heads=heads, deadline_ms=6.0)
    engine = Engine(tight, profiler=Profiler())
    engine.state().keep_pace = lambda *_: None
    results = [engine.step(grey(i), timestamp=0.1 * i) for i in range(8)]
    assert [result.freshness["slow"].why for result in results] == ["full", "dropped", "dropped"] * 2 + [
        "full",
        "dropped",
    ]
    assert max(result.freshness["slow"].age_ms for result in results) <= 250
    assert engine.profile.heads["slow"].dropped == 5


def test_a_clock_that_is_set_back_makes_no_answer_younger(program: Program, grey: Grey) -> None:
    heads = {**program.heads, "slow": replace(program.heads["slow"], every=1000, max_age_ms=250.0)}
    engine, times = Engine(replace(program, heads=heads)), [60 + 0.1 * i for i in range(5)]
    ages = [engine.step(grey(i), timestamp=now).freshness["slow"].age_ms for i, now in enumerate((*times, *times))]
    assert np.allclose(ages, [0, 100, 200, 0, 100, 100, 200, 0, 100, 200])


def test_the_pace_follows_what_frames_take(program: Program) -> None:
    state = Engine(program).state()
    for _ in range(100):
        state.keep_pace(2.0, 6.0)
    assert state.pace == pytest.approx(3.0, rel=0.01)
    state.keep_pace(0.0, 5.0)
    assert state.pace == pytest.approx(3.0, rel=0.01)


def test_the_pace_counts_waiting_for_the_device_but_no_first_run(
    program: Program, grey: Grey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU is given its work at once and is waited for when an answer is read."""
    clock = 0.0
    answer = program.device.answer

    def waited_for(feature: Any) -> Any:
        nonlocal clock
        clock += 0.003
        return answer(feature)

    monkeypatch.setattr(program.device, "answer", waited_for)
    monkeypatch.setattr("sharedbb.runtime.engine.time.perf_counter", lambda: clock)
    stages = tuple(replace(stage, facts=replace(stage.facts, measured_ms=1.0)) for stage in program.stages)
    engine = Engine(replace(program, stages=stages))
    engine.step(grey(1))
    assert engine.state().pace == 1.0
    engine.step(grey(2))  # two stages for one head
    assert engine.state().pace == pytest.approx(1 + 0.1 * (3 / 2 - 1))


def test_a_stream_gives_every_frame_of_a_source_in_order(program: Program, grey: Grey) -> None:
    frames = [Frame.of(grey(i), index=i, timestamp=i / 10) for i in range(20)]
    profiler = Profiler()
    results = list(Engine(program, profiler=profiler).stream(frames))
    assert [result.index for result in results] == list(range(20))
    assert [result["fast"].value for result in results] == [i + 1 for i in range(20)]
    assert [result.timestamp for result in results] == [frame.timestamp for frame in frames]
    heads = profiler.summary().heads
    assert (heads["fast"].ran, heads["fast"].reused) == (20, 0)
    assert (heads["slow"].ran, heads["slow"].reused) == (7, 13)


def test_a_stream_may_be_cut_short_and_started_again(program: Program, grey: Grey) -> None:
    engine = Engine(program)
    frames = [Frame.of(grey(i), index=i) for i in range(10)]
    assert len(list(engine.stream(frames, max_frames=4))) == 4
    first = next(iter(engine.stream(frames)))
    assert first.freshness["slow"].ran


def test_no_more_frames_are_waited_for_than_asked_for(
    program: Program, grey: Grey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharedbb.runtime.streams.PARTING_SECONDS", 0.01)
    more = threading.Event()

    def camera() -> Iterator[Frame]:
        yield Frame.of(grey(1), index=0)
        yield Frame.of(grey(2), index=1)
        if not more.wait(10):
            raise SourceError("a third frame was waited for")

    assert [result.index for result in Engine(program).stream(camera(), max_frames=2)] == [0, 1]
    more.set()
    assert list(Engine(program).stream([grey(1)], max_frames=0)) == []


def test_one_head_may_be_named_without_a_list(program: Program, grey: Grey) -> None:
    assert set(Engine(program).step(grey(5), heads="slow")) == {"slow"}


def test_heads_may_be_named_by_whatever_gives_names(program: Program, grey: Grey) -> None:
    engine = Engine(program)
    engine.step(grey(5))
    result = engine.step(grey(6), heads=(name for name in program.heads if name == "slow"))
    assert result.freshness["slow"].ran
    assert result["slow"].value == 13


@pytest.mark.parametrize("second", [Fraction(3, 2), np.float32(1.5), np.int64(2), 3])
def test_a_time_of_any_kind_of_number_is_told_as_a_float(program: Program, grey: Grey, second: Any) -> None:
    """A decoder's ``pts * time_base`` is a fraction, a recorded time a number of NumPy's: neither is JSON's."""
    engine = Engine(program)
    engine.step(Frame.of(grey(1), timestamp=second))
    result = engine.step(grey(2), timestamp=second + second)
    told = json.loads(result.to_json())
    assert told["timestamp"] == 2 * float(second)
    assert told["freshness"]["slow"]["age_ms"] == 1e3 * float(second)


def test_what_breaks_a_source_arrives_after_the_frames_before_it(program: Program, grey: Grey) -> None:
    def source() -> Iterator[Frame]:
        yield Frame.of(grey(1), index=0)
        yield Frame.of(grey(2), index=1)
        raise SourceError("the cable was pulled")

    seen = []
    with pytest.raises(SourceError, match="the cable was pulled"):
        seen.extend(result.index for result in Engine(program).stream(source()))
    assert seen == [0, 1]


def test_stages_and_reasons_are_profiled(program: Program, grey: Grey) -> None:
    engine = Engine(program, profiler=Profiler())
    for i in range(4):
        engine.step(grey(i))
    stages = engine.profile.stages
    assert {name: stages[name].count for name in ("transform", "trunk", "slow", "decode")} == {
        "transform": 4,
        "trunk": 4,
        "slow": 2,
        "decode": 4,
    }
    assert engine.profile.frames == 4


def test_threads_take_turns(program: Program, grey: Grey) -> None:
    engine = Engine(program)
    levels = range(40)

    def work(level: int) -> bool:
        return engine.step(grey(level), stream=str(level % 4))["fast"].value == level + 1

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, levels))
    assert sum(engine.state(str(number)).frames for number in range(4)) == len(levels)


@pytest.mark.parametrize("timestamp", [float("nan"), float("inf")])
def test_a_timestamp_is_a_number(program: Program, grey: Grey, timestamp: float) -> None:
    with pytest.raises(FrameError, match=r"a timestamp must be a number of seconds, got (nan|inf)"):
        Engine(program).step(grey(1), timestamp=timestamp)


def test_reset_forgets_everything(program: Program, grey: Grey) -> None:
    """Every attribute that a step changes is back at its first value."""
    engine = Engine(program)
    state = engine.state()
    before = {name: getattr(state, name) for name in ("frames", "outputs", "last_run", "pace")}
    before = {name: value.copy() if isinstance(value, dict) else value for name, value in before.items()}
    features = set(state.features)
    engine.step(grey(3))
    assert state.frames == 1
    state.reset()
    assert {name: getattr(state, name) for name in before} == before
    assert set(state.features) == features
