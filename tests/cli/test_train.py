"""``sharedbb train``: from labelled sets to an artifact, a record and a page; what does not fit is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb import artifact
from sharedbb.cli import training
from sharedbb.cli.options import numbers_of
from sharedbb.cli.train import train
from sharedbb.cli.training import crop_of, curves, sets_of
from sharedbb.cli.training_page import training_page
from sharedbb.errors import CompressionError, DataError, SharedBBError, SinkError
from sharedbb.learn.batches import shares_of
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.network import Network
from sharedbb.learn.training import CHECKPOINT
from sharedbb.registry import BACKBONES, register_backbone

PIPELINE = """\
name: plain
input: {size: [32, 32], normalize: unit}
backbone: {arch: three_layers}
runtime: {device: cpu, backend: eager, precision: f32, threads: 1}
heads:
  surface: {type: segmentation, taps: [8], classes: [ground, thing], channels: 4}
  objects: {type: detection, taps: [16], classes: [thing], channels: 4}
  scene: {type: tags, taps: [16], labels: [thing]}
"""


class ThreeLayers(nn.Module):
    """A backbone of three convolutions."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {8: 8, 16: 8}
        self.first = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 8, 2, 2))
        self.second = nn.Conv2d(8, 8, 2, 2)
        for place, weight in enumerate(self.parameters()):
            torch.nn.init.normal_(weight, 0.0, 0.1, generator=torch.Generator().manual_seed(place))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at strides 8 and 16."""
        first = self.first(image)
        return {8: first, 16: self.second(first)}


@pytest.fixture(autouse=True, scope="module")
def backbone() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    register_backbone("three_layers", ThreeLayers, strides=(8, 16))
    yield
    BACKBONES.unregister("three_layers")
    torch.set_num_threads(threads)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A pipeline, a folder of maps and a COCO folder of boxes, all of one thing on some ground."""
    (tmp_path / "plain.yaml").write_text(PIPELINE)
    maps, boxes = tmp_path / "maps", tmp_path / "boxes"
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        for folder in (maps / part, maps / f"{part}annot", boxes / part):
            folder.mkdir(parents=True)
        for number in range(count):
            labels = np.zeros((32, 32), np.uint8)
            labels[8:24, 4 * number : 4 * number + 16] = 1
            rgb = np.where(labels[..., None] == 1, [200, 60, 30], [40, 60, 90]).astype(np.uint8)
            cv2.imwrite(str(maps / part / f"{number}.png"), rgb)
            cv2.imwrite(str(maps / f"{part}annot" / f"{number}.png"), labels)
            cv2.imwrite(str(boxes / part / f"{number}.png"), rgb)
            images.append({"id": len(images), "file_name": f"{number}.png", "part": part})
            box = [4 * number, 8, 16, 16]
            annotations.append({"image_id": len(images) - 1, "category_id": 1, "bbox": box, "id": len(annotations)})
    (maps / "classes.txt").write_text("ground\nthing\n")
    (boxes / "annotations").mkdir()
    for part in ("train", "val", "test"):
        mine = [one for one in images if one["part"] == part]
        numbers = {one["id"] for one in mine}
        told = {
            "images": mine,
            "annotations": [one for one in annotations if one["image_id"] in numbers],
            "categories": [{"id": 1, "name": "thing"}],
        }
        (boxes / "annotations" / f"instances_{part}.json").write_text(json.dumps(told))
    return tmp_path


def run(folder: Path, out: str = "out.sbb", *data: str, **settings: Any) -> Path:
    """Train for a few steps; returns the artifact's path."""
    given = {"steps": 4, "batch": 4, "crop": "32x32", "quiet": True, **settings}
    train(str(folder / "plain.yaml"), [*(data or [str(folder / "maps")])], folder / out, **given)
    return folder / out


def test_sets_become_an_artifact_a_record_and_a_page(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools")
    record, page = plain / "record.json", plain / "page.html"
    sets = [f"{plain / 'maps'}@0.5", f"coco:{plain / 'boxes'}"]
    out = run(
        plain,
        "out.sbb",
        *sets,
        validate_every=2,
        balance="gradnorm",
        test=True,
        json_file=record,
        report=page,
        quiet=False,
    )
    said, told = capsys.readouterr().out, json.loads(record.read_text())
    assert [(one["pictures"], one["share"]) for one in told["sets"]] == [(4, 0.5), (4, 0.5)]
    assert [one["heads"] for one in told["sets"]] == [["surface", "objects", "scene"], ["objects", "scene"]]
    assert [one["step"] for one in told["validations"]] == [2, 4]
    assert {head: one["judged_on"] for head, one in told["heads"].items()} == dict.fromkeys(
        ("surface", "objects", "scene"), str(plain / "maps")
    )
    assert told["heads"]["surface"]["val"] == told["val"]["surface"]["miou"]
    assert told["test"].keys() == {"surface", "objects", "scene"}
    assert [step for step, _ in told["curves"]["loss/scene"]] == [1, 2, 3, 4]
    assert "weight/scene" in told["curves"]
    assert f"wrote {out}" in said
    assert "miou" in said
    text = page.read_text()
    assert text.count("<polyline") == 3 * 2 + 3  # loss, validations and weight of each head
    made = Network.of(out.with_suffix(".yaml"))
    manifest = artifact.load(out).manifest
    assert manifest.report["val"] == told["val"]
    assert manifest.report["test"] == told["test"]
    assert made.steps[-1].facts["best_step"] == told["best_step"]


def test_equal_commands_give_equal_bytes_and_a_finished_one_is_not_repeated(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = run(plain, "a.sbb"), run(plain, "b.sbb")
    assert first.read_bytes() == second.read_bytes()
    checkpoint = (plain / "a.work" / CHECKPOINT).read_bytes()
    first.unlink()
    monkeypatch.setattr(training.Trainer, "step", lambda *given: pytest.fail("trained again"))
    assert run(plain, "a.sbb").read_bytes() == second.read_bytes()
    assert (plain / "a.work" / CHECKPOINT).read_bytes() == checkpoint


def test_other_settings_are_refused_with_what_differs(plain: Path) -> None:
    run(plain)
    with pytest.raises(
        CompressionError, match=r"other settings: lr: 0\.001 -> 0\.01; heads\.scene: nothing -> 0\.5; go on"
    ):
        run(plain, lr=0.01, weight=["scene=0.5"])
    with pytest.raises(CompressionError, match=r"start: None -> [0-9a-f]{64}"):
        run(plain, start=run(plain, "other.sbb"))
    with pytest.raises(CompressionError, match=r"validated\.every: 1 -> 3; validated\.patience: None -> 5"):
        run(plain, validate_every=3, patience=5)


def test_heads_asked_for_are_the_network(plain: Path) -> None:
    single = Network.of(run(plain, "single.sbb", head=["scene"]).with_suffix(".yaml"))
    assert list(single.pipeline.heads) == ["scene"]
    with pytest.raises(CompressionError, match="plain has no head 'road'; it has surface, objects, scene"):
        run(plain, head=["road"])
    with pytest.raises(CompressionError, match="plain has no head 'road'"):
        run(plain, weight=["road=1"])


def test_it_begins_with_the_weights_of_an_artifact(plain: Path) -> None:
    start = run(plain, "start.sbb", head=["scene"], steps=8)
    begun = Network.of(run(plain, "begun.sbb", start=start, steps=0).with_suffix(".yaml"))
    plainly = Network.of(run(plain, "plainly.sbb", steps=0).with_suffix(".yaml"))
    learnt = artifact.load(start).weights
    for name, value in begun.module.state_dict().items():
        known = not name.startswith(("heads.surface", "heads.objects"))
        assert torch.equal(value, (learnt if known else plainly.module.state_dict())[name].to(value.dtype)), name


@pytest.mark.parametrize(("heads", "first"), [(["scene"], 1), (["surface", "objects", "scene"], 0)])
def test_weights_to_begin_with_are_the_best_only_where_all_heads_have_learnt(
    plain: Path, heads: list[str], first: int
) -> None:
    start = run(plain, "start.sbb", head=heads)
    run(plain, "begun.sbb", start=start, json_file=plain / "record.json")
    assert json.loads((plain / "record.json").read_text())["validations"][0]["step"] == first


def test_what_cannot_be_used_is_said(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = plain / "maps"
    for number in range(4, 20):
        (maps / "train" / f"{number:02d}.png").write_bytes((maps / "train" / "0.png").read_bytes())
        (maps / "trainannot" / f"{number:02d}.png").write_bytes((maps / "trainannot" / "0.png").read_bytes())
    (maps / "train" / "07.png").write_bytes(b"broken")
    cv2.imwrite(str(maps / "trainannot" / "0.png"), np.full((32, 32), 77, np.uint8))
    run(plain, quiet=False, json_file=plain / "record.json")
    said = json.loads((plain / "record.json").read_text())["said"]
    assert len(said) == 2
    assert said[0].startswith(f"{maps}: 1 of 20 pictures cannot be used; the first: cannot read ")
    assert "numbers that no class has, 77, in up to 1 of 20 pictures" in said[1]
    assert "07.png" in capsys.readouterr().out.replace("\n", "")


def test_sets_that_do_not_fit_are_refused_in_one_line(plain: Path) -> None:
    (plain / "maps" / "classes.txt").write_text("floor\nobject\n")
    with pytest.raises(
        DataError, match=r"teaches no head of plain: its classes are floor, object; surface asks for ground,"
    ) as no:
        run(plain)
    assert "\n" not in str(no.value)
    (plain / "maps" / "classes.txt").write_text("ground\nobject\n")
    with pytest.raises(DataError, match="teaches no head"):
        run(plain)
    with pytest.raises(DataError, match="it has no labels"):
        run(plain, "out.sbb", str(plain / "maps" / "train"))


def test_a_head_that_no_set_can_validate_is_said_and_patience_needs_one(plain: Path) -> None:
    for part in ("val", "test"):
        for folder in (part, f"{part}annot"):
            (plain / "maps" / folder).rename(plain / folder)
    run(plain, json_file=plain / "record.json")
    told = json.loads((plain / "record.json").read_text())
    assert told["said"] == [f"no set has pictures to validate {head} on" for head in told["heads"]]
    assert told["validations"] == []
    assert "val" not in told
    with pytest.raises(CompressionError, match="--patience needs pictures to validate on"):
        run(plain, patience=3)


def test_a_head_that_no_set_teaches_stays_as_it_was_and_is_said(plain: Path) -> None:
    (plain / "maps" / "classes.txt").write_text("ground\nthing\n")
    pipeline = (plain / "plain.yaml").read_text()
    (plain / "plain.yaml").write_text(
        pipeline.replace("classes: [thing], channels: 4", "classes: [thing, car], channels: 4")
    )
    out = run(plain, json_file=plain / "record.json")
    told = json.loads((plain / "record.json").read_text())
    assert told["said"] == [
        f"{plain / 'maps'}: it says nothing of objects, whose car is not among its classes ground, thing",
        "no set teaches objects: it stays as it was, on a trunk that changes",
    ]
    learnt, before = (artifact.load(path).weights for path in (out, run(plain, "start.sbb", steps=0)))
    same = {name for name in before if name.endswith("weight") and torch.equal(before[name], learnt[name])}
    assert any(name.startswith("heads.objects") for name in same)
    assert not any(name.startswith("heads.surface") for name in same)


def test_what_cannot_be_written_is_said_before_any_work(plain: Path) -> None:
    with pytest.raises(SinkError, match=r"cannot write .*out\.onnx: the name of an artifact ends in \.sbb"):
        run(plain, "out.onnx")
    with pytest.raises(SinkError, match="is what the run reads"):
        run(plain, "plain.sbb")  # plain.yaml would lie beside it
    with pytest.raises(CompressionError, match="--steps or after --minutes"):
        run(plain, minutes=1.0)
    assert not [*plain.glob("*.work")]


def test_sets_and_shares_are_read() -> None:
    assert sets_of(["camvid:a@b", "x@0.25", "synthetic:street?frames=8@1"]) == (
        ("camvid:a@b", None),
        ("x", 0.25),
        ("synthetic:street?frames=8", 1.0),
    )
    with pytest.raises(DataError, match="above 0 and at most 1, got 25 for x"):
        sets_of(["x@25"])


def test_shares_are_as_asked_and_by_pictures_otherwise() -> None:
    def of(count: int) -> Data:
        return Data.given(f"set of {count}", [Sample("p", np.zeros((4, 4, 3), np.uint8))] * count)

    def shares(*sets: tuple[int, float | None]) -> list[float]:
        return [share for _, share in shares_of([(of(count), share) for count, share in sets])]

    assert shares((30, None)) == [1.0]
    assert shares((30, None), (10, None), (5, 0.2)) == pytest.approx([0.6, 0.2, 0.2])
    assert shares((30, 0.2), (10, 0.2)) == [0.2, 0.2]
    with pytest.raises(DataError, match=r"add up to 1\.2, and leave nothing to others"):
        shares((30, 0.6), (10, 0.6))
    with pytest.raises(DataError, match="add up to 1, and leave nothing to others"):
        shares((30, 1.0), (10, None))


def test_numbers_of_options_are_read() -> None:
    assert (crop_of("384x512"), crop_of(None)) == ((384, 512), None)
    assert numbers_of("--weight", ["a=0.5", "b=2"]) == {"a": 0.5, "b": 2.0}
    for text in ("384", "axb", "-1x3"):
        with pytest.raises(CompressionError, match="--crop takes height and width"):
            crop_of(text)
    for text in ("a", "a=", "=1", "a=-1", "a=inf", "a=nan"):
        with pytest.raises(CompressionError, match="--weight is written HEAD=NUMBER, with a number from 0 up, got"):
            numbers_of("--weight", [text])
    with pytest.raises(CompressionError, match=r"--floor is written HEAD=NUMBER, .* from 0 to 1, got 'a=1\.5'"):
        numbers_of("--floor", ["a=1.5"], most=1)


def test_long_curves_are_thinned_by_means() -> None:
    lines = [{"step": step, "loss/a": float(step)} for step in range(1, 8)] + [{"step": 7, "val/a": 0.5}]
    assert curves(lines, most=3) == {"loss/a": [(3, 2.0), (6, 5.0), (7, 7.0)], "val/a": [(7, 0.5)]}


def test_the_page_escapes_every_name(plain: Path) -> None:
    run(plain, json_file=plain / "record.json")
    told = json.loads((plain / "record.json").read_text())
    text = training_page(json.loads(json.dumps(told).replace("scene", "<scene>")))
    assert "&lt;scene&gt;" in text
    assert "<scene>" not in text


def test_what_to_begin_with_is_never_passed_over(plain: Path) -> None:
    with pytest.raises(SharedBBError, match="nosuch"):
        run(plain, start=plain / "nosuch.pth")
    with pytest.raises(SharedBBError, match="names no artifact as its weights"):
        run(plain, start=plain / "plain.yaml")


def test_judging_on_test_needs_a_part_of_that_name(plain: Path) -> None:
    for folder in ("test", "testannot"):
        shutil.rmtree(plain / "maps" / folder)
    with pytest.raises(DataError, match="--test needs pictures to judge on, and no set has a part test"):
        run(plain, test=True)


def test_corrected_labels_are_other_pictures(plain: Path) -> None:
    run(plain)
    (plain / "maps" / "classes.txt").write_text("thing\nground\n")
    with pytest.raises(CompressionError, match=r"other settings: data\..*digest: [0-9a-f]{32} -> [0-9a-f]{32}"):
        run(plain)
