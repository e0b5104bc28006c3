"""What several commands share: pipelines changed by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharedbb.cli.options import read_pipeline
from sharedbb.errors import SpecError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text("{name: p, backbone: {arch: resnet18}, heads: {a: {type: tags, taps: [32], labels: [x]}}}")
    return path


def test_shorthands_are_fields_of_runtime(file: Path) -> None:
    runtime = read_pipeline(str(file), device="cpu", backend="eager", precision="f32").runtime
    assert (runtime.device, runtime.backend, runtime.precision) == ("cpu", "eager", "f32")


def test_fields_that_are_set_win_over_shorthands(file: Path) -> None:
    # So both sides of a comparison can be given a shorthand, and one of them a field of its own.
    given = ["runtime.precision=f16", "heads.a.every=5"]
    pipeline = read_pipeline(str(file), given, device="cpu", precision="f32")
    assert (pipeline.runtime.device, pipeline.runtime.precision) == ("cpu", "f16")
    assert pipeline.heads["a"].every == 5


def test_what_is_not_given_stays_as_it_is(file: Path) -> None:
    assert read_pipeline(str(file), ["runtime.backend=eager"]).runtime.backend == "eager"


def test_a_shorthand_that_is_wrong_is_named(file: Path) -> None:
    with pytest.raises(SpecError, match=r"runtime\.device"):
        read_pipeline(str(file), device="gpu")
