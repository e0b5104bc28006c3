"""The headline's arithmetic, its clips, and the four networks that it compares with."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import openvino as ov
import pytest
import torch
from torch import nn

import sharedbb as sb
from benchmarks import headline_agreement, headline_run, networks
from benchmarks.headline import (
    APART,
    JUDGED,
    MOVING,
    OURS,
    QUEUED,
    SAME_REUSE,
    Run,
    as_h264,
    clips_of,
    held_out,
    numbers,
    prepared,
    ways,
)
from benchmarks.headline_agreement import Tally
from benchmarks.headline_run import Apart, line_of, told
from sharedbb.types import Frame, Geometry, Normalization, Size

PIPELINE = """
version: 1
name: one
input: {size: [32, 64], fit: stretch, normalize: unit}
backbone: {arch: mobilenet_v2}
heads: {surface: {type: segmentation, taps: [4], classes: [a, b, c]}}
"""


class Quarter(nn.Module):
    """Three classes from means of 4×4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def _run(frame_ms: float, start_s: float = 1.0, frames: int = 101) -> Run:
    steady = frame_ms * (frames - 1) / 1e3
    return Run(start_s + frame_ms * frames / 1e3, frames, steady, {"dense": frames})


def test_a_run_is_its_start_and_its_frames() -> None:
    run = _run(4.0, 0.5)
    assert run.steady_ms == pytest.approx(4.0)
    assert run.start_s == pytest.approx(0.5)
    assert run.frame_ms == pytest.approx(4.0 + 500 / 101)


def test_ratios_are_of_runs_of_the_same_round_and_clips_count_alike() -> None:
    one = {APART: [_run(40, 0), _run(80, 0), _run(40, 0)], OURS: [_run(4, 0), _run(8, 0), _run(1, 0)]}
    other = {APART: [_run(40, 0)] * 3, OURS: [_run(16, 0)] * 3}
    same = {SAME_REUSE: [_run(20, 0)] * 3}
    found = numbers({"a": {**one, **same}, "b": {**other, **same}}, {})
    mean = found["static clips, geometric mean"]
    assert mean.measured == pytest.approx((10 * 2.5) ** 0.5)
    assert mean.goal == 10
    assert found["static clips, the same weights, geometric mean, without starting"].measured == pytest.approx(2.0)


def test_the_start_counts_and_only_the_issue_s_clip_has_goals() -> None:
    every = {way: [_run(10, 0.5)] for way in ways(Path("m"), Path("r"))}
    by_way = {**every, APART: [_run(40, 1.0)], QUEUED: [_run(30, 1.0)], OURS: [_run(5, 0.5)]}
    found = numbers({}, {MOVING: by_way, "mine.mp4": by_way})
    assert found["moving-dashcam"].measured == pytest.approx((1 + 40 * 0.101) / (0.5 + 5 * 0.101), abs=0.01)
    assert found["moving-dashcam, without starting"].measured == pytest.approx(8.0)
    assert found["moving-dashcam, dense, without starting"].measured == pytest.approx(4.0)
    assert found["moving-dashcam, against the throughput hint, without starting"].measured == pytest.approx(6.0)
    assert (found["moving-dashcam"].goal, found["moving-dashcam, dense"].goal) == (5.0, 3.0)
    assert all(one.goal is None for name, one in found.items() if name.startswith("mine"))


def as_mpeg4(path: Path, *levels: int) -> Path:
    """A clip of grey frames that is not H.264, 12 a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_clips_that_are_not_h264_are_encoded_anew_once(tmp_path: Path) -> None:
    mpeg4 = as_mpeg4(tmp_path / "old.avi", 40, 120, 200)
    made = as_h264(mpeg4, tmp_path)
    with sb.open_source(made) as source:
        levels = [round(float(frame.rgb().mean())) for frame in source]
    assert levels == pytest.approx([40, 120, 200], abs=6)
    with av.open(str(made)) as opened:
        assert opened.streams.video[0].codec_context.name == "h264"
        assert float(opened.streams.video[0].average_rate) == 12
    assert as_h264(made, tmp_path) == made
    before = made.stat().st_mtime_ns
    assert as_h264(mpeg4, tmp_path).stat().st_mtime_ns == before
    assert clips_of(None, [made], tmp_path) == ({}, {made.name: made})


def test_clips_of_one_name_are_not_taken_for_each_other(tmp_path: Path) -> None:
    films = []
    for folder, level in (("a", 0), ("b", 250)):
        (tmp_path / folder).mkdir()
        films.append(as_mpeg4(tmp_path / folder / "clip.avi", level, level))
    static, moving = clips_of(None, films, tmp_path)
    assert (static, list(moving)) == ({}, list(map(str, films)))
    for path, level in zip(moving.values(), (0, 250), strict=True):
        with sb.open_source(path) as source:
            assert next(iter(source)).rgb().mean() == pytest.approx(level, abs=4)


def test_networks_of_other_weights_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make(command: list[str], check: bool) -> None:
        folder = Path(command[-2])
        folder.mkdir()
        for name in (*(f"{head}.xml" for head in headline_run.HEADS), "street-int8.json"):
            (folder / name).touch()
        made.append(folder)

    monkeypatch.setattr("benchmarks.headline.subprocess.run", make)
    options = SimpleNamespace(work=tmp_path, data=None)
    assert prepared(options) == prepared(options)  # type: ignore[arg-type]
    assert len(made) == 1
    monkeypatch.setattr("benchmarks.headline.weights", lambda: {"street": "another"})
    assert prepared(options)[0] == made[1] != made[0]  # type: ignore[arg-type]


def test_a_line_tells_boxes_tags_and_how_many_cells_a_class_covers() -> None:
    geometry = Geometry.fit(Size(32, 64), Size(32, 64), "stretch")
    logits = np.zeros((2, 4, 3), np.float32)
    logits[0, :3, 2] = logits[1, 0, 1] = 1
    outputs = {
        "surface": sb.SegmentationMap(logits, geometry, ("a", "b", "c")),
        "scene": SimpleNamespace(present=("day",)),
        "objects": sb.Detections(np.array([[0, 0, 4, 5]], np.float32), np.array([0.5]), np.array([1]), ("x", "y")),
    }
    line = json.loads(line_of(7, outputs))
    box = {"class": "y", "score": 0.5, "box": [0.0, 0.0, 4.0, 5.0]}
    assert line == {"frame": 7, "surface": [4, 1, 3], "scene": ["day"], "objects": [box]}


def test_what_is_told_of_a_run() -> None:
    into = io.StringIO()
    found = told(iter([("key", {}), ("warped", {}), ("warped", {})]), into)
    assert (found["frames"], found["modes"]) == (3, {"key": 1, "warped": 2})
    assert found["steady_s"] >= 0
    assert [json.loads(line)["frame"] for line in into.getvalue().splitlines()] == [0, 1, 2]


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(headline_run, "HEADS", ("surface",))
    network, unit = Quarter().eval(), Normalization((0, 0, 0), (255, 255, 255))
    model = networks.openvino_model(network, unit, (1, 3, 32, 64))
    model.outputs[0].get_tensor().set_names({"surface.logits"})
    ov.save_model(model, tmp_path / "surface.xml", compress_to_fp16=False)
    pipeline = tmp_path / "one.yaml"
    pipeline.write_text(PIPELINE)
    return network, lambda hint: Apart(tmp_path, hint, str(pipeline))


@pytest.mark.parametrize("hint", ["LATENCY", "THROUGHPUT"])
def test_four_networks_answer_every_frame_in_order(apart: Any, hint: str) -> None:
    network, made = apart
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 64, 3), np.uint8) for _ in range(5)]

    def frames() -> Iterator[Frame]:
        for index, picture in enumerate(pictures):
            yield Frame.of(picture, index=index, order="rgb")

    found = [answers["surface"] for answers in made(hint)(frames())]
    assert len(found) == len(pictures)
    for picture, answer in zip(pictures, found, strict=True):
        with torch.no_grad():
            expected = network(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0).numpy()
        assert answer.logits.shape == (8, 16, 3)
        assert np.allclose(answer.logits, expected, atol=0.02)  # OpenVINO may compute in bfloat16


def test_agreement_is_counted_head_by_head() -> None:
    geometry = Geometry.fit(Size(8, 16), Size(8, 16), "stretch")
    one, other = np.zeros((2, 4, 2), np.float32), np.zeros((2, 4, 2), np.float32)
    other[0, :2, 1] = 1
    maps = [sb.SegmentationMap(logits, geometry, ("a", "b")) for logits in (one, other)]
    tally = Tally()
    tally.add({"surface": maps[0], "more": 1}, {"surface": maps[0]})
    assert tally.shares() == {"surface": 1.0}
    tally.add({"surface": maps[0]}, {"surface": maps[1]})
    assert 0.5 < tally.shares()["surface"] < 1.0


def test_answers_are_judged_on_the_half_that_nothing_was_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = "synthetic:street?frames=6&size=64x48"
    seen: dict[str, list[int]] = {}

    class Recording:
        """An engine that answers nothing, and writes down which frames it is shown."""

        def __init__(self, name: str) -> None:
            self.shown = seen.setdefault(name, [])

        def step(self, frame: Any, **_: Any) -> Any:
            if isinstance(frame, sb.Frame):
                self.shown.append(frame.index)
            return SimpleNamespace(outputs={})

    monkeypatch.setattr(headline_agreement.sb, "load", lambda path, settings: f"{path.stem} {len(settings)}")
    monkeypatch.setattr(headline_agreement.sb, "compile", lambda pipeline, profile: Recording(pipeline))
    monkeypatch.setattr(headline_agreement, "Apart", lambda *_: lambda frames: iter([{} for _ in frames]))
    whole = 6
    count, skipped = held_out(whole)
    headline_agreement.agreements(clip, tmp_path, count, skipped)  # type: ignore[arg-type]
    assert (count, skipped) == (3, 3)
    assert seen["street-small 3"] == seen["street 3"] == seen["street 0"] == [3, 4, 5]
    assert held_out(377) == (189, 188)
    assert held_out(1699) == (JUDGED, 849)
