"""Networks put together: a specialist's later steps and heads on the first steps of another trunk, and several of those
on one trunk, as branches.

The first steps are the stem: one and the same for all, and frozen. A *depth* says how far it goes: a stride of the
trunk, the name of one of its steps, 0 for nothing at all, or ALL.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sharedbb import artifact
from sharedbb.errors import CompressionError, GraphError
from sharedbb.graph.cost import cost
from sharedbb.graph.cut import heads_of_nodes
from sharedbb.learn.network import Network
from sharedbb.nets.branches import PICTURE, Branch, chain, step_at
from sharedbb.nets.multihead import MultiHead
from sharedbb.spec.parts import Branch as BranchSpec

Depth = int | str

ALL = "all"
"""The depth at which everything is shared, the neck too, and only the heads are their own."""


@dataclass(frozen=True, slots=True)
class Specialist:
    """A network that was trained for some heads of a pipeline, by name; of its own pipeline it may have more."""

    name: str
    network: Network
    heads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Graft:
    """A specialist's heads with its later steps on the stem of another trunk, which goes as far as ``after`` says."""

    name: str
    after: Depth
    network: Network

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads."""
        return tuple(self.network.pipeline.heads)


def specialist(trunk: Network, name: str, network: Network, heads: Sequence[str] = ()) -> Specialist:
    """A specialist for ``heads`` of the trunk's pipeline; without any, for those that both networks have.

    Raises CompressionError where the two do not fit: another backbone, neck or normalisation, heads that differ,
    something quantized, branches.
    """
    ours, theirs = trunk.pipeline, network.pipeline
    for whose, one in ((ours.name, trunk), (name, network)):
        if one.scheme is not None or one.pipeline.branches or one.pipeline.backbone.decomposition != "none":
            what = "is quantized" if one.scheme else "has branches" if one.pipeline.branches else "is decomposed"
            raise CompressionError(f"{whose} {what}; sharing begins with plain networks")
    for what, mine, other in (
        ("backbone", ours.backbone.arch, theirs.backbone.arch),
        ("neck", ours.neck, theirs.neck),
        ("normalization", ours.input.normalization, theirs.input.normalization),
    ):
        if mine != other:
            raise CompressionError(f"{name} has another {what} than {ours.name}: {other} for {mine}")
    chosen = tuple(heads) or tuple(head for head in ours.heads if head in theirs.heads)
    if not chosen:
        raise CompressionError(f"{name} has none of the heads {', '.join(ours.heads)}, only {', '.join(theirs.heads)}")
    for head in chosen:
        _check_head(trunk, name, network, head)
    return Specialist(name, network, chosen)


def _check_head(trunk: Network, name: str, network: Network, head: str) -> None:
    for whose, heads in ((trunk.pipeline.name, trunk.pipeline.heads), (name, network.pipeline.heads)):
        if head not in heads:
            raise CompressionError(f"{whose} has no head {head!r}, only {', '.join(heads)}")
    mine, other = ((one.type, one.taps, artifact.class_names(one)) for one in (trunk.pipeline.heads[head], heads[head]))
    if mine != other:
        raise CompressionError(f"the head {head!r} of {name} is another: {other} for {mine}")


def graft(trunk: Network, one: Specialist, after: Depth) -> Graft:
    """The specialist's heads, neck and later steps on copies of the trunk's steps up to ``after``.

    Raises CompressionError for a depth that the trunk does not have, and where the layers do not fit: pruned to other
    widths, say.
    """
    module = one.network.copy()
    if not isinstance(module, MultiHead) or not isinstance(trunk.module, MultiHead):
        raise CompressionError(f"{one.name} cannot be grafted: it is no network of a pipeline")
    module.heads = nn.ModuleDict({name: module.heads[name] for name in one.heads})
    module.taps = {name: module.taps[name] for name in one.heads}
    for path in stem(trunk, after):
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, copy.deepcopy(trunk.module.get_submodule(path)))
    heads = {name: trunk.pipeline.heads[name] for name in one.heads}
    made = Network(trunk.pipeline.model_copy(update={"heads": heads}), module.eval())
    try:
        with torch.no_grad():
            module(torch.zeros(1, 3, 64, 64))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CompressionError(f"{one.name} does not fit on {trunk.pipeline.name} behind {after}: {reason}") from error
    return Graft(one.name, after, made)


def stem(trunk: Network, after: Depth) -> tuple[str, ...]:
    """Paths of the modules that are shared: the steps of the backbone up to ``after``, and the neck for ALL.

    Raises CompressionError for a depth that the trunk does not have.
    """
    backbone = trunk.module.get_submodule("backbone")
    try:
        steps = chain(backbone).steps
        place = steps[-1] if after == ALL else step_at(backbone, after)
    except GraphError as error:
        raise CompressionError(f"{trunk.pipeline.name} cannot share up to {after!r}: {error}") from error
    shared = () if place == PICTURE else steps[: steps.index(place) + 1]
    neck = ("neck",) if after == ALL and trunk.pipeline.neck is not None else ()
    return (*(f"backbone.{step}" for step in shared), *neck)


def freeze(module: nn.Module, paths: Sequence[str]) -> None:
    """Let no training change the weights of these parts; their statistics change unless they are ``still`` as well."""
    for path in paths:
        module.get_submodule(path).requires_grad_(False)


@contextmanager
def still(module: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Inside, these parts are in eval mode: batch norms use their statistics and leave them as they are."""
    modes = {path: module.get_submodule(path).training for path in paths}
    for path in paths:
        module.get_submodule(path).eval()
    try:
        yield
    finally:
        for path, mode in modes.items():
            module.get_submodule(path).train(mode)


def joined(trunk: Network, grafts: Sequence[Graft]) -> Network:
    """One network of the trunk and all grafts on it: their stems are the trunk's, their later steps its branches.

    Heads that no graft has stay as they are. Where no head reads what the trunk has behind the longest stem, the later
    steps of a graft take its place, so that nothing is kept that nobody needs.
    """
    heads = {name: one.network.module.get_submodule(f"heads.{name}") for one in grafts for name in one.heads}
    heads = {name: heads.get(name) or trunk.module.get_submodule(f"heads.{name}") for name in trunk.pipeline.heads}
    branching = [one for one in grafts if has_own_part(trunk, one.heads, one.after)]
    base = trunk
    deepest = max(
        branching, key=lambda one: (len(stem(trunk, one.after)), len(read_by(trunk, one.heads))), default=None
    )
    if deepest is not None and read_by(trunk, _on_the_trunk(trunk, branching)) <= {*stem(trunk, deepest.after)}:
        base = deepest.network
        branching.remove(deepest)
    taps = {name: head.taps for name, head in trunk.pipeline.heads.items()}
    backbone, neck = (getattr(base.module, part) for part in ("backbone", "neck"))
    branches, specs = {}, {}
    for one in branching:
        own: Any = one.network.module
        branches[one.heads[0]] = Branch(own.backbone, own.neck, one.after, {name: taps[name] for name in one.heads})
        specs[one.heads[0]] = BranchSpec(after=one.after, heads=one.heads)
    module = MultiHead(backbone, neck, heads, taps, branches)
    return Network(trunk.pipeline.model_copy(update={"branches": specs}), copy.deepcopy(module).eval())


def _on_the_trunk(trunk: Network, branching: Sequence[Graft] | Sequence[Specialist]) -> list[str]:
    """The heads that read the trunk itself."""
    elsewhere = {name for one in branching for name in one.heads}
    return [name for name in trunk.pipeline.heads if name not in elsewhere]


def read_by(trunk: Network, heads: Collection[str]) -> frozenset[str]:
    """Paths of the modules, of backbone and neck, that these heads read."""
    if not heads:
        return frozenset()
    neck = trunk.pipeline.neck
    if neck is not None:
        return frozenset({*stem(trunk, neck.strides[-1]), "neck"})
    return frozenset(stem(trunk, max(trunk.pipeline.heads[name].taps[-1] for name in heads)))


def has_own_part(trunk: Network, heads: Collection[str], after: Depth) -> bool:
    """Whether these heads read anything behind ``after``, so that they need a branch."""
    return not read_by(trunk, heads) <= {*stem(trunk, after)}


Parts = Mapping[tuple[str, frozenset[str]], int]
"""Multiply-adds by the path of a step, of the neck or of a head, and by the heads that need them."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Multiply-adds of a trunk and of its specialists, part by part, and so of all that can be put together of them."""

    trunk: Network
    specialists: tuple[Specialist, ...]
    of_trunk: Parts
    of_specialist: Mapping[str, Parts]

    @classmethod
    def of(cls, trunk: Network, specialists: Sequence[Specialist]) -> Prices:
        """Captured at the size of the trunk's input."""
        theirs = {one.name: macs_by_part(graft(trunk, one, 0).network) for one in specialists}
        return cls(trunk, tuple(specialists), macs_by_part(trunk), theirs)

    def together(self, depths: Mapping[str, Depth]) -> int:
        """What ``joined`` would cost with the specialists grafted at these depths, by name."""
        stems = {one.name: {*stem(self.trunk, depths[one.name])} for one in self.specialists}
        branching = [one for one in self.specialists if has_own_part(self.trunk, one.heads, depths[one.name])]
        shared = {path for one in branching for path in stems[one.name]}
        on_trunk = frozenset(_on_the_trunk(self.trunk, branching))
        theirs = {f"heads.{name}" for one in self.specialists for name in one.heads}
        total = sum(
            macs
            for (path, heads), macs in self.of_trunk.items()
            if path in shared or (heads & on_trunk and path not in theirs)
        )
        for one in self.specialists:
            own = one in branching
            total += sum(
                macs
                for (path, _), macs in self.of_specialist[one.name].items()
                if path in theirs or (own and path not in stems[one.name])
            )
        return total


def macs_by_part(network: Network) -> Parts:
    """What each part of a plain network costs."""
    graph = network.graph()
    needed = heads_of_nodes(graph)
    parts = [*stem(network, ALL), *(f"heads.{name}" for name in network.pipeline.heads)]
    found: Counter[tuple[str, frozenset[str]]] = Counter()
    for name, spent in cost(graph).items():
        origin = f"{graph.by_name[name].origin}."
        found.update({(part, needed[name]): spent.macs for part in parts if origin.startswith(f"{part}.")})
    return found
