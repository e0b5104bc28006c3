"""``sharedbb share-depth``: from specialists to one network that the engine runs, a record and a page."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from sharedbb import artifact
from sharedbb.cli.depth_page import depth_page, undominated
from sharedbb.cli.depth_table import depth_table
from sharedbb.cli.depths import Stopwatch, depths_of, specialists_of
from sharedbb.cli.describe import describe
from sharedbb.cli.share_depth import share_depth
from sharedbb.compiler import compile_pipeline
from sharedbb.errors import CompressionError, DataError, SinkError
from sharedbb.learn.network import Network
from sharedbb.nets.backbones import Backbone, seeded
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import load, loads
from sharedbb.types import Frame

PIPELINE = """\
name: street
input: {size: [32, 64], normalize: unit}
backbone: {arch: four_steps, weights: trunk.sbb}
runtime: {device: cpu, backend: eager, precision: f32, threads: 1}
heads:
  near: {type: segmentation, taps: [4, 16], classes: [a, b, c, d, e, f], channels: 8}
  far: {type: segmentation, taps: [16], classes: [a, b, c, d, e, f], channels: 8}
  scene: {type: tags, taps: [16], labels: [day, night]}
"""


def _four_steps(weights: str | None) -> Backbone:
    widths = {"one": (3, 8), "two": (8, 8), "three": (8, 8), "four": (8, 8)}
    network = seeded(0, lambda: nn.ModuleDict({name: nn.Conv2d(*width, 3, 2, 1) for name, width in widths.items()}))
    return Backbone(network, tuple(widths), {4: ("two", 8), 8: ("three", 8), 16: ("four", 8)})


@pytest.fixture(autouse=True, scope="module")
def backbone() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    register_backbone("four_steps", _four_steps, strides=(4, 8, 16))
    yield
    BACKBONES.unregister("four_steps")
    torch.set_num_threads(threads)


@pytest.fixture
def street(tmp_path: Path, cache: Path) -> Path:
    """A pipeline, and two specialists that differ from its trunk behind strides 4 and 8."""
    (tmp_path / "street.yaml").write_text(PIPELINE)
    (tmp_path / "noise").mkdir()
    for number, picture in enumerate(np.random.default_rng(0).integers(0, 256, (10, 32, 64, 3), np.uint8)):
        cv2.imwrite(str(tmp_path / "noise" / f"{number}.png"), picture)
    plain = loads(PIPELINE.replace(", weights: trunk.sbb", ""))
    Network.of(plain).save(tmp_path / "trunk.sbb")
    for seed, (name, steps) in enumerate({"near": ("three", "four"), "far": ("four",)}.items(), 1):
        made, generator = Network.of(plain), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for path, weight in made.module.named_parameters():
                if path.split(".")[1] in (*steps, "near", "far"):
                    weight.add_(torch.randn(weight.shape, generator=generator))
        made.save(tmp_path / f"{name}.sbb")
    return tmp_path / "street.yaml"


def test_specialists_become_one_network_that_the_engine_runs(
    street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stopwatch, "__call__", lambda watch, paths: [5.0 - number for number in range(len(paths))])
    out, record, page = tmp_path / "out" / "shared.sbb", tmp_path / "record.json", tmp_path / "page.html"
    given = [f"near={tmp_path / 'near.sbb'}", f"far={tmp_path / 'far.sbb'}"]
    floors = ["near=1.0", "far=1.0"]
    noise = str(street.with_name("noise"))
    share_depth(str(street), given, noise, out, floor=floors, steps=0, judged=1, json_file=record, report=page)
    said = capsys.readouterr().out
    told = json.loads(record.read_text())
    assert [row["depth"] for row in told["rows"]] == [0, 4, 8, 16, None]
    assert told["rows"][told["chosen"]]["depths"] == {"near": 4, "far": 8}
    assert [row["ms"] for row in told["rows"]] == [5.0, 4.0, 3.0, 2.0, 1.0]
    assert f"wrote {out}" in said
    assert "near up to 4" in said
    assert "below the floor" in page.read_text()

    engine = compile_pipeline(load(out.with_suffix(".yaml")), use_cache=False)
    stages = {tuple(segment["heads"]) for segment in describe(engine.program)["segments"]}
    assert {("near", "far", "scene"), ("near",), ("far", "scene"), ("far",), ("scene",)} == stages
    picture = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    answers = engine.step(Frame.of(picture, order="rgb"))
    for head in ("near", "far"):
        alone = Network.of(load(street, [f"backbone.weights={tmp_path / head}.sbb"])).predictor()(picture)
        assert np.array_equal(answers[head].classes, alone[head].classes)

    first = artifact.digest(out)
    share_depth(str(street), given, noise, out, floor=floors, steps=0, judged=1, quiet=True)
    assert artifact.digest(out) == first
    assert capsys.readouterr().out == ""


def test_frames_are_timed_on_every_network(street: Path) -> None:
    found = Stopwatch(use_cache=False)([street, street])
    assert len(found) == 2
    assert all(0 < taken < 1000 for taken in found)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"out": Path("x.onnx")}, SinkError, "the name of an artifact ends in .sbb"),
        ({"minutes": 1.0}, CompressionError, "after --steps or after --minutes"),
        ({"depths": "4,sixteen"}, CompressionError, "street cannot share up to 'sixteen'"),
        (
            {"floor": ["near"]},
            CompressionError,
            "--floor is written HEAD=NUMBER, .* from 0 to 1, got 'near'",
        ),
        ({"data": "synthetic:street?frames=1&size=64x32"}, DataError, "has no pictures for"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    street: Path, tmp_path: Path, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {
        "data": str(street.with_name("noise")),
        "out": tmp_path / "out.sbb",
        "steps": 0,
        "timing": False,
        **changed,
    }
    with pytest.raises(error, match=message):
        share_depth(str(street), [f"near={tmp_path / 'near.sbb'}"], **arguments)


def test_specialists_come_with_their_heads_or_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd=name.sbb").touch()
    texts = ["road.sbb", "road,edges=x/road.sbb", "odd=name.sbb"]
    assert specialists_of(texts) == (("road.sbb", ()), ("x/road.sbb", ("road", "edges")), ("odd=name.sbb", ()))


def test_depths_are_strides_steps_or_all() -> None:
    pipeline = loads(PIPELINE)
    assert depths_of(None, pipeline) == (4, 8, 16)
    assert depths_of("4, three,all", pipeline) == (4, "three", "all")
    neck = pipeline.model_copy(update={"neck": object()})
    assert depths_of(None, neck) == (4, 8, 16, "all")


def _row(depths: dict[str, Any], macs: int, ms: float | None, near: float, far: float, holds: bool) -> dict[str, Any]:
    alike = len({*depths.values()}) == 1
    return {
        "depth": next(iter(depths.values())) if alike else None,
        "depths": depths,
        "macs": macs,
        "ms": ms,
        "parameters": 1_500_000,
        "holds": holds,
        "quality": {
            "near": {"headline": 0.6 * near, "share": near},
            "far": {"headline": 0.4 * far, "share": far},
            "scene": {"headline": 0.9, "share": 1.0},
        },
    }


@pytest.fixture(params=[True, False], ids=["timed", "untimed"])
def told(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A record of three depths and a mixed one."""
    times = (30.0, 20.0, 12.5, 15.0) if request.param else (None,) * 4
    rows = [
        _row({"a": 0, "b": 0}, 4_000_000_000, times[0], 1.0, 1.0, True),
        _row({"a": 4, "b": 4}, 3_000_000_000, times[1], 0.995, 0.99, True),
        _row({"a": 16, "b": 16}, 1_000_000_000, times[2], 0.98, 0.9, False),
        _row({"a": 16, "b": 4}, 2_000_000_000, times[3], 0.98, 0.99, True),
    ]
    return {
        "pipeline": "street <1>",
        "data": "camvid:here",
        "specialists": {"a": ["near"], "b": ["far"]},
        "floors": {"near": 0.97, "far": 0.98},
        "course": {"steps": 500, "minutes": None, "batch": 8, "lr": 0.0005, "seed": 0},
        "rows": rows,
        "chosen": 3,
        "said": ["2 pictures cannot be used"],
        "machine": "here",
        "versions": {"python": "3.11"},
    }


def test_the_page_has_a_dot_for_each_network_and_a_chart_for_each_head(told: dict[str, Any]) -> None:
    page = depth_page(told)
    timed = told["rows"][0]["ms"] is not None
    assert "street &lt;1&gt;" in page
    assert page.count('<svg class="plot"') == 3
    assert ("2.00× as fast" in page) is timed
    assert ("not measured" in page) is not timed
    assert "4.00 G → 2.00 G" in page
    assert "2 pictures cannot be used" in page
    assert page.count(" multiply-adds, ") == 4 + (not timed)
    assert page.count('<rect class="failed"') == 2
    assert page.count('<rect class="full"') == 1 + 2
    assert page.count("far below the floor") == 2


def test_names_of_dots_keep_clear_of_the_axis(told: dict[str, Any]) -> None:
    chart = depth_page(told).partition('<svg class="plot"')[2].partition("</svg>")[0]
    texts = {text: float(y) for y, text in re.findall(r'<text [^>]*y="([\d.]+)"[^>]*>([^<]+)</text>', chart)}
    axis = next(y for text, y in texts.items() if text.endswith(("ms", "adds")))
    assert texts["up to 16"] < axis - 20  # the lowest dot
    assert all(texts[name] < axis - 10 for name in ("nothing", "up to 4", "chosen"))


def test_the_table_says_what_became_of_every_depth(told: dict[str, Any]) -> None:
    console = Console(width=120, file=io.StringIO())
    console.print(depth_table(told))
    text = console.file.getvalue()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    ms = ["30.00 ms", "20.00 ms", "12.50 ms", "15.00 ms"] if told["rows"][0]["ms"] else ["–"] * 4
    assert rows == [
        ["nothing", "4.00 G", ms[0], "near 100.0%", "holds"],
        ["up to 4", "3.00 G", ms[1], "far 99.0%", "holds"],
        ["up to 16", "1.00 G", ms[2], "far 90.0%", "far below the floor"],
        ["a up to 16, b up to 4", "2.00 G", ms[3], "near 98.0%", "chosen"],
        ["near", "0.6000", "0.5880", "98.0%", "97.0%"],
        ["far", "0.4000", "0.3960", "99.0%", "98.0%"],
    ]
    assert "2 pictures cannot be used" in text


def test_what_nothing_beats_is_joined() -> None:
    assert undominated([(30, 1.0), (20, 0.99), (12, 0.9), (15, 0.98), (16, 0.97), (15, 0.98)]) == [0, 1, 2, 3, 5]
