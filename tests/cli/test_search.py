"""``sharedbb search``: a real search over a tiny network, and its objectives and picture on runs made by hand."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from torch import Tensor, nn

from sharedbb import artifact
from sharedbb.cli.search import Sought, worst_loss
from sharedbb.cli.search_picture import picture
from sharedbb.compress.optuna_search import Trial
from sharedbb.errors import CompressionError
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec.recipe import loads_space

PIPELINE = """\
name: plain
input: {size: [32, 64], normalize: unit}
backbone: {arch: some_layers}
heads: {scene: {type: tags, taps: [4], labels: [sky, road], threshold: 0.0}}
"""
RECIPE = """\
pipeline: tiny.yaml
data: {train: PICTURES, calibrate: 2}
steps: [{type: cluster, bits: {choose: [4, 1]}}]
measure: []
seed: 5
"""


class SomeLayers(nn.Module):
    """A backbone of two convolutions."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {4: 16}
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 16, 1))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at stride 4."""
        return {4: self.layers(image)}


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    register_backbone("some_layers", SomeLayers, strides=(4,))
    (tmp_path / "tiny.yaml").write_text(PIPELINE)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, noise in enumerate(np.random.default_rng(0).integers(0, 256, (10, 32, 64, 3), np.uint8)):
        cv2.imwrite(str(pictures / f"{number}.png"), noise)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("PICTURES", str(pictures)))
    yield path
    BACKBONES.unregister("some_layers")


def test_a_search_leaves_artifacts_a_picture_and_a_record(
    sharedbb: Callable[..., Any], recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = sharedbb("search", recipe, "--out", out, "--trials", 3, "--macs")
    assert ended.code == 0, ended.err
    assert "trial 3 of 3: steps.0.bits=" in ended.err
    told = json.loads((out / "search.json").read_text())
    assert [trial["trial"] for trial in told["trials"]] == [1, 2, 3]
    assert all(trial["cost"] == 1.0 for trial in told["trials"])
    (best,) = told["front"]
    assert best["loss"] == min(trial["loss"] for trial in told["trials"])
    assert artifact.load(out / best["artifact"]).manifest.kind == "network"
    assert ElementTree.parse(out / "front.svg").getroot().tag.endswith("svg")
    assert f"wrote {out / best['artifact']}" in ended.out
    assert best["artifact"] == f"trial-{best['trial']:03}.sbb"
    (out / "trial-040.sbb").touch()  # of a front that has been beaten since
    files = {path: path.stat().st_mtime_ns for path in (out / "work").rglob("entry.json")}
    again = sharedbb("search", recipe, "--out", out, "--trials", 3, "--macs")
    assert again.code == 0
    assert json.loads((out / "search.json").read_text()) == told
    assert [path.name for path in out.glob("*.sbb")] == [best["artifact"]]
    assert {path: path.stat().st_mtime_ns for path in (out / "work").rglob("entry.json")} == files


def test_a_recipe_with_nothing_free(sharedbb: Callable[..., Any], recipe: Path, tmp_path: Path) -> None:
    ended = sharedbb("search", recipe, "--out", tmp_path / "out", "--set", "steps.0.bits=4")
    assert ended.code == 2
    assert "nothing to search: mark a field {search: [low, high]}" in ended.err


def state(digest: str, macs: int = 100) -> Any:
    return SimpleNamespace(digest=digest, entry=SimpleNamespace(facts={"macs": macs}))


def row(digest: str, **quality: float) -> Any:
    return SimpleNamespace(state=state(digest), quality={head: {"headline": value} for head, value in quality.items()})


def finished(**speed: float) -> Any:
    """A run whose second step was kept and third refused."""
    return SimpleNamespace(
        rows=[row("a", road=0.8, cars=0.5), row("b", road=0.76, cars=0.6), row("c", road=0.1, cars=0.1)],
        start=state("a", 100),
        result=state("b", 40),
        speeds=[SimpleNamespace(ratio=speed["ratio"])] if speed else [],
    )


def test_the_loss_is_the_worst_heads_of_the_network_that_was_kept() -> None:
    assert worst_loss(finished()) == pytest.approx(0.05)


def sought(monkeypatch: pytest.MonkeyPatch, run: Any, *, timed: bool) -> Sought:
    monkeypatch.setattr("sharedbb.compress.recipe.run", lambda *args, **kwargs: run)
    space = loads_space(RECIPE.replace("measure: []", ""))
    return Sought(space, Path(), (lambda targets: targets) if timed else None, lambda text: None)


def test_the_cost_is_measured_time_or_multiply_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sought(monkeypatch, finished(ratio=2.0), timed=True)({"steps.0.bits": 4}) == (0.5, 0.05)
    assert sought(monkeypatch, finished(), timed=False)({"steps.0.bits": 4}) == (0.4, 0.05)


def test_another_recipe_or_cost_is_another_search(
    monkeypatch: pytest.MonkeyPatch, recipe: Path, tmp_path: Path
) -> None:
    def named(text: str, *, timed: bool = True) -> str:
        space = loads_space(text, str(recipe))
        return Sought(space, tmp_path, (lambda targets: targets) if timed else None, lambda said: None).name

    names = [
        named(RECIPE),
        named(RECIPE.replace("[4, 1]", "[4, 2]")),
        named(RECIPE.replace("seed: 5", "seed: 6")),
        named(RECIPE, timed=False),
    ]
    assert len(set(names)) == 4
    assert named(RECIPE) == names[0]


def test_the_picture_has_every_trial_and_joins_the_front() -> None:
    trials = [Trial(0, {}, (0.5, 0.02)), Trial(1, {}, (0.4, 0.05)), Trial(2, {}, (0.9, 0.9)), Trial(3, {}, None, "no")]
    titles = {0: "a < b", 1: "b", 2: "c", 3: "d"}
    drawn = ElementTree.fromstring(picture(trials, [trials[1], trials[0]], titles, "time"))
    circles = [element for element in drawn.iter() if element.tag.endswith("circle")]
    assert [circle.get("class") for circle in circles] == ["best", "best", "other"]
    assert circles[0][0].text == "a < b"
    line = next(element for element in drawn.iter() if element.tag.endswith("polyline"))
    assert len((line.get("points") or "").split()) == 2
    places = [(float(circle.get("cx") or 0), float(circle.get("cy") or 0)) for circle in circles]
    assert places[1][0] < places[0][0] < places[2][0]
    assert places[2][1] < places[1][1] < places[0][1]


def test_pictures_of_searches_without_results() -> None:
    drawn = ElementTree.fromstring(picture([Trial(0, {}, None, "no")], [], {0: ""}, "time"))
    assert not [element for element in drawn.iter() if element.tag.endswith("circle")]


def test_missing_packages_are_said(
    sharedbb: Callable[..., Any], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: Any) -> Any:
        raise CompressionError("searching needs optuna: pip install 'sharedbb[compress]'")

    monkeypatch.setattr("sharedbb.compress.optuna_search._study", missing)
    ended = sharedbb("search", recipe, "--out", tmp_path / "out", "--macs")
    assert ended.code == 2
    assert "pip install 'sharedbb[compress]'" in ended.err
