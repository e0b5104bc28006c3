"""In which form the network reads the picture."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from sharedbb.spec.faults import (
    MISSING_FIELD,
    UNKNOWN_FIELD,
    alternatives,
    must_be_one_of,
    nearest,
    said,
    said_at,
    shown,
)
from sharedbb.spec.parts import AtLeast, Count, Flag, Number, Share, Side, Spec, Text, exactly

Bands = Literal["all", "low", "low_and_edges"]


class RgbTransform(Spec):
    """The network reads plain RGB pixels."""

    type: Literal["rgb"] = "rgb"
    """`rgb`: plain RGB pixels."""


class AutoTransform(Spec):
    """The fastest of the exact forms, by measurement."""

    type: Literal["auto"] = "auto"
    """`auto`: the fastest exact form for this source, device and backend, by measurement."""


class SpaceToDepthTransform(Spec):
    """Blocks of pixels become channels; the first convolution is folded to match. Exact."""

    type: Literal["space_to_depth"] = "space_to_depth"
    """`space_to_depth`: blocks of pixels become channels."""

    block: Literal[2, 4] = 2
    """Side of a block in pixels; must divide the stride of the first convolution."""


def _certifiable(certify: bool, info: ValidationInfo) -> bool:
    """Refuse a certificate where nothing is left out."""
    if certify and info.data.get("bands") == "all":
        raise said("needs bands that are left out: with bands 'all' the answers are exact")
    return certify


class HaarTransform(Spec):
    """Haar's wavelet decomposition, the first convolution folded to read its bands. Exact with all of them."""

    type: Literal["haar"] = "haar"
    """`haar`: Haar's wavelet decomposition."""

    levels: Literal[1, 2] = 1
    """How many times the picture is split; two levels need a first convolution of stride 4."""

    layout: Literal["mallat", "packet"] = "mallat"
    """`mallat`: each level splits the approximation of the one before; `packet`: each level splits every band."""

    bands: Bands = "all"
    """`all`: exact. `low`: the approximation alone. `low_and_edges`: all but diagonal detail. With bands left out the
    error is bounded by a certificate."""

    certify: Flag = False
    """Whether results say by how much the stem that ran on their frame can be off (`stem_error`); takes 2 to 10 ms."""

    @field_validator("certify")
    @classmethod
    def _of_something(cls, certify: bool, info: ValidationInfo) -> bool:
        return _certifiable(certify, info)


def _discrete(wavelet: str) -> str:
    import pywt

    known = pywt.wavelist(kind="discrete")
    if wavelet == "dmey":
        raise said("cannot be 'dmey': its filters do not give the picture back; take 'sym8' or 'db8', say")
    if wavelet not in known:
        near = get_close_matches(wavelet.lower(), known, n=4) or ["haar", "db2", "sym4", "bior2.2"]
        raise said(f"must be a discrete wavelet of PyWavelets, such as {alternatives(near)}, got {shown(wavelet)}")
    return wavelet


class WaveletTransform(Spec):
    """A wavelet decomposition by name, the first convolution folded to read its bands. Exact with all of them."""

    type: Literal["wavelet"] = "wavelet"
    """`wavelet`: a wavelet decomposition with PyWavelets' filters."""

    wavelet: Annotated[Text, AfterValidator(_discrete)] = "db2"
    """Name of a discrete wavelet of PyWavelets, orthogonal or biorthogonal."""

    levels: Literal[1, 2] = 1
    """How many times the picture is split; two levels need a first convolution of stride 4."""

    bands: Bands = "all"
    """`all`: exact. `low`: the approximation alone. `low_and_edges`: all but diagonal detail. With bands left out the
    error is bounded by a certificate."""

    certify: Flag = False
    """Whether results say by how much the stem that ran on their frame can be off (`stem_error`); takes 2 to 10 ms."""

    @field_validator("certify")
    @classmethod
    def _of_something(cls, certify: bool, info: ValidationInfo) -> bool:
        return _certifiable(certify, info)


class Yuv420Transform(Spec):
    """The decoder's own planes, the colour matrix folded into the first convolution."""

    type: Literal["yuv420"] = "yuv420"
    """`yuv420`: the decoder's planes, chroma at half size, without conversion to RGB."""

    matrix: Literal["auto", "bt601", "bt709"] = "auto"
    """The colour matrix; `auto`: by the stream's own tag."""

    range: Literal["auto", "limited", "full"] = "auto"
    """Whether luma spans 16 to 235 or 0 to 255; `auto`: by the stream's own tag."""


def _shrinking(sizes: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    faults = [
        ((at,), f"must be smaller than the size before, {list(before)}, got {list(size)}", size)
        for at, (before, size) in enumerate(pairwise(sizes), 1)
        if size[0] > before[0] or size[1] > before[1] or size == before
    ]
    if faults:
        raise said_at("sizes", faults)
    return sizes


def _at_most_three(sizes: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    if len(sizes) > 3:
        raise said(f"must have at most 3 entries, got {len(sizes)}")
    return sizes


class LowResolutionTransform(Spec):
    """The network at two or three sizes: a smaller one where time is short and its answers agree."""

    type: Literal["low_resolution"] = "low_resolution"
    """`low_resolution`: the network at two or three sizes of the picture."""

    sizes: Annotated[
        tuple[Annotated[tuple[Side, Side], exactly("height", "width")], ...],
        AtLeast(2),
        Field(json_schema_extra={"maxItems": 3}),
        AfterValidator(_at_most_three),
        AfterValidator(_shrinking),
    ]
    """Two or three sizes, each height and width in multiples of 32, the largest first: the input's own size."""

    budget: Annotated[Number, Field(gt=0, le=1)] = 0.02
    """Largest tolerated share of a head's answers that differ from those at the first size, as measured by the audit;
    above 0 and at most 1."""

    hold: Count = 30
    """Frames for which a size is kept at least before a larger one is tried again."""

    audit: Share = 0.02
    """Share of frames at a smaller size that are also computed at the first one, to measure the difference."""


Exact = RgbTransform | SpaceToDepthTransform | HaarTransform | WaveletTransform | Yuv420Transform
AnyTransform = Exact | AutoTransform | LowResolutionTransform

TRANSFORMS: dict[str, type[Spec]] = {
    "rgb": RgbTransform,
    "auto": AutoTransform,
    "space_to_depth": SpaceToDepthTransform,
    "haar": HaarTransform,
    "wavelet": WaveletTransform,
    "yuv420": Yuv420Transform,
    "low_resolution": LowResolutionTransform,
}
"""The transforms by type."""


def _typed(value: Any) -> Any:
    """A mapping whose type is known, or a model; ``rgb`` where the mapping is empty."""
    if isinstance(value, Spec):
        return value
    if not isinstance(value, Mapping):
        raise said(f"must be a mapping with a type, such as {{type: rgb}}, got {shown(value)}")
    if not value:
        return RgbTransform()
    if "type" not in value:
        raise _without_type(value)
    if not isinstance(value["type"], str) or value["type"] not in TRANSFORMS:
        raise said_at("transform", [(("type",), must_be_one_of(value["type"], [*TRANSFORMS]), value["type"])])
    return value


def _without_type(fields: Mapping[str, Any]) -> Exception:
    """Say that ``type`` is missing, or which field was probably meant to be it."""
    misspelt = nearest("type", [str(field) for field in fields])
    if misspelt:
        return said_at(
            "transform", [((misspelt,), "unknown field; did you mean 'type'?", fields[misspelt])], UNKNOWN_FIELD
        )
    missing = f"is missing; it must be {alternatives([*TRANSFORMS])}"
    return said_at("transform", [(("type",), missing, fields)], MISSING_FIELD)


Transform = Annotated[AnyTransform, Field(discriminator="type"), BeforeValidator(_typed)]
