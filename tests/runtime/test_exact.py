"""Reuse in exact mode, against an engine that computes every frame in full."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharedbb as sb
from sharedbb.profiling import Profiler
from sharedbb.program import Program, Stage
from sharedbb.registry import BACKBONES
from sharedbb.runtime import Engine
from sharedbb.types import FrameResult

HEIGHT, WIDTH = 160, 192
CLOSE = 1e-4  # of an answer's largest number
PIPELINE = """
name: small
input: {size: [160, 192], normalize: unit}
backbone: {arch: thin}
neck: {type: fpn, channels: 16}
heads:
  surface: {type: segmentation, taps: [4], classes: [a, b, c], channels: 16}
  objects: {type: detection, taps: [8, 16], classes: [x, y], channels: 16, score_threshold: 0.001}
  depth: {type: depth, taps: [8], channels: 16}
  scene: {type: tags, taps: [32], labels: [p, q]}
  face: {type: keypoints, taps: [4], points: [eye, nose], channels: 16}
  look: {type: embedding, taps: [16], dim: 8, every: 2}
runtime: {device: cpu, backend: eager, precision: f32}
reuse: {mode: exact, audit: 0}
"""


class Thin(nn.Module):
    """A backbone of one convolution a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = {4: 8, 8: 12, 16: 16, 32: 16}
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.steps = nn.ModuleList([nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1)])

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        features = {4: self.stem(x).relu()}
        for stride, step in zip((8, 16, 32), self.steps, strict=True):
            features[stride] = step(features[stride // 2]).relu()
        return features


def _priced(program: Program) -> Program:
    """The same with times that follow from multiply-adds, so that what is computed does not depend on the machine."""

    def stage(one: Stage) -> Stage:
        tiles = tuple(replace(tile, measured_ms=0.01 + tile.macs / one.facts.macs) for tile in one.tiles)
        return replace(one, facts=replace(one.facts, measured_ms=1.0), tiles=tiles)

    return replace(program, stages=tuple(map(stage, program.stages)))


@pytest.fixture(scope="module")
def programs() -> Iterator[tuple[Program, Program]]:
    """The pipeline, compiled with every bucket of tiles that gives the right numbers; the same without reuse."""

    def build(weights: str | None = None) -> Thin:
        torch.manual_seed(0)
        return Thin()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sb.register_backbone("thin", build)
    pipeline = sb.loads(PIPELINE)
    off = pipeline.model_copy(update={"reuse": pipeline.reuse.model_copy(update={"mode": "off"})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharedbb.compiler.tiles.WORTH", float("inf"))
        patch.setattr("sharedbb.compiler.tiles._beats", lambda *_: False)
        patch.setattr("sharedbb.compiler.measure.ROUNDS", 1)
        exact, plain = (sb.compile(one, use_cache=False).program for one in (pipeline, off))
    yield _priced(exact), plain
    BACKBONES.unregister("thin")
    torch.set_num_threads(threads)


@pytest.fixture
def program(programs: tuple[Program, Program]) -> Program:
    return programs[0]


Make = Callable[..., "Both"]


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed in parts must not depend on how long it took, or would take."""
    monkeypatch.setattr("sharedbb.reuse.worth.GAIN", float("inf"))
    monkeypatch.setattr("sharedbb.runtime.memory.AS_GOOD_AS_WHOLE", float("inf"))


@pytest.fixture
def make(programs: tuple[Program, Program]) -> Make:
    """``make()``: both engines anew; ``make(program)``: with another program that reuses."""
    return lambda program=programs[0]: Both(program, programs[1])


class Both:
    """An engine that reuses, and one that does not, on the same frames."""

    def __init__(self, program: Program, plain: Program) -> None:
        self.exact = Engine(program, profiler=Profiler())
        self.plain = Engine(plain)
        self.frames = 0

    def step(self, picture: np.ndarray, **options: Any) -> tuple[FrameResult, float]:
        """The result of reuse, and how far it is off: checked, and relative to each answer's largest number."""
        self.frames += 1
        stamp = {"timestamp": self.frames / 10, **options}
        found, expected = (engine.step(picture.copy(), **stamp) for engine in (self.exact, self.plain))
        assert set(found) == set(expected)
        error = max((off(found[head], expected[head]) for head in found), default=0.0)
        assert error <= CLOSE
        assert {head: fresh.age_frames for head, fresh in found.freshness.items()} == {
            head: fresh.age_frames for head, fresh in expected.freshness.items()
        }
        return found, error

    def stages_run(self) -> set[str]:
        """Names of the stages that ran on the last frame."""
        profile = self.exact.profile.stages
        ran = {name for name, stage in profile.items() if stage.count}
        self.exact.profiler.reset()
        known = {stage.facts.name for stage in self.exact.program.stages}
        return ran & (known | {"network"})


def off(found: Any, expected: Any) -> float:
    """The largest difference between two answers of a head, relative to the largest number."""
    assert type(found) is type(expected)
    worst = float(found.changed(expected))
    for one, other in zip(numbers(found), numbers(expected), strict=True):
        assert one.shape == other.shape
        scale = max(float(np.abs(other).max(initial=0)), 1e-3)
        worst = max(worst, float(np.abs(one - other).max(initial=0)) / scale)
    return worst


def numbers(answer: Any) -> Sequence[np.ndarray]:
    """What a head computed, before or after decoding."""
    match answer:
        case sb.SegmentationMap():
            return (answer.logits,)
        case sb.DepthMap():
            return (answer.cells,)
        case sb.Tags():
            return (answer.probabilities,)
        case sb.Embedding():
            return (answer.vector,)
        case sb.Keypoints():
            return (answer.points,)
        case sb.Detections():
            return (answer.boxes, answer.scores)
    raise AssertionError(f"an answer of type {type(answer)}")


def _noise(dice: np.random.Generator, *shape: int) -> np.ndarray:
    return dice.integers(0, 256, (*shape, 3), np.uint8)


def _draw(picture: np.ndarray, dice: np.random.Generator) -> None:
    """A change of any kind, up to everything at once."""
    height, width, _ = picture.shape
    kind = dice.choice(
        ["still", "pixel", "corner", "box", "boxes", "border", "grey", "everything"], p=[0.15] * 6 + [0.05] * 2
    )
    if kind == "pixel":
        picture[dice.integers(height), dice.integers(width), dice.integers(3)] ^= 255
    elif kind == "corner":
        top, left = dice.choice([0, height - 9]), dice.choice([0, width - 21])
        picture[top : top + 9, left : left + 21] = _noise(dice, 9, 21)
    elif kind in ("box", "boxes"):
        for _ in range(1 if kind == "box" else 4):
            top, left = dice.integers(height - 30), dice.integers(width - 30)
            picture[top : top + 30, left : left + 24] = _noise(dice, 30, 24)
    elif kind == "border":
        picture[:, width - 3 :] = _noise(dice, height, 3)
    elif kind == "grey":
        picture[...] = picture // 2 + 20
    elif kind == "everything":
        picture[...] = _noise(dice, height, width)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_answer_of_a_long_video_is_the_plain_engines(make: Make, seed: int) -> None:
    dice, both, errors, modes = np.random.default_rng(seed), make(), [], []
    picture = _noise(dice, HEIGHT, WIDTH)
    for _ in range(70):
        result, error = both.step(picture)
        errors.append(error)
        modes.append(result.mode)
        _draw(picture, dice)
    assert modes[0] == "dense"
    assert {"dense", "partial", "still"} <= set(modes)
    assert modes.count("partial") > 35
    assert max(errors[-10:]) <= max(*errors[:10], 1e-6)


def test_something_is_spared(make: Make) -> None:
    both, dice = make(), np.random.default_rng(0)
    picture = _noise(dice, HEIGHT, WIDTH)
    assert both.step(picture)[0].work == pytest.approx(1)
    picture[50:60, 60:70] = 7
    result, _ = both.step(picture)
    assert result.mode == "partial"
    assert 0 < result.work < 0.9


def test_a_still_frame_hands_on_the_same_answers_and_runs_nothing(make: Make) -> None:
    both, dice = make(), np.random.default_rng(0)
    picture = _noise(dice, HEIGHT, WIDTH)
    first, _ = both.step(picture)
    assert both.stages_run() == {"network"}
    for _ in range(5):
        still, _ = both.step(picture)
        assert both.stages_run() == set()
        assert still.mode == "still"
        assert still.work == 0
        assert all(still[head] is first[head] for head in first)
        assert all(not fresh.ran for fresh in still.freshness.values())
    picture[0, 0] ^= 1
    moved, _ = both.step(picture)
    assert moved.mode == "partial"
    assert "network" not in both.stages_run()
    assert moved["surface"] is not first["surface"]


def test_a_change_that_is_taken_back_gives_the_first_answers(make: Make) -> None:
    both, dice = make(), np.random.default_rng(0)
    picture = _noise(dice, HEIGHT, WIDTH)
    first, _ = both.step(picture)
    other = picture.copy()
    other[100:, 150:] = 0
    between, _ = both.step(other)
    again, _ = both.step(picture)
    assert off(between["surface"], first["surface"]) > 0.01
    assert off(again["surface"], first["surface"]) < 1e-5


def test_answers_given_out_stay_as_they_were(make: Make) -> None:
    both, dice = make(), np.random.default_rng(0)
    picture = _noise(dice, HEIGHT, WIDTH)
    kept: list[tuple[FrameResult, Mapping[str, list[np.ndarray]]]] = []
    for _ in range(8):
        result, _ = both.step(picture)
        kept.append((result, {head: [one.copy() for one in numbers(result[head])] for head in result}))
        _draw(picture, dice)
    for result, copies in kept:
        for head, copied in copies.items():
            assert all(np.array_equal(*pair) for pair in zip(numbers(result[head]), copied, strict=True))


def test_after_a_reset_everything_is_computed_again(make: Make) -> None:
    both, dice = make(), np.random.default_rng(0)
    picture = _noise(dice, HEIGHT, WIDTH)
    for _ in range(3):
        both.step(picture)
        _draw(picture, dice)
    for engine in (both.exact, both.plain):
        engine.reset()
    both.exact.profiler.reset()
    result, _ = both.step(picture)
    assert result.mode == "dense"
    assert both.stages_run() == {"network"}
    assert all(fresh.why == "full" for fresh in result.freshness.values())
    assert both.step(picture)[0].mode == "still"


def test_frames_of_another_size_begin_anew(make: Make) -> None:
    both, dice = make(), np.random.default_rng(0)
    for size in ((HEIGHT, WIDTH), (240, 320), (HEIGHT, WIDTH), (320, 384)):
        picture = _noise(dice, *size)
        result, _ = both.step(picture)
        assert result.mode == "dense"
        for _ in range(3):
            picture[10:20, 30:40] = dice.integers(256)
            result, _ = both.step(picture)
            assert result.mode == "partial"
            assert (result.geometry.source.height, result.geometry.source.width) == size


def test_a_black_picture_of_another_shape_is_no_still_frame(make: Make) -> None:
    """The network's input looks the same, letterboxed; the answers lie elsewhere."""
    both = make()
    both.step(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    result, _ = both.step(np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8))
    assert result.mode == "dense"
    assert result["surface"].classes.shape == (2 * HEIGHT, 2 * WIDTH)


def test_streams_do_not_see_each_others_features(make: Make) -> None:
    both, dice = make(), np.random.default_rng(0)
    pictures = {"left": _noise(dice, HEIGHT, WIDTH), "right": np.zeros((HEIGHT, WIDTH, 3), np.uint8)}
    modes = []
    for _ in range(12):
        for stream, picture in pictures.items():
            modes.append(both.step(picture, stream=stream)[0].mode)
            top, left = dice.integers(HEIGHT - 20), dice.integers(WIDTH - 20)
            picture[top : top + 20, left : left + 20] = _noise(dice, 20, 20)
    assert modes == ["dense"] * 2 + ["partial"] * 22


def test_heads_that_are_not_due_catch_up_later(make: Make) -> None:
    """Asked for now and then, a head knows of everything that changed since."""
    both, dice = make(), np.random.default_rng(0)
    picture = _noise(dice, HEIGHT, WIDTH)
    asked: list[list[str] | None] = [["surface"], ["scene"], None, ["depth", "look"], [], [], ["objects"], ["face"]]
    seen: dict[str, int] = {}
    for index in range(48):
        heads = asked[int(dice.integers(len(asked)))]
        result, _ = both.step(picture, heads=heads)
        seen[result.mode] = seen.get(result.mode, 0) + 1
        if index % 3:
            _draw(picture, dice)
    assert seen["partial"] > 20


def test_what_only_others_need_does_not_run(program: Program, make: Make) -> None:
    both, dice = make(), np.random.default_rng(0)
    picture = _noise(dice, HEIGHT, WIDTH)
    both.step(picture)
    both.stages_run()
    picture[70:80, 80:90] = 0
    both.step(picture, heads=["scene"])
    needed = {stage.facts.name for stage in program.stages if "scene" in stage.facts.heads}
    assert both.stages_run() <= needed
    both.step(picture, heads=["surface"])
    own = {stage.facts.name for stage in program.stages if "surface" in stage.facts.heads} - needed
    assert own
    assert both.stages_run() == own


def test_a_head_of_every_second_frame_has_its_own_turn(make: Make) -> None:
    both, dice = make(), np.random.default_rng(0)
    picture = _noise(dice, HEIGHT, WIDTH)
    why = []
    for _ in range(6):
        why.append(both.step(picture)[0].freshness["look"].why)
        picture[40:80, 40:80] = _noise(dice, 40, 40)
    assert why == ["full", "reused", "partial", "reused", "partial", "reused"]


def test_without_tiles_stages_are_computed_whole(program: Program, make: Make) -> None:
    """What compiling found not to pay, or backends that cannot."""
    bare = replace(program, stages=tuple(replace(stage, tiles=()) for stage in program.stages))
    some = replace(
        program,
        stages=tuple(stage if "input" in stage.facts.inputs else replace(stage, tiles=()) for stage in program.stages),
    )
    for made, mode in ((bare, "dense"), (some, "partial")):
        both, dice = make(made), np.random.default_rng(0)
        picture = _noise(dice, HEIGHT, WIDTH)
        both.step(picture)
        for _ in range(6):
            picture[20:30, 100:120] = _noise(dice, 10, 20)
            assert both.step(picture)[0].mode == mode


def test_audits_change_nothing(program: Program, make: Make) -> None:
    """In exact mode they find no error."""
    assert program.bargain is not None
    both, dice = make(replace(program, bargain=replace(program.bargain, audit=0.3))), np.random.default_rng(0)
    picture, modes = _noise(dice, HEIGHT, WIDTH), []
    for _ in range(24):
        result, _ = both.step(picture, heads=list(program.heads))
        modes.append(result.mode)
        assert all((fresh.error or 0) <= CLOSE for fresh in result.freshness.values())
        _draw(picture, dice)
    assert modes.count("audit") > 3


def test_the_fixture_has_what_these_tests_are_about(program: Program) -> None:
    assert program.bargain is not None
    assert program.bargain.mode == "exact"
    local = [stage for stage in program.stages if stage.tiles]
    assert len(local) >= 4
    assert any(stage.tiling is None for stage in program.stages)
    assert any(len(stage.facts.inputs) > 1 for stage in local)
