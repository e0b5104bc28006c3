"""The parts of a pipeline that are not heads and transforms: input, backbone, neck, branches, reuse and runtime."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    Tag,
)
from pydantic_core import CoreSchema, core_schema

from sharedbb.registry import BACKBONES, BACKENDS, Registry
from sharedbb.sizes import Fit, Normalization, Size
from sharedbb.spec.faults import must_be_one_of, said, said_at, shown
from sharedbb.spec.meanings import describe

NORMALIZATIONS = {
    "imagenet": Normalization(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
    "unit": Normalization(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)),
    "none": Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}
"""The named normalisations, in grey levels 0–255: ImageNet's, to 0–1, and none at all."""

WEIGHT_FILES = (".sbb", ".safetensors", ".pth")
"""Endings by which ``weights`` is known to name a file."""


class Spec(BaseModel):
    """A part of a pipeline: immutable; unknown fields are errors; a field's docstring is its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        form = handler(schema)
        describe(cls, handler.resolve_ref_schema(form))
        return form


def _text(value: str) -> str:
    if not value or value != value.strip() or not value.isprintable():
        raise said(f"must be one line of printable text without spaces around it, got {shown(value)}")
    return value


def exactly(*names: str) -> BeforeValidator:
    """Say which values a list of fixed length wants, where it has another length or is no list."""

    def check(value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(names):
            raise said(f"must be a list [{', '.join(names)}], got {shown(value)}")
        return value

    return BeforeValidator(check)


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Marks a list or mapping that must have ``count`` entries; counted only once the entries themselves are right."""

    count: int
    keyword: str = "minItems"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._enough, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), self.keyword: self.count}

    def _enough(self, entries: Any) -> Any:
        if len(entries) < self.count:
            noun = "entry" if self.count == 1 else "entries"
            raise said(f"must have at least {self.count} {noun}, got {len(entries)}")
        return entries


def ascending(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse strides that repeat or go down."""
    pairs = enumerate(pairwise(strides), 1)
    faults = [((at,), f"must ascend without repeats, got {b} after {a}", b) for at, (a, b) in pairs if b <= a]
    if faults:
        raise said_at("strides", faults)
    return strides


def unique(words: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse words that were given before."""
    first: dict[str, int] = {}
    faults = []
    for at, word in enumerate(words):
        if first.setdefault(word, at) != at:
            faults.append(((at,), f"{word!r} is listed twice (number {first[word] + 1} and number {at + 1})", word))
    if faults:
        raise said_at("words", faults)
    return words


def not_offered(strides: Iterable[int], offered: tuple[int, ...], by: str) -> list[tuple[tuple[int], str, int]]:
    """A fault for each stride that ``by`` does not offer."""
    offers = ", ".join(map(str, offered))
    return [
        ((at,), f"{by} has no features at stride {stride}; it offers {offers}", stride)
        for at, stride in enumerate(strides)
        if stride not in offered
    ]


@dataclass(frozen=True, slots=True)
class RegisteredName:
    """Marks a text field that must be a registered name, or one of ``extra``; editors get the names as an enum."""

    registry: Registry
    extra: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """What is allowed at this moment."""
        return [*self.extra, *self.registry]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "enum": self.names}

    def _known(self, name: str) -> str:
        if name not in self.names:
            raise said(must_be_one_of(name, self.names))
        return name


Text = Annotated[str, Strict(), Field(min_length=1), AfterValidator(_text)]
Words = Annotated[tuple[Text, ...], AtLeast(1), AfterValidator(unique)]
Whole = Annotated[int, Strict()]
Count = Annotated[Whole, Field(ge=1)]
Channels = Annotated[Whole, Field(ge=1, le=4096)]
Number = Annotated[float, Strict()]
Above = Annotated[Number, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
Flag = Annotated[bool, Strict()]

Side = Annotated[Whole, Field(ge=32, le=8192, multiple_of=32)]
GreyLevel = Annotated[Number, Field(ge=0, le=255)]
GreySpread = Annotated[Number, Field(gt=0, le=255)]


class MeanStd(Spec):
    """A normalisation of your own: ``(x - mean) / std`` for each of red, green and blue."""

    mean: Annotated[tuple[GreyLevel, GreyLevel, GreyLevel], exactly("red", "green", "blue")]
    """What is subtracted, in grey levels, 0 to 255."""

    std: Annotated[tuple[GreySpread, GreySpread, GreySpread], exactly("red", "green", "blue")]
    """What is divided by, in grey levels, above 0 and at most 255."""


def _normalize_form(value: Any) -> str:
    return "mean_std" if isinstance(value, dict | MeanStd) else "name"


Normalize = Annotated[
    Annotated[Literal["imagenet", "unit", "none"], Tag("name")] | Annotated[MeanStd, Tag("mean_std")],
    Discriminator(_normalize_form),
]


class Input(Spec):
    """The picture that the network sees: its size, how a frame is fitted into it, how pixels are normalised."""

    size: Annotated[tuple[Side, Side], exactly("height", "width")] = (384, 640)
    """Height and width of the network's input in pixels, each a multiple of 32 from 32 to 8192."""

    fit: Fit = "letterbox"
    """How a frame of another shape is fitted: `letterbox` keeps all of it and adds bars, `stretch` ignores its
    proportions, `crop` fills the input and cuts the overhang."""

    normalize: Normalize = "imagenet"
    """How pixels become numbers: `imagenet` for its mean and deviation, `unit` for 0 to 1, `none` for 0 to 255, or a
    mapping of `mean` and `std`."""

    @property
    def network_size(self) -> Size:
        """Height and width of the network's input."""
        return Size(*self.size)

    @property
    def normalization(self) -> Normalization:
        """Mean and deviation per RGB channel, in grey levels 0–255."""
        if isinstance(self.normalize, MeanStd):
            return Normalization(self.normalize.mean, self.normalize.std)
        return NORMALIZATIONS[self.normalize]


def names_file(weights: str) -> bool:
    """Whether ``weights`` names a file (by its ending) and not torchvision weights."""
    return PurePath(weights).suffix in WEIGHT_FILES


def _weights(weights: str) -> str:
    if not names_file(weights) and not re.fullmatch(r"[A-Z][A-Z0-9_]*", weights):
        raise said(
            "must be a torchvision weights name such as DEFAULT or IMAGENET1K_V1, or a file ending in "
            f"{', '.join(WEIGHT_FILES[:-1])} or {WEIGHT_FILES[-1]}, got {shown(weights)}"
        )
    return weights


class Backbone(Spec):
    """Which network is the trunk, and with which weights."""

    arch: Annotated[str, Strict(), RegisteredName(BACKBONES)]
    """The backbone's registered name."""

    weights: Annotated[Text, AfterValidator(_weights)] | None = None
    """Where the weights come from: a file ending in .sbb, .safetensors or .pth, relative to the pipeline file;
    torchvision's by name, such as DEFAULT or IMAGENET1K_V1; or null for random ones from a fixed seed."""

    decomposition: Literal["none", "two_branch"] = "none"
    """`none`: the network reads the whole picture. `two_branch`: it reads the picture at half size, and a light branch
    adds the fine detail; strides and channels stay, so that heads fit."""


class Fpn(Spec):
    """A feature pyramid between backbone and heads: every level with the same number of channels."""

    type: Literal["fpn"] = "fpn"
    """`fpn`: a feature pyramid network."""

    channels: Channels = 64
    """Channels of every level, 1 to 4096."""

    strides: Annotated[tuple[Count, ...], AtLeast(1), AfterValidator(ascending)] = (4, 8, 16, 32)
    """Strides of the levels, ascending, each one that the backbone offers."""


def _place(value: Any) -> Any:
    if isinstance(value, str) and value:
        return _text(value)
    if type(value) is int and value >= 0:
        return value
    raise said(f"must be a stride, 0 for the picture itself, or the name of a step, got {shown(value)}")


class Branch(Spec):
    """The trunk behind one of its features once more, with weights of its own, for some of the heads."""

    after: Annotated[Annotated[Whole, Field(ge=0)] | Annotated[str, Field(min_length=1)], BeforeValidator(_place)]
    """Up to where the trunk is shared: a stride that the backbone offers, the name of one of its steps, such as
    `features.5`, or 0 for nothing at all."""

    heads: Words
    """Names of the heads that read the branch instead of the trunk, at least 1."""


class Reuse(Spec):
    """Whether features are carried over between frames, and at what price."""

    mode: Literal["off", "exact", "bounded", "keyframe", "auto"] = "off"
    """`off`: every frame is computed whole. `exact`: only what changed is computed, with the same answers. `bounded`:
    changes that are hardly above the noise are left out and deep features may lag, within `budget`. `keyframe`: answers
    of a key frame are moved along with the picture. `auto`: what is fastest within `budget`, scene by scene."""

    budget: Annotated[Number, Field(gt=0, le=1)] = 0.02
    """Largest tolerated share of a head's answers that differ from a dense run, beyond those that one grey level of
    noise changes anyway, as measured by the audit; above 0 and at most 1."""

    max_age_ms: Above | None = None
    """Milliseconds that a change may wait to be seen by every head, at most; null for no limit."""

    refresh: Annotated[Number, Field(ge=0, le=1)] = 0.005
    """Share of the picture that is taken anew on every frame, changed or not, walking over all of it: 0.005 means that
    nothing is older than 200 frames."""

    audit: Share = 0.02
    """Share of frames that are also computed whole, to measure the error and to correct the thresholds; 0 for none."""

    key_every: Annotated[Whole, Field(ge=1, le=240)] = 4
    """Most frames from one key frame to the next, 1 to 240."""

    fresh: Literal[0, 4, 8, 16] = 0
    """In keyframe mode, the stride up to which features are computed on every frame instead of being moved along;
    0 for none."""

    motion: Literal["optical", "codec"] = "optical"
    """In keyframe and auto mode, how motion is found. `optical`: optical flow. `codec`: the vectors in the coded video,
    where they lead back to the key frame and explain the picture, else optical flow."""

    @property
    def by_codec(self) -> bool:
        """Whether a decoder's motion vectors are of use."""
        return self.motion == "codec" and self.mode in ("keyframe", "auto")


class Schedule(Spec):
    """How frames wait for their turn."""

    queue: Count = 4
    """How many decoded frames are held ready, at least 1."""

    when_late: Literal["drop_oldest", "wait"] = "drop_oldest"
    """What a live source does when the queue is full: `drop_oldest` drops and counts the oldest frame, `wait` holds the
    source up. Files always wait."""

    deadline_ms: Above | None = None
    """Milliseconds that the networks of one frame may take: heads that do not fit in wait for a later frame; null for
    no deadline."""


class Runtime(Spec):
    """Device, backend, precision, threads and cache."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device; `auto` takes CUDA where there is one."""

    backend: Annotated[str, Strict(), RegisteredName(BACKENDS, extra=("auto",))] = "auto"
    """What runs the network, by its registered name; `auto` measures and chooses."""

    precision: Literal["auto", "f32", "bf16", "f16"] = "auto"
    """Number format of features and weights; `auto` never takes a lower one that is not faster."""

    threads: Count | None = None
    """CPU threads for the network, at least 1; null for one on every core. Several engines of fewer threads run side by
    side."""

    cache: Flag = True
    """Whether compiled networks and measurements are kept on disk for the next start."""
