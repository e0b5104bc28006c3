"""Distillation between networks: a student of another backbone comes to answer as its teacher does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb import nets
from sharedbb.compress.distill import distill, student
from sharedbb.errors import CompressionError, RegistryError
from sharedbb.graph.quantization import Scheme
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.distillation import response_loss
from sharedbb.learn.network import Network
from sharedbb.nets.backbones import seeded
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import Pipeline


class Trunk(nn.Module):
    """Features at strides 4 and 8, the second of ``width`` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = {4: 6, 8: width}
        self.first = nn.Sequential(nn.Conv2d(3, 6, 5, 4, 2), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        first = self.first(image)
        return {4: first, 8: self.second(first)}


@pytest.fixture(scope="module", autouse=True)
def _backbones() -> Iterator[None]:
    """Two small backbones, and one that lacks a stride."""
    register_backbone("wide", lambda _weights: seeded(1, lambda: Trunk(8)), strides=(4, 8))
    register_backbone("narrow", lambda _weights: seeded(2, lambda: Trunk(4)), strides=(4, 8))
    register_backbone("coarse", lambda _weights: Trunk(4), strides=(8, 16))
    yield
    for name in ("wide", "narrow", "coarse"):
        BACKBONES.unregister(name)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from several threads, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def teacher() -> Network:
    """A network whose batch norms have seen pictures, and whose classes depend on them."""
    pipeline = Pipeline.model_validate(
        {
            "name": "tiny",
            "input": {"size": [64, 64]},
            "backbone": {"arch": "wide"},
            "neck": {"channels": 8, "strides": [4, 8]},
            "heads": {
                "surface": {"type": "segmentation", "taps": [4], "classes": ["a", "b"], "channels": 4},
                "looks": {"type": "embedding", "taps": [8], "dim": 4},
            },
        }
    )
    module = nets.build(pipeline)
    with torch.no_grad():
        for _ in range(30):
            module(images())
        module.heads["surface"].predict.weight.mul_(5)  # type: ignore[union-attr, operator]
    return Network(pipeline, module.eval())


def images() -> Tensor:
    return torch.stack([torch.from_numpy(sample.rgb.copy()).permute(2, 0, 1) for sample in pictures()]).float() / 64 - 2


def pictures() -> Data:
    coarse = np.random.default_rng(0).integers(0, 256, (10, 2, 2, 3), dtype=np.uint8)
    return Data.given("squares", [Sample(str(i), one.repeat(32, 0).repeat(32, 1)) for i, one in enumerate(coarse)])


def off(network: Network, teacher: Network) -> float:
    """How far the network's classes are from the teacher's."""
    with torch.no_grad():
        said, wanted = ({"logits": one.module(images())["surface.logits"]} for one in (network, teacher))
    return float(response_loss("segmentation", said, wanted, 1.0))


def test_a_student_of_another_backbone_learns_to_answer_as_its_teacher(teacher: Network) -> None:
    pupil = student(teacher, "narrow")
    hints, lines = {"features": 0.2, "attention": 0.2}, list[Mapping[str, Any]]()
    course: dict[str, Any] = {"batch": 4, "crop": (64, 64), "averaging": 0.8, "bf16": False}
    after, report = distill(pupil, teacher, pictures(), steps=60, lr=1e-2, **hints, **course, progress=lines.append)
    for what in ("surface.teacher", "features", "attention"):
        early, late = (np.mean([line["losses"][what] for line in part]) for part in (lines[:5], lines[-15:]))
        assert late < 0.8 * early, what
    assert off(after, teacher) < off(pupil, teacher)
    assert report.step == "distill"
    assert report.facts["heads_from_labels"] == []
    assert report.facts["heads_from_teacher"] == ["surface", "looks"]
    assert report.settings["distill"] == {"alpha": 0.9, "temperature": 2.0, **hints}
    assert after.module.state_dict().keys() == pupil.module.state_dict().keys()


def test_a_student_begins_with_what_it_has_in_common_with_its_teacher(teacher: Network) -> None:
    pupil = student(teacher, "narrow")
    assert pupil.pipeline.backbone.arch == "narrow"
    assert pupil.pipeline.heads == teacher.pipeline.heads
    taught, fresh = teacher.module.state_dict(), nets.build(pupil.pipeline).state_dict()
    taken = set()
    for name, value in pupil.module.state_dict().items():
        alike = not name.startswith("backbone.") and taught[name].shape == value.shape
        assert torch.equal(value, taught[name] if alike else fresh[name]), name
        taken |= {name} if alike else set()
    assert "heads.looks.predict.weight" in taken
    assert "neck.laterals.4.0.weight" in taken
    assert "neck.laterals.8.0.weight" not in taken


def test_unfit_students_are_refused(teacher: Network) -> None:
    with pytest.raises(RegistryError, match="resnet18"):
        student(teacher, "resnet1")
    with pytest.raises(CompressionError, match=r"coarse has no features at stride 4, only at \[8, 16\]"):
        student(teacher, "coarse")
    with pytest.raises(CompressionError, match="distilled before it is quantized"):
        distill(Network(teacher.pipeline, teacher.module, scheme=Scheme({})), teacher, pictures(), steps=1)
    heads = dict(teacher.pipeline.heads)
    heads["looks"] = heads["looks"].model_copy(update={"dim": 5})
    other = teacher.pipeline.model_copy(update={"heads": heads})
    with pytest.raises(CompressionError, match=r"answers looks.vector with shape \(4,\).*their heads must be equal"):
        distill(Network(other, nets.build(other).eval()), teacher, pictures(), steps=1)


def test_a_student_keeps_its_own_pipeline_whoever_teaches_it(teacher: Network) -> None:
    fields: Any = teacher.pipeline.model_dump(mode="json")
    fields |= {"name": "own", "input": {**fields["input"], "size": [64, 96]}}
    own = Network.of(Pipeline.model_validate(fields))
    pupil = student(own, "narrow", teacher=teacher)
    assert (pupil.pipeline.name, pupil.pipeline.input.size) == ("own", (64, 96))
    assert pupil.pipeline.heads == own.pipeline.heads
    taught, state = teacher.module.state_dict(), pupil.module.state_dict()
    same = [name for name in state if name in taught and not name.startswith("backbone.")]
    assert any(torch.equal(state[name], taught[name]) for name in same if state[name].shape == taught[name].shape)
