"""Pictures in, pictures out: sources, sinks, drawing, and a synthetic street."""

from sharedbb.media.draw import draw
from sharedbb.media.sinks import VideoSink
from sharedbb.media.sources import Source, open_source

__all__ = ["Source", "VideoSink", "draw", "open_source"]
