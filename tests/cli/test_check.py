"""``sharedbb check``: every fault with its place, nothing but one line where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

GOOD = """\
name: good
backbone: {arch: resnet18}
heads:
  scene: {type: tags, taps: [32], labels: [day, night]}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def test_a_good_file_is_one_line(sharedbb: Callable[..., Any], write: Callable[..., Path]) -> None:
    path = write("good.yaml", GOOD)
    ended = sharedbb("check", path)
    assert ended.code == 0
    assert ended.out == f"{path}: ok: good, resnet18 at 640x384, 1 head: scene (tags)\n"


def test_every_fault_has_its_place(sharedbb: Callable[..., Any], write: Callable[..., Path]) -> None:
    path = write("bad.yaml", GOOD.replace("tags,", "tag,").replace("resnet18", "resnet19"))
    ended = sharedbb("check", path)
    assert ended.code == 1
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"{path}:2:18", f"{path}:4:17"]
    assert all("did you mean" in line for line in lines)


def test_all_files_are_looked_at(sharedbb: Callable[..., Any], write: Callable[..., Path]) -> None:
    bad, good = write("bad.yaml", "name: x"), write("good.yaml", GOOD)
    ended = sharedbb("check", bad, good)
    assert ended.code == 1
    assert f"{good}: ok" in ended.out.splitlines()[-1]


def test_overrides_are_checked_with_the_file(sharedbb: Callable[..., Any], write: Callable[..., Path]) -> None:
    path = write("good.yaml", GOOD)
    assert sharedbb("check", path, "--set", "heads.scene.every=3").code == 0
    ended = sharedbb("check", path, "--set", "heads.scene.every=0")
    assert ended.code == 1
    assert "heads.scene.every" in ended.out


def test_a_file_that_is_not_there(sharedbb: Callable[..., Any], tmp_path: Path) -> None:
    ended = sharedbb("check", tmp_path / "no.yaml")
    assert (ended.code, ended.out) == (1, f"{tmp_path / 'no.yaml'}: no such file\n")


def test_an_artifact_that_is_damaged(sharedbb: Callable[..., Any], write: Callable[..., Path]) -> None:
    write("x.sbb", "no artifact")
    path = write("good.yaml", GOOD.replace("resnet18", "resnet18, weights: x.sbb"))
    ended = sharedbb("check", path)
    assert ended.code == 1
    assert ended.out.startswith(f"{path}:2:37: backbone.weights: ")
    assert "not a sharedbb artifact" in ended.out


def test_an_artifact_for_other_heads(sharedbb: Callable[..., Any], write: Callable[..., Path]) -> None:
    import torch

    from sharedbb import artifact

    path = write("good.yaml", GOOD.replace("resnet18", "resnet18, weights: x.sbb"))
    head = {"type": "tags", "taps": [32], "labels": ["day", "dusk"]}
    manifest = artifact.Manifest("network", {"heads": {"scene": head}}, {"scene": ("day", "dusk")}, {})
    artifact.save(path.with_name("x.sbb"), manifest, {"weight": torch.zeros(1)})
    ended = sharedbb("check", path)
    assert ended.code == 1
    assert "head 'scene' asks for ['day', 'night']" in ended.out
