"""A pipeline with its network, as the steps of compression take it and give it."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from sharedbb import artifact, nets
from sharedbb.errors import ArtifactError
from sharedbb.graph.capture import capture
from sharedbb.graph.cost import cost, total
from sharedbb.graph.ir import Graph
from sharedbb.graph.lower import to_module
from sharedbb.graph.merge import prune
from sharedbb.graph.quantization import Scheme, quantized
from sharedbb.learn.judge import Predictor
from sharedbb.learn.report import StepReport
from sharedbb.nets.structure import differences
from sharedbb.spec import Pipeline, dump, load

SPARSE: Mapping[str, Any] = {"type": "plain", "dtype": "f16", "sparse": True}
"""How a weight is stored whose zeros are left out, and which no step has coded otherwise."""


@dataclass(frozen=True, eq=False)
class Network:
    """A pipeline (without the weights' place), its module (eval mode, CPU, float32) and how it is stored.

    ``scheme``: quantization, None for none. ``coding``: state-dict name to how the artifact stores that weight.
    ``steps``: what was done, in order. Steps never change a network; they return the next one.
    """

    pipeline: Pipeline
    module: nn.Module
    scheme: Scheme | None = None
    coding: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    steps: tuple[StepReport, ...] = ()

    @classmethod
    def of(cls, pipeline: Pipeline | str | Path) -> Network:
        """The network of a pipeline, of a pipeline file or of an artifact, with its weights.

        Raises SpecError, ArtifactError or WeightsError.
        """
        found = pipeline if isinstance(pipeline, Pipeline) else pipeline_of(str(pipeline))
        weights = found.backbone.weights
        bare = found.model_copy(update={"backbone": found.backbone.model_copy(update={"weights": None})})
        if weights is None or not weights.endswith(artifact.SUFFIX):
            return cls(bare, nets.build(found).eval())
        module, stored = nets.build(bare), artifact.load(weights)
        artifact.load_weights(module, stored, found.heads)
        own = module.state_dict().keys()
        coding = {name: told for name, told in stored.coding.items() if name in own}  # not of heads left out
        return cls(
            bare, module.eval(), stored.scheme_for(found.heads), coding, StepReport.all_of(stored.manifest.recipe)
        )

    def copy(self) -> nn.Module:
        """A deep copy of the module, for a step to work on."""
        return copy.deepcopy(self.module)

    def is_uncoded(self, name: str) -> bool:
        """Whether no step has said in how many bits this weight is stored: at most that its zeros are left out."""
        return self.coding.get(name, SPARSE) == SPARSE

    def recoded(self, coding: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """These codings over those that the network has; zeros that were left out stay so."""
        sparse = {name for name, told in self.coding.items() if told.get("sparse")}
        fresh = {name: {**told, "sparse": True} if name in sparse else told for name, told in coding.items()}
        return {**self.coding, **fresh}

    def unrounded(self) -> tuple[Network, tuple[str, ...]]:
        """The network for a step that gives its weights new values, and what to say of that.

        Weights that were rounded to evenly spaced values or to float16 will not lie on them any more: nothing says in
        how many bits they are stored then. Zeros that are left out, and values that weights share, stay.
        """
        to_half = {name for name, told in self.coding.items() if told.get("dtype") == "f16" and told != SPARSE}
        rounded = {name: told for name, told in self.coding.items() if told["type"] == "uniform" or name in to_half}
        if not rounded:
            return self, ()
        kept = {name: told for name, told in self.coding.items() if name not in rounded}
        sparse = {name: SPARSE for name, told in rounded.items() if told.get("sparse")}
        said = (
            f"{len(rounded)} weights that had been rounded change: they are stored as floats until `code` rounds them"
        )
        return replace(self, coding={**kept, **sparse}), (said,)

    def then(self, report: StepReport, **changes: Any) -> Network:
        """The next network: ``changes`` to the fields, the report appended, the module in eval mode."""
        found = replace(self, steps=(*self.steps, report), **changes)
        found.module.eval()
        return found

    def graph(self, batch: int = 1) -> Graph:
        """The network captured at the pipeline's input size; with a scheme, rounding as it says."""
        size = self.pipeline.input.network_size
        graph = prune(capture(self.module, torch.zeros(batch, 3, size.height, size.width), ""))
        return graph if self.scheme is None else quantized(graph, self.scheme)

    @cached_property
    def macs(self) -> int:
        """Multiply-adds for one picture."""
        return total(cost(self.graph()).values()).macs

    @property
    def parameters(self) -> int:
        """Elements of the weights that training changes."""
        return sum(weight.numel() for weight in self.module.parameters())

    @cached_property
    def bytes(self) -> int:
        """Bytes of the artifact that ``save`` would write."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"network{artifact.SUFFIX}"
            self.save(path)
            return path.stat().st_size

    def predictor(self, *, lowest_score: float | None = None) -> Predictor:
        """The network with intake and decoders, rounding as the scheme says (simulated): a picture in, answers out."""
        callable_: Any = self.module if self.scheme is None else to_module(self.graph())
        return Predictor(callable_, self.pipeline, lowest_score)

    def pipeline_text(self, weights: str) -> str:
        """The pipeline as YAML, with its weights in the file of that name."""
        backbone = self.pipeline.backbone.model_copy(update={"weights": weights})
        return dump(self.pipeline.model_copy(update={"backbone": backbone}))

    def save(self, path: str | Path, *, report: Mapping[str, Any] | None = None) -> None:
        """Write the ``.sbb``: weights as ``coding`` says, what differs from the pipeline's own layers, the scheme.

        ``report``: measured quality, plain JSON. Equal networks give equal bytes. Raises ArtifactError or WeightsError.
        """
        manifest = artifact.Manifest(
            kind="network",
            pipeline=self.pipeline.model_dump(mode="json"),
            classes={name: artifact.class_names(head) for name, head in self.pipeline.heads.items()},
            input={"layout": "NHWC", "dtype": "uint8", "colour": "rgb", **self.pipeline.input.model_dump(mode="json")},
            report=report or {},
            recipe={"steps": [step.to_dict() for step in self.steps]},
            structure=differences(nets.build(self.pipeline), self.module),
        )
        half = not self.coding and self.scheme is None
        artifact.save(path, manifest, self.module.state_dict(), half=half, coding=self.coding, scheme=self.scheme)


def pipeline_of(file: str) -> Pipeline:
    """The pipeline of a pipeline file; that of an artifact has the artifact's weights.

    Raises SpecError or ArtifactError.
    """
    if not file.endswith(artifact.SUFFIX):
        return load(file)
    try:
        found = Pipeline.model_validate(artifact.load(file).manifest.pipeline)
    except ValidationError as error:
        raise ArtifactError(f"{file}: its pipeline is not one of this version: {error.errors()[0]['msg']}") from error
    weights = found.backbone.model_copy(update={"weights": file})
    return found.model_copy(update={"backbone": weights})
