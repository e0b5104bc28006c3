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
    Branch,
    Fpn,
    Input,
    MeanStd,
    Reuse,
    Runtime,
    Schedule,
)
from sharedbb.spec.pipeline import Pipeline
from sharedbb.spec.schema import json_schema
from sharedbb.spec.transforms import (
    AutoTransform,
    HaarTransform,
    LowResolutionTransform,
    RgbTransform,
    SpaceToDepthTransform,
    Transform,
    WaveletTransform,
    Yuv420Transform,
)

__all__ = [
    "NORMALIZATIONS",
    "AutoTransform",
    "Backbone",
    "Branch",
    "DepthHead",
    "DetectionHead",
    "EmbeddingHead",
    "Fpn",
    "HaarTransform",
    "Head",
    "Input",
    "KeypointsHead",
    "LowResolutionTransform",
    "MeanStd",
    "Pipeline",
    "Reuse",
    "RgbTransform",
    "Runtime",
    "Schedule",
    "SegmentationHead",
    "SpaceToDepthTransform",
    "TagsHead",
    "Transform",
    "WaveletTransform",
    "Yuv420Transform",
    "check",
    "dump",
    "json_schema",
    "load",
    "loads",
]
