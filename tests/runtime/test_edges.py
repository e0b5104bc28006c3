"""Reuse at its edges: heads that are asked for or not due, ages, scene cuts, errors in mid-frame, threads, times."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import sharedbb as sb
from sharedbb.errors import FrameError
from sharedbb.runtime import Engine
from sharedbb.runtime.changes import LEAST_CHANGE

HEADS = """
  regions: {type: segmentation, taps: [4], classes: [a, b]}
  tags: {type: tags, taps: [32], labels: [x, y]}"""

Picture = NDArray[np.uint8]
Made = Callable[..., Engine]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def engine(reuse: str, heads: str = HEADS, schedule: str = "{}") -> Engine:
    """A network with random weights."""
    torch.manual_seed(0)
    text = f"""
name: small
input: {{size: [96, 128]}}
backbone: {{arch: mobilenet_v3_small}}
heads: {heads}
reuse: {{{reuse}}}
schedule: {schedule}
runtime: {{backend: eager}}
"""
    return sb.compile(sb.loads(text), use_cache=False)


def scene(seed: int, width: int = 128) -> Picture:
    """A picture with soft structure."""
    rough = np.random.default_rng(seed).integers(0, 256, (96, width, 3)).astype(np.uint8)
    soft = cv2.GaussianBlur(rough, (0, 0), 3).astype(float)
    return np.clip((soft - soft.mean()) / soft.std() * 50 + 128, 0, 255).astype(np.uint8)


def with_object(picture: Picture) -> Picture:
    """The picture with a part that is a little brighter."""
    drawn = picture.astype(int)
    drawn[16:64, 16:80] += 14
    return drawn.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["bounded", "keyframe", "auto"])
def test_one_head_may_be_asked_for_at_the_very_first_frame_and_after_a_reset(mode: str) -> None:
    made = engine(f"mode: {mode}")
    for _ in range(2):
        for at in range(3):
            result = made.step(scene(1), heads=["tags"], timestamp=at / 25)
            assert "tags" in result
        made.reset()


def test_audits_are_of_frames_on_which_a_head_has_its_turn() -> None:
    heads = "\n  regions: {type: segmentation, taps: [4], classes: [a, b], every: 4}"
    made = engine("mode: bounded, audit: 1.0, budget: 0.0001", heads)
    modes = [made.step(scene(1), timestamp=at / 25).mode for at in range(13)]
    assert [at for at, mode in enumerate(modes) if mode == "audit"] == [4, 8, 12]
    assert made.state().memory.trust.audits == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("cut", range(8, 12))
def test_a_scene_cut_is_not_taken_for_noise(cut: int) -> None:
    made = engine("mode: bounded, audit: 0")
    after = []
    for at in range(cut + 10):
        picture = scene(1) if at < cut else 255 - scene(2)
        result = made.step(picture if at < cut + 6 else with_object(picture), timestamp=at / 25)
        if at == cut + 5:
            assert made.state().memory is not None
            assert made.state().memory.threshold <= 2.5 * LEAST_CHANGE  # type: ignore[union-attr]
        if at >= cut + 6:
            after.append(result.mode)
    assert set(after) & {"dense", "partial"}


def test_another_size_is_not_taken_for_noise() -> None:
    for change in range(8, 12):
        made = engine("mode: bounded, audit: 0")
        for at in range(change + 6):
            made.step(scene(1) if at < change else scene(2, 200), timestamp=at / 25)
        assert made.state().memory is not None
        assert made.state().memory.threshold <= 2.5 * LEAST_CHANGE  # type: ignore[union-attr]


@pytest.mark.parametrize("what", ["stages", "decoder"])
@pytest.mark.parametrize("mode", ["exact", "bounded", "keyframe"])
def test_after_an_error_in_the_middle_of_a_frame_everything_is_computed_anew(mode: str, what: str) -> None:
    made = engine(f"mode: {mode}, audit: 0, refresh: 0")
    dense = Engine(replace(made.program, bargain=None))
    before, after = scene(1), 255 - scene(2)
    stale, expected = (np.array(dense.step(picture)["regions"].logits) for picture in (before, after))
    assert np.abs(stale - expected).max() > 0.02
    made.step(before, timestamp=0.0)
    memory, plan = made.state().memory, made.program.heads["regions"]
    assert memory is not None
    whole = memory._whole

    def broken(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    if what == "stages":
        memory._whole = broken
    else:
        made.program.heads["regions"] = replace(plan, decoder=broken)  # type: ignore[index]
    failed = 0
    for at in range(12):
        try:
            made.step(after, timestamp=0.04 * (at + 1))
        except RuntimeError:
            failed += 1
            break
    assert failed == 1
    memory._whole = whole
    made.program.heads["regions"] = plan  # type: ignore[index]
    for at in range(3):
        result = made.step(after, timestamp=1 + at / 25)
        np.testing.assert_allclose(result["regions"].logits, expected, atol=1e-3)


def test_no_answer_is_older_than_its_head_allows() -> None:
    heads = HEADS.replace("]}", "], max_age_ms: 250}")
    made = engine("mode: keyframe, key_every: 8, audit: 0, budget: 1.0", heads)
    wide = scene(1, 200)
    ages = []
    for at in range(12):
        result = made.step(np.ascontiguousarray(wide[:, 2 * at : 2 * at + 128]), timestamp=0.1 * at)
        ages += [fresh.age_ms for fresh in result.freshness.values()]
    assert 150 < max(ages) <= 250


def test_no_key_frame_serves_longer_than_allowed() -> None:
    made = engine("mode: keyframe, key_every: 8, audit: 0, budget: 1.0, max_age_ms: 100")
    wide, since, ages = scene(1, 200), 0.0, []
    for at in range(20):
        result = made.step(np.ascontiguousarray(wide[:, 2 * at : 2 * at + 128]), timestamp=at / 25)
        since = result.timestamp if result.mode == "key" else since
        ages.append((result.timestamp - since) * 1e3)
    assert 50 < max(ages) <= 100


def test_boxes_move_from_the_key_frame_and_not_from_where_they_were_moved_to() -> None:
    heads = HEADS + "\n  boxes: {type: detection, taps: [16, 32], classes: [car], score_threshold: 0.0, every: 2}"
    made = engine("mode: keyframe, key_every: 100, audit: 0, budget: 1.0", heads)
    wide = scene(5, 240)
    key, moved = (np.ascontiguousarray(wide[:, at : at + 128]) for at in (40, 32))
    made.step(key, timestamp=0.0)
    memory = made.state().memory
    assert memory is not None
    memory.motion_trust.clock = memory.motion_trust.shortest = 100
    boxes = {}
    for at, name in enumerate("bbabab", 1):
        result = made.step(key if name == "a" else moved, timestamp=at / 25)
        if result.freshness["boxes"].why == "warped":
            boxes[at] = result["boxes"].boxes
    assert len(boxes) > 1
    for one in boxes.values():
        assert np.abs(one - next(iter(boxes.values()))).max() < 1.0


def test_frames_that_cost_nothing_leave_out_no_head_and_say_nothing_of_the_pace() -> None:
    made = engine("mode: bounded, audit: 0", schedule="{deadline_ms: 0.001}")
    first = made.step(scene(1), timestamp=0.0)
    assert first.mode == "dense"
    assert made.state().pace == 1.0  # which made the buffers ready
    for at in range(1, 6):
        result = made.step(scene(1), timestamp=at / 25)
        assert (result.mode, {fresh.why for fresh in result.freshness.values()}) == ("still", {"still"})
    assert made.state().pace == 1.0
    made.step(255 - scene(2), timestamp=1.0)
    assert made.state().pace != 1.0


def test_threads_may_reset_a_stream_that_others_step() -> None:
    made, told, stop = engine("mode: off"), Counter[str](), threading.Event()

    def steps() -> None:
        while not stop.is_set():
            try:
                told[" ".join(sorted(made.step(scene(1), stream="left")))] += 1
            except Exception as error:  # whatever it is
                told[repr(error)] += 1

    thread = threading.Thread(target=steps)
    thread.start()
    while told.total() < 40:
        made.reset("left")
        made.close("left")
    stop.set()
    thread.join()
    assert set(told) == {"regions tags"}


def test_a_frame_keeps_its_time_unless_one_is_given() -> None:
    made = engine("mode: off")
    frame = sb.Frame(3, 7.5, pixels=scene(1))
    assert made.step(frame).timestamp == 7.5
    assert made.step(frame, timestamp=9.0).timestamp == 9.0
    assert made.step(frame.pixels, timestamp=10.0).timestamp == 10.0


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (sb.Frame(0, 0.0), "exactly one of pixels, video and encoded, got 0"),
        (sb.Frame(0, float("nan"), pixels=scene(1)), "a timestamp must be a number of seconds, got nan"),
        (sb.Frame(0, 0.0, pixels=scene(1)[..., 0]), r"HWC uint8 of three channels, got uint8 of shape \(96, 128\)"),
        (sb.Frame(0, 0.0, pixels=scene(1).astype(np.float32)), "three channels, got float32"),  # type: ignore[arg-type]
    ],
)
def test_frames_made_by_hand_are_checked(frame: sb.Frame, told: str) -> None:
    with pytest.raises(FrameError, match=told):
        engine("mode: off").step(frame)
    with pytest.raises(FrameError, match="number of seconds, got '3'"):
        engine("mode: off").step(scene(1), timestamp="3")  # type: ignore[arg-type]


def test_damaged_pictures_of_a_source_are_counted(tmp_path: Path) -> None:
    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), scene(1))
    (tmp_path / "b.png").write_bytes(b"no picture")
    made = engine("mode: off")
    assert len(list(made.stream(str(tmp_path)))) == 2
    assert made.profile.skipped_frames == 1
