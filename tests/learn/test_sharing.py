"""How deep to share: what is equal is shared without loss, floors decide, a killed study ends as an unbroken one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sharedbb.errors import DataError
from sharedbb.learn import training
from sharedbb.learn.course import Course
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.distillation import Distill
from sharedbb.learn.grafting import ALL, Depth, Specialist, graft, stem
from sharedbb.learn.journal import Journal
from sharedbb.learn.network import Network
from sharedbb.learn.sharing import share
from sharedbb.learn.sharing_record import Question, Sharing
from sharedbb.spec import load, loads

pytestmark = pytest.mark.usefixtures("chain")

PIPELINE = """\
name: street
input: {size: [64, 96], normalize: unit}
backbone: {arch: chain}
heads:
  near: {type: segmentation, taps: [4, 32], classes: [a, b], channels: 8}
  scene: {type: tags, taps: [32], labels: [a, b]}
  far: {type: segmentation, taps: [8, 32], classes: [b, c, d, e, f, g], channels: 8}
"""

STEPS = ("first", "second", "third", "fourth", "last")


def _pictures(classes: Sequence[str] = (), count: int = 3) -> tuple[Data, Data]:
    """Noise to learn from and to judge by, with labels of noise where there are classes."""
    random = np.random.default_rng(0)
    samples = [
        Sample(
            f"{number}",
            random.integers(0, 256, (64, 96, 3), np.uint8),
            random.integers(0, len(classes), (64, 96)).astype(np.uint8) if classes else None,
        )
        for number in range(count)
    ]
    data = Data.given("noise", samples, classes)
    return data, data


def _trunk() -> Network:
    return Network.of(loads(PIPELINE))


def _specialist(name: str, heads: tuple[str, ...], own: Sequence[str], seed: int = 1) -> Specialist:
    """The trunk with other weights in the steps ``own``, and in its heads."""
    made = _trunk()
    generator = torch.Generator().manual_seed(seed)
    paths = (*(f"backbone.{step}." for step in own), "heads.")
    with torch.no_grad():
        for path, weight in made.module.named_parameters():
            if path.startswith(paths):
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return Specialist(name, made, heads)


def _question(
    *specialists: Specialist, depths: tuple[Depth, ...] = (4, 8, 16), steps: int = 0, **floors: float
) -> Question:
    course = Course(steps=steps, batch=2, crop=(32, 32), distill=Distill(), lr=1e-2)
    return Question(_trunk(), specialists, depths, course, floors)


def _shares(found: Sharing, head: str) -> dict[Depth | None, float]:
    return {row.depth: row.quality[head]["share"] for row in found.rows}


@torch.no_grad()
def _answers(network: Network) -> dict[str, Tensor]:
    rgb = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    answers: dict[str, Tensor] = network.module(rgb)
    return answers


def test_what_differs_only_behind_a_stride_is_shared_up_to_it_without_loss(tmp_path: Path) -> None:
    one = _specialist("s", ("near",), STEPS[3:])
    one.network.save(tmp_path / "s.sbb")
    stored = Specialist("s", Network.of(tmp_path / "s.sbb"), ("near",))
    found = share(_question(stored, near=1.0), _pictures(), Journal(tmp_path))
    shares = _shares(found, "near")
    assert shares[4] == shares[8] == 1.0 > shares[16]
    assert found.chosen.depths == {"s": 8}
    assert [row.holds for row in found.rows] == [True, True, True, False]
    found.save(tmp_path / "out.sbb")
    shared = Network.of(tmp_path / "out.yaml")
    assert {name: branch.after for name, branch in shared.pipeline.branches.items()} == {"near": 8}
    assert torch.equal(_answers(shared)["near.logits"], _answers(stored.network)["near.logits"])
    assert not torch.equal(_answers(shared)["near.logits"], _answers(_trunk())["near.logits"])


def test_every_specialist_shares_as_deep_as_its_own_floors_let_it(tmp_path: Path) -> None:
    deep, shallow = _specialist("deep", ("near",), STEPS[4:]), _specialist("shallow", ("far",), STEPS[2:], seed=2)
    found = share(_question(deep, shallow, near=1.0, far=1.0), _pictures(), Journal(tmp_path))
    assert found.chosen is found.rows[-1]
    assert found.chosen.depths == {"deep": 16, "shallow": 4}
    assert found.chosen.depth is None
    assert load(found.chosen.pipeline).branches.keys() == {"near", "far"}
    costs = {row.depth: row.facts["macs"] for row in found.rows}
    assert costs[0] > costs[4] > costs[None] > costs[16]
    assert {head: told["share"] for head, told in found.chosen.quality.items()} == {"near": 1, "scene": 1, "far": 1}


def test_where_no_floor_holds_nothing_is_shared_and_without_floors_everything(tmp_path: Path) -> None:
    one = _specialist("s", ("near",), STEPS)
    strict = share(_question(one, near=1.0), _pictures(), Journal(tmp_path))
    assert strict.chosen.depths == {"s": 0}
    lax = share(_question(one, depths=(8, ALL), near=0.0), _pictures(), Journal(tmp_path))
    assert lax.chosen.depths == {"s": ALL}
    assert load(lax.chosen.pipeline).branches == {}


def test_heads_are_judged_by_labels_where_there_are_some(tmp_path: Path) -> None:
    one = _specialist("s", ("near", "scene"), STEPS[3:])
    found = share(_question(one, depths=(8,)), _pictures(("a", "b", "c")), Journal(tmp_path))
    assert found.chosen.quality["near"]["headline"] == found.chosen.quality["near"]["miou"] < 1
    assert "agreement" not in found.chosen.quality["near"]
    unlabelled = share(_question(one, depths=(8,)), _pictures(), Journal(tmp_path))
    assert unlabelled.rows[0].quality["near"]["agreement"] == 1.0


def test_labels_that_say_nothing_of_a_head_are_an_error(tmp_path: Path) -> None:
    samples = [Sample("x", np.zeros((64, 96, 3), np.uint8), np.full((64, 96), 255, np.uint8))]
    void = Data.given("void", samples, ("a", "b", "c"))
    with pytest.raises(DataError, match="void: its labels do not say how good near is"):
        share(_question(_specialist("s", ("near",), STEPS), depths=(8,)), (void, void), Journal(tmp_path))


def test_a_study_is_done_once(tmp_path: Path) -> None:
    asked, timed = _question(_specialist("s", ("near",), STEPS[3:]), depths=(8,)), list[list[Path]]()

    def measure(pipelines: Sequence[Path]) -> list[float]:
        timed.append(list(pipelines))
        return [10.0 - place for place in range(len(pipelines))]

    first = share(asked, _pictures(), Journal(tmp_path), measure=measure)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = share(asked, _pictures(), Journal(tmp_path), measure=measure)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert json.dumps(first.to_dict()) == json.dumps(again.to_dict())
    assert [row.ms for row in again.rows] == [10.0, 9.0]
    assert [[load(path).name for path in pipelines] for pipelines in timed] == [["street", "street"]]
    runtime = asked.trunk.pipeline.runtime.model_copy(update={"precision": "f32"})
    faster = replace(asked.trunk, pipeline=asked.trunk.pipeline.model_copy(update={"runtime": runtime}))
    run_otherwise = share(replace(asked, trunk=faster), _pictures(), Journal(tmp_path), measure=measure)
    assert load(run_otherwise.chosen.pipeline).runtime.precision == "f32"
    assert len(list(tmp_path.glob("graft-*"))) == 1
    assert len(timed) == 2
    other = share(asked, _pictures(count=2), Journal(tmp_path), measure=measure)
    assert other.to_dict()["rows"][1]["digest"] == first.to_dict()["rows"][1]["digest"]
    assert len(list(tmp_path.glob("graft-*"))) == 2


class KilledError(Exception):
    """What a test throws into a study."""


def test_training_moves_what_is_behind_the_stem_and_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = _specialist("s", ("near",), STEPS[3:])
    asked, pictures = _question(one, depths=(8,), steps=4), _pictures(("a", "b", "c"))
    whole = share(asked, pictures, Journal(tmp_path / "whole"))
    trained = Network.of(next((tmp_path / "whole").glob("graft-*/pipeline.yaml")))
    untrained = graft(asked.trunk, one, 8).network.module.state_dict()
    for name, value in trained.module.state_dict().items():
        rounded = untrained[name].half().float() if untrained[name].ndim > 1 else untrained[name]
        frozen = name.startswith(tuple(f"{path}." for path in stem(asked.trunk, 8)))
        if frozen or value.is_floating_point():
            assert torch.equal(value, rounded) is frozen, name

    monkeypatch.setattr(training, "SAVED_EVERY_S", -1.0)
    steps = list[float]()

    def watch(doing: str, done: float | None) -> None:
        steps.extend([done] if done else [])
        if done and steps == [0.25, 0.5, 0.75]:
            raise KilledError

    with pytest.raises(KilledError):
        share(asked, pictures, Journal(tmp_path / "broken"), watch=watch)
    resumed = share(asked, pictures, Journal(tmp_path / "broken"), watch=watch)
    assert steps[3:] == [0.75, 1.0]
    assert resumed.to_dict() == whole.to_dict()


def test_the_record_is_plain_json(tmp_path: Path) -> None:
    asked = _question(_specialist("s", ("near",), STEPS[3:]), depths=("third",), near=0.5)
    told: Any = json.loads(json.dumps(share(asked, _pictures(), Journal(tmp_path)).to_dict(), allow_nan=False))
    assert told["specialists"] == {"s": ["near"]}
    assert told["floors"] == {"near": 0.5}
    assert [row["depth"] for row in told["rows"]] == [0, "third"]
    assert told["chosen"] == 1
    assert told["rows"][1].keys() >= {"macs", "parameters", "bytes", "digest", "quality", "holds", "ms", "depths"}
