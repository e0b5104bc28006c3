"""Command lines run in this process, a program made by hand, and one tiny pipeline compiled once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sharedbb.cli.main import main
from sharedbb.program import HeadPlan, Program, Stage, StageFacts
from sharedbb.types import Size

PIPELINE = """\
version: 1
name: tiny
input: {size: [96, 160], normalize: unit}
backbone: {arch: mobilenet_v3_small}
runtime: {device: cpu, backend: openvino, precision: f32}
heads:
  scene: {type: tags, taps: [16], labels: [day, night], threshold: 0.0}
  objects: {type: detection, taps: [16], classes: [car], channels: 8, every: 2}
"""


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def sharedbb(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line as the console entry point would, in this process."""

    def call(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for everything that these tests compile."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHAREDBB_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A pipeline of two heads on a small picture, compiled already."""
    from sharedbb.compiler import compile_pipeline
    from sharedbb.spec import load

    path = tmp_path_factory.mktemp("pipeline") / "tiny.yaml"
    path.write_text(PIPELINE)
    compile_pipeline(load(path))
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of 96×64 at 12.5 a second, brighter from frame to frame."""
    import numpy as np

    from sharedbb.media import VideoSink

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoSink(path, 12.5) as sink:
        for level in range(12):
            sink.write(np.full((64, 96, 3), 20 * level, np.uint8))
    return path


def facts(
    name: str, inputs: dict[str, str], outputs: dict[str, tuple[int, ...]], heads: str, **more: Any
) -> StageFacts:
    """Facts of a segment; ``inputs`` maps features to their reach, ``outputs`` to their shapes."""
    reach = tuple(f"{feature}: {text}" for feature, text in inputs.items() if text)
    given = {"stride": 4, "local": True, "operators": 3, "macs": 1000, "parameters": 10, "measured_ms": 1.0, **more}
    return StageFacts(
        name, tuple(inputs), tuple(outputs), tuple(heads.split()), shapes=tuple(outputs.values()), reach=reach, **given
    )


@pytest.fixture
def program() -> Program:
    """Two heads on a trunk of two segments; ``b`` reads both of them and reaches over the whole picture."""
    segments = (
        facts("trunk/4", {"input": "stride 4, reach -1..+1"}, {"x": (8, 24, 40)}, "a b", macs=2_000_000),
        facts("trunk/8", {"x": "stride 2, reach -2..+2"}, {"y": (16, 12, 20)}, "a b", stride=8, measured_ms=0.5),
        facts("a", {"y": "stride 1, reach -0..+0"}, {"p": (2, 12, 20)}, "a", stride=8, measured_ms=0.25),
        facts(
            "b",
            {"x": "global: mean (b.pool) works along an axis", "y": ""},
            {"q": (5,), "r": (3,)},
            "b",
            stride=None,
            local=False,
        ),
    )
    device: Any = SimpleNamespace(name="plain", precision="f32", device="cpu")
    decoder: Any = None
    intake: Any = None
    return Program(
        name='a "quoted" name',
        size=Size(96, 160),
        stages=tuple(Stage(fact, decoder) for fact in segments),
        heads={
            "a": HeadPlan("a", {"logits": "p"}, decoder),
            "b": HeadPlan("b", {"scores": "q", "distances": "r"}, decoder, every=3),
        },
        device=device,
        intake=intake,
        fused={
            frozenset("ab"): Stage(facts("a+b", {"input": ""}, {"p": (2, 12, 20)}, "a b", measured_ms=2.5), decoder)
        },
        choices=("plain f32 on cpu: 2.75 ms (chosen)", "other f32 on cpu: 3.00 ms"),
        operators=12,
        separate=18,
    )
