"""Reuse in auto mode: what it makes of scenes that stand still, move, or do what no scene should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharedbb as sb
from sharedbb.program import Program, Stage
from sharedbb.registry import BACKBONES
from sharedbb.reuse.policy import Bargain
from sharedbb.reuse.worth import Worth
from sharedbb.runtime import Engine
from sharedbb.types import FrameResult

HEIGHT, WIDTH = 96, 128
PIPELINE = """
name: small
input: {size: [96, 128], normalize: unit}
backbone: {arch: slim}
neck: {type: fpn, channels: 8}
heads:
  surface: {type: segmentation, taps: [4], classes: [a, b, c], channels: 8}
  objects: {type: detection, taps: [8], classes: [x, y], channels: 8, score_threshold: 0.001}
  depth: {type: depth, taps: [8], channels: 8, every: 3}
  scene: {type: tags, taps: [32], labels: [p, q]}
runtime: {device: cpu, backend: eager, precision: f32}
reuse: {mode: auto}
"""
HEADS = {"surface", "objects", "depth", "scene"}

Picture = np.ndarray


class Slim(nn.Module):
    """A backbone of one convolution a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = {4: 8, 8: 8, 16: 8, 32: 8}
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.steps = nn.ModuleList([nn.Conv2d(8, 8, 3, 2, 1) for _ in range(3)])

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        features = {4: self.stem(x).relu()}
        for stride, step in zip((8, 16, 32), self.steps, strict=True):
            features[stride] = step(features[stride // 2]).relu()
        return features


def _priced(program: Program) -> Program:
    """The same with times that follow from multiply-adds, so that what is computed does not depend on the machine."""

    def stage(one: Stage) -> Stage:
        buckets = (replace(own, measured_ms=0.01 + own.macs / one.facts.macs) for own in one.tiles)
        return replace(one, facts=replace(one.facts, measured_ms=1.0), tiles=tuple(buckets))

    assert program.whole is not None
    facts = replace(program.whole.facts, measured_ms=float(len(program.stages)))
    return replace(program, stages=tuple(map(stage, program.stages)), whole=replace(program.whole, facts=facts))


@pytest.fixture(scope="module")
def programs() -> Iterator[tuple[Program, Program]]:
    """The pipeline compiled with every bucket of tiles that gives the right numbers, and without reuse."""

    def build(weights: str | None = None) -> Slim:
        torch.manual_seed(0)
        return Slim()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sb.register_backbone("slim", build)
    pipeline = sb.loads(PIPELINE)
    off = pipeline.model_copy(update={"reuse": pipeline.reuse.model_copy(update={"mode": "off"})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharedbb.compiler.tiles.WORTH", float("inf"))
        patch.setattr("sharedbb.compiler.tiles._beats", lambda *_: False)
        patch.setattr("sharedbb.compiler.measure.ROUNDS", 1)
        auto, plain = (sb.compile(one, use_cache=False).program for one in (pipeline, off))
    yield _priced(auto), plain
    BACKBONES.unregister("slim")
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed in parts must not depend on how long it took."""
    monkeypatch.setattr("sharedbb.reuse.worth.GAIN", float("inf"))


def _engine(program: Program, **bargain: Any) -> Engine:
    return Engine(replace(program, bargain=Bargain(**{"mode": "auto", **bargain})))


def _steps(engine: Engine, pictures: list[Picture], *, stream: str = "main", first: int = 0) -> list[FrameResult]:
    return [
        engine.step(picture.copy(), timestamp=(first + at) / 10, order="rgb", stream=stream)
        for at, picture in enumerate(pictures)
    ]


def _texture(seed: int, width: int = WIDTH) -> Picture:
    coarse = np.random.default_rng(seed).uniform(20, 235, (HEIGHT // 6, width // 6, 3)).astype(np.float32)
    return np.clip(cv2.resize(coarse, (width, HEIGHT), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


def _noisy(pictures: list[Picture], strength: float = 1.0) -> list[Picture]:
    dice = np.random.default_rng(0)
    return [np.clip(one + dice.normal(0, strength, one.shape), 0, 255).astype(np.uint8) for one in pictures]


def _pan(frames: int, step: int = 3) -> list[Picture]:
    wide = _texture(1, WIDTH + step * frames)
    return [np.ascontiguousarray(wide[:, step * at : step * at + WIDTH]) for at in range(frames)]


def _walk(frames: int) -> list[Picture]:
    """A small object that crosses a scene which stands still, and stops for a while."""
    pictures = []
    for at in range(frames):
        picture = _texture(1)
        left = 3 * min(at % 30, 20)
        picture[40:60, left : left + 16] = _texture(2)[40:60, :16]
        pictures.append(picture)
    return pictures


def _modes(results: list[FrameResult]) -> Counter[str]:
    return Counter(result.mode for result in results)


def test_a_scene_that_stands_still_is_hardly_computed(programs: tuple[Program, Program]) -> None:
    results = _steps(_engine(programs[0], audit=0.0), _noisy([_texture(1)] * 40))
    modes = _modes(results)
    assert modes["still"] >= 34
    assert modes["dense"] + modes["key"] <= 3
    assert sum(result.work for result in results[1:]) < 3


def test_a_small_object_is_followed_in_parts(programs: tuple[Program, Program]) -> None:
    results = _steps(_engine(programs[0], audit=0.0), _noisy(_walk(60)))
    modes = _modes(results)
    assert modes["partial"] + modes["still"] + modes["held"] >= 50
    assert modes["partial"] >= 15


@pytest.mark.parametrize("cheap", [("partial",), ("warped",), ()])
def test_only_what_pays_is_done(
    programs: tuple[Program, Program], cheap: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small object that crosses, then a pan: tiles, moving along, or neither."""
    monkeypatch.setattr(Worth, "pays", lambda self, way: way in cheap)
    modes = _modes(_steps(_engine(programs[0], audit=0.0, budget=1.0), _noisy([*_walk(30), *_pan(20)])))
    assert (modes["partial"] > 5) == ("partial" in cheap)
    assert (modes["warped"] > 10) == ("warped" in cheap)
    assert (modes["dense"] == 50) == (cheap == ())


def test_a_scene_that_moves_is_moved_along_where_that_is_good_enough(programs: tuple[Program, Program]) -> None:
    results = _steps(_engine(programs[0], audit=0.0, budget=1.0), _pan(24))
    modes = _modes(results)
    assert modes["key"] == 6
    assert modes["warped"] == 18


def test_motion_that_breaks_the_budget_is_computed_in_full(programs: tuple[Program, Program]) -> None:
    """No budget holds under a pan with random weights: after some audits, moving is given up."""
    engine = _engine(programs[0], audit=0.3, budget=1e-4)
    results = _steps(engine, _pan(160))
    modes = _modes(results[60:])
    assert modes["warped"] <= 9
    assert modes["audit"] <= 2  # of moving, and of waiting, which was given up as well
    assert modes["dense"] + modes["key"] + modes["audit"] >= 90  # all with answers of a full run
    assert _modes(results[:30])["audit"] > 0


CLIPS: dict[str, Callable[[], list[Picture]]] = {
    "cuts": lambda: [_texture(at // 4) for at in range(40)],
    "fades": lambda: [(_texture(1) * abs(1 - at / 20)).astype(np.uint8) for at in range(40)],
    "flicker": lambda: [(_texture(1) // (1 + at % 2)).astype(np.uint8) for at in range(40)],
    "frozen": lambda: [frame for frame in _pan(10) for _ in range(4)],
    "black": lambda: [*_pan(8), *[np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * 8, *_pan(8)],
    "noise": lambda: list(np.random.default_rng(0).integers(0, 256, (30, HEIGHT, WIDTH, 3), np.uint8)),
    "object then pan": lambda: [*_walk(15), *_pan(15)],
    "sizes": lambda: [frame if at % 7 < 4 else frame[:64].copy() for at, frame in enumerate(_pan(30))],
}


@pytest.mark.parametrize("name", CLIPS)
def test_nothing_that_a_camera_may_do_breaks_it(programs: tuple[Program, Program], name: str) -> None:
    """Every frame has every answer; an audited frame, and a dense one, answer what an engine without reuse does."""
    pictures = CLIPS[name]()
    engine, plain = _engine(programs[0], audit=0.3), Engine(programs[1])
    results, dense = _steps(engine, pictures), _steps(plain, pictures)
    for result, expected in zip(results, dense, strict=True):
        assert set(result) == set(result.freshness) == HEADS
        for fresh in result.freshness.values():
            assert fresh.error is None or 0 <= fresh.error <= 1
            assert fresh.age_ms == pytest.approx(fresh.age_frames * 100)
        assert result.geometry == expected.geometry
        if result.mode in ("dense", "key", "audit"):
            for head in HEADS - {"depth"}:
                assert result.freshness[head].age_frames == 0
                assert result[head].changed(expected[head]) <= 1e-3  # type: ignore[attr-defined]
    assert any(result.mode == "audit" for result in results) or _modes(results).keys() <= {"dense", "key", "still"}


def test_cuts_are_computed_in_full(programs: tuple[Program, Program]) -> None:
    results = _steps(_engine(programs[0], audit=0.0, budget=1.0), CLIPS["cuts"]())
    assert all(results[at].mode in ("dense", "key") for at in range(0, 40, 4))
    assert all(result.mode == "still" for at, result in enumerate(results) if at % 4)


def test_streams_do_not_notice_each_other(programs: tuple[Program, Program]) -> None:
    clips = {"left": [*_walk(20), *_pan(20)], "right": _noisy([*_pan(10), *[_texture(3)] * 15, *_walk(15)])}
    alone = {name: _steps(_engine(programs[0], audit=0.1), pictures) for name, pictures in clips.items()}
    engine = _engine(programs[0], audit=0.1)
    for at in range(40):
        for name, pictures in clips.items():
            (result,) = _steps(engine, [pictures[at]], stream=name, first=at)
            expected = alone[name][at]
            assert result.mode == expected.mode
            assert result.freshness == expected.freshness
            assert np.array_equal(result["surface"].logits, expected["surface"].logits)  # type: ignore[attr-defined]
            assert np.array_equal(result["objects"].boxes, expected["objects"].boxes)  # type: ignore[attr-defined]
            assert np.array_equal(result["depth"].cells, expected["depth"].cells)  # type: ignore[attr-defined]


def test_what_moved_in_parts_is_not_moved_twice(
    programs: tuple[Program, Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers brought up to date in parts are as of now, not of the key frame before: a pan carries them from there."""
    monkeypatch.setattr("sharedbb.runtime.memory.DEAR", 1.0)
    monkeypatch.setattr("sharedbb.runtime.memory.AS_GOOD_AS_WHOLE", float("inf"))
    picture = _texture(1)
    pictures = []
    for left in (10, 16, 22, 28, 34):
        pictures.append(picture.copy())
        pictures[-1][30:62, left : left + 24] = _texture(8)[30:62, :24]
    there, back = np.roll(pictures[0], 4, 1), pictures[0]  # motion was measured once before
    pictures = [pictures[0], there, back, *pictures[1:], np.roll(pictures[-1], 4, 1)]
    engine, plain = _engine(programs[0], audit=0.0, key_every=100, budget=1.0), Engine(programs[1])
    memory = engine.state().memory
    assert memory is not None
    memory.trust.clock = 1  # nothing waits for its turn
    results = _steps(engine, pictures)
    last, (*_, beforehand, expected) = results[-1], _steps(plain, pictures)
    assert [result.mode for result in results] == ["key", "warped", "still", *["partial"] * 4, "warped"]
    here = np.s_[6:17, 1:20]  # around the object
    moved = np.roll(beforehand["surface"].logits, 1, 1)  # type: ignore[attr-defined]
    off = [np.abs(one[here] - expected["surface"].logits[here]).mean() for one in (last["surface"].logits, moved)]  # type: ignore[attr-defined]
    assert off[0] < 2 * off[1] + 1e-4
