"""Reuse in bounded mode: its contract at every cut, audits that catch what breaks it, and how long changes may wait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
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
from sharedbb.reuse.regions import CELL
from sharedbb.runtime import Engine
from sharedbb.runtime.memory import Memory
from sharedbb.runtime.parts import Part
from sharedbb.types import FrameResult

HEIGHT, WIDTH = 128, 160
ROUNDING = 1e-5  # of a feature's largest number: what summing in another order changes
PIPELINE = """
name: small
input: {size: [128, 160], normalize: unit}
backbone: {arch: lean}
neck: {type: fpn, channels: 16}
heads:
  surface: {type: segmentation, taps: [4], classes: [a, b, c], channels: 16}
  objects: {type: detection, taps: [8, 16], classes: [x, y], channels: 16, score_threshold: 0.001}
  scene: {type: tags, taps: [32], labels: [p, q]}
  depth: {type: depth, taps: [8], channels: 16, every: 3}
runtime: {device: cpu, backend: eager, precision: f32}
reuse: {mode: bounded}
"""
EVERY_FRAME = ("surface", "objects", "scene")

Picture = np.ndarray


class Lean(nn.Module):
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


def _priced(program: Program, tiles_ms: float) -> Program:
    """The same with times that follow from multiply-adds, those of tiles times a factor: nothing depends on a clock."""

    def stage(one: Stage) -> Stage:
        buckets = (replace(own, measured_ms=0.01 + tiles_ms * own.macs / one.facts.macs) for own in one.tiles)
        return replace(one, facts=replace(one.facts, measured_ms=1.0), tiles=tuple(buckets))

    assert program.whole is not None
    facts = replace(program.whole.facts, measured_ms=float(len(program.stages)))
    return replace(program, stages=tuple(map(stage, program.stages)), whole=replace(program.whole, facts=facts))


@pytest.fixture(scope="module")
def programs() -> Iterator[tuple[Program, Program]]:
    """The pipeline compiled with every bucket of tiles that gives the right numbers, and without reuse."""

    def build(weights: str | None = None) -> Lean:
        torch.manual_seed(0)
        return Lean()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sb.register_backbone("lean", build)
    pipeline = sb.loads(PIPELINE)
    off = pipeline.model_copy(update={"reuse": pipeline.reuse.model_copy(update={"mode": "off"})})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharedbb.compiler.tiles.WORTH", float("inf"))
        patch.setattr("sharedbb.compiler.tiles._beats", lambda *_: False)
        patch.setattr("sharedbb.compiler.measure.ROUNDS", 1)
        bounded, plain = (sb.compile(one, use_cache=False).program for one in (pipeline, off))
    yield bounded, plain
    BACKBONES.unregister("lean")
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed in parts must not depend on how long it took, or would take."""
    monkeypatch.setattr("sharedbb.reuse.worth.GAIN", float("inf"))
    monkeypatch.setattr("sharedbb.runtime.memory.AS_GOOD_AS_WHOLE", float("inf"))


class Held:
    """An engine in bounded mode, looked into after every frame; 10 frames a second where no timestamps are given."""

    def __init__(
        self, program: Program, *, tiles_ms: float = 1.0, first_only: bool = False, clock: int = 2, **bargain: Any
    ) -> None:
        program = _priced(program, tiles_ms)
        if first_only:  # all other stages are computed whole, when their turn comes
            later = (stage if "input" in stage.facts.inputs else replace(stage, tiles=()) for stage in program.stages)
            program = replace(program, stages=tuple(later))
        self.program = replace(program, bargain=Bargain(**{"audit": 0.0, **bargain}))
        self.engine = Engine(self.program)
        self.tolerance: dict[str, float] = {}
        self.modes: list[str] = []
        self.memory.trust.clock = clock

    @property
    def memory(self) -> Memory:
        memory = self.engine.state().memory
        assert memory is not None
        return memory

    def step(self, picture: Picture, **options: Any) -> FrameResult:
        options = {"timestamp": len(self.modes) / 10, "order": "rgb", **options}
        result = self.engine.step(picture.copy(), **options)
        self.modes.append(result.mode)
        for name, tolerance in self.memory.tolerance.items():
            self.tolerance[name] = max(tolerance, self.tolerance.get(name, 0.0))
        return result

    def numbers(self, features: Mapping[str, Any], name: str) -> np.ndarray:
        return np.array(self.program.device.answer(features[name]))

    def dense(self, part: Part) -> dict[str, np.ndarray]:
        """A stage applied to the cached features that it reads."""
        results = part.stage.executable.session()([self.memory.features[name] for name in part.facts.inputs])
        made = dict(zip(part.facts.outputs, results, strict=True))
        return {name: self.numbers(made, name) for name in made}

    def check_features(self) -> None:
        """Every cached feature is what its stage makes of the cached features that it reads, to its tolerance."""
        for part in self.memory.parts:
            for name, expected in self.dense(part).items():
                found = self.numbers(self.memory.features, name)
                allowed = self.tolerance.get(name, 0.0) + ROUNDING * np.abs(expected).max()
                wrong = np.abs(found - expected) > allowed
                if part.pending is not None:
                    if wrong.ndim != 4:
                        continue
                    height, width = wrong.shape[1:3]
                    pending = part.pending.repeat(CELL, 0).repeat(CELL, 1)
                    cells = pending.reshape(height, HEIGHT // height, width, WIDTH // width).any((1, 3))
                    wrong = wrong[0][~cells]
                assert not wrong.any(), f"{name} on frame {len(self.modes) - 1}, by {np.abs(found - expected).max()}"

    def check_reference(self, picture: Picture) -> None:
        """No cell differs from the reference by more than what counts as change, but those that wait for their turn."""
        now, reference = (_halved(one).astype(np.int16) for one in (picture, self.memory.reference.planes["input"][0]))
        off, dirty = np.abs(now - reference).max(2), self.memory.changes.dirty
        assert (dirty is None) == (self.modes[-1] != "held")
        if dirty is not None:
            off[dirty.repeat(CELL // 2, 0).repeat(CELL // 2, 1)] = 0
        assert off.max() <= self.memory.threshold


def _halved(picture: Picture) -> Picture:
    return cv2.resize(picture, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)


def _texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A smooth random picture, float32 [H, W, 3]."""
    coarse = np.random.default_rng(seed).uniform(30, 220, (height // 8, width // 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _clip(seed: int, frames: int, *, noise: float = 1.5, boxes: int = 2) -> Iterator[Picture]:
    """Textured boxes that move, stop and start on a textured background, with a sensor's noise."""
    dice = np.random.default_rng(seed)
    background = _texture(seed)
    sides = [(int(dice.integers(12, 40)), int(dice.integers(12, 50))) for _ in range(boxes)]
    faces = [_texture(seed + 9 * at, 64, 64)[: side[0], : side[1]] for at, side in enumerate(sides, 1)]
    at = np.array([[dice.integers(HEIGHT - h), dice.integers(WIDTH - w)] for h, w in sides], np.float64)
    speed = dice.uniform(-6, 6, at.shape)
    for _ in range(frames):
        scene = background.copy()
        for (y, x), (height, width), face in zip(at.astype(int), sides, faces, strict=True):
            scene[y : y + height, x : x + width] = face
        yield np.clip(scene + dice.normal(0, noise, scene.shape), 0, 255).astype(np.uint8)
        going = dice.random(len(sides)) < 0.7
        moved = at + speed * going[:, None]
        room = np.array([[HEIGHT - h, WIDTH - w] for h, w in sides])
        speed = np.where((moved < 0) | (moved > room), -speed, speed)
        at = moved.clip(0, room)


CONTRACTS = {
    "tiles": {},
    "tiles of the first stage only": {"first_only": True},
    "whole stages": {"tiles_ms": 1e3},
    "dear tiles": {"tiles_ms": 2.0},
}


@pytest.mark.parametrize("how", CONTRACTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_contract_holds_at_every_cut_on_every_frame(
    programs: tuple[Program, Program], how: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(programs[0], **CONTRACTS[how])
    if how == "whole stages":  # which would have every frame computed densely
        monkeypatch.setattr(Part, "foresee", lambda part, changed: (0.0, None))
    pending = 0
    for index, picture in enumerate(_clip(seed, 60)):
        held.step(picture)
        if index == 30:
            held.memory.trust.scale = 2.5  # as if audits had found that much more may be tolerated
        held.check_features()
        held.check_reference(picture)
        pending += any(part.pending is not None for part in held.memory.parts)
    assert held.modes.count("partial") >= 15
    assert min(held.tolerance.values()) > 0
    assert pending > 0


def test_what_a_whole_stage_overwrites_is_known_to_its_readers(programs: tuple[Program, Program]) -> None:
    """A stage dropped a change within its tolerance, and is then computed whole for a change somewhere else."""
    program = programs[0]
    (deeper,) = [stage.facts.outputs[0] for stage in program.stages if stage.facts.name == "trunk/8"]
    stages = tuple(replace(one, tiles=()) if deeper in one.facts.outputs else one for one in program.stages)
    held = Held(replace(program, stages=stages), tiles_ms=0.2, clock=1)
    picture = _texture(1).clip(0, 200).astype(np.uint8)
    held.step(picture)
    held.memory._ripple[deeper] *= 60
    picture[:, -32:] += int(held.memory.threshold) + 2
    held.step(picture)
    held.check_features()
    picture[:, :96] += 30
    held.step(picture)
    assert held.modes == ["dense", "partial", "partial"]
    held.check_features()


def test_a_still_scene_with_noise_costs_nothing(programs: tuple[Program, Program]) -> None:
    held = Held(programs[0])
    results = [held.step(picture) for picture in _clip(0, 30, boxes=0)]
    assert held.modes.count("still") >= 25
    assert all(result.work == 0 for result in results if result.mode == "still")
    assert all(fresh.age_frames == 0 for fresh in results[-1].freshness.values() if fresh.why == "still")


def test_noise_is_told_from_change(programs: tuple[Program, Program]) -> None:
    """Strong noise over everything is left alone, a small object much brighter than it is not."""
    held = Held(programs[0])
    clip = list(_clip(3, 20, noise=5, boxes=0))
    for picture in clip[:-1]:
        held.step(picture)
    assert held.memory.threshold > 8
    clip[-1][40:56, 60:80] = 255
    held.step(clip[-1])
    assert held.modes[-1] in ("partial", "dense")
    assert (held.memory.reference.planes["input"][0, 42:54, 62:78] == 255).all()


def _same_as_plain(result: FrameResult, plain: FrameResult, heads: tuple[str, ...]) -> None:
    for head in heads:
        assert result[head].changed(plain[head]) == 0  # type: ignore[attr-defined]
    assert np.allclose(result["surface"].logits, plain["surface"].logits, atol=1e-4)  # type: ignore[attr-defined]


def _spoil(held: Held, name: str) -> None:
    """Overwrite a cached feature with garbage."""
    feature = held.memory.features[name]
    with torch.inference_mode():
        feature.copy_(torch.from_numpy(np.random.default_rng(0).normal(0, 30, tuple(feature.shape))))


@pytest.mark.parametrize(("audit", "frames"), [(1.0, 1), (0.2, 62)])  # 0.8 ** 62 < 1e-6
def test_an_audit_catches_a_spoilt_cache(programs: tuple[Program, Program], audit: float, frames: int) -> None:
    held, plain = Held(programs[0], audit=audit, seed=3, budget=1.0), Engine(programs[1])
    clip = _clip(5, 110, boxes=1)
    for picture in islice(clip, 40):
        held.step(picture)
    held.memory.trust.clock, held.memory.trust.scale = 1, 1.0  # nothing waits for its turn
    _spoil(held, held.memory.parts[0].facts.outputs[0])
    before, audits = held.memory.trust.error.get("surface", 0.0), held.memory.trust.audits
    for index, picture in enumerate(islice(clip, frames)):
        picture[60:76, 60:76] = 255 * (index % 2)  # something to catch up with
        result = held.step(picture)
        expected = plain.step(picture.copy(), order="rgb", heads=list(programs[1].heads))
        if held.memory.trust.audits > audits:
            break
    assert result.mode == "audit"
    assert result.freshness["surface"].error > before
    assert result.freshness["surface"].why == "full"
    assert result.work >= 1
    _same_as_plain(result, expected, EVERY_FRAME)
    held.tolerance = {}
    held.check_features()


def test_errors_are_remembered_until_the_next_audit(programs: tuple[Program, Program]) -> None:
    held = Held(programs[0], audit=1e-9)
    results = [held.step(picture) for picture in _clip(6, 12)]
    audited = [at for at, mode in enumerate(held.modes) if mode == "audit"]
    assert audited
    errors = [result.freshness["surface"].error for result in results]
    assert errors[: audited[0]] == [None] * audited[0]
    assert None not in errors[audited[0] :]


@pytest.mark.parametrize("audit", [0.0, 1e-9])
def test_frames_in_full_are_never_farther_apart_than_the_budget_allows(
    programs: tuple[Program, Program], audit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharedbb.reuse.audit.FIRST_AUDITS", ())
    held = Held(programs[0], audit=audit)
    held.memory.trust.horizon = 6
    picture = _texture(1).clip(0, 255).astype(np.uint8)
    for _ in range(8):
        held.step(picture)
    assert held.modes == ["dense", *["still"] * 5, "audit" if audit else "still", "still"]
    assert held.memory.trust.horizon == (9 if audit else 6)


def test_no_change_waits_longer_than_it_may(programs: tuple[Program, Program]) -> None:
    """Frames come at irregular times; deep stages are only computed whole and would wait for eight frames."""
    limit = 350.0
    held = Held(programs[0], first_only=True, clock=8, max_age_ms=limit)
    dice, now, waited = np.random.default_rng(0), 0.0, 0
    for picture in _clip(7, 80, boxes=1):
        now += float(dice.choice([0.001, 0.03, 0.1, 0.3, 0.349, 0.35, 2.0], p=[0.2, 0.3, 0.2, 0.1, 0.1, 0.05, 0.05]))
        held.step(picture, timestamp=now)
        for part in held.memory.parts:
            if part.pending is not None and set(part.facts.heads) & set(EVERY_FRAME):
                assert part.since is not None
                assert (now - part.since) * 1e3 <= limit + 1e-6
                waited += 1
    assert waited > 5


def test_a_change_that_waits_deep_down_is_not_held_up_by_another(programs: tuple[Program, Program]) -> None:
    """A small change waits for the clock of the stages behind the first, while large ones wait at the first itself."""
    held = Held(programs[0], first_only=True, clock=8, max_age_ms=350.0)
    picture = _texture(1).clip(0, 200).astype(np.uint8)
    held.step(picture, timestamp=0.0)
    picture[:12, :12] += 40
    held.step(picture, timestamp=0.1)
    assert held.modes == ["dense", "partial"]
    for now in (0.2, 0.3, 0.4, 0.46):
        picture[20:110, 20:140] += 9
        held.step(picture, timestamp=now)
    waiting = [
        part for part in held.memory.parts if part.since is not None and set(part.facts.heads) & set(EVERY_FRAME)
    ]
    assert all((now - part.since) * 1e3 <= 350.0 for part in waiting if part.since is not None)


def test_a_change_waits_no_longer_because_the_clock_was_set_back(programs: tuple[Program, Program]) -> None:
    held = Held(programs[0], clock=8, max_age_ms=250.0)
    for index, now in enumerate((10.0, 10.1, 10.2, 5.0, 5.1, 5.2)):
        held.step(np.full((HEIGHT, WIDTH, 3), 40 + 15 * index, np.uint8), timestamp=now)
    assert held.modes == ["dense", *["held"] * 4, "dense"]


def test_without_a_limit_changes_wait_for_their_turn(programs: tuple[Program, Program]) -> None:
    held = Held(programs[0], first_only=True, clock=8)
    ages = [held.step(picture).freshness["surface"].age_frames for picture in _clip(7, 60, boxes=1)]
    assert max(ages) == 7


def test_heads_keep_their_clocks(programs: tuple[Program, Program]) -> None:
    held = Held(programs[0], clock=1)
    results = [held.step(picture) for picture in _clip(8, 13)]
    for index, result in enumerate(results):
        fresh = result.freshness["depth"]
        assert fresh.age_frames == index % 3
        assert (fresh.why == "reused") == (index % 3 > 0)
        if index % 3:
            assert result["depth"] is results[index - 1]["depth"]


def test_an_answer_says_when_it_was_computed_not_when_it_was_read(programs: tuple[Program, Program]) -> None:
    """Of a head whose turn comes between frames in full, the last of these has computed everything already."""
    held, plain = Held(programs[0]), Engine(programs[1])
    for index in range(13):
        picture = np.full((HEIGHT, WIDTH, 3), 40 + 15 * index, np.uint8)
        result = held.step(picture)
        assert result.mode == ("held" if index % 2 else "dense")
        if result.mode == "dense":
            dense = plain.step(picture.copy(), order="rgb", heads=["depth"])
        if index % 3 == 0:
            fresh = result.freshness["depth"]
            assert result["depth"].changed(dense["depth"]) == 0  # type: ignore[attr-defined]
            assert (fresh.why, fresh.age_frames) == (("partial", 1) if index % 2 else ("full", 0))
            assert fresh.age_ms == pytest.approx(100 * (index % 2))


def test_heads_asked_for_answer_and_the_others_keep_what_they_said(programs: tuple[Program, Program]) -> None:
    held, plain = Held(programs[0], clock=1), Engine(programs[1])
    first, *clip = _clip(9, 20)
    before = held.step(first)
    for picture in clip:
        result = held.step(picture, heads=["depth"])
        held.check_features()
        assert set(result) == {"surface", "objects", "scene", "depth"}
        assert result["surface"] is before["surface"]
        assert result.freshness["depth"].age_frames == 0
    assert result.freshness["surface"].age_frames == len(clip)
    assert result.freshness["surface"].why == "reused"
    late = held.step(clip[-1])  # nothing changed any more; what was missed is caught up with
    expected = plain.step(held.memory.reference.planes["input"][0].copy(), order="rgb")
    assert late.freshness["surface"].age_frames == 0
    assert late["surface"].changed(expected["surface"]) < 0.1  # type: ignore[attr-defined]
    held.check_features()
    assert not held.memory.is_behind("surface")


def _shone(frame: int) -> Picture:
    """A light that grows by a grey level in ten frames."""
    return np.full((HEIGHT, WIDTH, 3), 60 + frame // 10, np.uint8)


@pytest.mark.parametrize("clock", [1, 8])
def test_a_refresh_keeps_slow_changes_from_adding_up(programs: tuple[Program, Program], clock: int) -> None:
    """With a share of 0.05 no cell of the reference is older than 20 frames, whatever waits for its clock."""
    held = Held(programs[0], refresh=0.05, clock=clock)
    for frame in range(90):
        held.step(_shone(frame))
        held.check_features()
        assert (held.memory.reference.planes["input"][0] >= _shone(max(0, frame - 20))).all()
    assert held.modes.count("dense") < 10


def test_without_a_refresh_they_add_up_to_what_counts_as_change(programs: tuple[Program, Program]) -> None:
    held, behind = Held(programs[0]), 0
    for frame in range(90):
        held.step(_shone(frame))
        behind = max(behind, int(_shone(frame).max()) - int(held.memory.reference.planes["input"].min()))
    assert behind == int(held.memory.threshold)


def test_slow_changes_add_up_in_cells_that_stay_while_others_change(programs: tuple[Program, Program]) -> None:
    held = Held(programs[0], clock=1)
    for frame in range(160):
        picture = _shone(frame)
        left = 4 + 2 * (frame % 20)
        picture[8:20, left : left + 12] = 200
        held.step(picture)
        held.check_reference(picture)
    assert held.modes.count("partial") > 100


@pytest.mark.parametrize(("first_only", "in_parts"), [(False, True), (True, False)])
def test_what_would_take_as_long_in_parts_is_computed_in_full_at_its_turn(
    programs: tuple[Program, Program], first_only: bool, in_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cheap tiles pay where every stage has them; where only the first one has, the others take what all would."""
    monkeypatch.setattr("sharedbb.runtime.memory.AS_GOOD_AS_WHOLE", 0.8)
    held = Held(programs[0], tiles_ms=0.01, first_only=first_only, clock=1)
    for picture in _clip(1, 30):
        held.step(picture)
        held.check_features()
        held.check_reference(picture)
    assert (held.modes.count("partial") > 15) == in_parts
    assert (held.modes.count("dense") > 15) != in_parts


@pytest.mark.parametrize(("audit", "expected"), [(1e-9, "audit"), (0.0, "held")])
def test_what_waits_while_waiting_is_tried_again_is_audited_at_once(
    programs: tuple[Program, Program], audit: float, expected: str
) -> None:
    """Or never, where nothing is to be audited."""
    held = Held(programs[0], tiles_ms=1e3, clock=8, audit=audit)
    first, second, third = _clip(1, 3)
    held.step(first)
    held.step(second)
    assert held.modes == ["dense", "held"]
    held.memory.trust.probes = True
    held.step(third)
    assert held.modes[-1] == expected
    assert held.memory.trust.probes == (expected == "held")


def test_another_size_and_a_reset_begin_anew(programs: tuple[Program, Program]) -> None:
    held, plain = Held(programs[0]), Engine(programs[1])
    clip = list(_clip(10, 6))
    for picture in clip[:3]:
        held.step(picture)
    smaller = np.ascontiguousarray(clip[3][:, :120])
    result = held.step(smaller)
    assert result.mode == "dense"
    _same_as_plain(result, plain.step(smaller.copy(), order="rgb"), EVERY_FRAME)
    held.step(smaller)
    held.engine.reset()
    result = held.step(clip[4])
    plain.reset()
    assert result.mode == "dense"
    assert {fresh.error for fresh in result.freshness.values()} == {None}
    _same_as_plain(result, plain.step(clip[4].copy(), order="rgb"), EVERY_FRAME)
    assert held.step(clip[4]).mode == "still"


def test_after_a_reset_what_noise_does_is_measured_on_the_new_picture(programs: tuple[Program, Program]) -> None:
    """As a stream that begins with it measures it: another scene's tolerances would be wrong for this one."""
    black, used, fresh = np.zeros((HEIGHT, WIDTH, 3), np.uint8), Held(programs[0]), Held(programs[0])
    used.step(black)
    of_black = used.memory.tolerance
    used.engine.reset()
    assert not used.memory.is_ready  # the time of the next frame, which measures noise, tells nothing of the pace
    for picture in _clip(4, 8):
        begun, first = used.step(picture), fresh.step(picture)
        assert begun.mode == first.mode
        assert used.memory.tolerance == fresh.memory.tolerance != of_black
        assert used.memory.is_ready
