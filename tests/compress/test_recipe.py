"""Running recipes: stages, floors with bisection and roll-back, speed claims, and interruption at every moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sharedbb import artifact
from sharedbb.compress.floors import Quality
from sharedbb.compress.probes import Layer
from sharedbb.compress.recipe import judged, must_be_faster, run, stages
from sharedbb.compress.record import Run, Speed
from sharedbb.compress.sensitivity import Sensitivity, Trial
from sharedbb.compress.steps import Bench
from sharedbb.errors import CompressionError, DataError
from sharedbb.learn.data import Data, Sample, open_data
from sharedbb.learn.labels import VOID
from sharedbb.learn.network import Network
from sharedbb.learn.report import StepReport
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import load
from sharedbb.spec.recipe import Recipe, RecipeData, loads_space
from sharedbb.spec.steps import AnyStep, ClusterStep, FinetuneStep, PruneStep, QuantizeStep

PIPELINE = """\
name: plain
input: {size: [32, 64], normalize: unit}
backbone: {arch: one_layer}
heads: {scene: {type: tags, taps: [4], labels: [sky, road], threshold: 0.0}}
"""

RECIPE = """\
pipeline: PIPELINE
data: {train: "synthetic:street?frames=10&seed=1", calibrate: 2}
floors: {scene: 0.7 of before}
steps:
"""


class OneLayer(nn.Module):
    """A backbone of one convolution."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {4: 8}
        self.layer = nn.Conv2d(3, 8, 4, 4, bias=False)
        nn.init.constant_(self.layer.weight, 0.5)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at stride 4."""
        return {4: self.layer(image)}


@pytest.fixture(autouse=True, scope="module")
def backbone() -> Iterator[None]:
    register_backbone("one_layer", OneLayer, strides=(4,))
    yield
    BACKBONES.unregister("one_layer")


class Fuse(BaseException):
    """Stands for a kill."""


def level(network: Network) -> float:
    """How much of the first layer is left: 1 in the untouched network."""
    return float(network.module.get_parameter("backbone.layer.weight").detach().mean()) / 0.5


@dataclass
class Workshop:
    """Steps that scale a layer: pruning takes what it is asked to, training gives a tenth back. Quality: what is left.

    ``events`` has what was really done; before number ``killed_at`` the run is killed. ``speedup`` is what is measured
    of each step.
    """

    killed_at: int | None = None
    speedup: float = 2.0
    events: list[str] = field(default_factory=list)

    def take(self, step: AnyStep, network: Network, bench: Bench) -> Network:
        self._event(step.type)
        scale = {"prune": 1 - getattr(step, "amount", 0), "finetune": 1.1, "cluster": getattr(step, "bits", 0) / 8}
        module = network.copy()
        with torch.no_grad():
            module.get_parameter("backbone.layer.weight").mul_(scale.get(step.type, 1.0))
        report = StepReport(step.type, step.model_dump(mode="json"), {"scale": scale.get(step.type)}, ("well",))
        assert level(bench.teacher) == 1
        assert len(bench.calibrate) == 2
        return network.then(report, module=module)

    def judged(self, network: Network, original: Network, data: Data) -> Quality:
        self._event(f"judge {len(data)}")
        share = level(network) / level(original)
        return {"scene": {"headline": share, "f1": share}}

    def measure(self, before: Path, after: Path) -> Sequence[Speed]:
        self._event("measure")
        assert load(before).backbone.weights != load(after).backbone.weights
        return (Speed("openvino bf16", 10.0, 10.0 / self.speedup), Speed("eager f32", 30.0, 30.0))

    def _event(self, name: str) -> None:
        if len(self.events) == self.killed_at:
            raise Fuse
        self.events.append(name)


def _recipe(folder: Path, *steps: str) -> Recipe:
    (folder / "plain.yaml").write_text(PIPELINE)
    text = RECIPE.replace("PIPELINE", str(folder / "plain.yaml")) + "".join(f"  - {{type: {step}}}\n" for step in steps)
    return loads_space(text).recipe()


def _run(recipe: Recipe, folder: Path, shop: Workshop, **given: Any) -> Run:
    return run(recipe, folder / "work", measure=shop.measure, take=shop.take, judged=shop.judged, **given)


def _told(result: Run) -> list[tuple[str, float, str]]:
    return [(row.name, round(row.quality["scene"]["f1"], 3), row.fate) for row in result.rows]


def test_a_stage_is_a_step_that_shrinks_with_the_trainings_behind_it() -> None:
    prune, train, cluster = PruneStep(), FinetuneStep(steps=1), ClusterStep()
    assert stages([train, prune, train, train, cluster, prune]) == [
        (train,),
        (prune, train, train),
        (cluster,),
        (prune,),
    ]


def test_steps_are_taken_in_order_and_judged(tmp_path: Path) -> None:
    shop = Workshop()
    result = _run(_recipe(tmp_path, "prune, amount: 0.25", "cluster, bits: 8"), tmp_path, shop)
    assert _told(result) == [("start", 1.0, "kept"), ("prune", 0.75, "kept"), ("cluster", 0.75, "kept")]
    assert result.test[0]["scene"]["f1"] == 1
    assert result.test[1]["scene"]["f1"] == 0.75
    assert [report.step for report in result.result.network().steps] == ["prune", "cluster"]
    assert result.rows[1].said == ("well",)
    assert result.rows[1].speeds[0].ratio == 2
    assert result.rows[2].speeds == ()  # clustering claims no speed
    assert shop.events == ["judge 1", "prune", "measure", "judge 1", "cluster", "judge 1", *["judge 1"] * 2, "measure"]


def test_footage_is_opened_with_its_share_and_decides_the_result(tmp_path: Path) -> None:
    footage: list[Any] = []

    class Watching(Workshop):
        def take(self, step: AnyStep, network: Network, bench: Bench) -> Network:
            footage.append([(data.name, len(data), round(share, 3)) for data, share in bench.footage])
            return super().take(step, network, bench)

    for name, count in (("yard", 2), ("street", 6)):
        (tmp_path / name).mkdir()
        for index in range(count):
            cv2.imwrite(str(tmp_path / name / f"{index}.png"), np.full((32, 64, 3), 40 * index, np.uint8))
    yard, street = str(tmp_path / "yard"), str(tmp_path / "street")
    plain = _recipe(tmp_path, "finetune, steps: 1")
    shop = Watching()
    for sets in ((), ({"set": yard, "share": 0.3}, street), (yard, street), (yard, street)):
        data = RecipeData.model_validate(plain.data.model_dump() | {"footage": sets})
        _run(plain.model_copy(update={"data": data}), tmp_path, shop)
    assert footage == [
        [],
        [(yard, 2, 0.3), (street, 6, pytest.approx(0.7 * 6 / 14, abs=1e-3))],
        [(yard, 2, pytest.approx(2 / 16, abs=1e-3)), (street, 6, pytest.approx(6 / 16, abs=1e-3))],
    ]


def test_training_counts_before_the_floor_does(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "prune, amount: 0.35", "finetune, steps: 1", "cluster, bits: 8")
    assert _told(_run(recipe, tmp_path, Workshop()))[1:] == [
        ("prune", 0.65, "kept"),
        ("finetune", 0.715, "kept"),
        ("cluster", 0.715, "kept"),
    ]


def test_a_broken_floor_weakens_the_step_by_bisection(tmp_path: Path) -> None:
    result = _run(_recipe(tmp_path, "prune, amount: 0.5, tries: 3"), tmp_path, Workshop())
    assert _told(result)[1:] == [("prune", 0.5, "broken"), ("prune", 0.75, "kept"), ("prune", 0.625, "broken")]
    assert level(result.result.network()) == 0.75
    assert result.rows[1].said[0] == "scene: headline is 0.5000, the floor is 0.7000 (0.7 of before)"


def test_the_strongest_try_that_holds_is_kept(tmp_path: Path) -> None:
    result = _run(_recipe(tmp_path, "prune, amount: 0.375, tries: 3", "cluster, bits: 8"), tmp_path, Workshop())
    assert _told(result)[1:] == [
        ("prune", 0.625, "broken"),
        ("prune", 0.812, "replaced"),
        ("prune", 0.719, "kept"),
        ("cluster", 0.719, "kept"),
    ]
    assert [row.strength for row in result.rows[1:4]] == [1.0, 0.5, 0.75]


def test_a_step_that_breaks_a_floor_whatever_its_strength_is_left_out(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "prune, amount: 0.25", "cluster, bits: 1, tries: 9", "finetune, steps: 1")
    result = _run(recipe, tmp_path, Workshop())
    tried = [row.step.bits for row in result.rows if isinstance(row.step, ClusterStep)]
    assert tried == [1, 4, 6, 7]  # then 8 bits again would be all that is left of it
    assert level(result.result.network()) == pytest.approx(0.75 * 7 / 8 * 1.1, abs=1e-3)
    weaker = _run(_recipe(tmp_path, "prune, amount: 0.9, tries: 1", "cluster, bits: 8"), tmp_path, Workshop())
    assert _told(weaker)[1:] == [("prune", 0.1, "broken"), ("cluster", 1.0, "kept")]


def test_a_step_that_is_not_faster_is_refused_before_any_training(tmp_path: Path) -> None:
    shop = Workshop(speedup=1.01)
    result = _run(_recipe(tmp_path, "prune, amount: 0.1", "finetune, steps: 9"), tmp_path, shop)
    assert _told(result)[1:] == [("prune", 0.9, "slower")]
    assert "finetune" not in shop.events
    assert result.rows[1].said[0].startswith("not faster on openvino bf16: 9.90 ms after, 10.00 ms before (1.01×")
    assert result.result == result.start


def test_a_recipe_may_do_without_the_speed(tmp_path: Path) -> None:
    shop = Workshop(speedup=0.5)
    result = _run(_recipe(tmp_path, "prune, amount: 0.1, faster: false"), tmp_path, shop)
    assert _told(result)[1:] == [("prune", 0.9, "kept")]
    silent = run(
        _recipe(tmp_path, "prune, amount: 0.1"), tmp_path / "other", take=shop.take, judged=shop.judged, measure=None
    )
    assert silent.speeds == silent.rows[1].speeds == ()


@pytest.mark.parametrize(
    ("step", "claims"),
    [
        (PruneStep(), True),
        (PruneStep(method="magnitude"), False),
        (PruneStep(method="magnitude", faster=True), True),
        (QuantizeStep(), True),
        (QuantizeStep(method="weights"), False),
        (ClusterStep(), False),
    ],
)
def test_who_claims_speed(step: Any, claims: bool) -> None:
    assert must_be_faster(step) is claims


STEPS = ("prune, amount: 0.45, tries: 2", "finetune, steps: 1", "cluster, bits: 8")


def _digest(folder: Path, shops: Callable[[], Workshop]) -> str:
    """The artifact's digest, and the run killed and resumed as often as the workshops blow a fuse."""
    recipe = _recipe(folder, *STEPS)
    while True:
        try:
            result = _run(recipe, folder, shops())
        except Fuse:
            continue
        result.save(folder / "out.sbb")
        return artifact.digest(folder / "out.sbb")


def test_killed_before_every_piece_of_work_the_result_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "once").mkdir()
    (tmp_path / "killed").mkdir()
    unbroken = Workshop()
    digest = _digest(tmp_path / "once", lambda: unbroken)
    broken: list[Workshop] = []

    def one_piece_each() -> Workshop:
        broken.append(Workshop(killed_at=1))
        return broken[-1]

    assert _digest(tmp_path / "killed", one_piece_each) == digest
    assert [event for shop in broken for event in shop.events] == unbroken.events
    assert len(broken) == len(unbroken.events)


def test_a_changed_recipe_keeps_what_it_shares_with_the_old_one(tmp_path: Path) -> None:
    _run(_recipe(tmp_path, "prune, amount: 0.25", "cluster, bits: 8"), tmp_path, Workshop())
    shop = Workshop()
    _run(_recipe(tmp_path, "prune, amount: 0.25, tries: 1", "code"), tmp_path, shop)
    assert shop.events == ["code", "judge 1", "judge 1", "measure"]


def test_a_file_that_a_step_reads_decides_what_it_does(tmp_path: Path) -> None:
    measured = tmp_path / "measured.json"
    recipe = _recipe(tmp_path, f"prune, amount: 0.25, sensitivity: {measured}")
    taken = []
    for share in (0.9, 0.9, 0.8):
        layer = Trial("backbone.layer", "prune", 0.5, {"scene": share})
        found = Sensitivity("plain", 1, (Layer("backbone.layer", "conv2d", 1, 1),), (layer,))
        measured.write_text(json.dumps(found.to_dict()))
        shop = Workshop()
        _run(recipe, tmp_path, shop)
        taken.append("prune" in shop.events)
    assert taken == [True, False, True]
    measured.unlink()
    with pytest.raises(CompressionError, match=r"measured\.json cannot be read.* No such file"):
        _run(recipe, tmp_path, Workshop())


def test_speed_that_nobody_measured_is_not_told(tmp_path: Path) -> None:
    steps = ("code", "prune, amount: 0.25, faster: false", "finetune, steps: 1")
    result = _run(_recipe(tmp_path, *steps), tmp_path, Workshop())
    assert [row["speedup"] for row in result.to_dict()["rows"]] == [1.0, 1.0, None, None]
    assert result.speeds[0].ratio == 2


def test_the_record_is_plain_json(tmp_path: Path) -> None:
    told = _run(_recipe(tmp_path, "prune, amount: 0.25"), tmp_path, Workshop()).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    start, prune = told["rows"]
    assert start["step"] == "start"
    assert start["bytes"] > 0
    assert prune["macs"] == start["macs"] > 0
    assert prune["facts"] == {"scale": 0.75}
    assert told["digest"] == prune["digest"]
    assert told["speed"][0]["ratio"] == 2


def test_a_floor_for_a_head_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "code").model_copy(update={"floors": {"road": {"headline": 0.5}}})
    with pytest.raises(CompressionError, match="there is no head 'road'; the heads are scene"):
        _run(recipe, tmp_path, Workshop())


def test_judging_against_labels_and_against_the_untouched_network(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(PIPELINE)
    network = Network.of(tmp_path / "plain.yaml")
    labelled = open_data("synthetic:street?frames=2&seed=1", (32, 64))
    assert judged(network, network, Data.given("unlabelled", [*labelled])) == {
        "scene": {"headline": 1.0, "agreement": 1.0}
    }
    (told,) = judged(network, network, labelled).values()
    assert told.keys() == {"headline", "f1", "map"}
    assert told["headline"] == told["f1"]


def test_labels_that_say_nothing_are_no_quality(tmp_path: Path) -> None:
    text = PIPELINE.replace("tags", "segmentation").replace("labels", "classes").replace(", threshold: 0.0", "")
    (tmp_path / "map.yaml").write_text(text)
    network = Network.of(tmp_path / "map.yaml")
    with pytest.raises(DataError, match="its labels do not say how good scene is"):
        judged(network, network, _void(open_data("synthetic:street?frames=2&seed=1", (32, 64))))


def _void(data: Data) -> Data:
    """The pictures with labels that say nothing."""
    samples = [Sample(one.name, one.rgb, np.full(one.rgb.shape[:2], VOID, np.uint8)) for one in data]
    return Data.given("void", samples, data.classes)
