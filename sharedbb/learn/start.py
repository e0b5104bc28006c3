"""The network that a training begins with, where that is to take over what another one has learnt."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from sharedbb import artifact, nets
from sharedbb.errors import WeightsError
from sharedbb.learn.network import Network
from sharedbb.nets.backbones import seeded
from sharedbb.nets.branches import Branch
from sharedbb.nets.multihead import MultiHead, shared_channels
from sharedbb.registry import HEADS, resolve
from sharedbb.spec import Head, Pipeline, load


def begun(pipeline: Pipeline, file: str | Path) -> tuple[Network, tuple[str, ...]]:
    """The network of ``pipeline`` with the weights of an artifact or a pipeline file, and the names of its new heads.

    Backbone and neck keep the widths that they were pruned to. Heads that the artifact has must be of the same type,
    taps and classes; those that it lacks are built on its features, random from their own seeds; branches that it lacks
    begin like its trunk. What it has beyond that is left aside.

    Raises WeightsError for another trunk, heads that differ, and weights that are quantized.
    """
    stored = artifact.load(artifact_of(file))
    if stored.scheme is not None:
        raise WeightsError(f"{stored.path} is quantized and cannot be trained on; begin with what it was before that")
    bare = pipeline.model_copy(update={"backbone": pipeline.backbone.model_copy(update={"weights": None})})
    module = nets.build(bare)
    learnt = {name: head for name, head in pipeline.heads.items() if name in stored.manifest.classes}
    trunk = nets.build(bare.model_copy(update={"heads": learnt}))
    artifact.load_weights(trunk, stored, learnt)
    had, has = (shared_channels(one.backbone, one.neck) for one in (module, trunk))
    heads: dict[str, nn.Module] = {}
    for name, head in pipeline.heads.items():
        if name in learnt:
            heads[name] = trunk.heads[name]
        else:
            fits = all(had[stride] == has[stride] for stride in head.taps)
            heads[name] = module.heads[name] if fits else _new(name, head, has)
    taps = {name: head.taps for name, head in pipeline.heads.items()}
    if not trunk.branches:
        branches = {
            name: Branch(trunk.backbone, trunk.neck, spec.after, {head: taps[head] for head in spec.heads})
            for name, spec in pipeline.branches.items()
        }
        module = MultiHead(trunk.backbone, trunk.neck, heads, taps, branches)
    elif lacking := [name for name in pipeline.branches if name not in trunk.branches]:
        raise WeightsError(f"branch {lacking[0]!r} is new beside those of {stored.path}: train it from their trunk")
    else:
        module.backbone, module.neck, module.branches = trunk.backbone, trunk.neck, trunk.branches
        module.heads.update(heads)
    return Network(bare, module.eval()), tuple(name for name in pipeline.heads if name not in learnt)


def artifact_of(file: str | Path) -> str:
    """The artifact that a file is, or that a pipeline file names. Raises WeightsError where it names none."""
    if str(file).endswith(artifact.SUFFIX):
        return str(file)
    weights = load(file).backbone.weights or ""
    if not weights.endswith(artifact.SUFFIX):
        raise WeightsError(f"{file} names no artifact as its weights, but {weights or 'nothing'}; give the .sbb itself")
    return weights


def _new(name: str, head: Head, channels: Mapping[int, int]) -> nn.Module:
    """A head on features of other widths than the pipeline's own, from the seed that it always has."""
    made: nn.Module = seeded(zlib.crc32(name.encode()), lambda: resolve(HEADS[head.type].build)(head, channels))
    return made
