"""A training in a folder: validated, logged, stopped early, killed and taken up, and what a broken loss leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb import artifact, nets
from sharedbb.errors import CompressionError
from sharedbb.learn import training as trainings
from sharedbb.learn.course import Course
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.judge import Quality
from sharedbb.learn.logbook import read_lines
from sharedbb.learn.network import Network
from sharedbb.learn.trainer import Trainer
from sharedbb.learn.training import CHECKPOINT, LAST_GOOD, Training
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import Pipeline

STEPS = 6


class OneLayer(nn.Module):
    """A backbone of a convolution and a batch norm."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {8: 4}
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 8, 8, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        nn.init.normal_(self.layers[0].weight, 0.0, 0.1, generator=torch.Generator().manual_seed(0))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at stride 8."""
        return {8: self.layers(image)}


@pytest.fixture(autouse=True, scope="module")
def backbone() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    register_backbone("one_layer", OneLayer, strides=(8,))
    yield
    BACKBONES.unregister("one_layer")
    torch.set_num_threads(threads)


def pictures() -> Data:
    rng = np.random.default_rng(0)
    samples = [
        Sample(str(n), rng.integers(0, 256, (32, 32, 3), np.uint8), rng.integers(0, 2, (32, 32)).astype(np.uint8))
        for n in range(4)
    ]
    return Data.given("noise", samples, ("ground", "thing"))


def pipeline() -> Pipeline:
    return Pipeline.model_validate(
        {
            "name": "tiny",
            "input": {"size": [32, 32], "normalize": "unit"},
            "backbone": {"arch": "one_layer"},
            "heads": {
                "scene": {"type": "tags", "taps": [8], "labels": ["ground", "thing"]},
                "surface": {"type": "segmentation", "taps": [8], "classes": ["ground", "thing"], "channels": 4},
            },
        }
    )


def network() -> Network:
    return Network(pipeline(), nets.build(pipeline()).eval())


class Judge:
    """Gives headlines by turn, and remembers the weights that it was asked about."""

    def __init__(self, *headlines: float) -> None:
        self.headlines = headlines
        self.asked: list[dict[str, Tensor]] = []

    def __call__(self, asked: Network) -> Quality:
        assert not asked.module.training
        self.asked.append({name: value.clone() for name, value in asked.module.state_dict().items()})
        return {"scene": {"f1": self.headlines[len(self.asked) - 1]}, "surface": {"miou": 0.5}}


def training(work: Path, judge: Judge | None = None, **settings: Any) -> Training:
    start = network()
    course = Course(steps=STEPS, batch=2, crop=(32, 32), balance="uncertainty", averaging=0.5)
    trainer = Trainer(start.copy(), course, pictures(), start.pipeline)
    return Training(start, trainer, work, judged=judge, **{"every": 2, **settings})


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_weights_that_were_trained_before_are_kept_where_nothing_gets_better(tmp_path: Path) -> None:
    judge = Judge(0.8, 0.4, 0.8, 0.6)
    made = training(tmp_path, judge, learnt=True)
    found = made.run()
    assert [one.step for one in made.trainer.selection.validations] == [0, 2, 4, 6]
    assert same(found.module.state_dict(), network().module.state_dict())
    assert found.steps[-1].facts["best_step"] == 0
    assert read_lines(tmp_path)[0]["val/scene"] == 0.8


def test_the_best_validated_weights_are_kept(tmp_path: Path) -> None:
    judge = Judge(0.4, 0.8, 0.6)
    made = training(tmp_path, judge)
    found = made.run()
    assert [one.step for one in made.trainer.selection.validations] == [2, 4, 6]
    assert same(found.module.state_dict(), judge.asked[1])
    assert not same(judge.asked[1], judge.asked[2])
    (report,) = found.steps
    assert (report.step, report.facts["steps"], report.facts["best_step"]) == ("train", 6, 4)
    assert report.facts["data"] == {"noise": {"pictures": 4, "share": 1.0}}


def test_without_a_judge_the_last_average_is_kept(tmp_path: Path) -> None:
    made = training(tmp_path)
    assert same(made.run().module.state_dict(), made.trainer.averaged())
    assert made.trainer.selection.validations == []


def test_the_end_is_validated_too_and_no_step_twice(tmp_path: Path) -> None:
    judge = Judge(0.1, 0.2)
    made = training(tmp_path, judge, every=4)
    made.run()
    assert [one.step for one in made.trainer.selection.validations] == [4, 6]


def test_it_ends_when_patience_does(tmp_path: Path) -> None:
    judge = Judge(0.5, 0.4, 0.3)
    made = training(tmp_path, judge, every=1, patience=2)
    found = made.run()
    assert made.trainer.clock.step == 3
    assert same(found.module.state_dict(), judge.asked[0])
    again = training(tmp_path, Judge(), every=1, patience=2)
    assert same(again.run().module.state_dict(), judge.asked[0])
    assert again.trainer.clock.step == 3


@pytest.mark.parametrize("killed", [1, 2, 5])
def test_killed_at_any_step_and_run_again_it_gives_equal_bytes(
    killed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headlines = (0.4, 0.8, 0.6)
    training(tmp_path / "whole", Judge(*headlines)).run().save(tmp_path / "whole.sbb")

    def kill(doing: str, share: float | None) -> None:
        if doing.startswith(f"training, step {killed + 1},"):
            raise KeyboardInterrupt

    monkeypatch.setattr(trainings, "SAVED_EVERY_S", -1.0)
    first = Judge(*headlines)
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "broken", first, watch=kill).run()
    rest = Judge(*headlines[len(first.asked) :])
    made = training(tmp_path / "broken", rest)
    made.run().save(tmp_path / "broken.sbb")
    assert len(first.asked) + len(rest.asked) == 3
    assert (tmp_path / "whole.sbb").read_bytes() == (tmp_path / "broken.sbb").read_bytes()
    assert read_lines(tmp_path / "whole") == read_lines(tmp_path / "broken")


def test_every_step_is_logged_once_with_losses_weights_and_validations(tmp_path: Path) -> None:
    training(tmp_path, Judge(0.4, 0.8, 0.6)).run()
    lines = read_lines(tmp_path)
    steps = [line for line in lines if "loss/total" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    names = {"step", "rate", "loss/total", "loss/scene", "loss/surface", "weight/scene", "weight/surface"}
    assert set(steps[0]) == names
    assert [line["val/scene"] for line in lines if "val/scene" in line] == [0.4, 0.8, 0.6]


def test_heads_of_which_nothing_was_known_in_a_batch_are_not_logged(tmp_path: Path) -> None:
    made = training(tmp_path)
    line = {"step": 1, "loss": 1.0, "losses": {"scene": 0.5, "surface": 0.0}}
    assert "loss/surface" not in made._scalars(line)
    assert made._scalars(line)["loss/scene"] == 0.5


def test_a_broken_loss_leaves_the_state_before_and_weights_to_begin_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = training(tmp_path)
    task = type(made.trainer.tasks["scene"])
    whole, loss = made.trainer, task.loss
    monkeypatch.setattr(
        task, "loss", lambda self, *given: loss(self, *given) * (float("nan") if whole.clock.step == 3 else 1.0)
    )
    with pytest.raises(
        CompressionError, match=r"the loss of scene is not finite at step 3 .*; the weights after 3 steps"
    ) as caught:
        made.run()
    assert str(tmp_path / LAST_GOOD) in str(caught.value)
    stored = artifact.load(tmp_path / LAST_GOOD).weights
    assert all(
        torch.allclose(value, stored[name].to(value.dtype), atol=1e-3)
        for name, value in made.trainer.averaged().items()
    )
    resumed = training(tmp_path)
    resumed.trainer.resume(tmp_path / CHECKPOINT)
    assert resumed.trainer.clock.step == 3
    assert same(resumed.trainer.averaged(), made.trainer.averaged())


def test_weights_that_grew_too_large_to_be_stored_do_not_hide_which_loss_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = training(tmp_path)
    task = type(made.trainer.tasks["scene"])
    whole, loss = made.trainer, task.loss

    def broken(self: Any, *given: Any) -> Any:
        if whole.clock.step == 2:
            monkeypatch.setattr(whole, "averaged", lambda: {k: v * 1e30 for k, v in averaged().items()})
            return torch.tensor(float("nan"))
        return loss(self, *given)

    averaged = whole.averaged
    monkeypatch.setattr(task, "loss", broken)
    with pytest.raises(CompressionError, match=r"loss of scene is not finite at step 2 .* not kept \(.*float16"):
        made.run()
    assert not (tmp_path / LAST_GOOD).exists()


def test_a_loss_that_is_broken_from_the_beginning_leaves_no_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = training(tmp_path)
    monkeypatch.setattr(type(made.trainer.tasks["scene"]), "loss", lambda *given: torch.tensor(float("inf")))
    with pytest.raises(CompressionError, match=r"the loss of scene is not finite at step 0 .* rate$"):
        made.run()
    assert not (tmp_path / LAST_GOOD).exists()
