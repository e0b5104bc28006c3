"""``sharedbb plan`` on a tiny pipeline in eager torch, with a cost model made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from sharedbb.compress.costs import FEATURES, CostModel, Law
from sharedbb.registry import BACKBONES, register_backbone

PIPELINE = """\
version: 1
name: tiny
input: {size: [64, 96], normalize: unit}
backbone: {arch: a_layer}
runtime: {device: cpu, backend: eager, precision: f32, threads: 1}
heads:
  road: {type: segmentation, taps: [4], classes: [a, b], channels: 8}
  scene: {type: tags, taps: [4], labels: [day, night]}
"""
MODEL = CostModel(
    "by hand", {"eager f32": Law((0.5,) * len(FEATURES), error=0.1, factor=1.5, anchored=1.2, networks=9)}
)


class ALayer(nn.Module):
    """A backbone of one convolution."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {4: 32}
        self.layer = nn.Conv2d(3, 32, 4, 4)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at stride 4."""
        return {4: self.layer(image).relu()}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    register_backbone("a_layer", ALayer, strides=(4,))
    path = tmp_path_factory.mktemp("plan") / "tiny.yaml"
    path.write_text(PIPELINE)
    yield path
    BACKBONES.unregister("a_layer")


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharedbb.cli.costing.cost_model", lambda *args, **kwargs: MODEL)


def test_the_tables_say_what_is_measured_and_what_is_predicted(sharedbb: Callable[..., Any], pipeline: Path) -> None:
    ended = sharedbb("plan", pipeline)
    assert (ended.code, ended.err) == (0, "")
    said = " ".join(ended.out.split())
    for text in (
        "tiny: ",
        "ms on eager f32 at 96x64",
        "(measured)",
        "its 2 heads as networks of their own",
        "prune 50%",
        "at 64x32",
        "25% anew",
        "fitted to 9 networks, median error 10%",
        "Losses are assumed, not predicted",
    ):
        assert text in said


def test_a_poor_model_is_called_so(
    sharedbb: Callable[..., Any], pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "busy" not in sharedbb("plan", pipeline).out
    poor = replace(MODEL, laws={"eager f32": replace(MODEL.laws["eager f32"], error=3.27)})
    monkeypatch.setattr("sharedbb.cli.costing.cost_model", lambda *args, **kwargs: poor)
    said = " ".join(sharedbb("plan", pipeline).out.split())
    assert "median error 327% on those it had not seen. That says little: the machine was busy" in said


def test_json_is_the_whole_plan(sharedbb: Callable[..., Any], pipeline: Path, tmp_path: Path) -> None:
    floors = ("--floor", "road=0.9", "--floor", "scene=0.99")
    ended = sharedbb("plan", pipeline, "--target-ms", "1000", *floors, "--recomputed", "0.3", "--json", "-")
    told = json.loads(ended.out)
    assert told["target_ms"] == 1000
    assert told["floors"] == {"road": 0.9, "scene": 0.99}
    assert told["model"]["fingerprint"] == "by hand"
    assert told["now"]["measured"]
    assert {one["recomputed"] for one in told["alone"]} == {1.0, 0.3}
    assert told["together"][0]["expected_loss"] == {"road": 0, "scene": 0}
    assert all(1 - one["expected_loss"]["scene"] >= 0.99 for one in told["together"])
    path = tmp_path / "plan.json"
    assert sharedbb("plan", pipeline, "--target-ms", "0.0001", "--json", path).err.startswith(f"wrote {path} (")
    assert json.loads(path.read_text())["together"] == []


def test_a_target_out_of_reach_is_said(sharedbb: Callable[..., Any], pipeline: Path) -> None:
    said = " ".join(sharedbb("plan", pipeline, "--target-ms", "0.0001").out.split())
    assert "Nothing reaches 0.0001 ms above the floors; the fastest is prune 75%" in said


@pytest.mark.parametrize("floor", ["road", "road=2", "=0.9", "road=good"])
def test_floors_that_are_none(sharedbb: Callable[..., Any], pipeline: Path, floor: str) -> None:
    ended = sharedbb("plan", pipeline, "--floor", floor)
    assert ended.code == 2
    assert "--floor is written HEAD=NUMBER, with a number from 0 to 1" in ended.err


def test_floors_of_heads_that_there_are_not(sharedbb: Callable[..., Any], pipeline: Path) -> None:
    ended = sharedbb("plan", pipeline, "--floor", "sky=0.9")
    assert ended.code == 2
    assert "there is no head 'sky'" in ended.err
