"""A graph made to read its picture in another form: the stem found, folded and put in place. Imports torch.

The stem is every convolution that reads the picture (merged networks may have several).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from sharedbb.compiler.rewriting import Convolution, Rewriting
from sharedbb.errors import TransformError
from sharedbb.graph.ir import Graph, Node, Weight
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.graph.schema import arguments, pair
from sharedbb.spec.transforms import (
    AnyTransform,
    AutoTransform,
    Exact,
    HaarTransform,
    LowResolutionTransform,
    RgbTransform,
    SpaceToDepthTransform,
    WaveletTransform,
    Yuv420Transform,
)
from sharedbb.transforms.bands import Bands, Decomposition, phases, wavelet_bands
from sharedbb.transforms.certificate import Certificate
from sharedbb.transforms.colour import Colour
from sharedbb.transforms.fold import Folded, Pair, fold_bands, fold_planes
from sharedbb.transforms.wavelet_filters import deepest, filter_bank
from sharedbb.transforms.yuv420 import PLANES
from sharedbb.types import Normalization, Plane, rounded_up


@dataclass(frozen=True, slots=True)
class StemFacts:
    """What a transform did to one convolution of the stem.

    ``folded``: what stands for it, one convolution for each resolution. ``bytes_before`` and ``bytes_after``: what the
    network is fed with for each picture, in uint8. ``exact``: on what condition the answers are the same, empty for
    none; where they are not, there is a ``certificate``.
    """

    origin: str
    kernel: Pair
    stride: Pair
    padding: Pair
    taps: int
    folded: tuple[Folded, ...]
    bytes_before: int
    bytes_after: int
    exact: str = ""
    certificate: Certificate | None = None

    @property
    def taps_after(self) -> int:
        """Multiply-adds for one output, those of the analysis not counted."""
        return sum(one.taps for one in self.folded)

    def __str__(self) -> str:
        before = f"{_by(self.kernel)} stride {_both(self.stride)} pad {_both(self.padding)}, {self.taps} taps"
        after = " + ".join(
            f"{_by(one.kernel)} stride {_both(one.stride)} pads {','.join(map(str, one.pads))} on {one.weight.shape[1]}"
            for one in self.folded
        )
        error = f"exact {self.exact}".rstrip()
        if self.certificate is not None:
            largest, left_out = float(self.certificate.bound().max()), ", ".join(self.certificate.names)
            error = f"without {left_out} off by {rounded_up(largest)} at most on any picture"
        return (
            f"{self.origin}: {before} → {after} channels, {self.taps_after} taps; "
            f"{self.bytes_before} → {self.bytes_after} bytes a frame; {error}"
        )


@dataclass(frozen=True)
class Transformed:
    """A graph that reads another form of the picture.

    ``planes``: the graph's inputs, how large they are and how they are normalised. ``stems``: what was done to each
    convolution.
    """

    graph: Graph
    planes: tuple[Plane, ...]
    stems: tuple[StemFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stem:
    """A convolution that reads the picture: its weight [outputs, 3, height, width], its bias as the call has it."""

    node: Node
    weight: Tensor
    bias: Any
    stride: Pair
    padding: Pair

    def on(self, bands: Bands, source: Node) -> Folded:
        """The convolution as it reads some of the picture's bands, which are in ``source``."""
        return fold_bands(self.weight, self.stride, self.padding, bands).fitted(_sides(source), _sides(self.node))

    def facts(self, folded: Sequence[Folded], inputs: Sequence[Node]) -> StemFacts:
        """What became of it where the network's inputs are these."""
        _, channels, height, width = self.weight.shape
        outer = inputs[0].shape[2] * inputs[0].shape[3]
        return StemFacts(
            origin=self.node.origin or self.node.name,
            kernel=(height, width),
            stride=self.stride,
            padding=self.padding,
            taps=channels * height * width,
            folded=tuple(folded),
            bytes_before=channels * outer,
            bytes_after=sum(math.prod(node.shape[1:]) for node in inputs),
        )


def transformed(
    graph: Graph, transform: AnyTransform, normalization: Normalization, colour: Colour | None = None
) -> Transformed:
    """The same network reading the picture in the form that ``transform`` says, batch norms folded.

    ``graph`` reads one normalised RGB picture, [N, 3, H, W] float. ``colour`` is the planes' matrix and range: for
    ``yuv420`` alone, what ``transform`` leaves to ``auto``. ``rgb`` and ``low_resolution`` leave the graph as it is.

    Raises TransformError where the stem cannot be folded, or the picture's sides do not fit, saying what stands where.
    """
    match transform:
        case RgbTransform() | LowResolutionTransform():
            return Transformed(graph, Plane.rgb(normalization))
        case AutoTransform():
            raise TransformError("auto names no transform by itself: what is fastest is measured first")
        case Yuv420Transform():
            return _on_planes(fold_batch_norms(graph), normalization, colour_of(transform, colour))
    if not isinstance(transform, SpaceToDepthTransform):
        _check_levels(graph, transform)
    return _on_bands(fold_batch_norms(graph), _decomposition(transform), normalization)


def exact_transforms(graph: Graph, *, planes: bool) -> tuple[Exact, ...]:
    """The exact forms worth measuring for this graph, plain RGB first; ``planes``: the source gives 4:2:0 planes.

    Full wavelet decompositions are left out: their stem does what that of ``space_to_depth`` does, after more work.
    """
    possible: list[Exact] = [RgbTransform()]
    tried: list[Exact] = [SpaceToDepthTransform(block=2), SpaceToDepthTransform(block=4)]
    for transform in (*tried, *([Yuv420Transform()] if planes else [])):
        try:
            _found(graph, transform.block if isinstance(transform, SpaceToDepthTransform) else 2)
        except TransformError:
            continue
        possible.append(transform)
    return tuple(possible)


def colour_of(transform: Yuv420Transform, tagged: Colour | None) -> Colour:
    """Matrix and range of the planes: what the transform says, otherwise the stream's tags, otherwise the default."""
    tagged = tagged or Colour()
    return Colour(
        tagged.matrix if transform.matrix == "auto" else transform.matrix,
        tagged.range if transform.range == "auto" else transform.range,
    )


def _check_levels(graph: Graph, transform: HaarTransform | WaveletTransform) -> None:
    """Refuse levels of which no coefficient would be free of the picture's borders."""
    name = transform.wavelet if isinstance(transform, WaveletTransform) else "haar"
    sides = graph.by_name[graph.inputs[0]].shape[-2:]
    most = deepest(sides, [filter_bank(name)] * 2)
    if transform.levels > most:
        raise TransformError(
            f"transform.levels: {transform.levels} levels of {name} are too deep for a picture of "
            f"{sides[1]}x{sides[0]}; it takes {most} at most"
        )


def _decomposition(transform: SpaceToDepthTransform | HaarTransform | WaveletTransform) -> Decomposition:
    match transform:
        case SpaceToDepthTransform():
            return phases(transform.block)
        case HaarTransform():
            return wavelet_bands("haar", transform.levels, transform.layout, transform.bands)
    return wavelet_bands(transform.wavelet, transform.levels, "mallat", transform.bands)


def _on_bands(graph: Graph, decomposition: Decomposition, normalization: Normalization) -> Transformed:
    """The graph reading bands that are made of the RGB picture inside it."""
    picture, stems = _found(graph, decomposition.block)
    written = Rewriting(graph, [picture])
    sources = [(bands, *written.bands(picture, bands)) for bands in decomposition.kept]
    convolutions, facts = {}, []
    for stem in stems:
        reads = [(node, _scaled(stem.on(bands, node), gain)) for bands, node, gain in sources]
        left_out = [
            (bands, fold_bands(stem.weight, stem.stride, stem.padding, bands).weight.numpy())
            for bands in decomposition.dropped
        ]
        certificate = Certificate.of(left_out, normalization) if left_out else None
        convolutions[stem.node.name] = Convolution(stem.bias, tuple(reads))
        facts.append(replace(stem.facts([folded for _, folded in reads], [picture]), certificate=certificate))
    return Transformed(written.finished(convolutions), Plane.rgb(normalization), tuple(facts))


def _scaled(folded: Folded, gain: float) -> Folded:
    return replace(folded, weight=folded.weight * gain)


def _on_planes(graph: Graph, normalization: Normalization, colour: Colour) -> Transformed:
    """The graph reading luma at full size and chroma at half size, each sample of it for 2×2 pixels."""
    picture, stems = _found(graph, 2)
    batch, _, height, width = picture.shape
    half = (height // 2, width // 2)
    planes = [
        replace(picture, name=name, shape=(batch, 1, *side))
        for name, side in zip(PLANES, ((height, width), half, half), strict=True)
    ]
    written = Rewriting(graph, planes)
    source = written.interleaved(*planes)
    to_rgb, _ = colour.to_rgb()
    matrix = to_rgb / np.array(normalization.std)[:, None]
    convolutions, facts = {}, []
    for stem in stems:
        folded = fold_planes(stem.weight, stem.stride, stem.padding, matrix).fitted(half, _sides(stem.node))
        convolutions[stem.node.name] = Convolution(stem.bias, ((source, folded),))
        facts.append(replace(stem.facts([folded], planes), exact="for replicated chroma"))
    from_rgb, offset = colour.from_rgb()
    means = from_rgb @ np.array(normalization.mean) + offset
    read = tuple(
        Plane(name, 1, stride, (float(mean),), (1.0,))
        for name, stride, mean in zip(PLANES, (1, 2, 2), means, strict=True)
    )
    return Transformed(written.finished(convolutions), read, tuple(facts))


def _found(graph: Graph, block: int) -> tuple[Node, list[_Stem]]:
    """The picture and all convolutions that read it, all of which can read blocks of it. Raises TransformError."""
    if len(graph.inputs) != 1:
        raise TransformError(f"only a network that reads one picture can be transformed, not {', '.join(graph.inputs)}")
    picture = graph.by_name[graph.inputs[0]]
    if len(picture.shape) != 4 or picture.shape[1] != 3 or not picture.dtype.is_floating_point:
        got = f"{picture.shape} {picture.dtype}"
        raise TransformError(f"only a picture of shape (N, 3, height, width) float can be transformed, not {got}")
    if picture.shape[2] % block or picture.shape[3] % block:
        raise TransformError(
            f"blocks of {block} pixels need sides that are multiples of {block}, "
            f"the network's input is {picture.shape[3]}x{picture.shape[2]}"
        )
    if picture.name in graph.outputs.values():
        raise TransformError("the picture itself is an answer: only the transform rgb leaves it as it is")
    stems = [_stem(graph, graph.by_name[name], picture.name) for name in graph.users[picture.name]]
    for stem in stems:
        if stem.stride[0] % block or stem.stride[1] % block:
            raise TransformError(
                f"{_where(stem.node)} has stride {_both(stem.stride)}, of which blocks of {block} pixels are no divisor"
            )
    return picture, stems


def _stem(graph: Graph, node: Node, picture: str) -> _Stem:
    if node.kind not in ("conv2d", "convolution"):
        raise TransformError(f"{_where(node)} reads the picture; only convolutions can read another form of it")
    args = arguments(node)
    weight = args["weight"]
    if args.get("transposed") or node.values != (picture,) or not isinstance(weight, Weight):
        raise TransformError(f"{_where(node)} is no plain convolution of the picture with constant weights")
    groups, dilation = args["groups"], pair(args["dilation"])
    if groups != 1 or dilation != (1, 1):
        raise TransformError(f"{_where(node)} has groups {groups} and dilation {_both(dilation)}; both must be 1")
    padding = {"valid": 0, "same": 0}.get(args["padding"], args["padding"])  # "same" exists at stride 1 only
    return _Stem(node, graph.weights[weight.digest], args["bias"], pair(args["stride"]), pair(padding))


def _where(node: Node) -> str:
    return f"{node.origin or node.name} ({node.kind})"


def _sides(node: Node) -> Pair:
    return node.shape[2], node.shape[3]


def _by(sides: Pair) -> str:
    return f"{sides[0]}×{sides[1]}"


def _both(settings: Pair) -> str:
    """One number where both axes have the same."""
    return str(settings[0]) if settings[0] == settings[1] else _by(settings)
