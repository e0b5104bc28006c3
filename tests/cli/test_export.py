"""``sharedbb export``: the file, the check against the engine, and what is said when they differ."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharedbb.cli.export import Difference, exportable
from sharedbb.compress.export import Exported
from sharedbb.errors import SpecError
from sharedbb.learn.network import Network
from sharedbb.spec import load

ANSWERS = ("scene.logits", "objects.scores", "objects.distances")


def test_a_pipeline_is_exported_and_checked(sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "tiny.pt2"
    ended = sharedbb("export", tiny, "--to", "torch-export", "--out", path, "--pictures", 2)
    assert (ended.code, ended.err) == (0, "")
    assert all(name in ended.out for name in ANSWERS)
    assert f"wrote {path}" in "".join(ended.out.splitlines())


def test_an_artifact_alone_is_enough(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.sbb"
    Network.of(str(tiny)).save(path)
    pipeline = exportable(str(path), ["heads.scene.threshold=0.25"])
    assert pipeline.backbone.weights == str(path)
    assert pipeline.heads.keys() == {"scene", "objects"}
    assert pipeline.heads["scene"].threshold == 0.25
    assert Network.of(pipeline).pipeline.input == load(tiny).input
    with pytest.raises(SpecError, match="there is no head 'sene'"):
        exportable(str(path), ["heads.sene.threshold=0.25"])


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports nothing; what was to be written answers with zeros."""

    def export(network: Network, target: str, path: Path) -> Exported:
        return Exported(target, path, {"scene.logits": (1, 2)})

    def answers(self: Exported) -> Any:
        return lambda picture: {name: np.zeros(shape, np.float32) for name, shape in self.answers.items()}

    monkeypatch.setattr("sharedbb.compress.export.export", export)
    monkeypatch.setattr(Exported, "open", answers)


@pytest.mark.usefixtures("silent")
def test_a_file_that_answers_otherwise_is_refused(sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    arguments = ("export", tiny, "--to", "torch-export", "--out", tmp_path / "tiny.pt2")
    ended = sharedbb(*arguments, "--pictures", 2, "--quiet")
    assert (ended.code, ended.out) == (2, "")
    assert re.search(r"answer 'scene\.logits' is off the engine's by \d+\.\d% of its magnitude", ended.err)
    unchecked = sharedbb(*arguments, "--pictures", 0)
    assert unchecked.code == 0
    assert unchecked.out.count("not checked") == 1


def test_a_difference_is_that_of_the_numbers() -> None:
    ours, other = np.array([1.0, -4.0], np.float32), np.array([1.0, -3.0], np.float32)
    assert Difference.of(ours, other) == Difference(1.0, 0.25, 0.125)
    assert Difference.of(ours, other[:1]).mean == float("inf")
    assert Difference(1, 0, 2).worse(Difference(0, 3, 0)) == Difference(1, 3, 2)


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [("tf", "tiny.tf", "cannot export to 'tf'; there are: onnx"), ("onnx", "tiny.pt2", "files for onnx end in .onnx")],
)
def test_errors_are_one_line(
    sharedbb: Callable[..., Any], tiny: Path, tmp_path: Path, target: str, name: str, message: str
) -> None:
    ended = sharedbb("export", tiny, "--to", target, "--out", tmp_path / name)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert message in ended.err


def test_answers_that_are_no_numbers_are_no_agreement() -> None:
    ours, broken = np.ones((2, 2), np.float32), np.full((2, 2), np.nan, np.float32)
    for one, other in ((ours, broken), (broken, ours), (broken, broken)):
        worst = Difference().worse(Difference.of(one, other))
        assert (worst.largest, worst.most, worst.mean) == (np.inf, np.inf, np.inf)
    assert Difference.of(ours, ours) == Difference()
