"""The metrics of the street network for its report and card."""

from __future__ import annotations

from typing import Any

from torch import nn

from sharedbb.learn.data import Data
from sharedbb.learn.judge import LOWEST_SCORE, Predictor, judge
from sharedbb.spec import Pipeline


def report(network: nn.Module, pipeline: Pipeline, data: Data) -> dict[str, Any]:
    """Number of ``pictures``, and every metric of every head, rounded to four digits."""
    quality = judge(Predictor(network, pipeline, LOWEST_SCORE, bf16=True), data, pipeline.heads)
    return {"pictures": len(data), **_rounded(quality)}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value
