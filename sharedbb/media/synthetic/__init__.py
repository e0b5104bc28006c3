"""A procedural street with exact labels, for tests, demos and training."""

from sharedbb.media.synthetic.query import open_synthetic
from sharedbb.media.synthetic.scene import CLASSES, VOID
from sharedbb.media.synthetic.street import OBJECTS, LabelledFrame, StreetVideo, object_ids

__all__ = ["CLASSES", "OBJECTS", "VOID", "LabelledFrame", "StreetVideo", "object_ids", "open_synthetic"]
