"""``sharedbb compress``: from a recipe to an artifact, a record and a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from sharedbb import artifact
from sharedbb.cli import costing
from sharedbb.cli.compress import compress
from sharedbb.cli.compression import Stopwatch
from sharedbb.cli.compression_page import compression_page, undominated
from sharedbb.cli.compression_table import compression_table, macs, on_test_set, size, step_name, worst
from sharedbb.compress.costs import FEATURES, CostModel, Law
from sharedbb.compress.record import Speed
from sharedbb.errors import SinkError, SpecError
from sharedbb.learn.network import Network
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec.recipe import Target

Command = Callable[..., Any]
"""See conftest.py."""

PIPELINE = """\
name: plain
input: {size: [32, 64], normalize: unit}
backbone: {arch: two_layers}
runtime: {device: cpu, backend: eager, precision: f32, threads: 1}
heads: {scene: {type: tags, taps: [8], labels: [sky, road], threshold: 0.0}}
"""

RECIPE = """\
pipeline: plain.yaml
data: {train: "synthetic:street?frames=10&seed=1", calibrate: 2}
floors: {scene: 0.5 of before}
steps:
  - {type: code, bits: 8}
  - {type: code, bits: 4, faster: true}
measure: [{backend: eager, precision: f32}]
"""


class TwoLayers(nn.Module):
    """A backbone of two convolutions."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {8: 16}
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 2, 2))
        for place, weight in enumerate(self.layers.parameters()):
            torch.nn.init.normal_(weight, 0.0, 0.1, generator=torch.Generator().manual_seed(place))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at stride 8."""
        return {8: self.layers(image)}


@pytest.fixture(autouse=True, scope="module")
def backbone() -> Iterator[None]:
    register_backbone("two_layers", TwoLayers, strides=(8,))
    yield
    BACKBONES.unregister("two_layers")


@pytest.fixture
def recipe(tmp_path: Path, cache: Path) -> Path:
    """A recipe of two steps, the second of which claims what it cannot keep."""
    (tmp_path / "plain.yaml").write_text(PIPELINE)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path / "small.yaml"


def test_a_recipe_becomes_an_artifact_a_record_and_a_page(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stopwatch, "_speed", lambda watch, target, before, after: Speed(str(target), 5.0, 4.95))
    out, record, page = tmp_path / "out" / "plain.sbb", tmp_path / "record.json", tmp_path / "page.html"
    compress(str(recipe), out, json_file=record, report=page)
    said = capsys.readouterr().out
    told = json.loads(record.read_text())
    assert [(row["step"], row["fate"]) for row in told["rows"]] == [
        ("start", "kept"),
        ("code", "kept"),
        ("code", "slower"),
    ]
    assert told["rows"][1]["bytes"] < told["rows"][0]["bytes"]
    assert told["rows"][2]["said"][0].startswith("not faster on eager f32: 4.95 ms after, 5.00 ms before")
    assert told["speed"][0]["target"] == "eager f32"
    assert "refused" in said
    assert f"wrote {out}" in said
    assert told["cost_model"] is None
    assert all(row["predicted"] == [] for row in told["rows"])
    text = page.read_text()
    assert text.count("data:image/jpeg") == 2
    assert "refused: not faster" in text
    for page_or_table in (text, said):
        assert f"sharedbbplan{tmp_path / 'plain.yaml'}" in "".join(page_or_table.split())

    made = Network.of(out.with_suffix(".yaml"))
    assert {coding["bits"] for coding in made.coding.values()} == {8}
    assert artifact.load(out).manifest.report.keys() == {"data", "before", "test"}

    first = artifact.digest(out)
    assert told["digest"] == told["rows"][1]["digest"] == first
    assert told["rows"][1]["bytes"] == out.stat().st_size
    compress(str(recipe), out, quiet=True)
    assert artifact.digest(out) == first
    assert capsys.readouterr().out == ""


def test_the_cost_model_of_the_machine_is_held_against_what_is_measured(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    law = Law((1.0,) * len(FEATURES), 0.1, 2.0, 1.25, 9)
    monkeypatch.setattr(costing, "fitted", lambda runtime: CostModel("here", {"eager f32": law}))
    monkeypatch.setattr(Stopwatch, "_speed", lambda watch, target, before, after: Speed(str(target), 8.0, 5.0))
    record = tmp_path / "record.json"
    compress(str(recipe), tmp_path / "little.sbb", json_file=record)
    told = json.loads(record.read_text())
    start, unmeasured, measured = told["rows"]
    assert told["cost_model"] == "here"
    assert start["predicted"] == unmeasured["predicted"] == []
    (only,) = measured["predicted"]  # coding saves no work, so the time before is what is predicted
    assert only == {
        "target": "eager f32",
        "way": "eager f32",
        "milliseconds": pytest.approx(8.0),
        "low": pytest.approx(8.0 / 1.25),
        "high": pytest.approx(8.0 * 1.25),
        "error": pytest.approx(8.0 / 5.0 - 1),
    }
    assert "predicted" in capsys.readouterr().out
    Console(width=160).print(compression_table(told))
    assert "8.00 ms (+60 %)" in capsys.readouterr().out
    assert "8.00 ms (+60 %)" in compression_page(told)


def test_an_artifact_runs_on_a_clip(recipe: Path, tmp_path: Path, clip: Path, sharedbb: Command) -> None:
    text = recipe.read_text().replace(
        "{type: code, bits: 4, faster: true}", "{type: quantize, tool: own, faster: false}"
    )
    recipe.write_text(text)
    made = sharedbb("compress", recipe, "--out", tmp_path / "small.net.sbb", "--set", "measure=[]", "--quiet")
    assert (made.code, made.out) == (0, ""), made.err
    assert Network.of(tmp_path / "small.net.yaml").scheme is not None
    ran = sharedbb("run", tmp_path / "small.net.yaml", clip, "--jsonl", tmp_path / "answers.jsonl", "--quiet")
    assert ran.code == 0, ran.err
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 12


def test_a_field_may_be_set(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "little.sbb"
    compress(
        str(recipe), out, ["steps.0.bits=16", "steps.1.faster=false", "measure=[]"], tmp_path / "there", quiet=True
    )
    assert (tmp_path / "there").is_dir()
    assert not out.with_suffix(".work").exists()
    assert {coding["dtype"] for coding in Network.of(out.with_suffix(".yaml")).coding.values()} == {"f16"}


def test_what_cannot_be_written_is_said_before_any_work(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"cannot write .*plain\.onnx: the name of an artifact ends in \.sbb"):
        compress(str(recipe), tmp_path / "plain.onnx")
    (tmp_path / "folder.sbb").mkdir()
    with pytest.raises(SinkError, match="it is a folder"):
        compress(str(recipe), tmp_path / "folder.sbb")
    with pytest.raises(SinkError, match="is what the run reads"):
        compress(str(recipe), tmp_path / "plain.sbb", report=recipe)
    with pytest.raises(SinkError, match="is what the run reads"):
        compress(str(recipe), tmp_path / "small.sbb")  # small.yaml, the recipe, would lie beside it
    (tmp_path / "teacher.yaml").write_text(PIPELINE.replace("two_layers", "two_layers, weights: learnt.sbb"))
    (tmp_path / "learnt.sbb").write_bytes(b"trained for days")
    (tmp_path / "measured.json").write_text("{}")
    reads = "{type: distill, steps: 1, teacher: teacher.yaml}\n  - {type: prune, sensitivity: measured.json}"
    (tmp_path / "reads.yaml").write_text(RECIPE.replace("{type: code, bits: 8}", reads))
    for name in ("teacher.sbb", "learnt.sbb"):  # teacher.yaml would lie beside the first
        with pytest.raises(SinkError, match="is what the run reads"):
            compress(str(tmp_path / "reads.yaml"), tmp_path / name)
    with pytest.raises(SinkError, match="is what the run reads"):
        compress(str(tmp_path / "reads.yaml"), tmp_path / "plainer.sbb", json_file=tmp_path / "measured.json")
    with pytest.raises(SpecError, match=r"steps\.0\.bits"):
        compress(str(recipe), tmp_path / "plain.sbb", ["steps.0.bits=9"])
    assert not [*tmp_path.glob("*.work")]


def test_the_stopwatch_times_both_on_every_target(recipe: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"
    (only,) = Stopwatch([Target(backend="eager", precision="f32")])(plain, plain)
    assert only.target == "eager f32"
    assert only.before_ms > 0
    assert only.after_ms > 0


def _row(step: str, fate: str, speedup: float, share: float, **settings: Any) -> dict[str, Any]:
    return {
        "step": step,
        "settings": settings,
        "fate": fate,
        "said": [],
        "bytes": int(8e6 / speedup),
        "macs": int(5e9 / speedup),
        "parameters": 100,
        "predicted": [],
        "quality": {"road": {"headline": 0.8 * share}, "<scene>": {"headline": 0.5}},
        "relative": {"road": share, "<scene>": 1.0},
        "speedup": speedup,
        "speed": [{"target": "openvino bf16", "before_ms": 8.0, "after_ms": 8.0 / speedup, "ratio": speedup}],
    }


TOLD: dict[str, Any] = {
    "cost_model": None,
    "pipeline": "street & more",
    "recipe": {"pipeline": "street.yaml", "data": {"train": "camvid:data"}, "steps": [1, 2], "seed": 0},
    "floors": [{"head": "road", "metric": "headline", "bound": "0.97 of before", "least": 0.776}],
    "rows": [
        _row("start", "kept", 1.0, 1.0),
        _row("prune", "broken", 2.5, 0.9, method="structured", amount=0.5),
        _row("prune", "kept", 2.0, 0.98, method="structured", amount=0.25),
    ],
    "digest": "abc",
    "test": {
        side: {"road": {"headline": value}, "<scene>": {"headline": 0.5}}
        for side, value in (("before", 0.8), ("after", 0.78))
    },
    "speed": [{"target": "openvino bf16", "before_ms": 8.0, "after_ms": 4.0, "ratio": 2.0}],
}


def test_the_page_shows_every_step_and_escapes_every_name() -> None:
    text = compression_page(TOLD)
    assert "street &amp; more" in text
    assert "<scene>" not in text
    assert text.count("prune structured 0.25") >= 3  # steps, heads, a dot
    assert "refused: breaks a floor" in text
    assert "97.5 %" in text
    assert text.count('rx="5"') == 3


def test_speed_that_was_not_measured_is_a_dash_and_multiply_adds_stand_for_it() -> None:
    rows = [*TOLD["rows"], {**_row("factorize", "kept", 2.5, 0.97), "speedup": None, "speed": []}]
    text = compression_page({**TOLD, "rows": rows})
    assert "<td>2.00×</td>" in text
    assert "<td>–</td>" in text
    assert "against multiply-adds saved" in text


def test_words_and_numbers() -> None:
    assert step_name(TOLD["rows"][1]) == "prune structured 0.5"
    assert (size(5_400_000), size(310_400)) == ("5.4 MB", "310 kB")
    assert (macs(5_310_000_000), macs(310_000_000)) == ("5.31 G", "310.0 M")
    assert worst({"a": 0.9, "b": 0.8, "c": 1.0}) == ("b", 0.8)
    assert on_test_set(TOLD)[0] == ("road", 0.8, 0.78, pytest.approx(0.975))


def test_the_front_has_what_nothing_beats() -> None:
    points = [(1.0, 1.0), (2.0, 0.9), (1.5, 0.9), (2.0, 0.8), (3.0, 0.5)]
    assert undominated(points) == [0, 1, 4]
