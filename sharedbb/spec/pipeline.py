"""A whole pipeline: one input, one backbone, any number of heads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from sharedbb.spec.faults import Fault, must_be_one_of, said, said_at, shown
from sharedbb.spec.heads import ByType, Head, Offer
from sharedbb.spec.parts import (
    AtLeast,
    Backbone,
    Branch,
    Fpn,
    Input,
    Reuse,
    Runtime,
    Schedule,
    Spec,
    Text,
    not_offered,
)
from sharedbb.spec.transforms import LowResolutionTransform, RgbTransform, Transform

HEAD_NAME = r"^[a-z][a-z0-9_]*$"

RESERVED = frozenset(
    {
        *("add_module", "apply", "bfloat16", "buffers", "call_super_init", "children", "clear", "compile"),
        *("cpu", "cuda", "double", "dump_patches", "eval", "extra_repr", "float", "forward"),
        *("get_buffer", "get_extra_state", "get_parameter", "get_submodule", "half", "ipu", "items", "keys"),
        *(
            "load_state_dict",
            "modules",
            "mtia",
            "named_buffers",
            "named_children",
            "named_modules",
            "named_parameters",
            "parameters",
        ),
        *(
            "pop",
            "register_backward_hook",
            "register_buffer",
            "register_forward_hook",
            "register_forward_pre_hook",
            "register_full_backward_hook",
            "register_full_backward_pre_hook",
            "register_load_state_dict_post_hook",
        ),
        *(
            "register_load_state_dict_pre_hook",
            "register_module",
            "register_parameter",
            "register_state_dict_post_hook",
            "register_state_dict_pre_hook",
            "requires_grad_",
            "set_extra_state",
            "set_submodule",
        ),
        *("share_memory", "state_dict", "to", "to_empty", "train", "training", "type", "update"),
        *("values", "xpu", "zero_grad"),
    }
)
"""Names that torch's module dictionaries have for themselves, which no head can have."""


def _free(name: str) -> str:
    if name in RESERVED:
        raise said(f"a head cannot be called {name!r}, which means something to torch; add a word to it")
    return name


def _branch_name(name: str) -> str:
    if not re.fullmatch(HEAD_NAME, name) or name in RESERVED:
        raise said(
            "a branch's name must be lower-case letters, digits and _, start with a letter, and mean nothing to torch, "
            f"got {shown(name)}"
        )
    return name


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

    transform: Transform = RgbTransform()
    """In which form the network reads the picture."""

    backbone: Backbone
    """The trunk that all heads share."""

    neck: Fpn | None = None
    """A feature pyramid between backbone and heads; null for none."""

    heads: Annotated[
        dict[Annotated[str, Field(pattern=HEAD_NAME), AfterValidator(_free)], Annotated[Head, ByType()]],
        AtLeast(1, "minProperties"),
        Field(json_schema_extra={"additionalProperties": False}),
    ]
    """The heads by name, at least one. A name is lower-case letters, digits and _, and starts with a letter."""

    branches: Annotated[
        dict[Annotated[str, AfterValidator(_branch_name)], Branch],
        Field(json_schema_extra={"propertyNames": {"pattern": HEAD_NAME}}),
    ] = {}  # noqa: RUF012 - pydantic copies it
    """Parts of the trunk that are there once more, each for some heads, by name. At least one head stays on the
    trunk."""

    reuse: Reuse = Reuse()
    """What is kept from one frame to the next."""

    schedule: Schedule = Schedule()
    """What happens when frames come faster than they can be worked on."""

    runtime: Runtime = Runtime()
    """On what the pipeline runs, and in which precision."""

    @field_validator("transform")
    @classmethod
    def _of_the_input(cls, transform: Transform, info: ValidationInfo) -> Transform:
        picture = info.data.get("input")
        if isinstance(transform, LowResolutionTransform) and picture and transform.sizes[0] != picture.size:
            message = f"must be the input's size, {list(picture.size)}, got {list(transform.sizes[0])}"
            raise said_at("transform", [(("sizes", 0), message, transform.sizes[0])])
        return transform

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

    @field_validator("branches")
    @classmethod
    def _of_the_trunk(cls, branches: dict[str, Branch], info: ValidationInfo) -> dict[str, Branch]:
        backbone, heads = info.data.get("backbone"), info.data.get("heads")
        if not branches or not backbone or heads is None or "neck" not in info.data:
            return branches
        if backbone.decomposition != "none":
            raise said(f"need a backbone with the decomposition 'none', got {backbone.decomposition!r}")
        faults = [
            *_not_in_the_trunk(branches, Offer.of(backbone)),
            *_not_their_heads(branches, heads),
        ]
        if not faults and not info.data["neck"]:
            faults = [*_empty(branches, heads)]
        if faults:
            raise said_at("branches", faults)
        if len(heads) == sum(len(branch.heads) for branch in branches.values()):
            raise said("every head is in a branch, and nothing reads the trunk itself; leave one branch out")
        return branches

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the shared features that heads may tap, ascending."""
        return Offer.of(self.backbone, self.neck).strides


def _not_in_the_trunk(branches: Mapping[str, Branch], offer: Offer) -> Iterator[Fault]:
    """Branches that begin at a stride which the backbone does not offer; names of steps only the network knows."""
    for name, branch in branches.items():
        if isinstance(branch.after, int) and branch.after:
            for _, message, given in not_offered([branch.after], offer.strides, offer.by):
                yield (name, "after"), message, given


def _not_their_heads(branches: Mapping[str, Branch], heads: Mapping[str, Head]) -> Iterator[Fault]:
    """Heads that are not there, or in two branches."""
    owner: dict[str, str] = {}
    for name, branch in branches.items():
        for at, head in enumerate(branch.heads):
            if head not in heads:
                yield (name, "heads", at), must_be_one_of(head, [*heads]), head
            elif owner.setdefault(head, name) != name:
                yield (name, "heads", at), f"{head!r} is in the branch {owner[head]!r} already", head


def _empty(branches: Mapping[str, Branch], heads: Mapping[str, Head]) -> Iterator[Fault]:
    """Branches of whose own features, where there is no neck, no head reads any."""
    for name, branch in branches.items():
        deepest = max(heads[head].taps[-1] for head in branch.heads)
        if isinstance(branch.after, int) and deepest <= branch.after:
            message = f"its heads tap nothing behind stride {branch.after}, only up to {deepest}; leave the branch out"
            yield (name, "after"), message, branch.after
