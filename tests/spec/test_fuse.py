"""Fuse files: what they say, how they are read, and how every fault is placed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sharedbb.errors import SpecError
from sharedbb.spec.fuse import Fuse, FuseData, FuseTeacher, FuseTraining, TeacherInput, load_fuse, loads_fuse

TEXT = """\
version: 1
student: nets/fused.yaml
start: street
teachers:
  street: {artifact: nets/street.yaml, heads: [road, scene]}
  coco:
    onnx: nets/coco.onnx
    input: {size: [352, 352], fit: stretch, order: bgr, std: [255, 255, 255]}
    format: fastestdet
    classes: nets/coco.txt
    score_threshold: 0.65
    heads: {boxes: things}
data:
  train: [clip.mp4, {set: "camvid:data", share: 0.25}]
  val: [other.mp4]
  test: [held.mp4, out.mp4]
training: {steps: 100, batch: 4, weights: {things: 2.0}}
floors: {things: 0.9}
"""

STUDENT = """\
name: fused
backbone: {arch: mobilenet_v3_small}
heads:
  road: {type: segmentation, taps: [4], classes: [road, sky]}
  scene: {type: tags, taps: [32], labels: [day, night]}
  things: {type: detection, taps: [8, 16], classes: [car, person]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A fuse file with its student beside it."""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "fused.yaml").write_text(STUDENT)
    (tmp_path / "fuse.yaml").write_text(TEXT)
    return tmp_path / "fuse.yaml"


def test_a_file_is_read_with_its_defaults() -> None:
    fuse = loads_fuse(TEXT)
    assert fuse.taught == {"road": ("street", "road"), "scene": ("street", "scene"), "things": ("coco", "boxes")}
    assert fuse.start_file == "nets/street.yaml"
    coco = fuse.teachers["coco"]
    assert (fuse.teachers["street"].kind, coco.kind) == ("artifact", "onnx")
    assert coco.input == TeacherInput(size=(352, 352), fit="stretch", order="bgr", mean=(0, 0, 0), std=(255, 255, 255))
    assert [(one.set, one.share) for one in fuse.data.train] == [("clip.mp4", None), ("camvid:data", 0.25)]
    assert (fuse.training.balance, fuse.training.validate_every, fuse.training.lr) == ("fixed", 500, 1e-3)
    assert fuse.data.labels
    assert [str(target) for target in fuse.measure] == ["auto auto"]
    assert fuse.seed == 0


def test_a_file_goes_out_and_comes_back() -> None:
    fuse = loads_fuse(TEXT)
    assert Fuse.model_validate(fuse.model_dump(mode="json")) == fuse


def test_files_are_found_beside_it_and_overrides_from_here(file: Path) -> None:
    fuse = load_fuse(file, ["teachers.street.artifact=other.sbb", "training.steps=7"])
    assert fuse.student == str(file.parent / "nets" / "fused.yaml")
    assert fuse.teachers["coco"].onnx == str(file.parent / "nets" / "coco.onnx")
    assert fuse.teachers["coco"].classes == str(file.parent / "nets" / "coco.txt")
    assert fuse.start_file == fuse.teachers["street"].artifact == str(Path.cwd() / "other.sbb")
    assert fuse.training.steps == 7
    assert fuse.data.test == ("held.mp4", "out.mp4")
    assert load_fuse(file, ["start=a.sbb"]).start_file == str(Path.cwd() / "a.sbb")


def test_sets_named_for_several_ends_are_divided() -> None:
    assert loads_fuse(TEXT).data.divided == set()
    without_val = loads_fuse(TEXT.replace("  val: [other.mp4]\n", "")).data
    assert without_val.divided == {"clip.mp4", "camvid:data"}
    assert without_val.of("val") == without_val.of("train") == ("clip.mp4", "camvid:data")
    assert loads_fuse(TEXT.replace("[held.mp4,", "[other.mp4,")).data.divided == {"other.mp4"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "onnx: nets/coco.onnx",
            "onxx: nets/coco.onnx",
            "7:5: teachers.coco.onxx: unknown field; did you mean 'onnx'?",
        ),
        ("{boxes: things}", "{boxes: road}", "12:20: teachers.coco.heads.boxes: 'road' learns from 'street' already"),
        ("artifact: nets/street.yaml, ", "", "5:11: teachers.street: needs one of onnx, artifact, module, got none"),
        (
            "format: fastestdet",
            "module: a.b:c",
            "7:5: teachers.coco: needs one of onnx, artifact, module, got onnx and",
        ),
        ("    format: fastestdet\n", "", "7:5: teachers.coco: needs format: of kind 'onnx', nobody knows"),
        ("street.yaml,", "street.yaml, score_threshold: 0.0,", "5:57: teachers.street.score_threshold: is known of an"),
        ("onnx: nets/coco.onnx", "module: coco", "7:13: teachers.coco.module: must be package.module:function, got"),
        ("heads: [road, scene]", "heads: []", "teachers.street.heads: must have at least 1 entry, got 0"),
        (
            "order: bgr",
            "order: brg",
            "8:52: teachers.coco.input.order: must be 'rgb' or 'bgr', got 'brg'; did you mean",
        ),
        ("[255, 255, 255]", "[255]", "teachers.coco.input.std: must be a list [first, second, third], got [255]"),
        ("share: 0.25", "share: 1.25", "14:49: data.train.1.share: must be 1 or less, got 1.25"),
        ("share: 0.25", "share: 1", "data: the shares of the sets to learn from, 1, leave nothing for those without"),
        ("[clip.mp4, ", "[{set: c.mp4, share: 0.5}, ", "data: every set to learn from has a share, and together they"),
        ('[clip.mp4, {set: "camvid:data", share: 0.25}]', "[a, {set: a}]", "data.train.1: 'a' is listed twice"),
        ("test: [held.mp4, out.mp4]", "test: []", "16:9: data.test: must have at least 1 entry, got 0"),
        ("  test: [held.mp4, out.mp4]\n", "", "13:1: data.test: is missing (the sets that are held out: the report is"),
        ("steps: 100", "steps: 100, minutes: 3", "training: needs either steps or minutes, got both"),
        ("batch: 4", "balance: gradnrom", "training.balance: must be 'fixed', 'uncertainty' or 'gradnorm', got 'grad"),
        ("things: 0.9", "things: 90", "18:18: floors.things: must be 1 or less, got 90"),
        ("start: street", "start: coco", "3:8: start: the teacher 'coco' is of kind 'onnx'; weights are taken from an"),
        (TEXT, "[]", "1:1: must be a mapping with the fields version, student, start, teachers, data, training"),
    ],
)
def test_faults_are_placed(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        loads_fuse(TEXT.replace(old, new), "fuse.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{boxes: things}",
            "{boxes: thing}",
            "12:20: teachers.coco.heads.boxes: the student has no head 'thing'; did you mean",
        ),
        (
            "{things: 0.9}",
            "{faces: 0.9}",
            "18:10: floors.faces: the student has no head 'faces' .it has road, scene, things",
        ),
        (
            "{things: 2.0}",
            "{roads: 2.0}",
            "17:44: training.weights.roads: the student has no head 'roads'; did you mean 'road'",
        ),
    ],
)
def test_heads_are_those_of_the_student(file: Path, old: str, new: str, message: str) -> None:
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(SpecError, match=message):
        load_fuse(file)


def test_all_faults_are_named_at_once() -> None:
    text = TEXT.replace("steps: 100", "steps: 0").replace("fit: stretch", "fit: streched").replace("0.65", "65")
    with pytest.raises(SpecError) as raised:
        loads_fuse(text, "fuse.yaml")
    fields = [problem.field for problem in raised.value.problems]
    assert fields == ["teachers.coco.input.fit", "teachers.coco.score_threshold", "training.steps"]


def test_reading_imports_nothing_that_is_named(file: Path) -> None:
    file.write_text(TEXT.replace("onnx: nets/coco.onnx", "module: antigravity:nothing"))
    program = (
        f"import sys; from sharedbb.spec.fuse import load_fuse; print(load_fuse({str(file)!r}).teachers['coco'].kind, "
        "*{'torch', 'antigravity'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["module"]


def test_the_files_in_the_documentation_are_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "fuse.md").read_text()
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert set(loads_fuse(text).taught) == {"surface", "scene", "things", "depth"}
    for field in (*Fuse.model_fields, *FuseTeacher.model_fields, *FuseData.model_fields, *FuseTraining.model_fields):
        assert re.search(rf"[`.]{field}[`,.]", page), field
