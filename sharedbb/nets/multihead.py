"""One trunk, perhaps with branches, and many heads: the network of a pipeline, for training and for capture."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from sharedbb.errors import GraphError
from sharedbb.nets import weights as weight_files
from sharedbb.nets.backbones import seeded
from sharedbb.nets.branches import Branch, Trunk, chain
from sharedbb.nets.necks import Fpn
from sharedbb.nets.two_branch import TwoBranch, two_branch
from sharedbb.registry import BACKBONES, HEADS, resolve

ONLY_PART = "output"
"""Part name of a head whose forward returns a bare tensor."""


class BackboneChoice(Protocol):
    """Which backbone, with which weights, whole or decomposed (``"none"`` or ``"two_branch"``)."""

    arch: str
    weights: str | None
    decomposition: str


class PipelineLike(Protocol):
    """The fields of a pipeline that decide its network, apart from ``branches``, which it may lack."""

    @property
    def backbone(self) -> Any:
        """Arch, weights and decomposition."""
        ...

    @property
    def neck(self) -> Any:
        """The neck's fields, or None."""
        ...

    @property
    def heads(self) -> Mapping[str, Any]:
        """The heads' fields by name."""
        ...


class MultiHead(nn.Module):
    """A backbone, perhaps a neck, and named heads that read the same features, or those of one of the branches.

    Forward takes a normalised NCHW float image ``(rgb in 0–255 − mean) / std`` and returns a flat dict of tensors keyed
    ``"head.part"``; a head that returns a bare tensor has the part ``"output"``. State-dict prefixes are ``backbone.``,
    ``neck.``, ``branches.<name>.`` and ``heads.<name>.``.

    ``taps`` gives, for each head, the strides it reads: the neck's where there is a neck, otherwise the backbone's.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module | None,
        heads: Mapping[str, nn.Module],
        taps: Mapping[str, Sequence[int]],
        branches: Mapping[str, Branch] | None = None,
    ) -> None:
        """Raises GraphError when a head has no taps, or taps a stride that the features do not have."""
        super().__init__()
        branches = branches or {}
        self.backbone = Trunk(chain(backbone), {one.place for one in branches.values()}) if branches else backbone
        self.neck = neck
        self.branches = nn.ModuleDict(branches)
        self.heads = nn.ModuleDict()
        self.taps = {name: tuple(taps.get(name, ())) for name in heads}
        available = shared_channels(backbone, neck)
        for name, head in heads.items():
            absent = [stride for stride in self.taps[name] if stride not in available]
            if absent or not self.taps[name]:
                got = f"stride {absent[0]}, which does not exist" if absent else "nothing"
                raise GraphError(f"head {name!r} taps {got}; the shared features have strides {sorted(available)}")
            if hasattr(self.heads, name):
                raise GraphError(f"a head cannot be called {name!r}: torch modules use that name; add a word to it")
            self.heads[name] = head

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """All heads on one pass of the trunk."""
        trunk: Any = self.backbone(image)
        shared: Mapping[int, Tensor] = trunk if self.neck is None else self.neck(trunk)
        own: dict[str, Mapping[int, Tensor]] = {}
        for branch in self.branches.values():
            assert isinstance(branch, Branch)
            features = branch(trunk)
            own.update((head, features) for head in branch.heads)
        answers: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            features = own.get(name, shared)
            answer = head(tuple(features[stride] for stride in self.taps[name]))
            parts = {ONLY_PART: answer} if isinstance(answer, Tensor) else answer
            answers.update({f"{name}.{part}": value for part, value in parts.items()})
        return answers

    def completed(self, state: weight_files.State) -> dict[str, Tensor]:
        """A state dict for this network, where ``state`` is that of a plainer one.

        The new parts of a two-branch backbone are as they are here; branches have what the trunk has in their place.
        What ``state`` has stays as it is.
        """
        found = dict(state)
        if isinstance(self.backbone, TwoBranch):
            found = self.backbone.completed(found, "backbone.")
        if any(name.startswith("branches.") for name in found):
            return found
        for name in self.state_dict():
            room, _, rest = name.partition(".")
            like = rest.partition(".")[2]
            if room == "branches" and like in found:
                found[name] = found[like]
        return found


def build(pipeline: PipelineLike, *, state: Mapping[str, Tensor] | None = None) -> MultiHead:
    """The network of a pipeline, its parts looked up in the registries, in training mode.

    Weights: ``state`` if given (of a whole network, strict); otherwise those of ``pipeline.backbone.weights``, which
    may name a file of a backbone or of a whole network (one that has ``heads.``); weights of a plain network fit a
    two-branch one, whose new parts then stay at their start, and those without branches one with branches, which then
    begin like the trunk. What they do not cover is random, seeded by the head's name: the same pipeline gives the same
    network, and adding a head or a branch changes no answer of another.

    Raises WeightsError, RegistryError or GraphError.
    """
    choice: BackboneChoice = pipeline.backbone
    source = "the given weights"
    if state is None and choice.weights is not None and weight_files.is_file(choice.weights):
        found = weight_files.read_state(choice.weights)
        if any(name.startswith("heads.") for name in found):
            state, source = found, f"the weights {choice.weights}"
    backbone = _backbone(choice, None if state is not None else choice.weights)
    neck = None
    if pipeline.neck is not None:
        neck = seeded(_seed("neck"), lambda: Fpn(backbone.channels, pipeline.neck))
    channels = shared_channels(backbone, neck)
    heads = {name: _head(name, spec, channels) for name, spec in pipeline.heads.items()}
    taps = {name: spec.taps for name, spec in pipeline.heads.items()}
    branches = {
        name: Branch(backbone, neck, spec.after, {head: taps[head] for head in spec.heads if head in taps})
        for name, spec in getattr(pipeline, "branches", {}).items()
        if not taps.keys().isdisjoint(spec.heads)  # a part of the pipeline may be asked for
    }
    network = MultiHead(backbone, neck, heads, taps, branches)
    if state is not None:
        weight_files.put(network.completed(state), network, source, exact=True)
    return network


def _backbone(choice: BackboneChoice, weights: str | None) -> Any:
    builder = resolve(BACKBONES[choice.arch].build)
    match choice.decomposition:
        case "none":
            return builder(weights)
        case "two_branch":
            return two_branch(builder, weights)
    raise GraphError(f"no decomposition named {choice.decomposition!r} (known: none, two_branch)")


def shared_channels(backbone: nn.Module, neck: nn.Module | None) -> dict[int, int]:
    """Stride → channels of the features that heads may tap."""
    owner: Any = backbone if neck is None else neck
    return dict(owner.channels)


def _head(name: str, spec: Any, channels: Mapping[int, int]) -> nn.Module:
    absent = [stride for stride in spec.taps if stride not in channels]
    if absent:
        raise GraphError(
            f"head {name!r} taps stride {absent[0]}, which does not exist; the shared features have {sorted(channels)}"
        )
    builder = resolve(HEADS[spec.type].build)
    head: nn.Module = seeded(_seed(name), lambda: builder(spec, channels))
    return head


def _seed(name: str) -> int:
    return zlib.crc32(name.encode())
