"""Every backend against eager torch on the uncut graph, segment by segment, in every precision it has here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.backends.openvino import OpenVINOBackend
from sharedbb.backends.torch_backends import CudaBackend, CudaGraphSession, EagerBackend, InductorBackend
from sharedbb.errors import BackendError
from sharedbb.graph.capture import capture
from sharedbb.graph.cut import Cut, cut, fold_constants
from sharedbb.graph.ir import Graph
from sharedbb.graph.lower import run
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.types import Normalization, Plane, Size

NORMALIZATION = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
PLANES = Plane.rgb(NORMALIZATION)
SIZE = Size(64, 96)
HAS_CUDA = torch.cuda.is_available()

# Relative to the largest answer: rounding of float32, of eight-bit and of eleven-bit mantissas through ten layers.
TOLERANCE = {"f32": 1e-5, "bf16": 4e-2, "f16": 5e-3}


class Network(nn.Module):
    """A small trunk with two strides, a residual, a squeeze-excite, and heads of several shapes and kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(16, 24, 3, 2, 1), nn.Hardswish(), nn.Conv2d(24, 24, 3, 1, 1, groups=24))
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 24, 1), nn.Sigmoid())
        self.deeper = nn.Sequential(nn.Conv2d(24, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 1))
        self.dense = nn.Conv2d(24, 7, 1)
        self.vector = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.deep(self.stem(x))
        fine = fine + fine * self.gate(fine)
        coarse = self.deeper(fine)
        wide = nn.functional.interpolate(coarse[:, :7], scale_factor=2.0, mode="bilinear")
        return {"dense.logits": self.dense(fine) + wide, "vector": self.vector(coarse.mean((2, 3)))}


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    network = Network().eval()
    network.stem[1].running_var.uniform_(0.5, 2)
    return capture(network, torch.zeros(1, 3, SIZE.height, SIZE.width), "")


@pytest.fixture(scope="module")
def parts(graph: Graph) -> Cut:
    return cut(fold_constants(fold_batch_norms(graph)))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, SIZE.height, SIZE.width, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(graph: Graph, picture: np.ndarray) -> dict[str, np.ndarray]:
    x = torch.from_numpy(picture).permute(0, 3, 1, 2).float()
    x = (x - torch.tensor(NORMALIZATION.mean).view(1, 3, 1, 1)) / torch.tensor(NORMALIZATION.std).view(1, 3, 1, 1)
    answers = run(graph, x)
    return {name: _nhwc(value).numpy() for name, value in answers.items()}


def _nhwc(value: Tensor) -> Tensor:
    return value.permute(0, 2, 3, 1) if value.dim() == 4 else value


def _run(backend: Any, parts: Cut, executables: Sequence[Any], pictures: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    buffer = backend.picture(SIZE, PLANES)
    sessions = [executable.session() for executable in executables]
    answers = []
    for picture in pictures:
        buffer.planes["input"][...] = picture
        backend.upload(buffer)
        features = dict(buffer.features)
        for segment, session in zip(parts.segments, sessions, strict=True):
            results = session([features[name] for name in segment.inputs])
            features.update(zip(segment.outputs, results, strict=True))
        answers.append({name: backend.answer(features[at]).copy() for name, at in parts.answers.items()})
    return answers


def _compiled(backend: Any, parts: Cut) -> list[Any]:
    return list(backend.compile(parts, PLANES))


def _near(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], precision: str) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == np.float32
        assert got[name].shape == value.shape
        assert np.abs(got[name] - value).max() <= TOLERANCE[precision] * np.abs(value).max()


CASES = [
    *((EagerBackend, precision) for precision in ("f32", "bf16")),
    *((OpenVINOBackend, precision) for precision in OpenVINOBackend.precisions("cpu")),
]


@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_segments_answer_as_eager_does(
    kind: Any, precision: str, parts: Cut, picture: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    backend = kind(precision)
    other = np.zeros_like(picture)
    first, between, again = _run(backend, parts, _compiled(backend, parts), [picture, other, picture])
    _near(first, expected, precision)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], between[name]) for name in first)


@pytest.mark.slow
@pytest.mark.skipif(not InductorBackend.precisions("cpu"), reason="Inductor needs a C++ compiler")
def test_inductor_answers_as_eager_does(parts: Cut, picture: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    backend = InductorBackend("f32")
    (got,) = _run(backend, parts, _compiled(backend, parts), [picture])
    _near(got, expected, "f32")


@pytest.mark.cuda
@pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device")
@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
def test_cuda_answers_as_eager_does(
    precision: str, parts: Cut, picture: np.ndarray, expected: dict[str, np.ndarray]
) -> None:
    backend = CudaBackend(precision, "cuda")
    other = np.zeros_like(picture)
    first, _, again = _run(backend, parts, _compiled(backend, parts), [picture, other, picture])
    _near(first, expected, precision)
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_two_sessions_do_not_share_buffers(parts: Cut, picture: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    backend = OpenVINOBackend("f32")
    executables = _compiled(backend, parts)
    segment, executable = parts.segments[0], executables[0]
    one, other = backend.picture(SIZE, PLANES), backend.picture(SIZE, PLANES)
    one.planes["input"][...] = picture
    first, second = executable.session(), executable.session()
    kept = backend.answer(first([one.features["input"]])[0]).copy()
    second([other.features["input"]])
    assert np.array_equal(backend.answer(first._outputs[0]), kept)
    assert segment.inputs == ("input",)


def test_stored_segments_answer_the_same(parts: Cut, picture: np.ndarray) -> None:
    backend = OpenVINOBackend(OpenVINOBackend.precisions("cpu")[0])
    executables = _compiled(backend, parts)
    again = [backend.load(backend.save(executable)) for executable in executables]
    (expected,), (got,) = (_run(backend, parts, built, [picture]) for built in (executables, again))
    assert all(np.array_equal(expected[name], got[name]) for name in expected)


def test_several_precisions_convert_once(parts: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    _compiled(OpenVINOBackend("f32"), parts)
    monkeypatch.setattr("sharedbb.backends.openvino._convert", lambda parts: pytest.fail("converted again"))
    _compiled(OpenVINOBackend(OpenVINOBackend.precisions("cpu")[0]), parts)


@pytest.mark.parametrize(("threads", "kept"), [(None, True), (1, False)])
def test_threads_of_several_engines_are_not_kept_to_the_same_cores(threads: int | None, kept: bool, parts: Cut) -> None:
    backend = OpenVINOBackend("f32", threads=threads)
    compiled = backend.compile(parts, PLANES)[0]
    for executable in (compiled, backend.load(backend.save(compiled))):
        assert executable.model.get_property("ENABLE_CPU_PINNING") == kept
        assert threads is None or executable.model.get_property("INFERENCE_NUM_THREADS") == threads


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: OpenVINOBackend("int3"), "cannot run int3 on cpu here; it can run"),
        (lambda: OpenVINOBackend("f32", "cuda"), "nothing; use device cpu"),
        (lambda: EagerBackend("f8"), "f32, bf16, f16, not 'f8'"),
        pytest.param(
            lambda: CudaBackend("f16", "cuda"),
            "cannot run on cuda here",
            marks=pytest.mark.skipif(HAS_CUDA, reason="there is a CUDA device"),
        ),
    ],
)
def test_what_cannot_run_is_said(make: Any, said: str) -> None:
    with pytest.raises(BackendError, match=said):
        make()


def test_an_operator_that_openvino_lacks_is_said() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(BackendError, match=r"openvino cannot convert .*special_bessel_j0.*inductor or eager can"):
        OpenVINOBackend("f32").compile(cut(capture(Odd(), torch.zeros(1, 3, 8, 8))), PLANES)


class Tapped(nn.Module):
    """An answer that another head goes on from, one that is the picture, one in five dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU()), nn.Conv2d(8, 2, 1)
        self.register_buffer("scale", torch.linspace(0, 1, 2).view(1, 1, 2, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.stem(x)
        split = features.view(1, 4, 2, *features.shape[2:]) * self.scale.to(features.dtype)
        return {"features": features, "logits": self.last(features), "picture": x, "split": split}


@pytest.mark.parametrize(("kind", "precision"), CASES)
def test_answers_that_are_features_pictures_or_of_five_dimensions(
    kind: Any, precision: str, picture: np.ndarray
) -> None:
    torch.manual_seed(0)
    graph = capture(Tapped().eval(), torch.zeros(1, 3, SIZE.height, SIZE.width), "")
    parts, backend = cut(graph), kind(precision)
    (got,) = _run(backend, parts, _compiled(backend, parts), [picture])
    x = torch.from_numpy(picture).permute(0, 3, 1, 2).float()
    x = (x - torch.tensor(NORMALIZATION.mean).view(1, 3, 1, 1)) / torch.tensor(NORMALIZATION.std).view(1, 3, 1, 1)
    _near(got, {name: _nhwc(value).numpy() for name, value in run(graph, x).items()}, precision)


@pytest.mark.parametrize("kind", [EagerBackend, OpenVINOBackend])
def test_answers_of_whole_numbers_stay_whole_between_segments(kind: Any, picture: np.ndarray) -> None:
    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.table = nn.Conv2d(3, 8, 4, 4), nn.Embedding(8, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            index = self.stem(x).argmax(1)
            return {"index": index, "looked": self.table(index), "some": index > 3}

    torch.manual_seed(0)
    graph = capture(Looked().eval(), torch.zeros(1, 3, SIZE.height, SIZE.width), "")
    parts, backend = cut(graph), kind("f32")
    (got,) = _run(backend, parts, _compiled(backend, parts), [picture])
    x = torch.from_numpy(picture).permute(0, 3, 1, 2).float()
    x = (x - torch.tensor(NORMALIZATION.mean).view(1, 3, 1, 1)) / torch.tensor(NORMALIZATION.std).view(1, 3, 1, 1)
    _near(got, {name: _nhwc(value.float()).numpy() for name, value in run(graph, x).items()}, "f32")


@pytest.mark.parametrize("kind", [EagerBackend, OpenVINOBackend])
def test_networks_of_another_float_type_read_the_picture(kind: Any, picture: np.ndarray) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    expected: dict[str, np.ndarray] = {}
    for dtype in (torch.float32, torch.float64, torch.float16):
        example = torch.zeros(1, 3, SIZE.height, SIZE.width, dtype=dtype)
        parts, backend = cut(capture(network.to(dtype), example, "")), kind("f32")
        (got,) = _run(backend, parts, _compiled(backend, parts), [picture])
        expected = expected or got
        _near(got, expected, "f32" if dtype is torch.float64 else "f16")


def test_torch_compile_does_not_give_up_on_many_segments(parts: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps eight compiled forms of one function, and there are more segments than that."""
    plain = torch.compile

    def without_a_compiler(module: Any, **options: Any) -> Any:
        return plain(module, backend="eager", fullgraph=options["fullgraph"], dynamic=options["dynamic"])

    monkeypatch.setattr(torch, "compile", without_a_compiler)
    backend = InductorBackend.__new__(InductorBackend)
    backend.precision, backend.device = "f32", "cpu"
    compiled = [executable for _ in range(4) for executable in _compiled(backend, parts)]
    assert len(compiled) > 8


def _sum(picture: Tensor, feature: Tensor) -> Tensor:
    return picture.float() * 2 + feature


class _Graph:
    """Stands in for a CUDA graph: what ran while it was recorded runs again, on the same tensors."""

    def __init__(self) -> None:
        self.runs: list[tuple[Tensor, Tensor, Tensor]] = []

    def replay(self) -> None:
        for picture, feature, found in self.runs:
            found.copy_(_sum(picture, feature))


class _Stream(nullcontext[None]):
    def wait_stream(self, other: _Stream) -> None:
        pass


def test_a_cuda_graph_is_recorded_once_whatever_buffers_its_inputs_come_in(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[_Graph] = []
    recording: list[_Graph] = []

    @contextmanager
    def record(graph: _Graph, **_: Any) -> Iterator[None]:
        recorded.append(graph)
        recording.append(graph)
        yield
        recording.pop()

    def module(picture: Tensor, feature: Tensor) -> tuple[Tensor, ...]:
        found = _sum(picture, feature)
        for graph in recording:
            graph.runs.append((picture, feature, found))
        return (found,)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    for name in ("stream", "Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: _Stream())
    session, feature = CudaGraphSession(module), torch.ones(2, 3)
    for number in range(6):
        feature = feature.clone() if number == 4 else feature  # elsewhere than when it was recorded
        feature.fill_(number)
        (found,) = session([torch.full((2, 3), number, dtype=torch.uint8), feature])
        assert torch.equal(found, torch.full((2, 3), 3.0 * number))
    assert len(recorded) == 1
