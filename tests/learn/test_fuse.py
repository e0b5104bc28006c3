"""Fusing: a student learns from an artifact, a torch module and labels; killed or not, the same one comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb import artifact
from sharedbb.errors import CompressionError, DataError
from sharedbb.learn import training
from sharedbb.learn.data import Data, open_data
from sharedbb.learn.fuse import fuse, sets_of
from sharedbb.learn.fusion import Fusion
from sharedbb.learn.judge import LOWEST_SCORE
from sharedbb.learn.network import Network
from sharedbb.learn.teachers import Teacher, open_teacher
from sharedbb.outputs.agreement import Agreement
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import load
from sharedbb.spec.fuse import FuseData, load_fuse

STREET = """\
name: street
input: {size: [32, 64], normalize: unit}
backbone: {arch: two_layers}
heads:
  ground: {type: segmentation, taps: [8], classes: [sky, road, tree], channels: 8}
  things: {type: detection, taps: [8], classes: [car], channels: 8, score_threshold: 0.2}
"""

STUDENT = """\
name: fused
input: {size: [32, 64], normalize: unit}
backbone: {arch: two_layers}
heads:
  surface: {type: segmentation, taps: [8], classes: [sky, road, tree], channels: 8}
  objects: {type: detection, taps: [8], classes: [car], channels: 8}
  light: {type: tags, taps: [8], labels: [dark, red]}
  scene: {type: tags, taps: [8], labels: [vehicle, pedestrian]}
"""

MODULE = """\
import torch

class Light(torch.nn.Module):
    def forward(self, image):
        red, green, blue = image.mean((2, 3)).unbind(1)
        return torch.stack([40 * (0.4 - green), 40 * (red - green)], 1)
"""

FUSE = """\
student: fused.yaml
start: street
teachers:
  street: {artifact: street.sbb, heads: {ground: surface, things: objects}}
  light:
    module: light_teacher:Light
    input: {size: [32, 64], fit: stretch, std: [255, 255, 255]}
    format: tags
    options: {activation: sigmoid}
    classes: [dark, red]
    heads: {tags: light}
data: {train: [clip, {set: labelled, share: 0.25}], val: [other], test: [held, clip2]}
training: {steps: 6, batch: 4, lr: 0.01, crop: [32, 64], validate_every: 3}
seed: 3
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
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fuse file with its student, its teachers, and folders of pictures of one colour each under some noise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for seed, (folder, count) in enumerate({"clip": 12, "other": 4, "held": 4, "clip2": 3}.items()):
        (tmp_path / folder).mkdir()
        rng = np.random.default_rng(seed)
        for number in range(count):
            level = np.array([20, 20, 230] if number % 2 else [120, 200, 20])
            noisy = np.clip(level + rng.normal(0, 20, (40, 72, 3)), 0, 255).astype(np.uint8)
            assert cv2.imwrite(str(tmp_path / folder / f"{number:02d}.png"), noisy)
    for folder, kind in (("train", 0), ("trainannot", 1)):
        (tmp_path / "labelled" / folder).mkdir(parents=True)
        for number in range(4):
            labels = np.zeros((40, 72), np.uint8)
            labels[20:], labels[10:30, 8:30] = 1, 3 + number % 2
            picture = labels if kind else np.dstack([50 * labels] * 3)
            assert cv2.imwrite(str(tmp_path / "labelled" / folder / f"{number}.png"), picture)
    (tmp_path / "labelled" / "classes.txt").write_text("sky\nroad\ntree\nvehicle\npedestrian\n")
    for name, text in {"street.yaml": STREET, "fused.yaml": STUDENT, "light_teacher.py": MODULE}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "fuse.yaml").write_text(FUSE)
    Network.of(tmp_path / "street.yaml").save(tmp_path / "street.sbb")
    return tmp_path / "fuse.yaml"


def run(file: Path, work: str, *overrides: str, watch: Any = training.silent) -> Fusion:
    return fuse(load_fuse(file, overrides), file.parent / work, watch=watch)


def test_every_head_is_held_against_its_own_teacher(file: Path) -> None:
    result = run(file, "work")
    told = result.to_dict()
    assert told == json.loads(json.dumps(told))
    assert {head: one["teacher"] for head, one in told["heads"].items()} == {
        "surface": "street",
        "objects": "street",
        "light": "light",
        "scene": None,
    }
    assert [head for head, one in told["heads"].items() if one["new"]] == ["surface", "objects", "light", "scene"]
    assert [one["step"] for one in told["validations"]] == [3, 6]
    assert told["pictures"]["train"] == {"clip": 12, "labelled": 4}

    student = result.network.predictor(lowest_score=LOWEST_SCORE)
    for name, head in (("street", "surface"), ("light", "light")):
        teacher = open_teacher(name, result.fuse.teachers[name])
        overall = None
        for folder in ("held", "clip2"):
            own = None
            for sample in open_data(folder, (32, 64)):
                ours, theirs = student(sample.rgb)[head], teacher(sample.rgb)[head]
                own, overall = (one or Agreement.of(type(theirs)) for one in (own, overall))
                own.add(ours, theirs)
                overall.add(ours, theirs)
            assert own is not None
            assert told["test"]["sets"][folder][head] == own.summary()
        assert overall is not None
        assert told["heads"][head]["score"] == overall.overall()["agreement"]


def test_the_student_learns(file: Path) -> None:
    before = run(file, "short", "training.steps=1", "training.lr=1e-9")
    after = run(file, "long", "training.steps=40")
    assert after.scores["light"] > 0.95 > before.scores["light"]
    assert after.scores["surface"] > before.scores["surface"]
    assert after.clock.loss < before.clock.loss


def test_killed_and_resumed_the_same_student_comes_out(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = run(file, "unbroken")
    monkeypatch.setattr(training, "SAVED_EVERY_S", 0.0)

    def kill_at(moment: str) -> Any:
        def watch(doing: str, share: float | None) -> None:
            if doing.startswith(moment):
                raise InterruptedError

        return watch

    moments = ("asking the teachers about labelled", "training, step 2", "validating", "training, step 6", "judging")
    for moment in moments:
        with pytest.raises(InterruptedError):
            run(file, "killed", watch=kill_at(moment))
    resumed = run(file, "killed")
    assert artifact.digest(resumed.file) == artifact.digest(unbroken.file)
    assert resumed.test == unbroken.test
    assert resumed.selection.validations == unbroken.selection.validations

    asked: list[str] = []
    again = run(file, "killed", watch=lambda doing, share: asked.append(doing))
    assert artifact.digest(again.file) == artifact.digest(unbroken.file)
    assert not [doing for doing in asked if doing.startswith(("training", "validating", "judging"))]


def test_a_folder_of_another_fusion_is_refused_and_says_what_differs(file: Path) -> None:
    run(file, "work", "training.steps=1")
    changed = ("training.steps=1", "training.lr=0.5", "data.val=[held]", "teachers.light.classes=[dark, red]")
    with pytest.raises(CompressionError) as raised:
        run(file, "work", *changed)
    said = str(raised.value)
    assert "training.lr: 0.01 -> 0.5" in said
    assert "data.val: ['other'] -> ['held']" in said
    assert "steps" not in said
    assert "light" not in said
    with torch.no_grad():
        other = Network.of(file.parent / "street.yaml")
        next(other.module.parameters()).add_(1.0)
        other.save(file.parent / "other.sbb")
    with pytest.raises(CompressionError, match=r"other settings: start: \w+ -> \w+; go on with"):
        run(file, "work", "training.steps=1", "start=other.sbb")
    elsewhere = run(file, "work", "training.steps=1", "data.test=[clip2]", "floors={light: 1.0, surface: 0.0}")
    assert elsewhere.test["sets"].keys() == {"clip2"}
    assert elsewhere.missed in ((), ("light",))
    (file.parent / "work" / "settings.json").write_text("{")
    with pytest.raises(CompressionError, match=r"settings\.json is damaged"):
        run(file, "work", "training.steps=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "teachers.light.classes=[red, dark]",
            r"head 'light' has the names \['dark', 'red'\], its teacher 'light' \['red",
        ),
        (
            "teachers.street.heads={ground: objects}",
            "head 'objects' is of type 'detection', its teacher 'street' answers",
        ),
        ("teachers.street.heads={grond: surface}", "teacher street has no head 'grond'; it has ground"),
        ("teachers.street.heads={ground: surface}", "head 'objects' learns from nobody: it has no teacher, and no set"),
        ("data.labels=false", r"head 'scene' learns from nobody: .* that may teach \(data\.labels is false\)"),
        ("teachers.light.options={activation: none, size: 3}", "light"),
    ],
)
def test_what_does_not_fit_is_said_before_any_work(file: Path, override: str, message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        run(file, "work", override)
    assert not (file.parent / "work").exists()  # so that it can be mended and run again


def test_labels_teach_in_the_place_of_teachers_unless_they_may_not(file: Path) -> None:
    (file.parent / "fused.yaml").write_text(STUDENT[: STUDENT.index("  scene")])
    with_labels = run(file, "with", "training.steps=1")
    without = run(file, "without", "training.steps=1", "data.labels=false")
    assert artifact.digest(with_labels.file) != artifact.digest(without.file)
    assert with_labels.to_dict()["pictures"] == without.to_dict()["pictures"]


def test_sets_are_divided_where_they_have_labels_or_several_ends(file: Path) -> None:
    def counts(**data: Any) -> dict[str, dict[str, int]]:
        sets = sets_of(FuseData.model_validate(data), (32, 64))
        return {role: {one.name: len(one) for one in those} for role, those in sets.items()}

    assert counts(train=["clip", "labelled"], val=["other"], test=["held"]) == {
        "train": {"clip": 12, "labelled": 4},
        "val": {"other": 4},
        "test": {"held": 4},
    }
    assert counts(train=["clip", "labelled"], test=["clip", "held"], judge=3) == {
        "train": {"clip": 10, "labelled": 4},
        "val": {"clip": 1},  # the labelled one has a part to learn from alone
        "test": {"clip": 1, "held": 3},
    }
    with pytest.raises(DataError, match="labelled has no pictures for 'test'"):
        counts(train=["clip"], test=["labelled"])
    with pytest.raises(DataError, match="no set to learn from has pictures for 'val': name some to choose by under"):
        counts(train=["labelled"], test=["held"])


def test_pictures_that_cannot_be_read_are_left_out_and_named(file: Path) -> None:
    (file.parent / "clip" / "05.png").write_bytes(b"no picture")
    result = run(file, "work", "training.steps=1")
    assert result.to_dict()["pictures"]["train"]["clip"] == 11
    (said,) = result.to_dict()["said"]
    assert said.startswith("clip: 1 of 12 pictures cannot be used")
    assert "05.png" in said


def test_what_is_said_of_one_part_of_a_set_is_not_hidden_by_its_others(file: Path) -> None:
    (file.parent / "clip" / "05.png").write_bytes(b"no picture")
    told = run(file, "work", "training.steps=1", "data.val=[clip]", "data.test=[clip]").to_dict()
    assert told["pictures"]["train"]["clip"] == 9
    (said,) = told["said"]
    assert "05.png" in said


def test_the_artifact_says_where_it_comes_from(file: Path) -> None:
    sets = "data.train=[clip, {set: labelled, share: 0.25}, clip2]"
    result = run(file, "work", "training.steps=1", sets, "data.test=[held]")
    steps = artifact.load(result.file).manifest.recipe["steps"]
    assert [step["step"] for step in steps][-2:] == ["train", "fuse"]
    shares = {name: one["share"] for name, one in steps[-2]["facts"]["data"].items()}
    assert shares == {"labelled": 0.25, "clip": pytest.approx(0.75 * 12 / 15), "clip2": pytest.approx(0.75 * 3 / 15)}
    assert steps[-1]["settings"]["teachers"]["light"]["heads"] == ["light"]
    assert load(file.parent / "fused.yaml").heads.keys() == result.network.pipeline.heads.keys()


def test_teachers_are_asked_once_about_pictures_that_come_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bytes]] = []
    plain = Teacher.__call__

    def counted(teacher: Teacher, rgb: Any) -> Any:
        asked.append((teacher.name, rgb.tobytes()))
        return plain(teacher, rgb)

    monkeypatch.setattr(Teacher, "__call__", counted)
    result = run(file, "work")  # validated twice on 4 pictures, then for operating points; tested on 4 and 3 others
    assert len(asked) == len(set(asked)) == 2 * (4 + 4 + 3)
    monkeypatch.setattr("sharedbb.learn.fuse.MOST_SAID", 0)
    assert run(file, "forgetful").test == result.test
    assert len(asked) == 2 * (4 + 4 + 3) + 2 * (3 * 4 + 4 + 3)


def test_boxes_are_cut_off_where_they_match_best(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def points(student: Any, teachers: Any, sets: Sequence[Data], *_: Any) -> dict[str, float]:
        asked.append([data.name for data in sets])
        return {"objects": 0.123}

    monkeypatch.setattr("sharedbb.learn.fuse.operating_points", points)
    result = run(file, "work", "training.steps=1")
    assert asked == [["other"]]
    heads = load(file.parent / "fused.yaml").heads
    for pipeline in (result.pipeline, Network.of(result.file).pipeline):
        assert pipeline.heads["objects"] == heads["objects"].model_copy(update={"score_threshold": 0.123})
        assert pipeline.heads["light"] == heads["light"]
    steps = artifact.load(result.file).manifest.recipe["steps"]
    assert steps[-1]["facts"]["operating_points"] == {"objects": 0.123}
