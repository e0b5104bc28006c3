"""A whole pipeline built in Python: defaults, what depends on other parts, and what it offers."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError
from torch import nn

from sharedbb.errors import SpecError
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import (
    Backbone,
    DepthHead,
    Fpn,
    Input,
    Pipeline,
    Reuse,
    RgbTransform,
    Runtime,
    Schedule,
    TagsHead,
    dump,
    loads,
)
from sharedbb.spec.parts import Branch
from sharedbb.spec.pipeline import RESERVED

DEPTH = DepthHead(taps=(4, 16))


def _pipeline(**fields: Any) -> Pipeline:
    return Pipeline(**{"name": "street", "backbone": Backbone(arch="resnet18"), "heads": {"depth": DEPTH}, **fields})


def _faults(**fields: Any) -> list[tuple[tuple[int | str, ...], str]]:
    with pytest.raises(ValidationError) as raised:
        _pipeline(**fields)
    return [(error["loc"], error["msg"]) for error in raised.value.errors()]


def test_the_defaults_are_pinned() -> None:
    pipeline = _pipeline()
    assert pipeline.version == 1
    assert pipeline.input == Input()
    assert pipeline.transform == RgbTransform()
    assert pipeline.neck is None
    assert pipeline.reuse == Reuse(mode="off")
    assert pipeline.schedule == Schedule()
    assert pipeline.runtime == Runtime()


def test_models_and_mappings_are_two_spellings_of_the_same() -> None:
    mapped = Pipeline.model_validate(
        {
            "name": "street",
            "backbone": {"arch": "resnet18"},
            "neck": {"strides": [8, 16]},
            "heads": {
                "depth": {"type": "depth", "taps": [8]},
                "scene": {"type": "tags", "taps": [16], "labels": ["a"]},
            },
        }
    )
    built = Pipeline(
        name="street",
        backbone=Backbone(arch="resnet18"),
        neck=Fpn(strides=(8, 16)),
        heads={"depth": DepthHead(taps=(8,)), "scene": TagsHead(taps=(16,), labels=("a",))},
    )
    assert mapped == built
    assert [*mapped.heads] == ["depth", "scene"]


def test_heads_keep_all_their_fields_when_written_out() -> None:
    assert _pipeline().model_dump()["heads"]["depth"] == DEPTH.model_dump()


def test_the_shared_strides_are_the_necks_or_the_backbones() -> None:
    assert _pipeline().strides == (4, 8, 16, 32)
    assert _pipeline(neck=Fpn(strides=(4, 16))).strides == (4, 16)


def test_taps_must_exist() -> None:
    ((place, message),) = _faults(heads={"depth": DEPTH, "far": DepthHead(taps=(8, 64))})
    assert place == ("heads", "far", "taps", 1)
    assert message == "the backbone resnet18 has no features at stride 64; it offers 4, 8, 16, 32"


def test_taps_must_exist_in_the_neck_where_there_is_one() -> None:
    ((place, message),) = _faults(neck=Fpn(strides=(8, 16)))
    assert place == ("heads", "depth", "taps", 0)
    assert message == "the neck has no features at stride 4; it offers 8, 16"


def test_levels_of_the_neck_must_exist_in_the_backbone() -> None:
    faults = _faults(neck=Fpn(strides=(2, 4, 16, 64)))
    assert [place for place, _ in faults] == [("neck", "strides", 0), ("neck", "strides", 3)]
    assert faults[0][1] == "the backbone resnet18 has no features at stride 2; it offers 4, 8, 16, 32"


def test_a_broken_backbone_raises_no_further_faults_about_taps() -> None:
    ((place, _),) = _faults(backbone={"arch": "resnet19"}, heads={"far": {"type": "depth", "taps": [64]}})
    assert place == ("backbone", "arch")


def test_a_registered_backbone_offers_its_own_strides() -> None:
    register_backbone("tiny", build=dict, strides=(2, 4))
    try:
        backbone = Backbone(arch="tiny")
        assert _pipeline(backbone=backbone, heads={"a": DepthHead(taps=(2, 4))}).strides == (2, 4)
        assert _faults(backbone=backbone)[0][1] == "the backbone tiny has no features at stride 16; it offers 2, 4"
    finally:
        BACKBONES.unregister("tiny")


@pytest.mark.parametrize("name", ["a", "road", "head_2", "x_"])
def test_a_heads_name_is_an_identifier(name: str) -> None:
    assert [*_pipeline(heads={name: DEPTH}).heads] == [name]


@pytest.mark.parametrize("name", ["", "Road", "2nd", "_a", "a-b", "a.b", "a b", "straße", "a\n"])
def test_any_other_name_of_a_head_is_refused(name: str) -> None:
    assert _faults(heads={name: DEPTH})[0][0] == ("heads", name, "[key]")


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"version": 2}, "version"),
        ({"version": "1"}, "version"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": 5}, "name"),
        ({"heads": {}}, "heads"),
        ({"heads": [DEPTH]}, "heads"),
        ({"heads": None}, "heads"),
        ({"neck": 5}, "neck"),
        ({"backbone": "resnet18"}, "backbone"),
        ({"tracker": {}}, "tracker"),
    ],
)
def test_what_is_wrong_is_refused_at_its_field(fields: dict[str, Any], at: str) -> None:
    assert {place[0] for place, _ in _faults(**fields)} == {at}


def test_a_pipeline_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _pipeline().name = "other"


def test_names_that_torch_needs_are_no_heads() -> None:
    assert {name for name in dir(nn.ModuleDict()) if re.match(r"^[a-z][a-z0-9_]*$", name)} <= RESERVED
    with pytest.raises(SpecError, match=r"heads\.items: a head cannot be called 'items'"):
        loads("name: a\nbackbone: {arch: resnet18}\nheads: {items: {type: tags, taps: [32], labels: [x]}}")


SCENE = TagsHead(taps=(16, 32), labels=("a",))


def test_branches_are_models_and_mappings() -> None:
    heads = {"depth": DEPTH, "scene": SCENE}
    built = _pipeline(heads=heads, branches={"scene": Branch(after=16, heads=("scene",))})
    assert built == _pipeline(heads=heads, branches={"scene": {"after": 16, "heads": ["scene"]}})
    assert _pipeline().branches == {}
    assert loads(dump(built)) == built
    for after in (0, "layer2"):
        assert (
            _pipeline(heads=heads, branches={"scene": {"after": after, "heads": ["scene"]}}).branches["scene"].after
            == after
        )


@pytest.mark.parametrize(
    ("branches", "place", "message"),
    [
        (
            {"x": {"after": 7, "heads": ["scene"]}},
            ("x", "after"),
            "resnet18 has no features at stride 7; it offers 4, 8",
        ),
        (
            {"x": {"after": -4, "heads": ["scene"]}},
            ("x", "after"),
            "must be a stride, 0 for the picture itself, or the",
        ),
        ({"x": {"after": "", "heads": ["scene"]}}, ("x", "after"), "name of a step, got ''"),
        ({"x": {"after": 4, "heads": ["seen"]}}, ("x", "heads", 0), "got 'seen'; did you mean 'scene'?"),
        ({"x": {"after": 4, "heads": []}}, ("x", "heads"), "must have at least 1 entry, got 0"),
        ({"type": {"after": 4, "heads": ["scene"]}}, ("type", "[key]"), "a branch's name must be lower-case letters"),
        (
            {"x": {"after": 32, "heads": ["scene"]}},
            ("x", "after"),
            "tap nothing behind stride 32, only up to 32; leave",
        ),
        (
            {"x": {"after": 4, "heads": ["scene", "depth"]}},
            (),
            "every head is in a branch, and nothing reads the trunk",
        ),
        (
            {"x": {"after": 4, "heads": ["scene"]}, "y": {"after": 8, "heads": ["scene"]}},
            ("y", "heads", 0),
            "'scene' is in the branch 'x' already",
        ),
    ],
)
def test_branches_that_make_no_sense_are_refused(branches: Any, place: tuple[str | int, ...], message: str) -> None:
    found = dict(_faults(heads={"depth": DEPTH, "scene": SCENE}, branches=branches))
    (path,) = [path for path in found if path[: len(place) + 1] == ("branches", *place)]
    assert message in found[path]


def test_a_branch_behind_the_last_stride_needs_a_neck_to_be_anything() -> None:
    heads = {"depth": DepthHead(taps=(8,)), "scene": SCENE}
    branches = {"scene": Branch(after=32, heads=("scene",))}
    assert _pipeline(heads=heads, neck=Fpn(strides=(8, 16, 32)), branches=branches).branches == branches
    decomposed = Backbone(arch="resnet18", decomposition="two_branch")
    assert (
        "decomposition 'none', got 'two_branch'"
        in dict(_faults(heads=heads, neck=Fpn(strides=(8, 16, 32)), branches=branches, backbone=decomposed))[
            ("branches",)
        ]
    )
