"""The GPU suite: what can be wrong in it without a GPU, and, where there is one, recorded graphs against eager."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharedbb as sb
from benchmarks import gpu, gpu_clock, gpu_peers, gpu_reuse, gpu_work
from benchmarks.gpu_peers import AbsentError, Answering, Peer
from benchmarks.schema import Number, Suite
from benchmarks.timing import Rounds
from sharedbb.registry import BACKBONES
from sharedbb.types import Normalization

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
UNUSUAL = Normalization((100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
PIPELINE = """
name: tiny
input: {size: [64, 96], normalize: unit}
backbone: {arch: gpu_tiny}
heads:
  surface: {type: segmentation, taps: [4], classes: [a, b, c], channels: 8}
  scene: {type: tags, taps: [8], labels: [p, q]}
runtime: {device: cpu, backend: eager, precision: f32}
"""


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.channels = {4: 8, 8: 12}
        self.stem, self.step = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 12, 3, 2, 1)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        first = self.stem(x).relu()
        return {4: first, 8: self.step(first).relu()}


class Network(nn.Module):
    """A convolution with statistics of its own, and two answers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.norm(self.conv(x)).relu()
        return {"a.logits": features, "b.output": features.mean((2, 3))}


@pytest.fixture
def pictures() -> Tensor:
    return torch.randint(0, 256, (3, 16, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pipeline() -> Iterator[sb.Pipeline]:
    def build(weights: str | None = None) -> Backbone:
        torch.manual_seed(0)
        return Backbone()

    sb.register_backbone("gpu_tiny", build)
    yield sb.loads(PIPELINE)
    BACKBONES.unregister("gpu_tiny")


def _plain(network: nn.Module, pictures: Tensor) -> dict[str, Tensor]:
    """The network in float32 on pictures normalised one by one."""
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (UNUSUAL.mean, UNUSUAL.std))
    with torch.no_grad():
        each = [network.eval()(((one.permute(2, 0, 1).float() - mean) / std)[None]) for one in pictures]
    return {name: torch.cat([answer[name] for answer in each]) for name in each[0]}


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_peers_networks_answer_as_the_plain_network(pictures: Tensor, dtype: torch.dtype, error: float) -> None:
    network = Network()
    expected = _plain(network, pictures)
    answering = Answering(network, UNUSUAL, pictures.shape[:3], dtype).eval()
    assert answering.names == tuple(expected)
    answers = gpu_peers.recorded(answering, pictures)()
    for name, answer in zip(answering.names, answers, strict=True):
        assert answer.dtype is torch.float32
        assert torch.allclose(answer, expected[name], atol=error * float(expected[name].abs().max()))


def test_peers_networks_have_no_batch_normalisation_left(pictures: Tensor) -> None:
    answering = Answering(Network(), UNUSUAL, pictures.shape[:3], torch.float32)
    assert not [node for node in answering.network.graph.nodes if "norm" in str(node.target)]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_recorded_graphs_follow_their_pictures(pictures: Tensor) -> None:
    network, there = Network(), pictures.cuda()
    answering = Answering(network, UNUSUAL, pictures.shape[:3], torch.float16).eval().cuda()
    calls = {
        name: gpu_peers.SEPARATE[name].prepare([answering], there) for name in ("CUDA graphs", "CUDA graphs at once")
    }
    for shown in (pictures, pictures.flip(1)):
        there.copy_(shown)
        expected = _plain(network, shown)["a.logits"]
        for call in calls.values():
            assert torch.allclose(call()[0][0].cpu(), expected, atol=0.02 * float(expected.abs().max()))


def test_what_cannot_run_is_listed_with_its_reason(pictures: Tensor) -> None:
    def broken(modules: Any, given: Tensor) -> Any:
        raise RuntimeError("at line 7\n  the kernel is missing\n\n")

    def runs(modules: Any, given: Tensor) -> Any:
        return lambda: [module(given) for module in modules]

    def fails_when_run(modules: Any, given: Tensor) -> Any:
        return lambda: broken(modules, given)

    def absent(modules: Any, given: Tensor) -> Any:
        raise AbsentError("not here")

    peers = {one.__name__: Peer("", one) for one in (broken, runs, fails_when_run, absent)}
    ready, reasons = gpu_peers.prepared(peers, [nn.Identity()], pictures)
    assert list(ready) == ["runs"]
    assert reasons == {
        "broken": "RuntimeError: the kernel is missing",
        "fails_when_run": "RuntimeError: the kernel is missing",
        "absent": "not here",
    }


@pytest.mark.parametrize("name", [name for name in gpu_peers.SEPARATE if name != "CUDA graphs"])
def test_what_needs_cuda_says_so_on_a_cpu(name: str, pictures: Tensor) -> None:
    with pytest.raises(AbsentError, match=r"CUDA|installed"):
        gpu_peers.SEPARATE[name].prepare([nn.Identity()], pictures)


def test_tuning_is_for_peers_alone() -> None:
    before = torch.backends.cudnn.benchmark
    with gpu_peers.tuned():
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before


def _trace(spans: list[tuple[float, float]], cat: str = "kernel") -> list[dict[str, Any]]:
    return [{"cat": cat, "ts": begin, "dur": end - begin} for begin, end in spans]


def test_busy_share_counts_overlap_once_and_copies_never() -> None:
    kernels = _trace([(10, 14), (12, 13), (13, 16), (18, 20)])
    others = [*_trace([(0, 100)], "gpu_memcpy"), {"name": "process_name", "ph": "M"}]
    assert gpu_clock.busy_share({"traceEvents": [*others, *kernels]}) == pytest.approx(0.8)
    assert gpu_clock.busy_share({"traceEvents": others}) is None


def test_busy_share_equals_counting_microseconds() -> None:
    dice = np.random.default_rng(0)
    for _ in range(20):
        begins = dice.integers(0, 300, 25)
        ends = begins + dice.integers(1, 15, 25)
        line = np.zeros(400, np.bool_)
        for begin, end in zip(begins, ends, strict=True):
            line[begin:end] = True
        trace = {"traceEvents": _trace(list(zip(map(float, begins), map(float, ends), strict=True)))}
        assert gpu_clock.busy_share(trace) == pytest.approx(line[begins.min() : ends.max()].mean())


def test_a_trace_without_a_gpu_has_no_kernels() -> None:
    assert gpu_clock.busy_share(gpu_clock.traced(lambda: torch.ones(4) + 1, CPU)) is None


class Event:
    """A CUDA event on a clock that cases move."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


def test_rounds_by_events_rotate_and_leave_warm_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    order: list[str] = []

    def case(name: str, ms: float) -> Any:
        def run() -> None:
            order.append(name)
            Event.now += ms * len(order)

        return run

    found = gpu_clock.event_rounds({"a": case("a", 1), "b": case("b", 10)}, 2, torch.device("cuda"), warm=1)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert found.seconds == {"a": pytest.approx([0.003, 0.006]), "b": pytest.approx([0.04, 0.05])}


def test_rounds_on_a_cpu_are_those_of_the_host() -> None:
    found = gpu_clock.event_rounds({"a": lambda: None}, 4, CPU, warm=0)
    assert len(found.seconds["a"]) == 4


def test_ratios_say_why_a_goal_is_missed() -> None:
    merged = "hand-merged, CUDA graph"
    rounds = Rounds(
        {"engine": [2.0] * 9, merged: [1.0] * 9, "four networks, x": [4.0] * 9, "four networks, y": [6.0] * 9}
    )
    numbers = gpu.ratios(rounds)
    assert numbers["four networks, x over engine"].measured == 2
    assert numbers["four networks, x over engine"].is_met is False
    assert "it is 4 times as fast; that takes 0.5 of the engine's time" in numbers["four networks, x over engine"].why
    assert numbers["four networks, y over engine"].is_met
    assert numbers["four networks, y over engine"].why == ""
    assert numbers["engine over hand-merged"].measured == 2
    assert numbers["engine over hand-merged"].better == "lower"
    assert gpu.ratios(Rounds({"engine": [1.0], "z": [2.0]}), goal=None)["z over engine"].goal is None


def test_a_section_replaces_what_it_had_found_and_nothing_else() -> None:
    def of(section: str, name: str) -> dict[str, Any]:
        number = {f"{section}: {name}": Number(measured=1.0)}
        return {"numbers": number, "details": {section: {"notes": [f"{section}: {name}"]}}}

    kept = gpu.joined(gpu.joined({}, of("one", "old")), of("two", "x"))
    now = gpu.joined(kept, of("one", "new") | {"limits": {"memory": 1}})
    assert set(now["numbers"]) == {"two: x", "one: new"}
    assert set(now["notes"]) == {"two: x", "one: new"}
    assert now["limits"] == {"memory": 1}
    assert gpu.joined(now, of("two", "y"))["limits"] == {"memory": 1}


@pytest.mark.parametrize("kind", gpu_reuse.CLIPS)
def test_clips_are_generated_where_there_is_no_data(kind: str, tmp_path: Path) -> None:
    first, second = gpu_reuse.frames_of(kind, 2, tmp_path)
    assert first.rgb().shape == (384, 640, 3)
    assert (np.abs(first.rgb().astype(int) - second.rgb()).mean() > 4) == (kind == "moving")


def test_agreement_is_the_share_of_cells_with_the_same_class() -> None:
    one = np.random.default_rng(0).random((2, 4, 5, 3), np.float32)
    other = one.copy()
    other[0, 0, :3] = -one[0, 0, :3]
    assert gpu_work.agreement({"surface.logits": one}, {"surface.logits": one}) == 1
    assert gpu_work.agreement({"surface.logits": other}, {"surface.logits": one}) == pytest.approx(1 - 3 / 40)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path)])
    gpu.main()
    assert "no CUDA device" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_suite_imports_without_openvino() -> None:
    code = "import sys; sys.modules['openvino'] = None; import benchmarks.gpu"
    subprocess.run([sys.executable, "-W", "error::ImportWarning", "-c", code], cwd=ROOT, check=True)


def test_all_sections_run_on_a_cpu(pipeline: sb.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)

    def frames_of(kind: str, count: int, data: Path | None) -> list[sb.Frame]:
        return [sb.Frame.of(np.roll(picture, at if kind == "moving" else 0, 1)) for at in range(count)]

    monkeypatch.setattr(gpu_reuse, "frames_of", frames_of)
    monkeypatch.setattr(gpu, "pipeline_of", lambda options: pipeline)
    arguments = ["--device", "cpu", "--quick", "--rounds", "3", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
    gpu.main()
    suite = Suite.read("gpu", tmp_path)
    assert suite is not None
    for section, pictures in (("one camera", 1), ("eight cameras", 8)):
        assert suite.details[section]["pictures"] == pictures
        agreements = suite.details[section]["surface_agreement"]
        assert set(agreements) == {"engine", "CUDA graphs", "hand-merged, CUDA graph"}
        assert min(agreements.values()) > 0.999
        assert suite.numbers[f"{section}: four networks, CUDA graphs over engine"].goal == 3
        assert f"{section}: engine, frames to results" in suite.timings
        assert {name for name in suite.absent if name.startswith(section)} == {
            f"{section}: {name}" for name in gpu_peers.SEPARATE if name != "CUDA graphs"
        }
    assert suite.numbers["eight cameras: GPU busy"].goal == 90
    assert suite.numbers["eight cameras: GPU busy"].measured is None
    assert set(suite.spent["eight cameras: a frame"]) == set(gpu_work.PARTS)
    assert {name for name, number in suite.numbers.items() if name.startswith("reuse") and number.goal} == {
        f"reuse: {kind} clip, auto over dense, all frames" for kind in ("static", "moving")
    }
    assert set(suite.limits) == {"memory bandwidth", "multiply-adds"}


def test_other_networks_lead_to_the_engines_results(pipeline: sb.Pipeline) -> None:
    dice = np.random.default_rng(0)
    frames = [sb.Frame.of(dice.integers(0, 256, (48, 96, 3), np.uint8)) for _ in range(3)]
    cameras = gpu_work.Cameras.started(sb.compile(pipeline, profile=False, use_cache=False), frames, 0.0)
    rivals = gpu_work.Rivals.of(cameras, pipeline, {})
    results = cameras.through(rivals.separate["CUDA graphs"], rivals.modules, rivals.pictures)()
    for frame, found in zip(frames, results, strict=True):
        own = cameras.engine.step(frame, stream="another")
        surface, scene = found
        assert np.allclose(surface.logits, own["surface"].logits, atol=1e-4)
        assert scene.to_dict() == own["scene"].to_dict()
    assert not np.allclose(results[0][0].logits, results[1][0].logits, atol=1e-4)
