"""Recipes: what they say, how they are read, what is free in them, and how every fault is placed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sharedbb.errors import SpecError
from sharedbb.spec.recipe import Choose, Recipe, RecipeData, Search, load_recipe, load_space, loads_space
from sharedbb.spec.steps import (
    STEPS,
    ClusterStep,
    CodeStep,
    DistillStep,
    FactorizeStep,
    FinetuneStep,
    PruneStep,
    QuantizeStep,
    Shrinking,
)

TEXT = """\
version: 1
pipeline: nets/street.yaml
data: {train: "camvid:data", calibrate: 8}
floors:
  surface: 0.97 of before
  edges: {f1: 0.5, miou: 0.9 of before}
steps:
  - {type: prune, amount: 0.5}
  - {type: finetune, steps: 10}
  - {type: quantize}
"""


def test_a_recipe_is_read_with_its_defaults() -> None:
    recipe = loads_space(TEXT).recipe()
    assert recipe.floors == {
        "surface": {"headline": "0.97 of before"},
        "edges": {"f1": 0.5, "miou": "0.9 of before"},
    }
    assert recipe.data == RecipeData(train="camvid:data", calibrate=8)
    assert [type(step) for step in recipe.steps] == [PruneStep, FinetuneStep, QuantizeStep]
    assert [str(target) for target in recipe.measure] == ["auto auto"]
    assert recipe.seed == 0


def test_every_type_of_step_is_pinned() -> None:
    assert [*STEPS] == ["prune", "finetune", "distill", "cluster", "factorize", "quantize", "code"]
    assert all(step.model_fields["type"].default == name for name, step in STEPS.items())


def test_a_recipe_goes_out_and_comes_back() -> None:
    recipe = loads_space(TEXT).recipe()
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("amount: 0.5", "amont: 0.5", "8:19: steps.0.amont: unknown field; did you mean 'amount'? (known: tries"),
        ("type: finetune", "type: fine", "9:12: steps.1.type: must be 'prune', 'finetune', 'distill', 'cluster'"),
        ("{type: quantize}", "{bits: 8}", "10:5: steps.2.type: is missing; it must be 'prune', 'finetune'"),
        ("{type: quantize}", "quantize", "10:5: steps.2: must be a mapping with a type, such as {type: prune"),
        ("0.97 of before", "1.97 of before", "5:12: floors.surface: must be from 0 to 1, got '1.97 of before'"),
        ("0.97 of before", "97 %", "5:12: floors.surface: must be a number from 0 to 1 or text such as '0.97 of"),
        ("steps: 10", "minutes: 0", "9:31: steps.1.minutes: must be more than 0, got 0"),
        ("steps: 10", "minutes: 1, steps: 9", "9:5: steps.1: needs either steps or minutes, got both"),
        (", steps: 10", "", "9:5: steps.1: needs either steps or minutes, got neither"),
        ("train:", "trian:", "3:8: data.trian: unknown field; did you mean 'train'? (known: train, footage, val, test"),
        ('train: "camvid:data", ', "", "3:1: data.train: is missing (the set to train and to calibrate on"),
        ("type: quantize", "type: quantize, method: qat", "10:5: steps.2.finetune: is needed by method 'qat'"),
        (
            "type: quantize",
            "type: quantize, finetune: {steps: 1}",
            "10:32: steps.2.finetune: goes with method 'qat' alone",
        ),
        ("type: quantize", "type: quantize, layers: {a: 9}", "10:34: steps.2.layers.a: must be 8 or less, got 9"),
        ("type: quantize", "type: code, norms: 8", "10:25: steps.2.norms: must be 16 or 32, got 8"),
        ("amount: 0.5", "amount: 1.5", "8:27: steps.0.amount: must be less than 1, got 1.5"),
        ("amount: 0.5", "round_to: 8.5", "8:29: steps.0.round_to: must be a whole number, got 8.5"),
        ("pipeline: nets/street.yaml\n", "", "1:1: pipeline: is missing (the pipeline to compress"),
        ("floors:", "floor:", "4:1: floor: unknown field; did you mean 'floors'?"),
        (TEXT[TEXT.index("steps:") :], "steps: []", "7:8: steps: must have at least 1 entry, got 0"),
        ("{type: prune, amount: 0.5}", "{type: prune", "not valid YAML"),
        (TEXT, "[]", "1:1: must be a mapping with the fields version, pipeline, data, floors, steps"),
        (TEXT, "", "must be a mapping with the fields version, pipeline"),
    ],
)
def test_faults_are_placed(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        loads_space(TEXT.replace(old, new), "r.yaml")


@pytest.mark.parametrize("late", ["prune", "finetune, steps: 1", "cluster"])
def test_what_changes_weights_comes_before_they_are_quantized(late: str) -> None:
    with pytest.raises(SpecError, match=r"steps\.3\.type: changes weights, which step 2 has quantized"):
        loads_space(TEXT + f"  - {{type: {late}}}\n", "r.yaml")
    loads_space(TEXT.replace("{type: quantize}", "{type: quantize, method: weights}") + f"  - {{type: {late}}}\n")
    loads_space(TEXT + "  - {type: code, bits: 8}\n")


def test_bits_that_a_tool_does_not_calibrate_are_refused() -> None:
    with pytest.raises(SpecError, match=r"steps\.2: nncf calibrates 8 bits; for 4 write `own`"):
        loads_space(TEXT.replace("{type: quantize}", "{type: quantize, bits: 4}"), "r.yaml")
    loads_space(TEXT.replace("{type: quantize}", "{type: quantize, bits: 4, tool: own}"))


def test_all_faults_are_named_at_once() -> None:
    text = TEXT.replace("amount: 0.5", "amount: 5").replace("steps: 10", "steps: 0").replace("calibrate: 8", "judge: 0")
    with pytest.raises(SpecError) as raised:
        loads_space(text, "r.yaml")
    assert [problem.field for problem in raised.value.problems] == ["data.judge", "steps.0.amount", "steps.1.steps"]


def test_files_are_found_beside_the_recipe_and_overrides_from_here(tmp_path: Path) -> None:
    steps = "  - {type: distill, steps: 1, teacher: big.yaml, student: {arch: resnet18, weights: r18.pth}}\n"
    steps += "  - {type: quantize, sensitivity: measured.json}\n"
    (tmp_path / "r.yaml").write_text(TEXT.replace("  - {type: quantize}\n", steps))
    recipe = load_recipe(tmp_path / "r.yaml", ["steps.0.sensitivity=s.json", "data.train=camvid:here"])
    assert recipe.pipeline == str(tmp_path / "nets" / "street.yaml")
    prune, *_, distill, quantize = recipe.steps
    assert isinstance(prune, PruneStep)
    assert isinstance(distill, DistillStep)
    assert prune.sensitivity == str(Path.cwd() / "s.json")
    assert isinstance(quantize, QuantizeStep)
    assert quantize.sensitivity == str(tmp_path / "measured.json")
    assert distill.teacher == str(tmp_path / "big.yaml")
    assert distill.student is not None
    assert distill.student.weights == str(tmp_path / "r18.pth")
    assert recipe.data.train == "camvid:here"
    assert load_recipe(tmp_path / "r.yaml", ["pipeline=p.yaml"]).pipeline == str(Path.cwd() / "p.yaml")


FREE = TEXT.replace("amount: 0.5", "amount: {search: [0.2, 0.8]}, round_to: {choose: [8, 16]}")


def test_free_fields_are_found_and_filled_in() -> None:
    space = loads_space(FREE)
    assert space.free == {"steps.0.amount": Search(0.2, 0.8), "steps.0.round_to": Choose((8, 16))}
    (step, *_) = space.recipe({"steps.0.amount": 0.3, "steps.0.round_to": 16}).steps
    assert step == PruneStep(amount=0.3, round_to=16)
    assert space.recipe({"steps.0.amount": 0.4, "steps.0.round_to": 8}).steps[0] == PruneStep(amount=0.4)


def test_a_whole_step_may_be_free() -> None:
    space = loads_space(TEXT.replace("{type: quantize}", "{choose: [{type: quantize}, {type: code, bits: 8}]}"))
    assert space.recipe({"steps.2": {"type": "code", "bits": 8}}).steps[2] == CodeStep(bits=8)


@pytest.mark.parametrize(("low", "high", "whole"), [(1, 4, True), (1.0, 4, False), (0.5, 0.7, False)])
def test_whole_ends_mean_whole_numbers(low: float, high: float, whole: bool) -> None:
    assert Search(low, high).whole is whole


def test_free_fields_are_refused_where_values_are_needed(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(FREE)
    with pytest.raises(SpecError, match=r"8:27: steps\.0\.amount: is free .*`sharedbb search` fills it in"):
        load_recipe(tmp_path / "r.yaml")
    with pytest.raises(SpecError, match=r"steps\.9\.bits: is not a free field"):
        load_space(tmp_path / "r.yaml").recipe({"steps.0.amount": 0.3, "steps.0.round_to": 8, "steps.9.bits": 1})


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("{search: [0.2]}", "must be {search: [low, high]} or {choose: [a, b, ...]}"),
        ("{search: [0.5, 0.5]}", "must be {search: [low, high]} or {choose: [a, b, ...]}"),
        ("{choose: [0.5]}", "must be {search: [low, high]} or {choose: [a, b, ...]}"),
        ("{search: [0.2, 1.4]}", "must be less than 1, got 1.4"),
        ("{choose: [0.5, 0.6, many]}", "must be a number, got 'many'"),
    ],
)
def test_a_free_field_is_checked_over_all_its_values(marker: str, message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(f"r.yaml:8:27: steps.0.amount: {message}")):
        loads_space(TEXT.replace("amount: 0.5", f"amount: {marker}"), "r.yaml")


@pytest.mark.parametrize(
    ("step", "look", "half", "tenth"),
    [
        (PruneStep(amount=0.5), lambda step: step.amount, 0.25, 0.05),
        (ClusterStep(bits=2), lambda step: step.bits, 5, 7),
        (FactorizeStep(energy=0.9), lambda step: step.energy, 0.95, 0.99),
        (QuantizeStep(bits=4, tool="own"), lambda step: (step.bits, step.weight_bits), (6, None), (8, None)),
        (QuantizeStep(bits=8, weight_bits=4), lambda step: (step.bits, step.weight_bits), (8, 6), (8, 8)),
        (QuantizeStep(layers={"a": 4, "b": 8}), lambda step: [*step.layers.values()], [6, 8], [8, 8]),
        (QuantizeStep(sensitivity="s.json", fall=0.1), lambda step: step.fall, 0.05, 0.01),
        (QuantizeStep(fall=0.1), lambda step: step.fall, 0.1, 0.1),
        (CodeStep(bits=8), lambda step: step.bits, 8, 8),
    ],
)
def test_a_step_can_be_weakened(step: Shrinking, look: Callable[[Any], Any], half: Any, tenth: Any) -> None:
    assert look(step.at(0.5)) == pytest.approx(half)
    assert look(step.at(0.1)) == pytest.approx(tenth)
    assert look(step.at(1.0)) == pytest.approx(look(step))


@pytest.mark.parametrize(
    "fields",
    [{"amount": 0.0}, {"amount": 1.0}, {"method": "random"}, {"importance": "l1"}, {"tries": 0}, {"round_to": 128}],
)
def test_what_is_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PruneStep.model_validate(fields)
