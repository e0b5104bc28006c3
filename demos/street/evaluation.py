"""Judging a network on labelled pictures, through the same intake and decoders as in a running pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from sharedbb.registry import HEADS, resolve
from sharedbb.spec import Pipeline
from sharedbb.transforms.rgb import RgbIntake
from sharedbb.types import Frame, Output
from street.labels import EDGES, OBJECTS, SURFACES, VOID, boundary_of, boxes_of, tags_of
from street.metrics import BoundaryF1, BoxPrecision, Confusion, TagF1
from street.pictures import Labelled, Rgb
from street.training import normalized

LOWEST_SCORE = 0.02

Answer = Callable[[Rgb], Mapping[str, Output]]


@dataclass(slots=True)
class Predictor:
    """A network with the intake and the decoders of its pipeline: one RGB picture in, the answer of each head out.

    With ``lowest_score``, detection keeps every box above it, as average precision wants.
    """

    network: nn.Module
    pipeline: Pipeline
    lowest_score: float | None = None

    @torch.no_grad()
    def __call__(self, rgb: Rgb) -> dict[str, Output]:
        """HWC uint8 RGB of any size; answers in its pixels."""
        size, normalization = self.pipeline.input.network_size, self.pipeline.input.normalization
        buffer = np.zeros((1, size.height, size.width, 3), np.uint8)
        geometry = RgbIntake(buffer, self.pipeline.input.fit, normalization)(Frame.of(rgb, order="rgb"))
        device = next(self.network.parameters()).device
        images = torch.from_numpy(buffer).to(device).permute(0, 3, 1, 2)
        self.network.eval()
        with torch.autocast(device.type, torch.bfloat16):
            raw = self.network(normalized(images, normalization.mean, normalization.std))
        answers = {}
        for name, head in self.pipeline.heads.items():
            if head.type == "detection" and self.lowest_score is not None:
                head = head.model_copy(update={"score_threshold": self.lowest_score})
            parts = {key.partition(".")[2]: _plain(value) for key, value in raw.items() if key.startswith(f"{name}.")}
            answers[name] = resolve(HEADS[head.type].decoder)(head)(parts, geometry)
        return answers


def _plain(value: torch.Tensor) -> np.ndarray:
    value = value.float().cpu()
    return np.ascontiguousarray((value.permute(0, 2, 3, 1) if value.ndim == 4 else value).numpy())


def judge(answer: Answer, pictures: Iterable[Labelled]) -> dict[str, Any]:
    """Every metric of the four heads over ``pictures``, as plain values rounded to four digits."""
    surface, objects = Confusion(len(SURFACES)), BoxPrecision(len(OBJECTS))
    edges, scene, count = BoundaryF1(), TagF1(len(SURFACES)), 0
    for picture in pictures:
        said = answer(picture.rgb)
        surface.add(picture.labels, said["surface"].classes)
        found = said["objects"]
        objects.add(boxes_of(picture.labels), found.boxes, found.scores, found.classes)
        edges.add(boundary_of(picture.labels), said["edges"].mask(EDGES[1]), picture.labels == VOID)
        scene.add(tags_of(picture.labels), np.isin(SURFACES, said["scene"].present))
        count += 1
    precision, recall, boundary_f1 = edges.scores()
    return {
        "pictures": count,
        "surface": {
            "miou": _round(surface.mean_iou()),
            "accuracy": _round(surface.accuracy()),
            "iou": _named(SURFACES, surface.iou()),
        },
        "objects": {
            "map50": _round(objects.mean()),
            "ap50": _named(OBJECTS, objects.average_precision()),
            "boxes": {name: int(n) for name, n in zip(OBJECTS, objects.wanted, strict=True)},
        },
        "edges": {
            "f1": _round(boundary_f1),
            "precision": _round(precision),
            "recall": _round(recall),
            "tolerance_px": edges.tolerance,
        },
        "scene": {"f1": _round(scene.mean()), "f1_by_tag": _named(SURFACES, scene.f1())},
    }


def _named(names: Iterable[str], values: Iterable[float]) -> dict[str, float | None]:
    return {name: _round(value) for name, value in zip(names, values, strict=True)}


def _round(value: float) -> float | None:
    """Four digits; None for a class that never occurs."""
    return None if np.isnan(value) else round(float(value), 4)


def score(report: Mapping[str, Any]) -> float:
    """One number to choose by: the mean of mIoU, mAP50, boundary F1 and tag F1."""
    return float(
        np.mean([report["surface"]["miou"], report["objects"]["map50"], report["edges"]["f1"], report["scene"]["f1"]])
    )
