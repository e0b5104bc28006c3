"""Distillation: losses against hand computation, zero for a student that is its teacher, adaptors between widths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.errors import CompressionError
from sharedbb.learn.distillation import (
    RESPONSES,
    Distill,
    Distiller,
    attention,
    attention_loss,
    channels,
    feature_loss,
    parts_of,
    response_loss,
    watching,
)
from sharedbb.nets import MultiHead
from sharedbb.registry import HEADS, resolve
from sharedbb.spec import Pipeline

PIPELINE = Pipeline.model_validate(
    {
        "name": "tiny",
        "input": {"size": [64, 64]},
        "backbone": {"arch": "resnet18"},
        "heads": {
            "surface": {"type": "segmentation", "taps": [4], "classes": ["a", "b", "c"], "channels": 4},
            "objects": {"type": "detection", "taps": [4, 8], "classes": ["a", "b"], "channels": 4},
            "scene": {"type": "tags", "taps": [8], "labels": ["a", "b"]},
            "far": {"type": "depth", "taps": [4], "channels": 4},
            "body": {"type": "keypoints", "taps": [4], "points": ["hand"], "channels": 4},
            "looks": {"type": "embedding", "taps": [8], "dim": 4},
        },
    }
)


class Trunk(nn.Module):
    """Two convolutions: features at strides 4 and 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = {4: width, 8: 6}
        self.first, self.second = nn.Conv2d(3, width, 4, 4), nn.Conv2d(width, 6, 2, 2)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        first = self.first(image)
        return {4: first, 8: self.second(first.relu())}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from several threads, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(seed: int, width: int = 5, *, only: str | None = None) -> MultiHead:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk = Trunk(width)
        wanted = {name: head for name, head in PIPELINE.heads.items() if only in (None, name)}
        heads = {name: resolve(HEADS[head.type].build)(head, trunk.channels) for name, head in wanted.items()}
        return MultiHead(trunk, None, heads, {name: head.taps for name, head in wanted.items()}).eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(7))


def answers(seed: int) -> dict[str, Tensor]:
    found: Mapping[str, Tensor] = network(seed)(images())
    return {name: value.detach() for name, value in found.items()}


@pytest.mark.parametrize("name", list(PIPELINE.heads))
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_equal_answers_cost_nothing_and_others_pull_towards_the_teacher(name: str, temperature: float) -> None:
    kind = PIPELINE.heads[name].type
    wanted, start = parts_of(answers(1), name), parts_of(answers(2), name)
    assert float(response_loss(kind, wanted, wanted, temperature)) == pytest.approx(0, abs=1e-5)
    raw = {part: value.clone().requires_grad_() for part, value in start.items()}
    before = response_loss(kind, raw, wanted, temperature)
    assert float(before.detach()) > 0
    before.backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None and value.grad.any() for value in raw.values())
    nearer = {part: start[part].lerp(wanted[part], 0.5) for part in start}
    assert 0 < float(response_loss(kind, nearer, wanted, temperature)) < float(before.detach())


def test_every_built_in_head_has_a_response_loss() -> None:
    assert set(RESPONSES) == {head.type for head in PIPELINE.heads.values()}


def test_classes_are_softened_and_scaled_back() -> None:
    student, teacher, temperature = [1.0, 0.0], [0.0, 3.0], 2.0

    def soft(logits: list[float]) -> list[float]:
        powers = [math.exp(value / temperature) for value in logits]
        return [power / sum(powers) for power in powers]

    wanted = sum(t * math.log(t / s) for t, s in zip(soft(teacher), soft(student), strict=True)) * temperature**2
    raw, taught = (torch.tensor(values).view(1, 2, 1, 1) for values in (student, teacher))
    got = response_loss("segmentation", {"logits": raw}, {"logits": taught}, temperature)
    assert float(got) == pytest.approx(wanted, rel=1e-5)


def test_boxes_count_by_the_teachers_score() -> None:
    scores = torch.tensor([[[8.0], [-12.0]]])
    distances = torch.ones(1, 2, 4)
    wanted = {"scores": scores, "distances": distances}
    elsewhere, nowhere = distances.clone(), distances.clone()
    elsewhere[0, 0] = 3
    nowhere[0, 1] = 3
    counted = float(response_loss("detection", {"scores": scores, "distances": elsewhere}, wanted, 1.0))
    ignored = float(response_loss("detection", {"scores": scores, "distances": nowhere}, wanted, 1.0))
    assert counted == pytest.approx(1 - 4 / 36, rel=1e-2)
    assert ignored < 1e-4


def test_heads_of_other_types_are_compared_by_their_parts() -> None:
    wanted = {"x": torch.tensor([0.0, 2.0]), "y": torch.tensor([1.0, -1.0])}
    raw = {"x": torch.tensor([1.0, 1.0]), "y": torch.tensor([1.0, -1.0])}
    assert float(response_loss("own", raw, wanted, 2.0)) == pytest.approx(1.0)


def test_features_are_measured_by_their_variance() -> None:
    wanted = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 5 + 2
    assert float(feature_loss(torch.full_like(wanted, float(wanted.mean())), wanted)) == pytest.approx(1, rel=1e-5)
    assert float(feature_loss(wanted, wanted)) == 0


def test_attention_is_where_a_map_is_active_whatever_its_width() -> None:
    values = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    energy = (values**2).sum(1).reshape(2, 4)
    plain = energy / np.linalg.norm(energy, axis=1, keepdims=True)
    assert np.allclose(attention(torch.from_numpy(values)).numpy(), plain, atol=1e-6)
    wide = torch.from_numpy(values).repeat(1, 5, 1, 1) * 3
    assert float(attention_loss(torch.from_numpy(values), wide)) == pytest.approx(0, abs=1e-9)
    other = torch.from_numpy(values[:, :, ::-1].copy())
    mirrored = plain.reshape(2, 2, 2)[:, ::-1].reshape(2, 4)
    wanted = ((plain - mirrored) ** 2).sum(1).mean()
    assert float(attention_loss(other, torch.from_numpy(values))) == pytest.approx(wanted, rel=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    distiller = Distiller(network(1), PIPELINE, Distill(features=1.0, attention=1.0))
    student = network(1)
    distiller.adapt(student)
    assert len(distiller.adaptors) == 0
    with watching(student) as features:
        raw = student(images())
    lesson = distiller.teach(images())
    losses = distiller.responses(raw, lesson) | distiller.hints(features, lesson)
    assert set(losses) == {*PIPELINE.heads, "features", "attention"}
    assert all(float(loss.detach()) == pytest.approx(0, abs=1e-5) for loss in losses.values())


def test_adaptors_bring_a_narrower_student_to_the_teachers_width() -> None:
    distiller = Distiller(network(1), PIPELINE, Distill(features=2.0))
    student = network(2, width=3)
    distiller.adapt(student)
    assert list(distiller.adaptors) == ["4"]
    again = Distiller(network(1), PIPELINE, Distill(features=2.0))
    again.adapt(student)
    assert torch.equal(distiller.adaptors["4"].weight, again.adaptors["4"].weight)  # type: ignore[arg-type]
    with watching(student) as features:
        student(images())
    lesson = distiller.teach(images())
    loss = distiller.hints(features, lesson)["features"]
    adapted = distiller.adaptors["4"](features[4])
    each = [feature_loss(adapted, lesson.features[4]), feature_loss(features[8], lesson.features[8])]
    assert float(loss.detach()) == pytest.approx(float((each[0] + each[1]).detach()), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in distiller.adaptors.parameters())


def test_a_teacher_is_frozen_and_features_are_watched_only_inside() -> None:
    teacher = network(1).train()
    distiller = Distiller(teacher, PIPELINE, Distill())
    lesson = distiller.teach(images())
    assert lesson.features == {}
    assert not any(value.requires_grad for value in lesson.raw.values())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.training
    with watching(teacher) as features:
        teacher(images())
    assert {stride: value.shape[1] for stride, value in features.items()} == channels(teacher)
    features.clear()
    teacher(images())
    assert features == {}


def test_the_neck_is_what_heads_tap() -> None:
    found = network(1)
    found.neck = nn.Identity()
    found.neck.channels = {4: 9}  # type: ignore[assignment]
    assert channels(found) == {4: 9}


def test_unfit_teachers_are_refused() -> None:
    with pytest.raises(CompressionError, match=r"the teacher has no surface\.logits"):
        Distiller(network(1, only="scene"), PIPELINE, Distill()).adapt(network(1))
    other = network(1)
    other.heads["surface"] = nn.Sequential(other.heads["surface"], Halved())
    with pytest.raises(CompressionError, match=r"answers surface.logits with shape \(3, 8, 8\).*gives \(3, 16, 16\)"):
        Distiller(other, PIPELINE, Distill()).adapt(network(1))
    with pytest.raises(CompressionError, match="a Linear has neither"):
        channels(nn.Linear(1, 1))


class Elsewhere(nn.Module):
    """The same answers, from features at another stride."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.backbone = network, Trunk(5)
        self.backbone.channels = {16: 5}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.network(image)
        return found


class Halved(nn.Module):
    """Every second cell of each part."""

    def forward(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[..., ::2, ::2] for name, value in parts.items()}


def test_networks_without_a_common_stride_share_no_features() -> None:
    with pytest.raises(CompressionError, match=r"the student has \[4, 8\], the teacher \[16\]"):
        Distiller(Elsewhere(network(1)), PIPELINE, Distill(attention=1.0)).adapt(network(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, "alpha is the teacher's share of a loss, 0 to 1, got 1.5"),
        ({"temperature": 0.0}, "the temperature must be above 0"),
        ({"features": -1.0}, "must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        Distill(**settings)
