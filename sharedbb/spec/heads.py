"""The heads: what each answers, which features it taps, and how often it runs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
)
from pydantic_core import CoreSchema, core_schema

from sharedbb.registry import BACKBONES, HEADS, resolve
from sharedbb.spec.faults import (
    MISSING_FIELD,
    UNKNOWN_FIELD,
    alternatives,
    did_you_mean,
    must_be_one_of,
    nearest,
    said,
    said_at,
    shown,
)
from sharedbb.spec.meanings import describe
from sharedbb.spec.parts import (
    Above,
    AtLeast,
    Backbone,
    Channels,
    Count,
    Fpn,
    Number,
    Share,
    Spec,
    Text,
    Whole,
    Words,
    ascending,
    not_offered,
    unique,
)


@dataclass(frozen=True, slots=True)
class Offer:
    """The strides at which shared features exist, and who offers them: the validation context of a head."""

    strides: tuple[int, ...]
    by: str

    @classmethod
    def of(cls, backbone: Backbone, neck: Fpn | None = None) -> Offer:
        """The neck's levels where there is a neck, otherwise the backbone's."""
        if neck:
            return cls(neck.strides, "the neck")
        return cls(BACKBONES[backbone.arch].strides, f"the backbone {backbone.arch}")


def _exists(tap: int, info: ValidationInfo) -> int:
    offer = info.context
    if isinstance(offer, Offer) and (faults := not_offered([tap], offer.strides, offer.by)):
        raise said(faults[0][1])
    return tap


class Head(Spec):
    """What every head has; derive from it, with a ``type`` literal, for a head of your own."""

    type: str
    """The kind of head, by its registered name."""

    taps: Annotated[tuple[Annotated[Count, AfterValidator(_exists)], ...], AtLeast(1), AfterValidator(ascending)]
    """Strides of the shared features that the head reads, ascending: levels of the neck where there is one, otherwise
    of the backbone."""

    every: Count = 1
    """Run on every n-th frame and keep the answer in between, at least 1."""

    max_age_ms: Above | None = None
    """Oldest that the answer may be on any frame, in milliseconds of the stream's time: older, and the head runs
    whatever the deadline; null for no limit."""

    priority: Whole = 0
    """Who goes first when the deadline is too short for all whose turn it is: the highest number."""


class SegmentationHead(Head):
    """A class for every pixel."""

    type: Literal["segmentation"] = "segmentation"
    """`segmentation`: a class for every pixel."""

    classes: Annotated[tuple[Text, ...], AtLeast(2), Field(max_length=256), AfterValidator(unique)]
    """Names of the classes in the order of the network's channels, 2 to 256."""

    channels: Channels = 64
    """Width of the head's hidden layers, 1 to 4096."""


class DetectionHead(Head):
    """Boxes with a class and a score, without anchors."""

    type: Literal["detection"] = "detection"
    """`detection`: boxes with a class and a score."""

    classes: Words
    """Names of the classes in the order of the network's channels, at least 1."""

    channels: Channels = 64
    """Width of the head's hidden layers, 1 to 4096."""

    score_threshold: Share = 0.3
    """Boxes with a lower score are left out, 0 to 1."""

    iou_threshold: Share = 0.5
    """Of boxes of one class that overlap by more than this (intersection over union, 0 to 1), the best one stays."""

    max_detections: Annotated[Whole, Field(ge=1, le=10_000)] = 100
    """Most boxes in a frame, 1 to 10000."""


class DepthHead(Head):
    """A distance in metres for every pixel."""

    type: Literal["depth"] = "depth"
    """`depth`: a distance for every pixel."""

    channels: Channels = 64
    """Width of the head's hidden layers, 1 to 4096."""

    min_m: Annotated[Number, Field(gt=0)] = 0.5
    """The nearest distance answered, in metres, above 0."""

    max_m: Annotated[Number, Field(gt=0, validate_default=True)] = 100.0
    """The farthest distance answered, in metres, above `min_m`."""

    @field_validator("max_m")
    @classmethod
    def _beyond_min(cls, max_m: float, info: ValidationInfo) -> float:
        min_m = info.data.get("min_m")
        if min_m is not None and max_m <= min_m:
            raise said(f"must be more than min_m, which is {min_m:g}, got {max_m:g}")
        return max_m


class TagsHead(Head):
    """Any number of labels for the whole picture, each with a probability."""

    type: Literal["tags"] = "tags"
    """`tags`: labels for the whole picture."""

    labels: Words
    """Names of the labels in the order of the network's outputs, at least 1."""

    threshold: Share = 0.5
    """Labels with a lower probability are left out, 0 to 1."""


class KeypointsHead(Head):
    """A position and a score for each of a fixed set of named points, by heat maps."""

    type: Literal["keypoints"] = "keypoints"
    """`keypoints`: the positions of named points."""

    points: Words
    """Names of the points in the order of the network's channels, at least 1."""

    channels: Channels = 64
    """Width of the head's hidden layers, 1 to 4096."""


class EmbeddingHead(Head):
    """A vector of length 1 for the whole picture, for search and comparison."""

    type: Literal["embedding"] = "embedding"
    """`embedding`: a vector for the whole picture."""

    dim: Annotated[Whole, Field(ge=1, le=65_536)] = 128
    """Length of the vector, 1 to 65536."""


def head_spec(type_name: str) -> type[Head]:
    """The spec class registered under ``type_name``. Raises RegistryError where there is none."""
    spec: type[Head] = resolve(HEADS[type_name].spec)
    return spec


def read_head(value: Any, offer: Offer | None) -> Head:
    """Validate a head, a mapping or a model built in Python, as the class registered under its ``type``.

    With an ``offer``, taps that it lacks are faults. Raises pydantic's ValidationError or PydanticCustomError.
    """
    fields = dict(value) if isinstance(value, Head) else value
    if not isinstance(fields, Mapping):
        raise said(f"must be a mapping with a type and taps, got {shown(value)}")
    if "type" not in fields:
        raise _without_type(fields)
    if not isinstance(fields["type"], str) or fields["type"] not in HEADS:
        raise said_at("head", [(("type",), must_be_one_of(fields["type"], [*HEADS]), fields["type"])])
    spec = head_spec(fields["type"])
    if isinstance(value, Head) and type(value) is not spec:
        raise said(f"the type {value.type!r} is registered for {spec.__name__}, got a {type(value).__name__}")
    return spec.model_validate(fields, context=offer)


def _without_type(fields: Mapping[str, Any]) -> Exception:
    """Say that ``type`` is missing, or which field was probably meant to be it."""
    known = {field for name in HEADS for field in head_spec(name).model_fields}
    misspelt = nearest("type", [field for field in fields if field not in known])
    if misspelt:
        message = f"unknown field{did_you_mean(misspelt, ['type'])}"
        return said_at("head", [((misspelt,), message, fields[misspelt])], UNKNOWN_FIELD)
    return said_at("head", [(("type",), f"is missing; it must be {alternatives([*HEADS])}", fields)], MISSING_FIELD)


class ByType:
    """Marks a field as a head of any registered type; the JSON Schema is the union of all of them."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        as_itself = core_schema.wrap_serializer_function_ser_schema(
            lambda head, serialize: serialize(head), schema=core_schema.any_schema()
        )
        return core_schema.with_info_plain_validator_function(self._read, serialization=as_itself)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        specs = [head_spec(name) for name in HEADS]
        forms = [handler(spec.__pydantic_core_schema__) for spec in specs]
        for spec, form in zip(specs, forms, strict=True):
            body = handler.resolve_ref_schema(form)  # some versions of pydantic put it among the definitions
            body.setdefault("description", inspect.getdoc(spec))
            describe(spec, body)
            body["required"] = ["type", *body.get("required", [])]
        return {"oneOf": forms}

    @staticmethod
    def _read(value: Any, info: ValidationInfo) -> Head:
        backbone, neck = info.data.get("backbone"), info.data.get("neck")
        return read_head(value, Offer.of(backbone, neck) if backbone and "neck" in info.data else None)
