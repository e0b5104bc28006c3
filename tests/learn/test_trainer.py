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
from safetensors import safe_open
from torch import Tensor, nn

from sharedbb.errors import CompressionError
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.distillation import Distill
from sharedbb.learn.labels import Boxes
from sharedbb.learn.trainer import Clock, Course, NotFiniteError, Trainer
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
BOXES = Boxes(np.float32([[8, 8, 24, 24]]), np.array([1]), np.array([False]))
SCENE = "heads.scene.predict.weight"
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


def balanced(**settings: Any) -> Trainer:
    return trainer(Course(steps=4, batch=2, crop=(32, 32), balance="uncertainty"), **settings)


def evened(**settings: Any) -> Trainer:
    return trainer(Course(steps=4, batch=2, crop=(32, 32), balance="gradnorm"), **settings)


def taught(**settings: Any) -> Trainer:
    distill = Distill(features=0.5, attention=0.5)
    return trainer(Course(steps=4, batch=2, crop=(32, 32), distill=distill), teacher=network(9, width=7), **settings)


def states(made: Trainer) -> dict[str, Tensor]:
    """Everything that a training has come to."""
    found = {f"average.{name}": value for name, value in made.averaged().items()}
    found |= {f"balance.{name}": value.clone() for name, value in made.balance.state_dict().items()}
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


@pytest.mark.parametrize("make", [trainer, taught, balanced, evened])
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
    made = trainer(Course(minutes=1, batch=2, crop=(32, 32)))
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


def parts_of(file: Path) -> dict[str, Tensor]:
    with safe_open(file, "pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a mapping)


@pytest.mark.parametrize("balance", ["fixed", "uncertainty", "gradnorm"])
def test_a_loss_that_is_not_finite_ends_the_training_and_leaves_it_as_it_was(
    balance: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(Course(steps=4, batch=2, crop=(32, 32), balance=balance))
    run = made.run()
    next(run)
    made.save(tmp_path / "before")
    loss = type(made.tasks["scene"]).loss
    monkeypatch.setattr(type(made.tasks["scene"]), "loss", lambda task, *given: loss(task, *given) * float("nan"))
    with pytest.raises(
        NotFiniteError, match=r"the loss of scene is not finite at step 1 \(surface [\d.]+, scene nan\)"
    ):
        next(run)
    made.save(tmp_path / "after")
    assert same(parts_of(tmp_path / "before"), parts_of(tmp_path / "after"))


def test_activations_that_are_not_finite_do_not_stay_in_batch_norms() -> None:
    module = network()
    made = trainer(module=module)
    with torch.no_grad():
        module.backbone.first[0].weight.fill_(float("inf"))  # type: ignore[union-attr, index, operator]
    with pytest.raises(NotFiniteError, match="the loss of surface and scene is not finite at step 0"):
        next(made.run())
    assert all(buffer.isfinite().all() for buffer in module.buffers())


def test_a_gradient_that_is_not_finite_ends_the_training_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer()
    before = states(made)
    weight = made.module.get_parameter(SCENE)
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NotFiniteError, match=f"the gradient at {SCENE} is not finite at step 0; lower"):
        next(made.run())
    assert same(before, states(made))


def test_checkpoints_of_other_trainings_say_what_differs(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    trainer(origin={"start": "a.sbb"}).save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    with pytest.raises(CompressionError, match=r"other settings: steps: 4 -> 5; start: a\.sbb -> nothing; go on with"):
        trainer(Course(steps=5, batch=2, crop=(32, 32), seed=3)).resume(file)
    with pytest.raises(CompressionError, match=r"data\.squares\.pictures: 10 -> 8; "):
        trainer(data=pictures()[:8], origin={"start": "a.sbb"}).resume(file)
    heads = {"scene": PIPELINE.heads["scene"], "surface": PIPELINE.heads["surface"].model_copy(update={"channels": 8})}
    other = Trainer(
        network(), COURSE, pictures(), PIPELINE.model_copy(update={"heads": heads}), origin={"start": "a.sbb"}
    )
    with pytest.raises(
        CompressionError, match=r"pipeline\.heads\.surface\.channels: 4 -> 8; .*heads\.looks\.type: embedding ->"
    ):
        other.resume(file)


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.safetensors"
    trainer().save(file)
    with pytest.raises(CompressionError, match="is no checkpoint of this training"):
        trainer(module=network(width=4)).resume(file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CompressionError, match="is no checkpoint of this training") as caught:
        trainer().resume(file)
    assert "\n" not in str(caught.value)


def test_the_best_weights_come_back_with_a_checkpoint(tmp_path: Path) -> None:
    made = trainer()
    made.selection.add(2, {"scene": 0.5}, made.averaged())
    made.save(tmp_path / "c")
    resumed = trainer(module=network(5))
    resumed.resume(tmp_path / "c")
    assert resumed.selection.validations == made.selection.validations
    assert same(resumed.selection.weights, made.averaged())


def test_heads_learn_from_the_sets_that_know_them() -> None:
    tags = Data.given(
        "tags", [Sample(str(n), one.rgb, boxes=BOXES) for n, one in enumerate(pictures())], ("ground", "thing")
    )
    alone = next(trainer(data=[(tags, 1.0)]).run())
    assert set(alone["losses"]) == {"scene"}
    both = next(trainer(data=[(pictures(), 0.5), (tags, 0.5)]).run())
    assert set(both["losses"]) == {"surface", "scene"}


@pytest.mark.parametrize(("balance", "weights"), [("uncertainty", [1, 1]), ("gradnorm", [1, 1]), ("fixed", [1, 0.2])])
def test_a_balance_begins_with_given_weights_and_without_those_by_type_where_it_learns(
    balance: Any, weights: list[float]
) -> None:
    def course(**heads: float) -> Course:
        return Course(steps=2, batch=2, crop=(32, 32), balance=balance, heads=heads)

    assert list(trainer(course()).balance.current().values()) == weights
    assert trainer(course(scene=3.0)).balance.current() == {"surface": 1, "scene": 3}
    made = trainer(course())
    list(made.run())
    assert (list(made.balance.current().values()) == weights) == (balance == "fixed")


def test_what_a_balance_learns_neither_decays_nor_is_clipped_and_has_its_own_pace() -> None:
    made = trainer(Course(steps=2, batch=2, crop=(32, 32), balance="uncertainty"))
    group = made.optimizer.param_groups[-1]
    assert group["params"] == list(made.balance.parameters())
    assert group["weight_decay"] == 0
    next(made.run())
    assert group["lr"] == pytest.approx(10 * made.optimizer.param_groups[0]["lr"])
