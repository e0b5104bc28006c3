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
from sharedbb.nets.multihead import shared_channels
from sharedbb.registry import HEADS, resolve
from sharedbb.spec import Head, Pipeline, load


def begun(pipeline: Pipeline, file: str | Path) -> tuple[Network, tuple[str, ...]]:
    """The network of ``pipeline`` with the weights of an artifact or a pipeline file, and the names of its new heads.

    Backbone and neck keep the widths that they were pruned to. Heads that the artifact has must be of the same type,
    taps and classes; those that it lacks are built on its features, random from their own seeds. What it has beyond
    that is left aside.

    Raises WeightsError for another trunk, heads that differ, and weights that are quantized.
    """
    stored = artifact.load(_artifact(file))
    if stored.scheme is not None:
        raise WeightsError(f"{stored.path} is quantized and cannot be trained on; begin with what it was before that")
    bare = pipeline.model_copy(update={"backbone": pipeline.backbone.model_copy(update={"weights": None})})
    module = nets.build(bare)
    learnt = {name: head for name, head in pipeline.heads.items() if name in stored.manifest.classes}
    trunk = nets.build(bare.model_copy(update={"heads": learnt}))
    artifact.load_weights(trunk, stored, learnt)
    had, has = (shared_channels(one.backbone, one.neck) for one in (module, trunk))
    module.backbone, module.neck, module.branches = trunk.backbone, trunk.neck, trunk.branches
    for name, head in pipeline.heads.items():
        if name in learnt:
            module.heads[name] = trunk.heads[name]
        elif any(had[stride] != has[stride] for stride in head.taps):
            module.heads[name] = _new(name, head, has)
    return Network(bare, module.eval()), tuple(name for name in pipeline.heads if name not in learnt)


def _artifact(file: str | Path) -> str:
    """The artifact that a file is, or that a pipeline file names."""
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
