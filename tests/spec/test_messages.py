"""What a wrong file reads like: place, field, what was given, what is allowed, the nearest spelling."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, Field

from sharedbb.errors import SpecError
from sharedbb.registry import HEADS, register_head
from sharedbb.spec import Head, loads

GOOD = """\
name: street
input: {size: [384, 640], normalize: unit}
backbone: {arch: resnet18}
heads:
  road:
    type: segmentation
    taps: [4, 16]
    classes: [road, sky]
  deep: {type: depth, taps: [32]}
"""


def _problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as raised:
        loads(text, "p.yaml")
    return [str(problem).removeprefix("p.yaml:") for problem in raised.value.problems]


ROOT = "(known: version, name, input, transform, backbone, neck, heads, branches, reuse, schedule, runtime)"
TYPES = "'segmentation', 'detection', 'depth', 'tags', 'keypoints' or 'embedding'"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("name: street", "nme: street", f"1:1: nme: unknown field; did you mean 'name'? {ROOT}"),
        ("name: street", "Name: street", f"1:1: Name: unknown field; did you mean 'name'? {ROOT}"),
        ("name: street", "name: street\nfoo: 1", f"2:1: foo: unknown field {ROOT}"),
        ("name: street\n", "", "1:1: name: is missing (what the pipeline is called in reports and results)"),
        ("name: street", "name:", "1:6: name: must be text, got nothing; in quotes it is text"),
        ("name: street", "name: 5", "1:7: name: must be text, got 5; in quotes it is text"),
        ("name: street", "name: [street]", "1:7: name: must be text, got ['street']"),
        ("name: street", "name: ''", "1:7: name: must be text, not empty, got ''"),
        (
            "name: street",
            'name: " x"',
            "1:7: name: must be one line of printable text without spaces around it, got ' x'",
        ),
        ("name: street", "name: street\nversion: 2", "2:10: version: must be 1, got 2"),
        ("[384, 640]", "[350, 640]", "2:16: input.size.0: must be a multiple of 32, got 350; the nearest is 352"),
        ("[384, 640]", "[384, 8224]", "2:21: input.size.1: must be 8192 or less, got 8224"),
        ("[384, 640]", "[384]", "2:15: input.size: must be a list [height, width], got [384]"),
        ("[384, 640]", "384", "2:15: input.size: must be a list [height, width], got 384"),
        (
            "[384, 640]",
            "['384', 640]",
            "2:16: input.size.0: must be a whole number, got '384'; without quotes it is a number",
        ),
        (
            "unit",
            "imagnet",
            "2:38: input.normalize: must be 'imagenet', 'unit' or 'none', or a mapping with the fields mean, std, "
            "got 'imagnet'; did you mean 'imagenet'?",
        ),
        (
            "unit",
            "{mean: [0, 0, 0], sdt: [1, 1, 1]}",
            "2:56: input.normalize.sdt: unknown field; did you mean 'std'? (known: mean, std)",
        ),
        (
            "unit",
            "{mean: [0, 0, 0]}",
            "2:27: input.normalize.std: is missing (what is divided by, in grey levels, above 0 and at most 255)",
        ),
        (
            "unit",
            "{mean: [0, 0, .nan], std: [1, 1, 1]}",
            "2:52: input.normalize.mean.2: must be a finite number, got nan",
        ),
        ("unit", "{mean: [0, 0, 0], std: [1, 0, 1]}", "2:65: input.normalize.std.1: must be more than 0, got 0"),
        (
            "{arch: resnet18}",
            "resnet18",
            "3:11: backbone: must be a mapping with the fields arch, weights, decomposition, got 'resnet18'",
        ),
        ("{arch: resnet18}", "{}", "3:1: backbone.arch: is missing (the backbone's registered name)"),
        (
            "resnet18}",
            "resnet18, weights: a.onnx}",
            "3:37: backbone.weights: must be a torchvision weights name such as DEFAULT or IMAGENET1K_V1, or a file "
            "ending in .sbb, .safetensors or .pth, got 'a.onnx'",
        ),
        (
            "  road:",
            "  Road:",
            "5:3: heads.Road: a head's name must be lower-case letters, digits and _, and start with",
        ),
        ("  road:", "  deep:", "9:3: heads.deep: is given twice, first on line 5"),
        (
            "segmentation",
            "segmentaton",
            f"6:11: heads.road.type: must be {TYPES}, got 'segmentaton'; did you mean 'segmentation'?",
        ),
        ("type: segmentation", "tpye: segmentation", "6:5: heads.road.tpye: unknown field; did you mean 'type'?"),
        ("    type: segmentation\n", "", f"5:3: heads.road.type: is missing; it must be {TYPES}"),
        (
            "taps: [4, 16]",
            "tap: [4, 16]",
            "7:5: heads.road.tap: unknown field; did you mean 'taps'? (known: type, taps, every, max_age_ms, priority, classes, channels)",  # noqa: E501
        ),
        (
            "taps: [4, 16]",
            "typs: [4, 16]",
            "7:5: heads.road.typs: unknown field; did you mean 'taps'?",
        ),  # type is there
        (
            "[4, 16]",
            "[4, 64]",
            "7:15: heads.road.taps.1: the backbone resnet18 has no features at stride 64; it offers 4, 8, 16, 32",
        ),
        ("[4, 16]", "[16, 4]", "7:16: heads.road.taps.1: must ascend without repeats, got 4 after 16"),
        ("[4, 16]", "[]", "7:11: heads.road.taps: must have at least 1 entry, got 0"),
        ("[4, 16]", "4", "7:11: heads.road.taps: must be a list, got 4"),
        ("[road, sky]", "[road]", "8:14: heads.road.classes: must have at least 2 entries, got 1"),
        ("[road, sky]", "[sky, sky]", "8:20: heads.road.classes.1: 'sky' is listed twice (number 1 and number 2)"),
        ("[road, sky]", "[true, sky]", "8:15: heads.road.classes.0: must be text, got true; in quotes it is text"),
        ("taps: [32]", "taps: [32], every: 0", "9:42: heads.deep.every: must be 1 or more, got 0"),
        ("taps: [32]", "taps: [32], every: 1.5", "9:42: heads.deep.every: must be a whole number, got 1.5"),
        ("taps: [32]", "taps: [32], every: true", "9:42: heads.deep.every: must be a whole number, got true"),
        ("taps: [32]", "taps: [32], min_m: near", "9:42: heads.deep.min_m: must be a number, got 'near'"),
        (
            "taps: [32]",
            "taps: [32], max_m: 0.1",
            "9:42: heads.deep.max_m: must be more than min_m, which is 0.5, got 0.1",
        ),
        ("{type: depth, taps: [32]}", "depth", "9:9: heads.deep: must be a mapping with a type and taps, got 'depth'"),
        (
            "name: street",
            "name: street\nneck: {strides: [4, 64]}",
            "2:21: neck.strides.1: the backbone resnet18 has no",
        ),
        (
            "name: street",
            "name: street\nruntime: {device: gpu}",
            "2:19: runtime.device: must be 'auto', 'cpu' or 'cuda', got 'gpu'; did you mean 'cuda'?",
        ),
        (
            "name: street",
            "name: street\nruntime: {backend: openvno}",
            "2:20: runtime.backend: must be 'auto', 'eager', 'openvino', 'inductor' or 'cuda', got 'openvno'; did you",
        ),
        (
            "name: street",
            "name: street\nruntime: {cache: yes}",
            "2:18: runtime.cache: must be true or false, got 'yes'",
        ),
        (
            "name: street",
            "name: street\nreuse: {mode: false}",
            "2:15: reuse.mode: must be 'off', 'exact', 'bounded', 'keyframe' or 'auto', got false",
        ),
        (
            "name: street",
            "name: street\nreuse: {mode: bounded, budget: 0}",
            "2:32: reuse.budget: must be more than 0, got 0",
        ),
        (
            "name: street",
            "name: street\nreuse: {mode: keyframe, fresh: 12}",
            "2:32: reuse.fresh: must be 0, 4, 8 or 16, got 12",
        ),
        (
            "name: street",
            "name: street\nschedule: drop",
            "2:11: schedule: must be a mapping with the fields queue, when_",
        ),
    ],
)
def test_one_fault_is_one_line(old: str, new: str, problem: str) -> None:
    assert GOOD.count(old) == 1
    (found,) = _problems(GOOD.replace(old, new))
    assert found.startswith(problem)


def test_a_flawless_file_has_no_problem() -> None:
    assert loads(GOOD).name == "street"


def test_all_faults_are_found_at_once_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace("street", "5")
        .replace("640", "641")
        .replace("[4, 16]", "[4, 64]")
        .replace("[road, sky]", "road")
        .replace("depth", "dpth")
    )
    assert [problem.split(": ")[1] for problem in _problems("# comment\n" + text + "name: 6\n")] == [
        "name",
        "input.size.1",
        "heads.road.taps.1",
        "heads.road.classes",
        "heads.deep.type",
        "name",
    ]


def test_a_value_that_could_not_be_read_gets_no_second_problem() -> None:
    assert len(_problems(GOOD.replace("[4, 16]", "!!python/tuple [4]"))) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1:1: is empty; a pipeline needs at least name, backbone and heads"),
        ("# only a comment\n", "1:1: is empty; a pipeline needs at least name, backbone and heads"),
        ("null\n", "1:1: is empty; a pipeline needs at least name, backbone and heads"),
        ("- a\n", "1:1: must be a mapping of fields such as name, backbone and heads, got ['a']"),
        ("street\n", "1:1: must be a mapping of fields such as name, backbone and heads, got 'street'"),
        ("!x {a: b}\n", "1:1: the tag '!x' is not allowed; a pipeline is text, numbers, lists and mappings"),
    ],
)
def test_what_is_no_mapping_is_refused(text: str, problem: str) -> None:
    assert _problems(text) == [problem]


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("must be odd")
    return value


class OddHead(Head):
    """A head with checks of its own."""

    type: Literal["odd"] = "odd"
    sides: Annotated[int, AfterValidator(_odd)] = 3
    when: Annotated[str, Field(pattern="^[0-9]+$")] = "0"
    ratio: Annotated[float, Field(lt=1)] = 0.5
    parts: Annotated[list[int], Field(max_length=2)] = Field(default_factory=list)
    date: Any = None


@pytest.fixture
def odd() -> Any:
    register_head("odd", spec=OddHead, build=dict, decoder=dict)
    yield
    HEADS.unregister("odd")


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ("sides: 4", "heads.deep.sides: must be odd, got 4"),
        ("when: noon", "heads.deep.when: must be text of the pattern ^[0-9]+$, got 'noon'"),
        ("ratio: 1", "heads.deep.ratio: must be less than 1, got 1"),
        ("parts: [1, 2, 3]", "heads.deep.parts: must have at most 2 entries, got 3"),
        (
            "sides: x",
            "heads.deep.sides: input should be a valid integer, unable to parse string as an integer, got 'x'",
        ),
        (
            "side: 5",
            "heads.deep.side: unknown field; did you mean 'sides'? (known: type, taps, every, max_age_ms, priority, sides, when,",  # noqa: E501
        ),
    ],
)
def test_checks_of_a_registered_head_read_the_same(fields: str, problem: str) -> None:
    (found,) = _problems(GOOD.replace("type: depth", f"type: odd, {fields}"))
    assert found.split(": ", 1)[1].startswith(problem)
