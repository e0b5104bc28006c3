"""Files in and out: what cannot be read, where weights are looked for, what ``check`` finds, and ``dump``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from sharedbb.errors import SpecError
from sharedbb.spec import Backbone, DepthHead, Pipeline, check, dump, load, loads
from sharedbb.spec.loader import MAX_BYTES

TEXT = """\
name: street
backbone: {arch: resnet18, weights: models/street.sbb}
heads:
  deep: {type: depth, taps: [4]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "street.yaml"
    path.write_text(TEXT, encoding="utf-8")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "street.sbb").touch()
    return path


def _fault(path: Path | str) -> str:
    with pytest.raises(SpecError) as raised:
        load(path)
    (problem,) = raised.value.problems
    assert check(path) == (problem,)
    return str(problem)


def test_yaml_and_json_are_two_spellings_of_the_same(file: Path) -> None:
    as_json = file.with_suffix(".json")
    as_json.write_text(json.dumps(yaml.safe_load(TEXT), indent="\t"), encoding="utf-8")
    assert load(as_json) == load(file) == load(os.fspath(file))


def test_a_byte_order_mark_is_no_fault(file: Path) -> None:
    file.write_text(TEXT, encoding="utf-8-sig")
    assert load(file).name == "street"


def test_windows_line_ends_keep_the_places(file: Path) -> None:
    file.write_bytes(TEXT.replace("depth", "dpth").replace("\n", "\r\n").encode())
    assert _fault(file).startswith(f"{file}:4:16: heads.deep.type: must be")


def test_a_missing_file_names_one_that_is_there(file: Path) -> None:
    assert (
        _fault(file.parent / "stret.yaml") == f"{file.parent / 'stret.yaml'}: no such file; did you mean 'street.yaml'?"
    )
    assert _fault(file.parent / "no" / "x.yaml") == f"{file.parent / 'no' / 'x.yaml'}: no such file"
    assert _fault("") == "no such file"


def test_a_folder_is_no_pipeline(tmp_path: Path) -> None:
    assert _fault(tmp_path) == f"{tmp_path}: is a folder; name a pipeline file in it"


def test_a_path_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    assert "cannot be read: embedded null byte" in _fault("a\0b")
    assert "cannot be read: File name too long" in _fault(tmp_path / ("x" * 5000))


def test_a_huge_file_is_refused(file: Path) -> None:
    file.write_text(TEXT + "#" * MAX_BYTES, encoding="utf-8")
    assert _fault(file) == f"{file}: is larger than 1024 KiB, which no pipeline file is"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"name: street\nx: caf\xe9\n", "2:7: is not UTF-8 text (byte 0xE9)"),
        ("name: street".encode("utf-16"), "1:1: is not UTF-8 text (byte 0xFF)"),
        (b"", "1:1: is empty; a pipeline needs at least name, backbone and heads"),
        (b"\x00\x01\x02", "1:1: not valid YAML: the character U+0000 is not allowed"),
        (b"\x1f\x8b\x08\x00", "1:2: is not UTF-8 text (byte 0x8B)"),
    ],
)
def test_what_is_no_text_is_refused(file: Path, content: bytes, fault: str) -> None:
    file.write_bytes(content)
    assert _fault(file) == f"{file}:{fault}"


def test_weights_lie_beside_the_pipeline_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = str(file.parent / "models" / "street.sbb")
    assert load(file).backbone.weights == expected
    assert loads(TEXT, str(file)).backbone.weights == loads(TEXT, file).backbone.weights == expected
    monkeypatch.chdir(file.parent)
    assert load("street.yaml").backbone.weights == expected


def test_weights_of_an_override_lie_in_the_working_directory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "elsewhere").mkdir()
    monkeypatch.chdir(file.parent / "elsewhere")
    overrides = ["backbone.weights=other.pth"]
    assert load(file, overrides).backbone.weights == str(file.parent / "elsewhere" / "other.pth")
    overrides = ["backbone={arch: resnet18, weights: other.pth}"]
    assert load(file, overrides).backbone.weights == str(file.parent / "elsewhere" / "other.pth")


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "/models/street.sbb"])
def test_names_and_absolute_files_stay_as_they_are(file: Path, weights: str) -> None:
    file.write_text(TEXT.replace("models/street.sbb", weights), encoding="utf-8")
    assert load(file).backbone.weights == weights


def test_overrides_are_not_taken_for_a_files_name() -> None:
    with pytest.raises(TypeError, match="not list"):
        loads(TEXT, ["name=other"])  # type: ignore[arg-type]


def test_without_a_file_weights_stay_as_they_are() -> None:
    assert loads(TEXT).backbone.weights == "models/street.sbb"


def test_overrides_reach_load_and_check(file: Path) -> None:
    assert load(file, ["name=other"]).name == "other"
    assert check(file, ["name=other"]) == ()
    assert [problem.field for problem in check(file, ["name=5"])] == ["name"]


def test_check_finds_nothing_wrong_with_a_flawless_file(file: Path) -> None:
    assert check(file) == ()


def test_check_finds_missing_weights_with_their_place(file: Path) -> None:
    file.write_text(TEXT.replace("street.sbb", "stret.sbb"), encoding="utf-8")
    (problem,) = check(file)
    missing = str(file.parent / "models/stret.sbb")
    assert str(problem) == f"{file}:2:37: backbone.weights: no such file: {missing!r}; did you mean 'street.sbb'?"
    assert load(file).backbone.weights == missing


def test_check_finds_a_folder_in_the_place_of_weights(file: Path) -> None:
    (file.parent / "models" / "street.sbb").unlink()
    (file.parent / "models" / "street.sbb").mkdir()
    assert "is a folder, not a weights file" in check(file)[0].message


def test_check_finds_missing_weights_beside_other_faults(file: Path) -> None:
    file.write_text(TEXT.replace("street", "x").replace("taps: [4]", "taps: [5]"), encoding="utf-8")
    assert [problem.field for problem in check(file)] == ["backbone.weights", "heads.deep.taps.0"]


@pytest.mark.parametrize("backbone", ["5", "{arch: resnet18, weights: 5}", "{arch: resnet18, weights: a.onnx}", "[a]"])
def test_check_looks_for_weights_only_where_a_file_is_named(file: Path, backbone: str) -> None:
    file.write_text(TEXT.replace("{arch: resnet18, weights: models/street.sbb}", backbone), encoding="utf-8")
    assert len(check(file)) == 1


def test_dump_writes_every_field_and_loads_reads_it_back(file: Path) -> None:
    pipeline = load(file)
    text = dump(pipeline)
    assert loads(text) == pipeline
    for field in ("version: 1", "fit: letterbox", "mode: 'off'", "when_late: drop_oldest", "min_m: 0.5", "neck: null"):
        assert field in text
    assert yaml.safe_load(text) == pipeline.model_dump(mode="json")


@pytest.mark.parametrize(
    "word",
    ["off", "yes", "null", "~", "1e3", "0o17", "010", "1_0", "1:30", "2024-01-01", "5", ".5", "=", "<<", "- a", "é😀"],
)
def test_dump_quotes_text_that_reads_as_something_else(word: str) -> None:
    pipeline = Pipeline(name=word, backbone=Backbone(arch="resnet18"), heads={"a": DepthHead(taps=(4,))})
    assert loads(dump(pipeline)) == pipeline
    assert yaml.safe_load(dump(pipeline))["name"] == word
