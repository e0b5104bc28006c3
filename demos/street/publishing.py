"""From a checkpoint to what is shipped: the artifact and, beside it, the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from sharedbb import artifact
from sharedbb.spec import Pipeline
from street.card import card


def averaged(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights in a checkpoint of ``training.Trainer``, by state-dict name."""
    with safe_open(checkpoint, "pt") as file:
        names = [name for name in file.keys() if name.startswith("average.")]  # noqa: SIM118 (not a mapping)
        return {name.partition(".")[2]: file.get_tensor(name) for name in names}


def recipe_of(checkpoint: Path) -> dict[str, Any]:
    """How a checkpoint was trained: the recipe, how many steps it took and how many seconds of work."""
    with safe_open(checkpoint, "pt") as file:
        told = file.metadata()
    clock = json.loads(told["clock"])
    return json.loads(told["recipe"]) | {"step": clock["step"], "seconds": round(clock["seconds"])}


def rounded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as the artifact stores them: matrices and filters through float16, the rest unchanged."""
    return {name: t.half().float() if t.is_floating_point() and t.ndim > 1 else t for name, t in state.items()}


def publish(
    pipeline: Pipeline,
    state: Mapping[str, Tensor],
    report: Mapping[str, Any],
    recipe: Mapping[str, Any],
    path: Path,
) -> None:
    """Write the artifact to ``path`` and the card beside it (``.md``).

    ``report``: split to what ``evaluation.report`` says.
    """
    bare = pipeline.model_copy(update={"backbone": pipeline.backbone.model_copy(update={"weights": None})})
    manifest = artifact.Manifest(
        kind="network",
        pipeline=bare.model_dump(mode="json"),
        classes={name: artifact.class_names(head) for name, head in pipeline.heads.items()},
        input={"layout": "NHWC", "dtype": "uint8", "colour": "rgb", **bare.input.model_dump(mode="json")},
        report=report,
        recipe=recipe,
    )
    artifact.save(path, manifest, state, half=True)
    size = sum(tensor.numel() for tensor in state.values())
    path.with_suffix(".md").write_text(card(path, size, report, recipe), encoding="utf-8")
