"""Answers of heads in source pixels, and the decoders that make them from raw network outputs. No torch here."""

from sharedbb.outputs.depth import DepthMap, depth_decoder
from sharedbb.outputs.detections import Detections, detection_decoder
from sharedbb.outputs.embedding import Embedding, embedding_decoder
from sharedbb.outputs.keypoints import Keypoints, keypoints_decoder
from sharedbb.outputs.raw import RawOutput, raw_decoder
from sharedbb.outputs.segmentation import SegmentationMap, segmentation_decoder
from sharedbb.outputs.tags import Tags, tags_decoder

__all__ = [
    "DepthMap",
    "Detections",
    "Embedding",
    "Keypoints",
    "RawOutput",
    "SegmentationMap",
    "Tags",
    "depth_decoder",
    "detection_decoder",
    "embedding_decoder",
    "keypoints_decoder",
    "raw_decoder",
    "segmentation_decoder",
    "tags_decoder",
]
