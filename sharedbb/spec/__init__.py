"""What the user writes: the pipeline language as pydantic models, its loader, its JSON Schema. Never imports torch."""

from sharedbb.spec.heads import (
    DepthHead,
    DetectionHead,
    EmbeddingHead,
    Head,
    KeypointsHead,
    SegmentationHead,
    TagsHead,
)
from sharedbb.spec.loader import check, dump, load, loads
from sharedbb.spec.parts import (
    NORMALIZATIONS,
    Backbone,
    Fpn,
    Input,
    MeanStd,
    Reuse,
    RgbTransform,
    Runtime,
    Schedule,
)
from sharedbb.spec.pipeline import Pipeline
from sharedbb.spec.schema import json_schema

__all__ = [
    "NORMALIZATIONS",
    "Backbone",
    "DepthHead",
    "DetectionHead",
    "EmbeddingHead",
    "Fpn",
    "Head",
    "Input",
    "KeypointsHead",
    "MeanStd",
    "Pipeline",
    "Reuse",
    "RgbTransform",
    "Runtime",
    "Schedule",
    "SegmentationHead",
    "TagsHead",
    "check",
    "dump",
    "json_schema",
    "load",
    "loads",
]
