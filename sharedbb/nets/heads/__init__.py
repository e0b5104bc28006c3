"""Heads: from tapped feature maps to raw answers. Each builder takes the head's spec and stride → channels."""

from sharedbb.nets.heads.boxes import detection
from sharedbb.nets.heads.dense import depth, keypoints, segmentation
from sharedbb.nets.heads.pooled import embedding, tags

__all__ = ["depth", "detection", "embedding", "keypoints", "segmentation", "tags"]
