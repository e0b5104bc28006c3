"""``sharedbb fuse``: from a fuse file to an artifact, a record and a page; and the networks apart and fused, timed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import typer
from rich.console import Console
from torch import Tensor, nn

from sharedbb import artifact
from sharedbb.cli import fusing
from sharedbb.cli.fuse import MISSED, fuse
from sharedbb.cli.fuse_page import fuse_page
from sharedbb.cli.fuse_table import by_labels, fate, fuse_table, percent, short, speed_line
from sharedbb.cli.fusing import FusedSpeed
from sharedbb.errors import BackendError, SinkError, SpecError
from sharedbb.learn.network import Network
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec.fuse import load_fuse

ROOT = Path(__file__).parents[2]

TEACHER = """\
name: street
input: {size: [32, 64], normalize: unit}
backbone: {arch: two_layers}
runtime: {device: cpu, backend: eager, precision: f32, threads: 1}
heads:
  ground: {type: segmentation, taps: [8], classes: [sky, road], channels: 8}
  unused: {type: tags, taps: [8], labels: [day], every: 2}
"""

STUDENT = """\
name: fused
input: {size: [32, 64], normalize: unit}
backbone: {arch: two_layers}
runtime: {device: cpu, backend: eager, precision: f32, threads: 1}
heads:
  surface: {type: segmentation, taps: [8], classes: [sky, road], channels: 8, every: 3}
  light: {type: tags, taps: [8], labels: [dark]}
"""

MODULE = """\
import torch

class Light(torch.nn.Module):
    def forward(self, image):
        return 40 * (0.4 - image.mean((1, 2, 3), keepdim=True)[..., 0, 0])
"""

FUSE = """\
student: fused.yaml
teachers:
  street: {artifact: street.sbb, heads: {ground: surface}}
  fused:
    module: light_of_pictures:Light
    input: {size: [32, 64], std: [255, 255, 255]}
    format: tags
    options: {activation: sigmoid}
    classes: [dark]
    heads: {tags: light}
data: {train: [clip], test: [held]}
training: {steps: 4, batch: 2, crop: [32, 64], validate_every: 2}
floors: {light: 0.0}
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
    """The backbone, and one thread: these networks are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    register_backbone("two_layers", TwoLayers, strides=(8,))
    yield
    BACKBONES.unregister("two_layers")
    torch.set_num_threads(threads)


@pytest.fixture
def file(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fuse file with student, teachers and pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = np.random.default_rng(0)
    for folder, count in (("clip", 10), ("held", 3)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            picture = rng.integers(0, 60 + 180 * (number % 2), (40, 72, 3)).astype(np.uint8)
            assert cv2.imwrite(str(tmp_path / folder / f"{number:02d}.png"), picture)
    texts = {"street.yaml": TEACHER, "fused.yaml": STUDENT, "light_of_pictures.py": MODULE, "fuse.yaml": FUSE}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    Network.of(tmp_path / "street.yaml").save(tmp_path / "street.sbb")
    return tmp_path / "fuse.yaml"


def test_a_fuse_file_becomes_an_artifact_a_record_and_a_page(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[list[str | None]] = []

    def interleaved(cases: dict[str | None, Any], device: str) -> dict[str | None, float]:
        timed.append([*cases])
        answers = {name: call() for name, call in cases.items()}
        assert set(answers["street"]) == {"ground"}
        assert set(answers[None]) == {"surface", "light"}
        assert all(fresh.ran for fresh in answers[None].freshness.values())
        return {None: 2.0, "street": 3.0, "fused": 1.0}

    monkeypatch.setattr(fusing, "interleaved", interleaved)
    out, record, page = tmp_path / "out" / "shared.sbb", tmp_path / "record.json", tmp_path / "page.html"
    fuse(str(file), out, json_file=record, report=page)
    said = capsys.readouterr().out
    assert timed == [order for _ in range(5) for order in ([None, "street", "fused"], ["fused", "street", None])][:5]

    told = json.loads(record.read_text())
    assert told["heads"]["surface"]["teacher"] == "street"
    assert told["heads"]["light"]["teacher"] == "fused"
    (speed,) = told["speed"]
    assert (speed["separate_ms"], speed["fused_ms"], speed["ratio"]) == (4.0, 2.0, 2.0)
    assert (speed["ran"], speed["fused_ran"]) == ({"street": "eager f32", "fused": "torch f32"}, "eager f32")
    assert "4.00 ms apart, 2.00 ms fused, 2.00× as fast" in " ".join(said.split())
    assert f"wrote {out}" in said

    text = page.read_text()
    assert text.count("data:image/jpeg") in (2, 4)  # the middle frame, and the worst one where that is another
    assert text.count(" learnt</h2>") == 2
    assert "2.00×" in text

    made = Network.of(out.with_suffix(".yaml"))
    assert list(made.pipeline.heads) == ["surface", "light"]
    report = artifact.load(out).manifest.report
    assert report["test"] == {head: one["score"] for head, one in told["heads"].items()}


def test_it_goes_on_where_it_was_and_a_missed_floor_is_an_exit_code(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, quietly = tmp_path / "shared.sbb", ["measure=[]"]
    fuse(str(file), out, quietly, quiet=True)
    first = out.read_bytes()
    assert (tmp_path / "shared.work").is_dir()
    capsys.readouterr()
    fuse(str(file), out, quietly, quiet=True)
    assert out.read_bytes() == first
    assert capsys.readouterr().out == ""
    with pytest.raises(typer.Exit) as ended:
        fuse(str(file), tmp_path / "other.sbb", [*quietly, "floors={surface: 1.0, light: 1.0}", "training.lr=1e-9"])
    assert ended.value.exit_code == MISSED
    assert (tmp_path / "other.sbb").is_file()
    assert "below its floor of 1" in " ".join(capsys.readouterr().out.split())


def test_the_artifact_is_there_even_where_measuring_fails(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise BackendError("nothing runs here")

    monkeypatch.setattr(fusing, "speeds", broken)
    with pytest.raises(BackendError):
        fuse(str(file), tmp_path / "shared.sbb", ["training.steps=1"], json_file=tmp_path / "record.json")
    assert list(Network.of(tmp_path / "shared.yaml").pipeline.heads) == ["surface", "light"]
    assert not (tmp_path / "record.json").exists()


def test_what_cannot_be_written_is_said_before_any_work(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"cannot write .*shared\.onnx: the name of an artifact ends in \.sbb"):
        fuse(str(file), tmp_path / "shared.onnx")
    with pytest.raises(SinkError, match="is what the run reads"):
        fuse(str(file), tmp_path / "street.sbb")
    with pytest.raises(SinkError, match="is what the run reads"):
        fuse(str(file), tmp_path / "fused.sbb")  # fused.yaml, the student, would lie beside it
    with pytest.raises(SpecError, match=r"training\.steps"):
        fuse(str(file), tmp_path / "shared.sbb", ["training.steps=0"])
    assert not [*tmp_path.glob("*.work")]


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines" / "fuse").glob("*-*.yaml")), ids=lambda path: path.name)
def test_the_fuse_files_that_come_with_it_are_right(path: Path) -> None:
    spec = load_fuse(path)
    assert all(0.9 <= floor <= 1 for floor in spec.floors.values())
    learnt, held_out = {one.set for one in spec.data.train}, {*spec.data.test}
    assert len(held_out - learnt) >= 3
    assert held_out & learnt <= spec.data.divided  # of which another part is held out


def test_times_add_up() -> None:
    speed = FusedSpeed("openvino bf16", {"a": 3.0, "b": 1.5}, 1.5, {"a": "openvino bf16", "b": "torch f32"}, "", "clip")
    assert (speed.separate_ms, speed.to_dict()["ratio"]) == (4.5, 3.0)
    assert speed_line(speed.to_dict()) == "openvino bf16: 4.50 ms apart, 1.50 ms fused, 3.00× as fast"


def _head(score: float | None, teacher: str | None, floor: float | None = None) -> dict[str, Any]:
    return {"type": "tags", "teacher": teacher, "score": score, "floor": floor, "new": True}


TOLD: dict[str, Any] = {
    "student": "one & all",
    "fuse": {"training": {"lr": 0.001, "batch": 8, "balance": "fixed"}, "seed": 0},
    "heads": {"road": _head(0.95, "<street>", 0.9), "faces": _head(0.85, "faces", 0.9), "scene": _head(None, None)},
    "teachers": {
        "<street>": {
            "kind": "artifact",
            "file": "/nets/street.sbb",
            "parameters": 2_000_000,
            "heads": {"road": {"type": "segmentation", "names": ["a", "b"], "threshold": None}},
        },
        "faces": {
            "kind": "onnx",
            "file": "/nets/faces.onnx",
            "parameters": 300_000,
            "heads": {"faces": {"type": "detection", "names": ["face"], "threshold": 0.7}},
        },
    },
    "pictures": {"train": {"clip.mp4": 200}, "val": {"clip.mp4": 25}, "test": {"clips/held.mp4": 50}},
    "said": ["clip: 1 of 12 pictures cannot be used; the first: <05.png>"],
    "training": {"steps": 100, "seconds": 90.0, "loss": 0.5},
    "validations": [
        {"step": 50, "scores": {"road": 0.8, "faces": 0.6}},
        {"step": 100, "scores": {"road": 0.9, "faces": 0.8}},
    ],
    "best_step": 100,
    "curves": {"loss/total": [(100, 2.0)], "loss/road": [(50, 1.0), (100, 0.25)], "val/road": [(50, 0.8), (100, 0.9)]},
    "test": {
        "sets": {
            "clips/held.mp4": {
                "road": {"agreement": 0.95, "worst_decile": 0.7, "labelled": {"miou": 0.612, "accuracy": 0.9}},
                "faces": {"agreement": 0.85, "worst_decile": 0.5},
            }
        },
        "all": {"road": {"agreement": 0.95, "worst_decile": 0.7}, "faces": {"agreement": 0.85, "worst_decile": 0.5}},
    },
    "missed": ["faces"],
    "macs": 1_900_000_000,
    "parameters": 2_100_000,
    "bytes": 4_300_000,
    "digest": "abc",
    "speed": [
        FusedSpeed(
            "openvino bf16",
            {"<street>": 9.0, "faces": 3.0},
            4.0,
            {"<street>": "openvino bf16", "faces": "openvino bf16"},
            "openvino bf16",
            "clips/held.mp4",
        ).to_dict()
    ],
}


def test_the_page_shows_every_head_and_set_and_escapes_every_name() -> None:
    text = fuse_page(TOLD, [("a, teachers", b"\xff\xd8\xff0"), ("a, student", b"\xff\xd8\xff1")])
    assert "one &amp; all" in text
    assert "<street>" not in text
    assert "<05.png>" not in text
    assert "above its floor of 0.9" in text
    assert "below its floor of 0.9" in text
    assert "miou 0.612" in text
    assert "3.00×" in text
    assert text.count("How road learnt") == text.count(" learnt</h2>") == 1  # nothing was logged of the others
    assert "loss, 0.25 at last" in text
    assert text.count("step 50: 70.0 %") == text.count("step 100: 85.0 %") == 1  # dots of the mean over the heads
    assert text.count("<figure>") == 2


def test_a_page_without_speeds_has_neither_times_nor_dots() -> None:
    text = fuse_page(TOLD | {"speed": [], "said": [], "curves": {}})
    assert "not measured" in text
    assert "Agreement against time" not in text
    assert "learnt</h2>" not in text


def test_the_table_has_heads_sets_and_speed(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=160).print(fuse_table(TOLD))
    said = capsys.readouterr().out
    for part in ("held.mp4", "95.0 %", "miou 0.612", "below its floor", "labels", "3.00× as fast", "<05.png>"):
        assert part in said, part
    assert "trained for 100 steps, best on the sets to choose by after 100" in said


def test_words_and_numbers() -> None:
    assert (percent(None), percent(1.0), percent(0.9996), percent(0.5)) == ("–", "100 %", "100.0 %", "50.0 %")
    assert (short("a/b/clip.mp4"), short("camvid:data/camvid/"), short("clip")) == ("clip.mp4", "camvid", "clip")
    assert by_labels({"labelled": {"accuracy": 0.9, "miou": None, "f1": 0.25}}) == "f1 0.250"
    assert by_labels({}) == ""
    assert fate(_head(None, None, 0.5)) == "below its floor of 0.5"
    assert fate(_head(0.4, None)) == ""
