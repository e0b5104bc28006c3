"""Reuse in keyframe mode: when a key frame is taken, and answers that move along with the picture between."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharedbb as sb
from sharedbb.compiler.assemble import assemble
from sharedbb.compiler.choose import Candidate
from sharedbb.compiler.lower import lower
from sharedbb.graph.capture import capture
from sharedbb.media.video import VideoSource
from sharedbb.outputs.segmentation import SegmentationDecoder
from sharedbb.profiling import NullProfiler
from sharedbb.program import HeadPlan, Program
from sharedbb.reuse.change import halve
from sharedbb.reuse.policy import Bargain
from sharedbb.runtime import Engine
from sharedbb.runtime.changes import LEAST_CHANGE
from sharedbb.runtime.reading import Reading
from sharedbb.spec import Input, Schedule
from sharedbb.transforms.colour import Colour
from sharedbb.transforms.rgb import RgbIntake
from sharedbb.transforms.yuv420 import Yuv420Intake
from sharedbb.types import FrameResult, Geometry, Plane

HEIGHT, WIDTH = 128, 192
PIPELINE = Path(__file__).parents[2] / "pipelines" / "street.yaml"
CLASSES = ("a", "b", "c", "d")
PAN = 5  # pixels a frame
RED = 0.45  # by how much red is more than the other colours, at least

Picture = np.ndarray


class Colours(nn.Module):
    """A network whose answers mean something: it tells a picture's colours, and where it is red.

    ``surface`` depends on the colours of a place and on those around it, ``objects`` on how red it is (without height
    and width, as detectors answer), ``look`` on all of the picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 4, 4, bias=False)
        self.deep = nn.Conv2d(4, 4, 4, 4, groups=4, bias=False)
        self.surface = nn.Conv2d(8, len(CLASSES), 1)
        self.red, self.look = nn.Conv2d(8, 1, 1), nn.Linear(4, 3)
        mix = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, -0.5, -0.5]])
        with torch.no_grad():
            self.fine.weight.copy_(mix[:, :, None, None].expand(4, 3, 4, 4) / 16)
            self.deep.weight.fill_(1 / 16)
            classes = torch.tensor([[0, 1.0, -1, 0], [0, -1.0, 1, 0], [0, 0.5, 0.5, 0], [3, -2.0, -2, 0]])
            self.surface.weight.copy_(torch.cat([classes, 0.5 * classes], 1)[:, :, None, None])
            self.surface.bias.copy_(torch.tensor([0, 0, -0.75, 0]))
            self.red.weight.copy_(torch.tensor([0, 0, 0, 1.0, 0, 0, 0, 1e-3]).view(1, 8, 1, 1))
            self.red.bias.zero_()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(x)
        deep = self.deep(fine)
        both = torch.cat([fine, nn.functional.interpolate(deep, scale_factor=4.0, mode="bilinear")], 1)
        return {
            "surface.logits": self.surface(both),
            "objects.red": self.red(both).flatten(1),
            "look.vector": self.look(deep.mean((2, 3))),
        }


def _red_boxes(raw: Mapping[str, np.ndarray], geometry: Geometry) -> sb.Detections:
    """Boxes around what is red."""
    red = raw["red"].reshape(HEIGHT // 4, WIDTH // 4) > RED
    _, _, found, _ = cv2.connectedComponentsWithStats(red.astype(np.uint8))
    corners = found[1:, :2], found[1:, :2] + found[1:, 2:4]
    boxes = geometry.to_source((np.concatenate(corners, axis=1) * 4).astype(np.float32))
    return sb.Detections(boxes, np.ones(len(boxes), np.float32), np.zeros(len(boxes), np.int64), ("red",))


def _vector(raw: Mapping[str, np.ndarray], geometry: Geometry) -> sb.Embedding:
    return sb.Embedding(raw["vector"][0].copy())


@pytest.fixture(scope="module")
def programs() -> Iterator[dict[int, Program]]:
    """The network compiled for key frames, by what ``fresh`` is."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    picture = Input(size=(HEIGHT, WIDTH), normalize="unit")
    graph = capture(Colours().eval(), torch.zeros(1, 3, HEIGHT, WIDTH), "")
    plans = {
        "surface": HeadPlan("surface", {}, SegmentationDecoder(CLASSES)),
        "objects": HeadPlan("objects", {}, _red_boxes),
        "look": HeadPlan("look", {}, _vector),
    }
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sharedbb.compiler.measure.ROUNDS", 1)
        patch.setattr("sharedbb.compiler.tiles.SIZES", (32,))
        for fresh in (0, 8):
            way = Candidate("eager", "f32", "cpu")
            found = lower(graph, Plane.rgb(picture.normalization), (way,), None, {}, reuse=True, fresh=fresh)
            made[fresh] = assemble("colours", picture, Schedule(), found, plans)
    yield made
    torch.set_num_threads(threads)


class Counting:
    """An executable that counts how often any session of it runs."""

    def __init__(self, executable: Any) -> None:
        self._executable, self.runs = executable, 0

    def session(self, into: Any = None) -> Any:
        inner = self._executable.session(into)

        def run(features: Any) -> Any:
            self.runs += 1
            return inner(features)

        return run


def _engine(program: Program, **bargain: Any) -> Engine:
    return Engine(replace(program, bargain=Bargain(**{"mode": "keyframe", "audit": 0.0, **bargain})))


def _steps(engine: Engine, pictures: list[Picture], **options: Any) -> list[FrameResult]:
    return [
        engine.step(picture.copy(), timestamp=at / 10, order="rgb", **options) for at, picture in enumerate(pictures)
    ]


def _texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Blue and green with detail, little red, float32 [H, W, 3]."""
    dice = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for side, strength in ((4, 12), (12, 30), (48, 45)):
        coarse = dice.normal(0, strength, (-(-height // side), -(-width // side), 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(total * [0.3, 1, 1] + [30, 110, 110], 0, 255).astype(np.float32)


def _red(picture: Picture, top: int, left: int, side: int = 40) -> Picture:
    """The picture with a red square that has some detail."""
    drawn = picture.copy()
    patch = _texture(99, side, side)[..., 1:2] * 0.25
    drawn[top : top + side, left : left + side] = np.concatenate([200 + patch, patch, patch], axis=2)
    return drawn


def _pan(frames: int, step: int = PAN) -> list[Picture]:
    """A scene with a red square seen by a camera that turns."""
    wide = _red(_texture(1, HEIGHT, WIDTH + step * frames), 44, 90 + step * frames // 2)
    views = (wide[:, step * at : step * at + WIDTH] for at in range(frames))
    return [np.ascontiguousarray(view.astype(np.uint8)) for view in views]


def _still(seed: int = 1) -> Picture:
    return _texture(seed).astype(np.uint8)


@pytest.mark.parametrize("key_every", [1, 3, 4])
def test_key_frames_are_as_far_apart_as_they_may_be(programs: dict[int, Program], key_every: int) -> None:
    results = _steps(_engine(programs[0], key_every=key_every), _pan(10))
    assert [result.mode for result in results] == ["warped" if at % key_every else "key" for at in range(10)]
    assert [result.work for result in results] == [0.0 if at % key_every else 1.0 for at in range(10)]
    for at, result in enumerate(results):
        assert result.freshness["surface"].why == ("warped" if at % key_every else "full")
        assert result.freshness["look"].age_frames == at % key_every
        assert result.freshness["look"].why == ("reused" if at % key_every else "full")


def _encoded(path: Path, pictures: list[Picture], **options: str) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25, options={"threads": "1", "crf": "12", **options})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("bframes", [0, 2])
def test_the_decoders_vectors_serve_as_motion_where_they_lead_back(
    programs: dict[int, Program], tmp_path: Path, bframes: int
) -> None:
    """Without B-frames most frames need no optical flow, and the answers follow the pan nearly as well."""
    path = _encoded(tmp_path / "pan.mp4", _pan(12), bf=str(bframes), **{"b-pyramid": "none"})
    engine, optical = _engine(programs[0], key_every=4, motion="codec"), _engine(programs[0], key_every=4)
    dense = Engine(programs[0])
    by_codec, moved, searched = [], [], []
    with VideoSource.file(str(path), motion=True) as frames:
        for frame in frames:
            expected = dense.step(frame)["surface"]
            result, other = engine.step(frame), optical.step(frame)
            assert not optical.state().memory.keys.by_codec
            if result.mode == other.mode == "warped":
                by_codec.append(engine.state().memory.keys.by_codec)
                moved.append(result["surface"].changed(expected))
                searched.append(other["surface"].changed(expected))
    assert np.mean(moved) < np.mean(searched) + 0.04
    assert np.mean(by_codec) > 0.5 if bframes == 0 else np.mean(by_codec) < 0.4


@pytest.mark.parametrize(("mode", "fresh"), [("keyframe", 0), ("keyframe", 8), ("bounded", 0), ("auto", 0)])
def test_a_decoders_frame_is_read_once_and_between_key_frames_not_at_all(
    programs: dict[int, Program], tmp_path: Path, mode: str, fresh: int
) -> None:
    """Equal frames, a pan, a change in one place: what is computed comes from this frame, not from a former one."""
    still = _texture(4).astype(np.uint8)
    changed = _red(still, 30, 100, 24).astype(np.uint8)
    path = _encoded(tmp_path / "clip.mp4", [still] * 3 + _pan(6) + [still] * 4 + [changed] * 3, bf="0")
    engine = _engine(programs[fresh], mode=mode, key_every=3, fresh=fresh, audit=0.2)
    dense, reading = Engine(programs[0]), engine.state().reading
    read: list[int] = []
    whole = reading.intake

    class Counted:
        """The intake, and the frames that it was asked to read."""

        reasons, needs, place = (), whole.needs, whole.place

        def __call__(self, frame: sb.Frame) -> Geometry:
            read.append(frame.index)
            return whole(frame)

    reading.intake = Counted()
    modes = []
    with VideoSource.file(str(path), motion=True) as frames:
        for frame in frames:
            result, truth = engine.step(frame), dense.step(frame)
            modes.append(result.mode)
            computed = result.mode in ("key", "dense", "audit", "partial") or (result.mode == "warped" and fresh > 0)
            assert read.count(result.index) == int(computed or mode == "bounded")
            if result.mode in ("key", "dense", "audit"):
                assert np.array_equal(result["surface"].classes, truth["surface"].classes)
                assert np.array_equal(result["look"].vector, truth["look"].vector)
    assert {"still"} < set(modes)


@pytest.mark.parametrize("form", ["rgb", "yuv420"])
def test_a_frame_that_is_looked_at_small_is_seen_as_when_it_is_read(
    programs: dict[int, Program], tmp_path: Path, form: str
) -> None:
    """At half resolution it differs from the halved input by less than any threshold, bars and all.

    The picture is grey: of colours, half the detail is left. Sharp detail is smoothed otherwise.
    """
    path = _encoded(tmp_path / "clip.mp4", [np.repeat(cv2.GaussianBlur(_still(), None, 2.0)[..., 1:2], 3, 2)])
    size, grey = sb.Size(96, 192), Input(size=(96, 192), normalize="unit").normalization
    planes: tuple[Plane, ...] = Plane.rgb(grey)
    intake: Any = lambda buffers: RgbIntake(buffers["input"], "letterbox", grey)  # noqa: E731
    if form == "yuv420":
        strides = {"input.y": 1, "input.u": 2, "input.v": 2}
        planes = tuple(Plane(name, 1, stride, (0.0,), (1.0,)) for name, stride in strides.items())
        intake = lambda buffers: Yuv420Intake(buffers, "letterbox", grey, Colour("bt601", "limited"))  # noqa: E731
    reading = Reading(replace(programs[0], size=size, planes=planes, intake=intake))
    small, halved = (np.empty((48, 96, 3), np.uint8) for _ in range(2))
    with VideoSource.file(str(path)) as frames:
        reading.take(next(iter(frames)))
        halve(reading.glance(NullProfiler()), small)
        reading.read(NullProfiler())
        halve(reading.glance(NullProfiler()), halved)
    difference = np.abs(small.astype(int) - halved)
    assert difference.max() < LEAST_CHANGE
    assert difference.mean() < 1


def test_an_engine_asks_for_the_decoders_vectors_where_they_are_wanted(tmp_path: Path) -> None:
    path = _encoded(tmp_path / "pan.mp4", _pan(4), bf="0")
    codec = {"motion": "codec"}
    cases = (({"mode": "keyframe", **codec}, True), ({"mode": "keyframe"}, False), ({"mode": "bounded"}, False))
    for reuse, carried in cases:
        pipeline = sb.load(
            str(PIPELINE), [f"reuse={json.dumps(reuse)}", "input.size=[64, 96]", "runtime.backend=eager"]
        )
        engine = sb.compile(pipeline, use_cache=False)
        found = [bool(result.frame.video.side_data.get("MOTION_VECTORS")) for result in engine.stream(path)]
        assert any(found) == carried


def test_key_frames_answer_what_a_dense_run_does(programs: dict[int, Program]) -> None:
    pictures = _pan(9)
    dense = _steps(Engine(programs[0]), pictures)
    for result, expected in zip(_steps(_engine(programs[0]), pictures), dense, strict=True):
        if result.mode == "key":
            assert np.allclose(result["surface"].logits, expected["surface"].logits, atol=1e-5)
            assert np.array_equal(result["objects"].boxes, expected["objects"].boxes)
            assert np.allclose(result["look"].vector, expected["look"].vector, atol=1e-5)


def test_the_first_picture_is_computed_once_and_once_more_with_noise(programs: dict[int, Program]) -> None:
    program, pictures = programs[0], _pan(2)
    assert program.whole is not None
    counting = Counting(program.whole.executable)
    engine = _engine(replace(program, whole=replace(program.whole, executable=counting)))
    first = engine.step(pictures[0], timestamp=0.0, order="rgb")
    assert (first.mode, counting.runs) == ("key", 2)
    dense = Engine(program).step(pictures[0], timestamp=0.0, order="rgb")
    np.testing.assert_array_equal(first.outputs["surface"].cells, dense.outputs["surface"].cells)
    np.testing.assert_array_equal(first.outputs["look"].vector, dense.outputs["look"].vector)


def test_a_key_frame_answers_for_every_head_and_says_so(programs: dict[int, Program]) -> None:
    heads = {name: replace(head, every=1 if name == "surface" else 7) for name, head in programs[0].heads.items()}
    program = replace(programs[0], heads=heads)
    for index, result in enumerate(_steps(_engine(program, key_every=4), _pan(7))):
        assert result.mode == ("warped" if index % 4 else "key")
        assert {fresh.age_frames for fresh in result.freshness.values()} == {index % 4}
        if result.mode == "key":
            assert {fresh.why for fresh in result.freshness.values()} == {"full"}


@pytest.mark.parametrize("audit", [0.0, 1.0])
def test_what_was_computed_after_all_was_not_dropped(programs: dict[int, Program], audit: float) -> None:
    program = replace(programs[0], deadline_ms=1e-6)
    results = _steps(_engine(program, key_every=3, audit=audit), _pan(7))
    whys = [{fresh.why for fresh in result.freshness.values()} for result in results if result.mode in ("key", "audit")]
    assert len(whys) >= 3
    assert all(why == {"full"} for why in whys)


def test_a_cut_forces_a_key_frame(programs: dict[int, Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself: not because motion would not explain the picture."""
    monkeypatch.setattr("sharedbb.reuse.policy.UNEXPLAINED", 1.0)
    other = 255 - _texture(7, HEIGHT, WIDTH)[:, ::-1]
    pictures = [*_pan(2), *[np.ascontiguousarray(other.astype(np.uint8))] * 2, *_pan(2)]
    modes = [result.mode for result in _steps(_engine(programs[0], key_every=100), pictures)]
    assert modes == ["key", "warped", "key", "still", "key", "warped"]


def test_what_motion_does_not_explain_forces_a_key_frame(programs: dict[int, Program]) -> None:
    scene = _texture(1)
    checks = (np.indices((HEIGHT, WIDTH)) // 6).sum(0)[..., None] % 2 * np.array([20, 160, 90]) + 40
    results = []
    for share in (0.12, 0.55):
        covered = scene.copy()
        covered[:, : int(WIDTH * share)] = checks[:, : int(WIDTH * share)]
        pictures = [picture.astype(np.uint8) for picture in (scene, covered)]
        results.append([result.mode for result in _steps(_engine(programs[0], key_every=100), pictures)])
    assert results == [["key", "warped"], ["key", "key"]]


def test_no_key_frame_serves_longer_than_it_may(programs: dict[int, Program]) -> None:
    engine = _engine(programs[0], key_every=100, max_age_ms=250.0)
    since = 0.0
    modes = []
    times = [0.0, 0.1, 0.2, 0.34, 0.36, 0.4, 0.7, 0.71, 0.94, 0.97, 3.0, 3.001]
    for at, picture in zip(times, _pan(len(times)), strict=True):
        result = engine.step(picture, timestamp=at, order="rgb")
        assert result.mode == ("key" if at == 0 or (at - since) * 1e3 > 250.0 else "warped")
        modes.append(result.mode)
        if result.mode == "key":
            since = at
    assert modes.count("key") > 3


def _mean_change(results: list[FrameResult], dense: list[FrameResult], head: str = "surface") -> float:
    """The share of answers that differ from the dense run's, over all frames."""
    pairs = zip(results, dense, strict=True)
    return float(np.mean([result[head].changed(other[head]) for result, other in pairs]))  # type: ignore[attr-defined]


def test_moved_answers_are_better_than_held_ones_and_fresh_ones_better_still(programs: dict[int, Program]) -> None:
    pictures = _pan(16)
    dense = _steps(Engine(programs[0]), pictures)
    held = [dense[at - at % 4] for at in range(16)]
    moved = _steps(_engine(programs[0]), pictures)
    fresh = _steps(_engine(programs[8], fresh=8), pictures)
    assert [result.mode for result in fresh] == [result.mode for result in moved]
    of_held, of_moved, of_fresh = (_mean_change(results, dense) for results in (held, moved, fresh))
    assert of_held > 0.1
    assert of_moved < 0.4 * of_held
    assert of_fresh < 0.5 * of_moved
    assert all(result.freshness["surface"].why == "partial" for result in fresh if result.mode == "warped")
    assert all(0 < result.work < 1 for result in fresh if result.mode == "warped")


def test_boxes_follow(programs: dict[int, Program]) -> None:
    pictures = _pan(12)
    dense = _steps(Engine(programs[0]), pictures)
    results = _steps(_engine(programs[0]), pictures)
    key = results[0]
    for result, expected in zip(results, dense, strict=True):
        if result.mode == "key":
            key = result
        assert len(expected["objects"].boxes) == 1
        assert np.abs(result["objects"].boxes - expected["objects"].boxes).max() <= 5  # a cell and a little
    assert np.abs(results[-1]["objects"].boxes - key["objects"].boxes)[0, [0, 2]].min() > 2 * PAN
    assert all(result.freshness["objects"].why == "warped" for result in results if result.mode == "warped")


def test_boxes_do_not_drift(programs: dict[int, Program]) -> None:
    """They are moved from the key frame's each time: back where the picture was, they are where they were."""
    there = _pan(4, 3)
    results = _steps(_engine(programs[0], key_every=100), [*there, *there[-2:0:-1], *there[1:]] * 2)
    assert {result.mode for result in results[1:4]} == {"warped"}
    assert np.abs(results[5]["objects"].boxes - results[1]["objects"].boxes).max() < 0.5


def test_nothing_that_changes_is_still(programs: dict[int, Program]) -> None:
    engine = _engine(programs[0], key_every=3)
    results = _steps(engine, [_red(_still(), 30, 60)] * 10)
    assert [result.mode for result in results] == ["key", *["still"] * 9]
    for result in results[1:]:
        assert {fresh.why for fresh in result.freshness.values()} == {"still"}
        assert {fresh.age_frames for fresh in result.freshness.values()} == {0}
        assert result["surface"] is results[0]["surface"]
        assert result.work == 0


def test_back_at_the_key_picture_the_answers_are_the_keys_again(programs: dict[int, Program]) -> None:
    key, away, _ = _pan(3)
    for fresh in (0, 8):
        engine = _engine(programs[fresh], key_every=100, fresh=fresh)
        first, moved, back = _steps(engine, [key, away, key])
        assert (moved.mode, back.mode) == ("warped", "still")
        assert moved["surface"].changed(first["surface"]) > 0
        assert np.array_equal(back["surface"].logits, first["surface"].logits)
        assert np.array_equal(back["objects"].boxes, first["objects"].boxes)
        assert {fresh.age_frames for fresh in back.freshness.values()} == {0}


def test_a_picture_of_another_size_is_a_key_frame(programs: dict[int, Program]) -> None:
    engine = _engine(programs[0], key_every=100)
    pictures = _pan(3)
    _steps(engine, pictures[:2])
    lower_ = np.ascontiguousarray(pictures[2][:96])
    result = engine.step(lower_, timestamp=1.0, order="rgb")
    expected = Engine(programs[0]).step(lower_, order="rgb")
    assert result.mode == "key"
    assert np.allclose(result["surface"].logits, expected["surface"].logits, atol=1e-5)
    assert np.array_equal(result["objects"].boxes, expected["objects"].boxes)


def test_after_a_reset_the_first_frame_is_a_key_frame(programs: dict[int, Program]) -> None:
    engine = _engine(programs[0], key_every=100)
    pictures = _pan(4)
    alone = [result.mode for result in _steps(_engine(programs[0], key_every=100), pictures)]
    _steps(engine, pictures[2:])
    engine.reset()
    results = _steps(engine, pictures)
    assert [result.mode for result in results] == alone == ["key", "warped", "warped", "warped"]
    assert [result.index for result in results] == [0, 1, 2, 3]


def test_heads_that_are_not_asked_for_stay_behind(programs: dict[int, Program]) -> None:
    engine = _engine(programs[0], key_every=100)
    first, second, third = _steps(engine, _pan(3), heads=["objects"])
    assert set(first) == {"surface", "objects", "look"}
    assert (second.mode, third.mode) == ("warped", "warped")
    assert third["surface"] is first["surface"]
    assert third.freshness["surface"].why == "reused"
    assert third.freshness["surface"].age_frames == 2
    assert third.freshness["objects"].why == "warped"


def test_an_audit_measures_what_moving_costs_and_takes_keys_more_often(programs: dict[int, Program]) -> None:
    """Every frame between key frames is computed in full as well, and no budget is as small as what is found."""
    pictures = _pan(10)
    engine, dense = _engine(programs[0], key_every=8, audit=1.0, budget=1e-6), _steps(Engine(programs[0]), pictures)
    unaudited = _steps(_engine(programs[0], key_every=8), pictures[:2])
    results = _steps(engine, pictures)
    assert results[1].mode == "audit"
    off = unaudited[1]["surface"].changed(dense[1]["surface"])
    assert 0 < results[1].freshness["surface"].error <= off + 1e-9  # an average, which begins with nothing
    for result, expected in zip(results, dense, strict=True):
        assert np.allclose(result["surface"].logits, expected["surface"].logits, atol=1e-5)
        assert np.array_equal(result["objects"].boxes, expected["objects"].boxes)
    memory = engine.state().memory
    assert memory is not None
    assert memory.trust.clock < 8


def test_keys_are_taken_less_often_again_when_the_scene_calms_down(programs: dict[int, Program]) -> None:
    """Whatever a hard stretch taught: once moving keeps the budget, it is done again."""
    wild = [_texture(seed).astype(np.uint8) // 8 + picture // 8 * 7 for seed, picture in enumerate(_pan(60, 3))]
    calm = [np.roll(_still(1), at % 20, 1) for at in range(240)]
    engine = _engine(programs[0], audit=0.5, budget=0.04)
    modes = [result.mode for result in _steps(engine, [*wild, *calm])]
    assert modes[20:60].count("key") > 30
    assert modes[-40:].count("key") < 20
