"""The trainer: it learns, it resumes bit by bit, and it keeps what masks and constraints ask for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb.errors import CompressionError
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.distillation import Distill
from sharedbb.learn.trainer import Clock, Course, Trainer
from sharedbb.nets import MultiHead
from sharedbb.registry import HEADS, resolve
from sharedbb.spec import Pipeline

PIPELINE = Pipeline.model_validate(
    {
        "name": "tiny",
        "input": {"size": [64, 64]},
        "backbone": {"arch": "resnet18"},
        "heads": {
            "surface": {"type": "segmentation", "taps": [4], "classes": ["ground", "thing"], "channels": 4},
            "scene": {"type": "tags", "taps": [8], "labels": ["ground", "thing"]},
            "looks": {"type": "embedding", "taps": [8], "dim": 4},
        },
    }
)
COURSE = Course(steps=4, batch=2, crop=(32, 32), seed=3)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from several threads, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Trunk(nn.Module):
    """Features at strides 4 and 8, with a batch norm and with dropout, which asks a random generator."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = {4: width, 8: 6}
        self.first = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2))
        self.second = nn.Conv2d(width, 6, 2, 2)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        first = self.first(image)
        return {4: first, 8: self.second(first)}


def network(seed: int = 0, width: int = 5) -> MultiHead:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk = Trunk(width)
        heads = {name: resolve(HEADS[head.type].build)(head, trunk.channels) for name, head in PIPELINE.heads.items()}
        return MultiHead(trunk, None, heads, {name: head.taps for name, head in PIPELINE.heads.items()})


def pictures(*, labelled: bool = True) -> Data:
    """Squares of one colour on grounds of another."""
    samples = []
    for index in range(10):
        labels = np.zeros((64, 64), np.uint8)
        labels[16:48, 4 * index : 4 * index + 24] = 1
        rgb = np.where(labels[..., None] == 1, [220, 60, 30], [40, 60, 90]).astype(np.uint8)
        samples.append(Sample(str(index), rgb, labels if labelled else None))
    return Data.given("squares", samples, ("ground", "thing") if labelled else ())


def trainer(course: Course = COURSE, **settings: Any) -> Trainer:
    module = settings.pop("module", None) or network()
    return Trainer(module, course, settings.pop("data", pictures()), PIPELINE, **settings)


def taught(**settings: Any) -> Trainer:
    distill = Distill(features=0.5, attention=0.5)
    return trainer(Course(steps=4, batch=2, crop=(32, 32), distill=distill), teacher=network(9, width=7), **settings)


def states(made: Trainer) -> dict[str, Tensor]:
    """Everything that a training has come to."""
    found = {f"average.{name}": value for name, value in made.averaged().items()}
    found |= {f"module.{name}": value.clone() for name, value in made.module.state_dict().items()}
    if made.distiller:
        found |= {f"adaptors.{name}": value for name, value in made.distiller.adaptors.state_dict().items()}
    for index, state in made.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return found


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_the_loss_falls_and_the_answers_become_right() -> None:
    made = trainer(Course(steps=60, batch=4, crop=(64, 64), lr=2e-2, bf16=False))
    lines = list(made.run())
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert lines[-1]["progress"] == 1
    assert np.mean([line["loss"] for line in lines[-10:]]) < 0.6 * np.mean([line["loss"] for line in lines[:5]])
    assert not made.module.training
    assert made.clock.loss < lines[0]["loss"]


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    line = next(taught(data=pictures()).run())
    parts = line["losses"]
    assert set(parts) == {
        *("surface", "scene", "surface.teacher", "scene.teacher", "looks.teacher"),
        *("features", "attention"),
    }
    wanted = 0.5 * (parts["surface"] + 0.2 * parts["scene"]) + 0.5 * (
        parts["surface.teacher"] + 0.2 * parts["scene.teacher"]
    )
    wanted += parts["looks.teacher"] + parts["features"] + parts["attention"]
    assert line["loss"] == pytest.approx(wanted, abs=1e-3)


def test_labels_and_heads_have_their_weights() -> None:
    line = next(trainer(Course(steps=1, batch=2, crop=(32, 32), labels=3.0, heads={"scene": 2.0})).run())
    wanted = 3 * (line["losses"]["surface"] + 2 * line["losses"]["scene"])
    assert line["loss"] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("make", [trainer, taught])
@pytest.mark.parametrize("killed", [0, 1, 3])
def test_a_killed_training_ends_as_an_unbroken_one(make: Any, killed: int, tmp_path: Path) -> None:
    whole = make()
    list(whole.run())
    broken, file = make(), tmp_path / "checkpoint.safetensors"
    run = broken.run()
    for _ in range(killed):
        next(run)
    broken.save(file)
    next(run)  # what came after the checkpoint is lost
    resumed = make(module=network(5))
    resumed.resume(file)
    assert len(list(resumed.run())) == 4 - killed
    assert same(states(whole), states(resumed))
    assert resumed.clock.loss == whole.clock.loss


def test_the_seed_decides() -> None:
    found = []
    for seed in (1, 1, 2):
        made = trainer(Course(steps=2, batch=2, crop=(32, 32), seed=seed))
        list(made.run())
        found.append(states(made))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_the_callers_random_numbers_are_left_alone_and_decide_nothing() -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        made = taught()
        list(made.run())
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(states(made))
    assert same(*found)


def test_unlabelled_pictures_teach_through_the_teacher() -> None:
    made = taught(data=pictures(labelled=False))
    losses = next(made.run())["losses"]
    assert set(losses) == {"surface.teacher", "scene.teacher", "looks.teacher", "features", "attention"}
    with pytest.raises(CompressionError, match="no head of tiny can learn from squares"):
        trainer(data=pictures(labelled=False))


def test_a_teacher_does_not_change_and_the_given_one_is_not_touched() -> None:
    teacher = network(9, width=7)
    before = copy.deepcopy(teacher.state_dict())
    made = trainer(Course(steps=2, batch=2, crop=(32, 32), distill=Distill()), teacher=teacher)
    list(made.run())
    assert made.distiller is not None
    assert all(torch.equal(value, before[name]) for name, value in made.distiller.teacher.state_dict().items())
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_masked_weights_stay_zero_and_the_others_learn() -> None:
    module = network()
    mask = torch.rand(module.backbone.second.weight.shape, generator=torch.Generator().manual_seed(0)) > 0.5  # type: ignore[union-attr, arg-type]
    before = module.backbone.second.weight.detach().clone()  # type: ignore[union-attr, operator]
    made = trainer(module=module, masks={"backbone.second.weight": mask})
    list(made.run())
    for weight in (made.module.get_parameter("backbone.second.weight"), made.averaged()["backbone.second.weight"]):
        assert (weight[~mask] == 0).all()
        assert (weight[mask] != before[mask]).any()


def test_a_constraint_holds_after_every_step_and_in_the_average() -> None:
    def one_long(module: nn.Module) -> None:
        weight = module.get_parameter("backbone.second.weight")
        weight.div_(weight.norm())

    made = trainer(Course(steps=4, batch=2, crop=(32, 32), lr=0.3), constrain=one_long)
    for _ in made.run():
        weight = made.module.get_parameter("backbone.second.weight")
        assert float(weight.detach().norm()) == pytest.approx(1, abs=1e-5)
    assert float(made.averaged()["backbone.second.weight"].norm()) == pytest.approx(1, abs=1e-5)


def test_a_context_is_put_around_every_pass_of_the_student() -> None:
    entered = []

    @contextmanager
    def around(module: nn.Module) -> Iterator[None]:
        entered.append(module)
        yield

    made = trainer(around=around)
    list(made.run())
    assert entered == [made.module] * 4


def test_the_average_follows_weights_and_batch_norms() -> None:
    made = trainer()
    start = made.averaged()
    next(made.run())
    keep = 1 / 10
    for name, value in made.averaged().items():
        now = made.module.state_dict()[name]
        wanted = start[name] * keep + now * (1 - keep) if value.is_floating_point() else now
        assert torch.allclose(value, wanted, atol=1e-6), name
    assert not torch.equal(start["backbone.first.1.running_mean"], made.averaged()["backbone.first.1.running_mean"])


def test_it_stops_when_told_to() -> None:
    made = trainer()
    for line in made.run():
        made.stopped = line["step"] == 2
    assert made.clock.step == 2


def test_minutes_end_a_training_by_the_seconds_worked() -> None:
    made = trainer(Course(minutes=1, batch=1, crop=(32, 32)))
    made.clock = Clock(step=100, seconds=59.9)
    list(made.run())
    assert made.clock.step > 100
    assert made.clock.seconds >= 60
    clock = Clock()
    clock.tick(3600, 1.0)
    assert clock.seconds == 20


def test_no_step_is_taken_for_zero_steps() -> None:
    made, module = trainer(Course(steps=0)), network()
    assert list(made.run()) == []
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in made.averaged().items())


def test_the_rate_warms_up_and_falls() -> None:
    course = Course(steps=1, lr=1.0, warm_up=0.1)
    rates = [course.rate(progress / 100) for progress in range(101)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates) == pytest.approx(rates[10], rel=1e-6)
    assert rates[10] == pytest.approx(0.975, abs=0.01)
    assert rates[-1] == pytest.approx(0.005)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_crops_grow_with_the_training_unless_they_are_given() -> None:
    course = Course(steps=1)
    assert [course.crop_at(progress, (384, 512)) for progress in (0, 0.7, 0.9)] == [(224, 320), (288, 384), (352, 480)]
    assert Course(steps=1, crop=(64, 96)).crop_at(0.9, (384, 512)) == (64, 96)
    assert course.crop_at(0, (32, 40)) == (32, 32)


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    module = network()
    with torch.no_grad():
        module.backbone.second.weight.fill_(float("inf"))  # type: ignore[union-attr, operator]
    with pytest.raises(CompressionError, match=r"not finite at step 0: .*surface"):
        next(trainer(module=module).run())


def test_checkpoints_of_other_trainings_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    trainer().save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    with pytest.raises(CompressionError, match="other settings or data"):
        trainer(Course(steps=5, batch=2, crop=(32, 32), seed=3)).resume(file)
    with pytest.raises(CompressionError, match="is no checkpoint of this training"):
        trainer(module=network(width=4)).resume(file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CompressionError, match="is no checkpoint of this training") as caught:
        trainer().resume(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "needs an end: give steps or minutes"), ({"steps": 1, "crop": (48, 64)}, "multiples of 32, got 48x64")],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        Course(**settings)
