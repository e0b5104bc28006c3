"""sharedbb: several vision networks as one graph, and on each frame only the work it needs.

The names below are imported on first use, so that ``import sharedbb`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharedbb import compress, learn
    from sharedbb.compiler import compile_pipeline as compile
    from sharedbb.compiler.shared import Shared, merge
    from sharedbb.errors import SharedBBError, SpecError
    from sharedbb.media import VideoSink, draw, open_source
    from sharedbb.outputs import (
        DepthMap,
        Detections,
        Embedding,
        Keypoints,
        RawOutput,
        SegmentationMap,
        Tags,
    )
    from sharedbb.registry import register_backbone, register_backend, register_head
    from sharedbb.runtime import Engine
    from sharedbb.spec import Pipeline, load, loads
    from sharedbb.transforms import wavelet
    from sharedbb.types import Frame, FrameResult, Freshness, Geometry, Size

__version__ = "0.1.0"

_HOMES = {
    "sharedbb.compiler.assemble": ("compile",),
    "sharedbb.compiler.shared": ("Shared", "merge"),
    "sharedbb.errors": ("SharedBBError", "SpecError"),
    "sharedbb.media": ("VideoSink", "draw", "open_source"),
    "sharedbb.outputs": ("DepthMap", "Detections", "Embedding", "Keypoints", "RawOutput", "SegmentationMap", "Tags"),
    "sharedbb.registry": ("register_backbone", "register_backend", "register_head"),
    "sharedbb.runtime": ("Engine",),
    "sharedbb.spec": ("Pipeline", "load", "loads"),
    "sharedbb.types": ("Frame", "FrameResult", "Freshness", "Geometry", "Size"),
}
_MODULES = {"compress": "sharedbb.compress", "learn": "sharedbb.learn", "wavelet": "sharedbb.transforms.wavelet"}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DepthMap",
    "Detections",
    "Embedding",
    "Engine",
    "Frame",
    "FrameResult",
    "Freshness",
    "Geometry",
    "Keypoints",
    "Pipeline",
    "RawOutput",
    "SegmentationMap",
    "Shared",
    "SharedBBError",
    "Size",
    "SpecError",
    "Tags",
    "VideoSink",
    "compile",
    "compress",
    "draw",
    "learn",
    "load",
    "loads",
    "merge",
    "open_source",
    "register_backbone",
    "register_backend",
    "register_head",
    "wavelet",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        globals()[name] = module = import_module(_MODULES[name])
        return module
    if name not in _HOME_OF:
        raise AttributeError(f"module 'sharedbb' has no attribute {name!r}")
    home = import_module(_HOME_OF[name])
    found = home.compile_pipeline if name == "compile" else getattr(home, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
