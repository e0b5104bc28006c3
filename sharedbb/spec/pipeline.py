"""A whole pipeline: one input, one backbone, any number of heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from sharedbb.spec.faults import said_at
from sharedbb.spec.heads import ByType, Head, Offer
from sharedbb.spec.parts import (
    AtLeast,
    Backbone,
    Fpn,
    Input,
    Reuse,
    RgbTransform,
    Runtime,
    Schedule,
    Spec,
    Text,
    not_offered,
)

HEAD_NAME = r"^[a-z][a-z0-9_]*$"


class Pipeline(Spec):
    """What a pipeline file says.

    Built in Python, faults raise pydantic's ValidationError; ``load`` and ``loads`` raise SpecError with places.
    """

    version: Literal[1] = 1
    """Version of the pipeline language."""

    name: Text
    """What the pipeline is called in reports and results."""

    input: Input = Input()
    """The picture that the network sees."""

    transform: RgbTransform = RgbTransform()
    """In which form the network reads the picture."""

    backbone: Backbone
    """The trunk that all heads share."""

    neck: Fpn | None = None
    """A feature pyramid between backbone and heads; null for none."""

    heads: Annotated[
        dict[Annotated[str, Field(pattern=HEAD_NAME)], Annotated[Head, ByType()]],
        AtLeast(1, "minProperties"),
        Field(json_schema_extra={"additionalProperties": False}),
    ]
    """The heads by name, at least one. A name is lower-case letters, digits and _, and starts with a letter."""

    reuse: Reuse = Reuse()
    """What is kept from one frame to the next."""

    schedule: Schedule = Schedule()
    """What happens when frames come faster than they can be worked on."""

    runtime: Runtime = Runtime()
    """On what the pipeline runs, and in which precision."""

    @field_validator("neck")
    @classmethod
    def _on_the_backbone(cls, neck: Fpn | None, info: ValidationInfo) -> Fpn | None:
        backbone = info.data.get("backbone")
        if neck and backbone:
            offer = Offer.of(backbone)
            faults = not_offered(neck.strides, offer.strides, offer.by)
            if faults:
                raise said_at("neck", [(("strides", *at), message, given) for at, message, given in faults])
        return neck

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the shared features that heads may tap, ascending."""
        return Offer.of(self.backbone, self.neck).strides
