"""Fine-tuning: the next network has learnt, the first is as it was, and a killed training ends as an unbroken one."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb import nets
from sharedbb.compress.finetune import finetune, trainer_of
from sharedbb.errors import CompressionError, DataError
from sharedbb.graph.quantization import Scheme
from sharedbb.learn.course import Course
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.distillation import Distill
from sharedbb.learn.network import Network
from sharedbb.nets.backbones import seeded
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import Pipeline

PIPELINE: dict[str, Any] = {
    "name": "tiny",
    "input": {"size": [64, 64]},
    "backbone": {"arch": "two_steps"},
    "heads": {
        "surface": {"type": "segmentation", "taps": [4], "classes": ["ground", "thing"], "channels": 4},
        "looks": {"type": "embedding", "taps": [8], "dim": 4},
    },
}
SHORT: dict[str, Any] = {"batch": 2, "crop": (32, 32)}


class Trunk(nn.Module):
    """Features of six channels at strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = {4: 6, 8: 6}
        self.first = nn.Sequential(nn.Conv2d(3, 6, 5, 4, 2), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Conv2d(6, 6, 3, 2, 1)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        first = self.first(image)
        return {4: first, 8: self.second(first)}


@pytest.fixture(scope="module", autouse=True)
def _backbone() -> Iterator[None]:
    register_backbone("two_steps", lambda _weights: seeded(1, Trunk), strides=(4, 8))
    yield
    BACKBONES.unregister("two_steps")


def pipeline(**changes: Any) -> Pipeline:
    return Pipeline.model_validate(PIPELINE | changes)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from several threads, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(pipeline(), nets.build(pipeline()).eval())


def pictures(count: int = 10) -> Data:
    samples = []
    for index in range(count):
        labels = np.zeros((64, 64), np.uint8)
        labels[16:48, 4 * index : 4 * index + 24] = 1
        rgb = np.where(labels[..., None] == 1, [220, 60, 30], [40, 60, 90]).astype(np.uint8)
        samples.append(Sample(str(index), rgb, labels))
    return Data.given("squares", samples, ("ground", "thing"))


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.module.state_dict().items()}


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_next_network_has_learnt_and_the_first_is_as_it_was(network: Network) -> None:
    before, lines = weights(network), []
    after, report = finetune(network, pictures(), steps=3, progress=lines.append, **SHORT)
    assert same(weights(network), before)
    assert not same(weights(after), before)
    assert not after.module.training
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert after.steps == (report,)
    assert report.step == "finetune"
    assert report.facts["steps"] == 3
    assert report.facts["pictures"] == 8  # the training part
    assert report.facts["heads_from_labels"] == ["surface"]
    assert report.facts["heads_from_teacher"] == []
    assert report.settings["lr"] == 1e-3
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_a_teacher_teaches_every_head(network: Network) -> None:
    report = finetune(network, pictures(), steps=1, teacher=network, **SHORT)[1]
    assert report.facts["heads_from_teacher"] == ["surface", "looks"]
    assert report.settings["distill"]["alpha"] == 0.5
    distill = Distill(alpha=0.8)
    assert (
        finetune(network, pictures(), steps=0, teacher=network, distill=distill)[1].settings["distill"]["alpha"] == 0.8
    )


def test_footage_is_answered_by_the_teacher_and_has_its_share_of_every_batch(network: Network) -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    footage = Data.given("my camera", [Sample(f"camera-{index}", black) for index in range(5)])
    course = Course(1, distill=Distill(), **SHORT)
    trainer = trainer_of(network, pictures(), course, network, footage=[(footage, 0.25)])
    names = [trainer.batches.crop(0, slot, 8, (32, 32))[0].name for slot in range(8)]
    assert sum(name.startswith("camera") for name in names) == 2
    assert [(len(pool.pictures), pool.share) for pool in trainer.batches.pools] == [(8, 0.75), (5, 0.25)]
    report = finetune(network, pictures(), steps=1, teacher=network, footage=[(footage, 0.25)], **SHORT)[1]
    assert report.facts["pictures"] == 13
    with pytest.raises(CompressionError, match="nobody answers the pictures of my camera: footage needs a teacher"):
        finetune(network, pictures(), steps=1, footage=[(footage, 0.25)], **SHORT)
    with pytest.raises(CompressionError, match="the shares of footage, 1, leave nothing of a batch for squares"):
        finetune(network, pictures(), steps=1, teacher=network, footage=[(footage, 1.0)], **SHORT)


class KilledError(Exception):
    """Something ended the training."""


def test_a_killed_training_ends_as_an_unbroken_one(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("sharedbb.compress.finetune"), "SAVED_EVERY_S", 0.0)
    whole, told = finetune(network, pictures(), steps=4, teacher=network, **SHORT)
    steps: list[int] = []

    def note(line: Mapping[str, Any]) -> None:
        steps.append(line["step"])
        if steps in ([1, 2, 3], [1, 2, 3, 3]):
            raise KilledError

    file = tmp_path / "checkpoint.safetensors"
    for _ in range(2):
        with pytest.raises(KilledError):
            finetune(network, pictures(), steps=4, teacher=network, checkpoint=file, progress=note, **SHORT)
    after, report = finetune(network, pictures(), steps=4, teacher=network, checkpoint=file, progress=note, **SHORT)
    assert steps == [1, 2, 3, 3, 3, 4]
    assert same(weights(after), weights(whole))
    assert report == told
    again, _ = finetune(network, pictures(), steps=4, teacher=network, checkpoint=file, progress=note, **SHORT)
    assert steps == [1, 2, 3, 3, 3, 4]
    assert same(weights(again), weights(whole))


def test_weights_that_are_stored_sparsely_stay_zero(network: Network) -> None:
    name, module = "heads.surface.predict.weight", network.copy()
    weight = module.get_parameter(name)
    with torch.no_grad():
        weight[0] = 0
    sparse = Network(network.pipeline, module, coding={name: {"type": "plain", "dtype": "f32", "sparse": True}})
    after = finetune(sparse, pictures(), steps=2, **SHORT)[0]
    assert not after.module.get_parameter(name)[0].any()
    assert not torch.equal(after.module.get_parameter(name)[1], weight[1])
    assert after.coding == sparse.coding
    assert (
        finetune(Network(network.pipeline, module), pictures(), steps=2, **SHORT)[0].module.get_parameter(name)[0].any()
    )


def test_weights_that_share_a_value_go_on_sharing_one(network: Network) -> None:
    name, module = "backbone.first.0.weight", network.copy()
    weight = module.get_parameter(name)
    with torch.no_grad():
        weight.copy_(torch.where(weight > 0, 0.1, -0.2))
    clustered = Network(network.pipeline, module, coding={name: {"type": "codebook", "bits": 1}})
    after = finetune(clustered, pictures(), steps=2, **SHORT)[0].module.get_parameter(name)
    assert len(after.unique()) == 2
    assert torch.equal(after == after.max(), weight == weight.max())
    assert not torch.equal(after, weight)


def test_settings_that_do_not_fit_are_refused(network: Network) -> None:
    with pytest.raises(CompressionError, match="needs an end"):
        finetune(network, pictures())
    with pytest.raises(CompressionError, match="needs a teacher"):
        finetune(network, pictures(), steps=1, distill=Distill())
    with pytest.raises(DataError, match="has no pictures for 'train'"):
        finetune(network, pictures().of("test"), steps=1)
    unlike = pipeline(input={"size": [64, 64], "normalize": "unit"})
    with pytest.raises(CompressionError, match="normalizes pictures by 'unit', tiny by 'imagenet'"):
        finetune(network, pictures(), steps=1, teacher=Network(unlike, network.module))


def test_a_quantized_network_needs_its_rounding_around_it(network: Network) -> None:
    quantized = Network(network.pipeline, network.module, scheme=Scheme({}))
    with pytest.raises(CompressionError, match="fine-tuned before it is quantized"):
        finetune(quantized, pictures(), steps=1)
    after = finetune(quantized, pictures(), steps=1, around=lambda _module: nullcontext(), **SHORT)[0]
    assert after.scheme is quantized.scheme
