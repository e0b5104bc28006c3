"""Heads: their defaults and ranges, and dispatch on ``type`` through the registry."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from sharedbb.registry import HEADS, register_head
from sharedbb.spec import (
    DepthHead,
    DetectionHead,
    EmbeddingHead,
    Head,
    KeypointsHead,
    SegmentationHead,
    TagsHead,
    dump,
    json_schema,
    loads,
)
from sharedbb.spec.heads import Offer, head_spec, read_head
from sharedbb.spec.parts import Backbone, Fpn

OFFER = Offer((4, 8, 16, 32), "the backbone resnet18")

PINNED: dict[type[Head], dict[str, Any]] = {
    SegmentationHead: {"type": "segmentation", "channels": 64},
    DetectionHead: {
        "type": "detection",
        "channels": 64,
        "score_threshold": 0.3,
        "iou_threshold": 0.5,
        "max_detections": 100,
    },
    DepthHead: {"type": "depth", "channels": 64, "min_m": 0.5, "max_m": 100.0},
    TagsHead: {"type": "tags", "threshold": 0.5},
    KeypointsHead: {"type": "keypoints", "channels": 64},
    EmbeddingHead: {"type": "embedding", "dim": 128},
}
WORDS: dict[type[Head], str] = {
    SegmentationHead: "classes",
    DetectionHead: "classes",
    TagsHead: "labels",
    KeypointsHead: "points",
}


def _fields(spec: type[Head], **more: Any) -> dict[str, Any]:
    words = {WORDS[spec]: ["car", "person"]} if spec in WORDS else {}
    return {"type": PINNED[spec]["type"], "taps": [4, 16], **words, **more}


@pytest.mark.parametrize("spec", PINNED, ids=lambda spec: spec.__name__)
def test_types_and_defaults_are_pinned(spec: type[Head]) -> None:
    words = {WORDS[spec]: ("car", "person")} if spec in WORDS else {}
    head = read_head(_fields(spec), OFFER)
    assert type(head) is spec
    assert head.model_dump() == {
        "taps": (4, 16),
        "every": 1,
        "max_age_ms": None,
        "priority": 0,
        **PINNED[spec],
        **words,
    }


def test_every_built_in_type_leads_to_a_class_with_that_type() -> None:
    assert {head_spec(name) for name in HEADS} == {*PINNED}
    for name in HEADS:
        assert head_spec(name).model_fields["type"].default == name


def _wrong() -> list[tuple[type[Head], dict[str, Any], str]]:
    cases: list[tuple[type[Head], dict[str, Any], str]] = [
        (SegmentationHead, {"classes": ["road"]}, "classes"),
        (DetectionHead, {"score_threshold": 1.1}, "score_threshold"),
        (DetectionHead, {"iou_threshold": -0.1}, "iou_threshold"),
        (DetectionHead, {"max_detections": 0}, "max_detections"),
        (DetectionHead, {"score_threshold": True}, "score_threshold"),
        (DepthHead, {"min_m": 0}, "min_m"),
        (DepthHead, {"min_m": 100}, "max_m"),
        (DepthHead, {"min_m": 5, "max_m": 5}, "max_m"),
        (TagsHead, {"threshold": 2}, "threshold"),
        (EmbeddingHead, {"dim": 0}, "dim"),
    ]
    for spec in PINNED:
        cases += [(spec, {"taps": taps}, "taps") for taps in ([], 4, "4", [4, 4], [16, 4], [4.0], [0], None)]
        cases += [(spec, {"every": every}, "every") for every in (0, -1, 1.5, "2", None)]
        cases += [(spec, {"surprise": 1}, "surprise")]
    for spec, words in WORDS.items():
        given: list[Any] = [[], "car", ["car", "car"], ["car", ""], ["car", " person"], ["car", "a\nb"], ["car", 5]]
        cases += [(spec, {words: value}, words) for value in given]
    return cases


@pytest.mark.parametrize(("spec", "more", "at"), _wrong())
def test_what_is_out_of_range_is_refused_at_its_field(spec: type[Head], more: dict[str, Any], at: str) -> None:
    with pytest.raises(ValidationError) as raised:
        read_head(_fields(spec, **more), OFFER)
    (error,) = raised.value.errors()
    assert error["loc"][0] == at


def test_a_tap_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(ValidationError) as raised:
        read_head(_fields(DepthHead, taps=[2, 4, 64]), OFFER)
    first, second = raised.value.errors()
    assert first["loc"] == ("taps", 0)
    assert first["msg"] == "the backbone resnet18 has no features at stride 2; it offers 4, 8, 16, 32"
    assert second["loc"] == ("taps", 2)


def test_a_neck_offers_its_own_levels() -> None:
    assert Offer.of(Backbone(arch="resnet18")).strides == (4, 8, 16, 32)
    assert Offer.of(Backbone(arch="resnet18"), Fpn(strides=(8, 16))) == Offer((8, 16), "the neck")


def test_a_head_built_in_python_is_checked_against_the_offer_too() -> None:
    head = EmbeddingHead(taps=(64,))
    assert read_head(head, None) == head
    with pytest.raises(ValidationError, match="no features at stride 64"):
        read_head(head, OFFER)


class LinePoint(BaseModel):
    """A point of a lane line."""

    x: int
    y: int = 0


class LinesHead(Head):
    """Lane lines."""

    type: Literal["lines"] = "lines"
    origin: LinePoint
    count: int = 4


@pytest.fixture
def lines() -> Any:
    register_head("lines", spec=LinesHead, build=dict, decoder=dict)
    yield
    HEADS.unregister("lines")


PIPELINE_WITH_LINES = """
name: lanes
backbone: {arch: resnet18}
heads:
  lanes: {type: lines, taps: [8], origin: {x: 3}}
"""


@pytest.mark.usefixtures("lines")
def test_a_registered_head_is_read_written_and_in_the_schema() -> None:
    pipeline = loads(PIPELINE_WITH_LINES)
    assert pipeline.heads["lanes"] == LinesHead(taps=(8,), origin=LinePoint(x=3))
    assert loads(dump(pipeline)) == pipeline
    schema = json_schema()
    definitions, (heads,) = schema["$defs"], schema["properties"]["heads"]["patternProperties"].values()
    lanes = heads["oneOf"][-1]
    lanes = definitions[lanes["$ref"].removeprefix("#/$defs/")] if "$ref" in lanes else lanes
    assert len(heads["oneOf"]) == len(HEADS)
    assert lanes["properties"]["type"]["const"] == "lines"
    assert lanes["properties"]["origin"]["$ref"].removeprefix("#/$defs/") in definitions


def test_a_head_that_nobody_registered_is_refused_in_either_spelling() -> None:
    with pytest.raises(ValidationError, match="must be 'segmentation'"):
        read_head(LinesHead(taps=(8,), origin=LinePoint(x=3)), OFFER)
    with pytest.raises(ValidationError, match="must be 'segmentation'"):
        read_head({"type": "lines", "taps": [8]}, OFFER)


def test_a_class_that_took_the_type_of_another_is_refused() -> None:
    class Impostor(Head):
        type: Literal["depth"] = "depth"

    with pytest.raises(ValueError, match="'depth' is registered for DepthHead, got a Impostor"):
        read_head(Impostor(taps=(4,)), OFFER)
