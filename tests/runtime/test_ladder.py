"""One network at two or three sizes: which one answers, what is carried over, and what audits hand out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharedbb as sb
from sharedbb.compiler.assemble import assemble
from sharedbb.compiler.choose import Candidate
from sharedbb.compiler.lower import lower
from sharedbb.errors import FrameError, SharedBBError
from sharedbb.graph.capture import capture
from sharedbb.outputs.segmentation import SegmentationDecoder
from sharedbb.profiling import Profiler
from sharedbb.program import HeadPlan, Program, Stage
from sharedbb.reuse.policy import Bargain
from sharedbb.runtime import Engine, StreamState
from sharedbb.runtime.ladder import Ladder, LadderResult
from sharedbb.runtime.sizes import Rules
from sharedbb.spec import Input, Schedule
from sharedbb.types import FrameResult, Plane, Size

SIZES = (Size(64, 128), Size(32, 64), Size(16, 32))
BRIGHT = 128  # from this grey level on, the smaller sizes answer something else


@dataclass
class Level:
    """The picture's mean, as a size sees it; 1 % of disagreement a grey level."""

    value: float
    height: int

    def changed(self, dense: Level) -> float:
        return min(1.0, abs(self.value - dense.value) / 100)

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value}


class Opaque:
    """An answer that cannot tell how far it is from another one."""

    def to_dict(self) -> dict[str, float]:
        return {}


class Counted:
    """An executable that applies a function to its features and counts its runs."""

    def __init__(self, function: Callable[..., tuple[Any, ...]]) -> None:
        self.function = function
        self.runs = 0

    def session(self) -> Callable[..., tuple[Any, ...]]:
        def run(features: Any) -> tuple[Any, ...]:
            self.runs += 1
            return self.function(*features)

        return run


def _seen(picture: np.ndarray) -> tuple[float]:
    off = (SIZES[0].height - picture.shape[1]) / 8 if picture.mean() >= BRIGHT else 0.0
    return (picture.mean() + off,)


def _sized(program: Program, size: Size, milliseconds: float) -> Program:
    """The fixture's program at a size, its stages taking this long together, a fifth of it for the slow head alone."""
    shares, functions = {"trunk": 0.7, "middle": 0.1, "fast": 0.1, "slow": 0.1}, {"trunk": _seen}

    def stage(plain: Stage) -> Stage:
        name = plain.facts.name
        facts = replace(plain.facts, measured_ms=shares[name] * milliseconds, macs=size.height * size.width)
        return Stage(facts, Counted(functions.get(name, plain.executable.function)))

    def decoded(raw: Mapping[str, Any], geometry: Any) -> Level:
        return Level(float(raw["output"]), geometry.network.height)

    heads = {name: replace(head, decoder=decoded) for name, head in program.heads.items()}
    return replace(program, size=size, stages=tuple(map(stage, program.stages)), heads=heads)


@pytest.fixture
def sizes(program: Program) -> list[Program]:
    """Three sizes, of 10, 4 and 2 ms: fast on every frame, slow on every third."""
    return [_sized(program, size, ms) for size, ms in zip(SIZES, (10.0, 4.0, 2.0), strict=True)]


@pytest.fixture
def paces(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What every frame tells of the pace, instead of how long it took."""
    told = {"pace": 1.0}
    monkeypatch.setattr(StreamState, "keep_pace", lambda state, *_: setattr(state, "pace", told["pace"]))
    return told


def _grey(level: int, side: int = 100) -> np.ndarray:
    return np.full((side, 2 * side, 3), level, np.uint8)


def _steps(engine: Engine, frames: int, level: int = 20, **options: Any) -> list[LadderResult]:
    results = [engine.step(_grey(level), timestamp=0.1 * at, **options) for at in range(frames)]
    assert all(isinstance(result, LadderResult) for result in results)
    return results  # type: ignore[return-value]


def _heights(results: list[LadderResult]) -> list[int]:
    return [result.geometry.network.height for result in results]


def _late(sizes: list[Program], deadline: float) -> list[Program]:
    return [replace(program, deadline_ms=deadline) for program in sizes]


def test_agreement_steps_down_size_by_size_and_each_is_held(sizes: list[Program]) -> None:
    results = _steps(Ladder(sizes, Rules(hold=30)), 100)
    sized = [(result.geometry.network, result.sized) for result in results if result.mode != "audit"]
    assert list(dict.fromkeys(sized)) == [
        (SIZES[0], "largest"),
        (SIZES[1], "agreement"),
        (SIZES[2], "agreement"),
    ]
    assert [result.sized for result in results].index("agreement") == 30
    assert _heights(results).index(16) >= 60
    assert [at for at, result in enumerate(results[:30]) if result.mode == "audit"] == [2, 11, 26]
    assert (results[32].mode, results[33].mode) == ("audit", "dense")
    assert (results[33]["fast"].height, results[33]["slow"].height) == (32, 64)  # handed on from the audit
    assert results[0].freshness["fast"].error is None
    assert results[-1].freshness["fast"].error == 0.0


def test_a_broken_budget_leads_back_to_the_largest_size(sizes: list[Program]) -> None:
    ladder = Ladder(sizes[:2], Rules(hold=30))
    _steps(ladder, 45, BRIGHT - 15)
    results = [ladder.step(_grey(BRIGHT + 15)) for _ in range(20)]
    modes = [result.mode for result in results]
    audit = results[modes.index("audit")]
    served, back = results[: modes.index("audit")], results[modes.index("audit") + 1 :]
    assert {(result["fast"].value, result["fast"].height) for result in served} == {(BRIGHT + 20, 32)}
    assert audit["fast"] == Level(BRIGHT + 16, 64)  # an audited frame hands out the largest size's answers
    assert audit.geometry.network == SIZES[0]
    assert audit.freshness["slow"].error == pytest.approx(0.04)  # half of the 8 % by which it is off
    assert {(result.geometry.network, result.sized) for result in back} == {(SIZES[0], "largest")}


def test_a_new_scene_is_audited_at_once(sizes: list[Program]) -> None:
    """Without it, the dice and the first frames of the size alone would say when."""
    dice = np.random.default_rng(2)
    scenes = [cv2.resize(dice.integers(0, 256, (5, 9, 3), np.uint8), (200, 100)) // 2 + at for at in (0, 127)]
    ladder = Ladder(sizes[:2], Rules(hold=30, audit=1e-9))
    results = [ladder.step(scenes[0]) for _ in range(60)]
    assert {(result.geometry.network, result.mode) for result in results[-2:]} == {(SIZES[1], "dense")}
    cut, then = ladder.step(scenes[1]), ladder.step(scenes[1])
    assert cut.mode == "audit"
    assert cut.freshness["fast"].error == pytest.approx(0.04, abs=0.005)  # of the new scene alone
    assert (cut["fast"].height, then["fast"].height) == (64, 64)
    assert then.sized == "largest"


def test_a_deadline_steps_down_at_once_and_up_after_the_hold(sizes: list[Program], paces: dict[str, float]) -> None:
    """Whatever the audits say."""
    ladder = Ladder(_late(sizes, 12.0), Rules(hold=10, audit=0.0, deadline_ms=12.0))
    heights = _heights(_steps(ladder, 5, 200))
    paces["pace"] = 2.5
    heights += _heights(_steps(ladder, 8, 200))
    paces["pace"] = 1.0
    results = _steps(ladder, 12, 200)
    assert heights == [64] * 6 + [32] * 7
    assert {result.sized for result in results[:4]} == {"deadline"}
    assert {result.freshness["slow"].why for result in results} == {"full", "reused"}
    assert _heights(results) == [32] * 12  # 10 ms is too near to 12
    paces["pace"] = 0.9
    assert _heights(_steps(ladder, 3, 200)) == [32, 64, 64]


def test_a_deadline_goes_before_the_budget_and_the_result_says_so(
    sizes: list[Program], paces: dict[str, float]
) -> None:
    ladder = Ladder(_late(sizes, 8.0), Rules(hold=5, audit=0.2, deadline_ms=8.0), profiler=Profiler())
    results = _steps(ladder, 60, 200)
    served = [result for result in results if result.mode != "audit"]
    assert 2 < len(results) - len(served) < 25
    assert {result.work for result in results} == {0.125, 0.25, 1.25}  # with the slow head left out, with it, audited
    assert {result["fast"].height for result in served[1:]} == {32}
    assert served[-1].sized == "deadline over budget"
    assert served[-1].freshness["fast"].error == pytest.approx(0.04)
    assert served[-1].freshness["slow"].error == pytest.approx(0.08)
    assert ladder.profile.whys["size"]["64x32 deadline over budget"] > 30
    assert json.loads(served[-1].to_json())["network"] == [32, 64]


def _always(sizes: list[Program], deadline: float) -> list[Program]:
    """Both heads on every frame."""
    heads = [{name: replace(head, every=1) for name, head in program.heads.items()} for program in sizes]
    return [replace(program, heads=own) for program, own in zip(_late(sizes, deadline), heads, strict=True)]


def test_a_smaller_size_comes_before_dropping_heads(sizes: list[Program], paces: dict[str, float]) -> None:
    ladder = Ladder(_always(sizes, 9.5), Rules(audit=0.0, deadline_ms=9.5))
    ladder.state().pace = paces["pace"] = 0.9
    results = _steps(ladder, 3)
    paces["pace"] = 1.0
    results += _steps(ladder, 3)
    assert _heights(results) == [64] * 4 + [32] * 2
    assert {fresh.why for result in results for fresh in result.freshness.values()} == {"full"}


def test_where_no_size_keeps_the_deadline_heads_are_dropped_at_the_smallest(
    sizes: list[Program], paces: dict[str, float]
) -> None:
    """From the frame on at which it is taken up: how slow the machine is, is known."""
    ladder = Ladder(_always(sizes, 12.0), Rules(audit=0.0, deadline_ms=12.0))
    before = _steps(ladder, 3)
    paces["pace"] = 7.0
    results = _steps(ladder, 4)
    assert _heights([*before, *results]) == [64] * 4 + [16] * 3
    assert [result.freshness["fast"].why for result in results[1:]].count("dropped") == 1
    assert [result.freshness["slow"].why for result in results[1:]] == ["dropped", "full", "dropped"]


def test_heads_keep_their_clocks_and_answers_when_the_size_changes(
    sizes: list[Program], paces: dict[str, float]
) -> None:
    ladder = Ladder(_late(sizes, 12.0), Rules(hold=4, audit=0.0, deadline_ms=12.0))
    before = _steps(ladder, 5)
    paces["pace"] = 2.5
    results = [ladder.step(_grey(20), timestamp=0.1 * at) for at in range(5, 10)]
    assert _heights(results) == [64, *[32] * 4]  # type: ignore[arg-type]
    assert [result.freshness["slow"].age_frames for result in results] == [2, 0, 1, 2, 0]
    assert results[0]["slow"] is before[3]["slow"]
    assert [result.index for result in results] == [5, 6, 7, 8, 9]
    paces["pace"] = 0.5
    results = [ladder.step(_grey(20), timestamp=0.1 * at) for at in range(10, 13)]
    assert [result["fast"].height for result in results] == [32, 64, 64]
    assert [result["slow"].height for result in results] == [32, 32, 64]  # handed on until its turn comes
    assert results[1].freshness["slow"].why == "reused"
    assert results[1].freshness["slow"].age_ms == pytest.approx(200)


def test_answers_to_frames_of_another_size_are_not_carried_over(sizes: list[Program], paces: dict[str, float]) -> None:
    ladder = Ladder(_late(sizes, 12.0), Rules(hold=4, audit=0.0, deadline_ms=12.0))
    _steps(ladder, 5)
    paces["pace"] = 2.5
    _steps(ladder, 1)
    result = ladder.step(_grey(30, side=50), heads=["fast"])
    assert result.geometry.network == SIZES[1]
    assert set(result) == {"fast"}
    assert ladder.step(_grey(30, side=50))["slow"].value == 61


def test_heads_asked_for_run_alone_in_audits_too(sizes: list[Program]) -> None:
    ladder = Ladder(sizes[:2], Rules(audit=1.0))
    result = ladder.step(_grey(200), heads=["fast"])
    assert (set(result), result.mode) == ({"fast"}, "audit")
    assert [stage.executable.runs for program in sizes[:2] for stage in program.stages] == [1, 0, 1, 0] * 2
    assert ladder.step(_grey(200), heads=[]).mode == "dense"
    with pytest.raises(FrameError, match="no head named 'fsat'"):
        ladder.step(_grey(0), heads=["fsat"])
    assert set(ladder.step(_grey(0), heads="slow")) == {"fast", "slow"}


def test_an_audit_costs_what_it_says_and_counts_as_one_frame(sizes: list[Program]) -> None:
    ladder = Ladder(sizes, Rules(audit=1.0, hold=2), profiler=Profiler())
    results = _steps(ladder, 5)
    assert [result.work for result in results] == [1.25, 1.25, 1.25, 1.3125, 1.3125]
    assert {result.mode for result in results} == {"audit"}
    assert {fresh.age_frames for result in results for fresh in result.freshness.values()} == {0}
    profile = ladder.profile
    assert (profile.frames, profile.heads["slow"].ran) == (5, 5)
    assert {"trunk", "trunk 64x32", "audit"} < set(profile.stages)
    assert profile.whys["size"] == {"128x64 largest": 3, "64x32 agreement": 2}


def test_heads_that_cannot_be_compared_keep_the_largest_size(sizes: list[Program]) -> None:
    heads = {name: replace(head, decoder=lambda *_: Opaque()) for name, head in sizes[0].heads.items()}
    results = _steps(Ladder([replace(program, heads=heads) for program in sizes], Rules(hold=2, audit=0.5)), 40)
    assert set(_heights(results)) == {64}


def test_streams_stand_apart_and_begin_again(sizes: list[Program]) -> None:
    ladder = Ladder(sizes[:2], Rules(hold=5, audit=0.5))
    _steps(ladder, 20, stream="left")
    assert ladder.state("left").reading.picture.planes["input"].shape == (1, 32, 64, 3)
    assert ladder.step(_grey(20), stream="right").geometry.network == SIZES[0]
    ladder.reset("left")
    again = ladder.step(_grey(20), stream="left")
    assert (again.index, again.sized, again.freshness["fast"].error) == (0, "largest", None)
    _steps(ladder, 20, stream="left")
    results = list(ladder.stream([_grey(20)] * 3, name="left"))
    assert [(result.index, result.sized) for result in results] == [(0, "largest"), (1, "largest"), (2, "largest")]
    ladder.close("left")
    assert ladder.step(_grey(20), stream="left").index == 0


def test_a_frame_that_cannot_be_read_leaves_the_stream_as_it_was(sizes: list[Program]) -> None:
    ladder = Ladder(sizes, Rules(hold=1, audit=1.0))
    _steps(ladder, 3)
    with pytest.raises(FrameError):
        ladder.step(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(FrameError):
        ladder.step(_grey(0), timestamp=float("nan"))
    assert ladder.step(_grey(20)).index == 3


def test_sizes_that_do_not_go_together_are_an_error(sizes: list[Program]) -> None:
    with pytest.raises(SharedBBError, match="get smaller, got 128x64 after 64x32"):
        Ladder(sizes[1::-1], Rules())
    other = replace(sizes[1], heads={"fast": sizes[1].heads["fast"]})
    with pytest.raises(SharedBBError, match="the same heads, got fast, slow and fast"):
        Ladder([sizes[0], other], Rules())


class Colours(nn.Module):
    """Two classes by colour, at a quarter of the picture's size, looked at through a pyramid of two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.deep = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 3, 1, 1)
        self.surface = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"surface.logits": self.surface(torch.relu(self.deep(torch.relu(self.fine(x)))))}


@pytest.fixture(scope="module")
def reusing() -> Iterator[list[Program]]:
    """A network compiled for reuse between frames at two sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    network, found = Colours().eval(), []
    plans = {"surface": HeadPlan("surface", {}, SegmentationDecoder(("a", "b")))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharedbb.compiler.measure.ROUNDS", 1)
        patch.setattr("sharedbb.compiler.tiles.SIZES", (32,))
        for height, width in ((128, 192), (64, 96)):
            picture = Input(size=(height, width), normalize="unit")
            graph = capture(network, torch.zeros(1, 3, height, width), "")
            way = Candidate("eager", "f32", "cpu")
            compiled = lower(graph, Plane.rgb(picture.normalization), (way,), None, {}, reuse=True, fresh=0)
            found.append(assemble("colours", picture, Schedule(), compiled, plans))
    yield found
    torch.set_num_threads(threads)


def _still(seed: int = 0) -> np.ndarray:
    """A picture with some detail."""
    coarse = np.random.default_rng(seed).integers(60, 180, (8, 12, 3), np.uint8)
    return cv2.resize(coarse, (192, 128), interpolation=cv2.INTER_CUBIC)


def _marked(left: int) -> np.ndarray:
    """The same one with a square in it."""
    picture = _still()
    picture[40:72, left : left + 32] = (250, 10, 10)
    return picture


@pytest.mark.parametrize("mode", ["exact", "bounded", "keyframe"])
def test_reuse_within_a_size_goes_on_across_changes(reusing: list[Program], mode: Any) -> None:
    """A size begins with a frame in full, even where the picture is the one that it saw last."""
    programs = [replace(program, bargain=Bargain(mode, audit=0.0), deadline_ms=1e3) for program in reusing]
    ladder = Ladder(programs, Rules(hold=3, audit=0.0, deadline_ms=1e3))
    pictures = [_still()] * 9 + [_marked(80)] * 3 + [_still()] * 6
    results: list[FrameResult] = []
    for at, picture in enumerate(pictures):
        ladder.state().pace = 1e9 if 6 <= at < 13 else 1e-9
        results.append(ladder.step(picture, timestamp=at / 10, order="rgb"))
    assert [result.geometry.network.height for result in results] == [128] * 6 + [64] * 7 + [128] * 5
    assert {results[at].mode for at in (5, 8, 15)} == {"still"}
    for at in (0, 6, 13):
        assert results[at].mode in ("dense", "key")
        dense = Engine(reusing[at == 6]).step(pictures[at], order="rgb")["surface"]
        assert isinstance(dense, sb.SegmentationMap)
        np.testing.assert_allclose(results[at]["surface"].logits, dense.logits, atol=1e-4)  # type: ignore[attr-defined]


def test_a_size_s_first_frame_says_nothing_about_the_pace(reusing: list[Program], paces: dict[str, float]) -> None:
    """It makes the buffers that all later frames find."""
    bargain = Bargain("keyframe", audit=0.0, key_every=1)
    programs = [replace(program, bargain=bargain, deadline_ms=1e3) for program in reusing]
    ladder = Ladder(programs, Rules(hold=3, audit=0.0, deadline_ms=1e3))
    heights = []
    for at, pace in enumerate((1e9, 1e-9, 1e9, 1e-9, 1e9, 1e9)):
        paces["pace"] = pace
        heights.append(ladder.step(_still(at), order="rgb").geometry.network.height)
    assert heights == [128, 128, 128, 64, 64, 64]
    assert ladder.state().pace == 1e9


def test_what_happened_while_a_size_was_not_used_does_not_count_as_noise(
    reusing: list[Program], paces: dict[str, float]
) -> None:
    programs = [replace(program, bargain=Bargain("bounded", audit=0.0), deadline_ms=1e3) for program in reusing]
    ladder = Ladder(programs, Rules(hold=2, audit=0.0, deadline_ms=1e3))
    thresholds = []
    for at in range(16):
        paces["pace"] = 1e9 if 4 <= at < 8 else 1e-9
        ladder.step(_still(seed=at >= 5), timestamp=at / 10, order="rgb")
        memory = ladder.state().memory
        assert memory is not None
        thresholds.append(memory.threshold)
    assert set(thresholds) == {thresholds[0]}


def test_audits_of_reusing_programs_compare_what_was_served_with_a_dense_run(reusing: list[Program]) -> None:
    programs = [replace(program, bargain=Bargain("bounded", audit=0.0)) for program in reusing]
    ladder = Ladder(programs, Rules(budget=1.0, hold=4, audit=0.5))
    dense = Engine(reusing[0])
    audited, served = 0, 0
    for at, picture in enumerate(map(_marked, range(0, 120, 5))):
        result = ladder.step(picture, timestamp=at / 10, order="rgb")
        truth = dense.step(picture, order="rgb")["surface"]
        assert isinstance(truth, sb.SegmentationMap)
        if result.mode == "audit":
            audited += 1
            assert result.geometry.network == programs[0].size
            np.testing.assert_allclose(result["surface"].logits, truth.logits, atol=1e-4)
        elif result.geometry.network == programs[1].size:
            served += 1
            assert result.freshness["surface"].error is not None
            assert 0 < result["surface"].changed(truth) < 0.2
    assert min(audited, served) > 3
