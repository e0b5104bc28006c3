"""Compiling a pipeline: the engine's answers against the network's own, the cache, and what cannot be compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharedbb as sb
from sharedbb.backends.openvino import OpenVINOBackend
from sharedbb.backends.torch_backends import EagerBackend, TorchExecutable
from sharedbb.compiler import build_network, cache
from sharedbb.compiler.choose import Candidate, candidates, device_of
from sharedbb.compiler.lower import due_together, lower
from sharedbb.errors import BackendError, SharedBBError, WeightsError
from sharedbb.graph.capture import capture
from sharedbb.graph.cut import Cut, cut, fold_constants, whole
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.graph.quantization import Grid, Scheme, quantized
from sharedbb.profiling import Profiler
from sharedbb.program import Stage
from sharedbb.registry import BACKBONES, BACKENDS
from sharedbb.runtime import Engine
from sharedbb.spec import Reuse, Runtime
from sharedbb.types import Plane

PIPELINE = """
name: small
input: {{size: [64, 96], normalize: unit}}
backbone: {{arch: {arch}}}
neck: {{type: fpn, channels: 16}}
heads:
  surface: {{type: segmentation, taps: [4], classes: [a, b, c], channels: 16}}
  objects: {{type: detection, taps: [8, 16], classes: [x, y], channels: 16, score_threshold: 0.001}}
  depth: {{type: depth, taps: [8], channels: 16}}
  scene: {{type: tags, taps: [32], labels: [p, q]}}
  face: {{type: keypoints, taps: [4], points: [eye, nose], channels: 16}}
  look: {{type: embedding, taps: [16], dim: 8, every: 2}}
runtime: {{device: cpu, backend: {backend}, precision: {precision}}}
"""


class Tiny(nn.Module):
    """A backbone of one convolution a stride, so that compiling it takes little time."""

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.channels = {4: 8, 8: 12, 16: 16, 32: 16}
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.steps = nn.ModuleList([nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 2, 1)])

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        features = {4: self.stem(x).relu()}
        for stride, step in zip((8, 16, 32), self.steps, strict=True):
            features[stride] = step(features[stride // 2]).relu()
        return features


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    def build(weights: str | None = None) -> Tiny:
        torch.manual_seed(0)
        return Tiny()

    sb.register_backbone("tiny", build)
    yield
    BACKBONES.unregister("tiny")


def _pipeline(backend: str = "eager", precision: str = "f32") -> sb.Pipeline:
    return sb.loads(PIPELINE.format(arch="tiny", backend=backend, precision=precision))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHAREDBB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_the_engine_answers_what_the_network_answers(backend: str, picture: np.ndarray) -> None:
    pipeline = _pipeline(backend)
    result = sb.compile(pipeline).step(picture, order="rgb")
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = build_network(pipeline)(x)
    surface = expected["surface.logits"][0].permute(1, 2, 0).numpy()
    assert np.allclose(result["surface"].logits, surface, atol=1e-4)
    assert np.allclose(result["depth"].cells, expected["depth.depth"][0, 0].numpy(), rtol=1e-3)
    assert np.allclose(result["scene"].probabilities, torch.sigmoid(expected["scene.logits"])[0].numpy(), atol=1e-4)
    assert np.allclose(result["look"].vector, expected["look.vector"][0].numpy(), atol=1e-4)
    assert isinstance(result["objects"], sb.Detections)
    assert result["face"].points.shape == (2, 2)
    json.loads(result.to_json())


def test_the_second_start_comes_from_the_cache_and_answers_the_same(own_cache: Path, picture: np.ndarray) -> None:
    pipeline = _pipeline("openvino")
    first = sb.compile(pipeline)
    assert len(list(own_cache.iterdir())) == 1
    again = sb.compile(pipeline)
    assert [stage.facts for stage in again.program.stages] == [stage.facts for stage in first.program.stages]
    assert again.program.choices == first.program.choices
    one, other = first.step(picture), again.step(picture)
    assert np.array_equal(one["surface"].logits, other["surface"].logits)


@pytest.mark.parametrize(("mode", "at_once"), [("off", "fused"), ("keyframe", "whole"), ("bounded", "all")])
def test_a_second_start_takes_up_what_ordinary_frames_run(
    mode: str, at_once: str, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = _pipeline("openvino").model_copy(update={"reuse": Reuse(mode=mode)})
    first, taken = sb.compile(pipeline), []
    load = OpenVINOBackend.load
    monkeypatch.setattr(OpenVINOBackend, "load", lambda self, blob: taken.append(blob) or load(self, blob))
    program = sb.compile(pipeline).program
    tiles = sum(len(stage.tiles) for stage in program.stages)
    assert tiles == 0 or mode == "bounded"
    ordinary = {"fused": len(program.fused) or len(program.stages), "whole": 1, "all": len(program.stages) + tiles + 1}
    assert len(taken) == ordinary[at_once]
    again = Engine(program)
    for heads in (None, ["scene"], None):  # one head alone needs segments that were not taken up
        one, other = (engine.step(picture, heads=heads) for engine in (first, again))
        assert np.array_equal(one["surface"].logits, other["surface"].logits)
        assert np.array_equal(one["scene"].probabilities, other["scene"].probabilities)
    assert len(taken) == len(set(map(id, taken)))


def test_what_the_backend_does_not_take_back_is_compiled_anew(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sb.compile(_pipeline("openvino")).step(picture)["surface"].logits

    def refuse(self: OpenVINOBackend, blob: bytes) -> None:
        raise RuntimeError("made by another build")

    monkeypatch.setattr(OpenVINOBackend, "load", refuse)
    assert np.array_equal(sb.compile(_pipeline("openvino")).step(picture)["surface"].logits, expected)


def test_a_damaged_cache_entry_is_compiled_anew(own_cache: Path, picture: np.ndarray) -> None:
    pipeline = _pipeline("openvino")
    expected = sb.compile(pipeline).step(picture)["surface"].logits
    (entry,) = own_cache.iterdir()
    blob = entry / "0.bin"
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert cache.read(entry.name) is None
    assert np.array_equal(sb.compile(pipeline).step(picture)["surface"].logits, expected)
    assert cache.read(entry.name) is not None


def test_no_cache_neither_reads_nor_writes(own_cache: Path) -> None:
    sb.compile(_pipeline("openvino"), use_cache=False)
    assert not own_cache.exists()


def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("SHAREDBB_CACHE", str(blocked))
    assert sb.compile(_pipeline("openvino")).program.stages
    assert blocked.read_text() == ""


def test_the_key_changes_with_whatever_decides_the_result(own_cache: Path, tmp_path: Path) -> None:
    pipeline = _pipeline("openvino")
    sb.compile(pipeline)
    wider = pipeline.model_copy(update={"input": pipeline.input.model_copy(update={"size": (64, 128)})})
    sb.compile(wider)
    sb.compile(pipeline.model_copy(update={"name": "another name, the same network"}))
    assert len(list(own_cache.iterdir())) == 2


def test_branches_decide_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    def noted(facts: dict[str, Any]) -> str:
        keys.append(json.dumps(facts, sort_keys=True))
        raise InterruptedError

    monkeypatch.setattr("sharedbb.compiler.assemble.cache.key", noted)
    told = {"scene": {"type": "tags", "taps": [32], "labels": ["a"]}, "road": {"type": "depth", "taps": [8]}}
    for branches in ({}, {"scene": {"after": 8, "heads": ["scene"]}}, {"scene": {"after": 16, "heads": ["scene"]}}):
        spec = {"name": "p", "backbone": {"arch": "resnet18"}, "heads": told, "branches": branches}
        with pytest.raises(InterruptedError):
            sb.compile(sb.Pipeline.model_validate(spec))
    assert len(set(keys)) == 3


def test_parts_of_the_users_own_are_known_by_the_network_they_build(own_cache: Path, picture: np.ndarray) -> None:
    """The package's source is in the key, that of others is not: their network itself has to be."""
    answers = []
    for factor in (1.0, -1.0, 1.0):

        def build(weights: str | None = None, factor: float = factor) -> Tiny:
            torch.manual_seed(0)
            made = Tiny()
            with torch.no_grad():
                made.stem.weight.mul_(factor)
            return made

        sb.register_backbone("changing", build)
        text = PIPELINE.format(arch="changing", backend="openvino", precision="f32")
        answers.append(sb.compile(sb.loads(text)).step(picture)["surface"].logits)
        BACKBONES.unregister("changing")
    assert len(list(own_cache.iterdir())) == 2
    assert np.array_equal(answers[0], answers[2])
    assert not np.allclose(answers[0], answers[1], atol=1e-3)


def test_the_key_changes_with_the_versions_that_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.key({})
    monkeypatch.setattr(cache, "installed_versions", lambda: {"torch": "1.0", "python": "3.11.7"})
    assert cache.key({}) != before


def test_what_is_no_pipeline_is_said() -> None:
    with pytest.raises(sb.SpecError, match="compile takes what sharedbb"):
        sb.compile("pipelines/street.yaml")


def test_old_entries_make_room(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 3)
    keys = [cache.key({"number": number}) for number in range(5)]
    lost, begun = (own_cache / f"{cache.UNFINISHED}{name}" for name in ("lost", "begun"))
    for place, folder in enumerate((lost, begun, own_cache / "holiday", own_cache / ("ab" * 16))):
        folder.mkdir(parents=True)
        (folder / "photo.jpg").write_bytes(b"photo")
        os.utime(folder, (place, place))
    os.utime(begun)
    for number, key in enumerate(keys):
        cache.write(key, {"number": number}, [b"blob"])
        os.utime(own_cache / key, (1000 + number, 1000 + number))
    # Others' folders stay, whatever they are called, and what is being written at the moment.
    assert {path.name for path in own_cache.iterdir()} == {*keys[2:], begun.name, "holiday", "ab" * 16}
    assert cache.read(keys[4]) == ({"number": 4}, [b"blob"])


def test_a_disk_that_is_full_leaves_nothing_behind(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    cache.write(cache.key({}), {}, [b"blob"])
    assert list(own_cache.iterdir()) == []


def test_a_warm_start_imports_no_torch(own_cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    text = PIPELINE.format(arch="resnet18", backend="openvino", precision="f32")
    lines = [line for line in text.splitlines() if not line.startswith("  ") or "scene" in line]
    file.write_text("\n".join(line for line in lines if not line.startswith("neck")))
    program = f"""
import sys
import numpy as np, sharedbb as sb
engine = sb.compile(sb.load({str(file)!r}))
engine.step(np.zeros((10, 10, 3), np.uint8))
print("torch" in sys.modules)
"""
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert [run.strip() for run in runs] == ["True", "False"]


def test_auto_measures_every_precision_and_keeps_the_fastest() -> None:
    engine = sb.compile(_pipeline("openvino", "auto"))
    ways = candidates(Runtime(device="cpu", backend="openvino"))
    lines = engine.program.choices[: len(ways)]
    times = {line.split(":")[0]: float(line.split(": ")[1].split()[0]) for line in lines}
    (chosen,) = [line for line in lines if line.endswith("(chosen)")]
    assert times[chosen.split(":")[0]] == min(times.values())
    assert chosen.startswith(f"openvino {engine.program.device.precision} on cpu")


def test_heads_that_fall_due_together_are_found_by_their_clocks() -> None:
    every = {"b": 2, "c": 3}
    found = due_together(("a", "b", "c"), every)
    assert set(found) == {frozenset("a"), frozenset("ab"), frozenset("ac"), frozenset("abc")}
    assert due_together(("a",), {}) == (frozenset("a"),)
    assert due_together(("a", "b"), {"a": 2, "b": 2}) == (frozenset("ab"),)


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_a_fused_stage_answers_what_its_segments_answer(backend: str, picture: np.ndarray) -> None:
    engine = sb.compile(_pipeline(backend))
    program = engine.program
    together = frozenset(program.heads)
    parts = cut(fold_constants(fold_batch_norms(capture(build_network(_pipeline()), torch.zeros(1, 3, 64, 96), ""))))
    segment = whole(parts, together)
    assert segment.graph.operators == parts.graph.operators
    (executable,) = program.device.compile(
        replace(parts, segments=(segment,)), Plane.rgb(_pipeline().input.normalization)
    )
    facts = replace(program.stages[0].facts, name="network", inputs=("input",), outputs=segment.outputs)
    answers = []
    for fused in ({}, {together: Stage(facts, executable)}):
        own = Engine(replace(program, fused=fused), profiler=Profiler())
        answers.append(own.step(picture, order="rgb"))
        assert ("network" in own.profile.stages) == bool(fused)
    assert np.allclose(answers[0]["surface"].logits, answers[1]["surface"].logits, atol=1e-4)
    assert np.allclose(answers[0]["look"].vector, answers[1]["look"].vector, atol=1e-4)
    assert np.allclose(answers[0]["scene"].probabilities, answers[1]["scene"].probabilities, atol=1e-4)


def test_what_cannot_run_is_not_chosen() -> None:
    class Lacking(EagerBackend):
        name = "lacking"

        def _compiled(self, segment: Any, module: Any) -> TorchExecutable:
            def run(*features: Tensor) -> tuple[Tensor, ...]:
                raise RuntimeError("no kernel for this type\nand a long story")

            return TorchExecutable(run)

    sb.register_backend("lacking", Lacking)
    try:
        graph = capture(nn.Conv2d(3, 4, 4, 4), torch.zeros(1, 3, 32, 32), "a")
        unit = Plane.rgb(_pipeline().input.normalization)
        lacking, eager = Candidate("lacking", "f32", "cpu"), Candidate("eager", "f32", "cpu")
        found = lower(graph, unit, (lacking, eager), None, {})
        assert found.backend.name == "eager"
        assert "lacking f32 on cpu cannot run the network: no kernel for this type" in found.choices
        with pytest.raises(BackendError, match=r"cannot run the network: no kernel for this type$"):
            lower(graph, unit, (lacking,), None, {})
    finally:
        BACKENDS.unregister("lacking")


class TwoAnswers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared, self.left, self.right = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 3, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.shared(image)
        return {"left": self.left(features), "right": self.right(features)}


@pytest.mark.parametrize(("factor", "kept"), [(1.0, True), (1.05, True), (1.5, False)])
def test_a_fused_stage_in_integers_must_answer_as_its_segments_do(
    factor: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Louder(EagerBackend):
        name = "louder"

        def compile(self, parts: Cut, planes: Any) -> list[TorchExecutable]:
            whole_network = len(parts.segments) == 1
            return [_times(factor if whole_network else 1.0, one) for one in super().compile(parts, planes)]

    def fused_is_faster(cases: dict[Any, Any], device: str) -> dict[Any, float]:
        return {case: 1.0 if case == "fused" else 2.0 for case in cases}

    monkeypatch.setattr("sharedbb.compiler.lower.interleaved", fused_is_faster)
    sb.register_backend("louder", Louder)
    try:
        plain = capture(TwoAnswers(), torch.zeros(1, 3, 32, 32), "")
        grid = Grid(torch.tensor(0.02), torch.tensor(0, dtype=torch.int32), -127, 127)
        rounded = quantized(plain, Scheme({"left|conv2d|0|0": grid}))
        unit, way = Plane.rgb(_pipeline().input.normalization), Candidate("louder", "f32", "cpu")
        found = lower(rounded, unit, (way,), None, {})
        assert bool(found.fused) == kept
        assert (
            any("not fused, in integers it would answer otherwise (50% off)" in said for said in found.choices) != kept
        )
        assert lower(plain, unit, (way,), None, {}).fused  # without integers nothing is looked at
    finally:
        BACKENDS.unregister("louder")


def _times(factor: float, executable: Any) -> TorchExecutable:
    """An executable whose results are ``factor`` times too large."""
    run = executable.session()
    return TorchExecutable(lambda *features: tuple(factor * result for result in run(features)))


def test_candidates_follow_what_is_asked() -> None:
    assert candidates(Runtime(device="cpu", backend="eager")) == (Candidate("eager", "f32", "cpu"),)
    assert candidates(Runtime(device="cpu", backend="eager", precision="bf16")) == (Candidate("eager", "bf16", "cpu"),)
    assert candidates(Runtime(device="cpu"))[0].backend == "openvino"
    with pytest.raises(BackendError, match="nothing here runs backend cuda on cpu"):
        candidates(Runtime(device="cpu", backend="cuda"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_said() -> None:
    assert device_of("auto") == "cpu"
    with pytest.raises(BackendError, match="no CUDA device can be used here; set device: cpu or auto"):
        device_of("cuda")


@pytest.mark.cuda
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_engine_on_cuda_answers_what_it_answers_on_the_cpu(picture: np.ndarray) -> None:
    expected = sb.compile(_pipeline()).step(picture, order="rgb")
    text = PIPELINE.format(arch="tiny", backend="auto", precision="auto").replace("device: cpu", "device: cuda")
    engine = sb.compile(sb.loads(text))
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    for frame in (picture, tensor, tensor.cuda()):
        result = engine.step(frame, order="rgb")
        scale = np.abs(expected["surface"].logits).max()
        assert np.abs(result["surface"].logits - expected["surface"].logits).max() <= 0.05 * scale
        assert np.allclose(result["depth"].cells, expected["depth"].cells, rtol=0.05)
    assert engine.step(picture, heads=["scene"]).freshness["scene"].ran


@pytest.mark.parametrize(("weights", "kind"), [("nowhere.sbb", SharedBBError), ("nowhere.safetensors", WeightsError)])
def test_missing_weights_are_one_clear_error(weights: str, kind: type[SharedBBError]) -> None:
    pipeline = _pipeline()
    backbone = pipeline.backbone.model_copy(update={"weights": weights})
    with pytest.raises(kind, match="nowhere") as raised:
        sb.compile(pipeline.model_copy(update={"backbone": backbone}))
    assert "\n" not in str(raised.value)


def test_only_due_heads_run_their_stages(picture: np.ndarray) -> None:
    engine = sb.compile(_pipeline())
    engine.step(picture)
    before = {name: stage.count for name, stage in engine.profile.stages.items()}
    engine.step(picture, heads=["scene"])
    after = {name: stage.count for name, stage in engine.profile.stages.items()}
    ran = {name for name in after if after[name] > before.get(name, 0)}
    needed = {stage.facts.name for stage in engine.program.stages if "scene" in stage.facts.heads}
    assert ran == needed | {"transform", "plan", "decode"}
    assert len(needed) < len(engine.program.stages)


def test_a_cache_that_can_only_be_read_is_read(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = cache.key({"number": 1})
    cache.write(key, {"number": 1}, [b"blob"])

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(cache.os, "utime", refused)
    assert cache.read(key) == ({"number": 1}, [b"blob"])
