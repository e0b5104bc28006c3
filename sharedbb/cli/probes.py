"""Networks that a machine's cost model is fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from sharedbb.learn.network import Network
from sharedbb.nets import MultiHead
from sharedbb.nets.backbones import SEED, Backbone, seeded
from sharedbb.nets.necks import Fpn
from sharedbb.registry import HEADS, resolve
from sharedbb.spec import Pipeline


@dataclass(frozen=True, slots=True)
class Probe:
    """A network to measure: backbone (``width``: of MobileNetV2), picture, neck's channels (0: none), heads by type."""

    arch: str
    size: tuple[int, int]
    neck: int
    heads: Mapping[str, Mapping[str, Any]] = field(hash=False)
    width: float = 1.0

    def __str__(self) -> str:
        width = f" ×{self.width:g}" if self.width != 1 else ""
        return f"{self.arch}{width} {self.size[1]}x{self.size[0]} neck {self.neck} {'+'.join(self.heads)}"

    @property
    def pipeline(self) -> Pipeline:
        """The probe as a pipeline; it has the backbone's own width."""
        told = {"name": "probe", "input": {"size": list(self.size)}, "backbone": {"arch": self.arch}}
        neck = {"type": "fpn", "channels": self.neck, "strides": [4, 8, 16, 32]}
        return Pipeline.model_validate({**told, "neck": neck if self.neck else None, "heads": dict(self.heads)})

    def network(self) -> Network:
        """The probe with random weights."""
        pipeline = self.pipeline
        if self.width == 1:
            return Network.of(pipeline)
        trunk = _mobilenet(self.width)
        neck = Fpn(trunk.channels, pipeline.neck) if pipeline.neck else None
        channels = dict((neck or trunk).channels)
        made = {name: resolve(HEADS[spec.type].build)(spec, channels) for name, spec in pipeline.heads.items()}
        module = MultiHead(trunk, neck, made, {name: spec.taps for name, spec in pipeline.heads.items()})
        return Network(pipeline, module.eval())


def _mobilenet(width: float) -> Backbone:
    from torchvision import models

    network = seeded(SEED, lambda: models.mobilenet_v2(weights=None, width_mult=width))
    features = cast(Any, network.features)
    taps = {
        stride: (f"features.{at}", features[at].out_channels) for stride, at in ((4, 3), (8, 6), (16, 13), (32, 17))
    }
    return Backbone(network, [f"features.{at}" for at in range(18)], taps)


def heads(channels: int, *names: str) -> dict[str, dict[str, Any]]:
    """Some heads by name, their hidden layers ``channels`` wide."""
    known: dict[str, dict[str, Any]] = {
        "surface": {"type": "segmentation", "taps": [4], "classes": list("abcdefgh"), "channels": channels},
        "objects": {"type": "detection", "taps": [8, 16, 32], "classes": list("abcd"), "channels": channels},
        "edges": {"type": "segmentation", "taps": [4], "classes": list("ab"), "channels": channels // 2},
        "depth": {"type": "depth", "taps": [4, 16], "channels": channels},
        "scene": {"type": "tags", "taps": [32], "labels": list("abc")},
    }
    return {name: known[name] for name in names}


PROBES = (
    Probe("mobilenet_v2", (384, 640), 64, heads(64, "surface", "objects", "edges", "scene")),
    Probe("mobilenet_v2", (256, 448), 32, heads(32, "surface", "scene")),
    Probe("mobilenet_v2", (480, 800), 96, heads(96, "surface", "objects")),
    Probe("mobilenet_v2", (384, 640), 64, heads(64, "surface", "objects"), 0.5),
    Probe("mobilenet_v2", (320, 512), 64, heads(64, "surface", "depth"), 0.75),
    Probe("mobilenet_v2", (256, 448), 0, heads(64, "surface", "scene"), 1.4),
    Probe("mobilenet_v3_large", (384, 640), 64, heads(64, "surface", "objects")),
    Probe("mobilenet_v3_large", (256, 448), 48, heads(48, "depth", "scene")),
    Probe("mobilenet_v3_small", (384, 640), 64, heads(64, "surface", "objects", "edges", "scene")),
    Probe("efficientnet_b0", (320, 512), 64, heads(64, "surface", "scene")),
    Probe("resnet18", (384, 640), 64, heads(64, "surface", "objects")),
    Probe("resnet18", (256, 448), 0, heads(64, "surface", "scene")),
    Probe("resnet34", (288, 480), 96, heads(96, "surface", "depth")),
    Probe("resnet50", (256, 448), 64, heads(64, "surface", "objects")),
    Probe("regnet_x_400mf", (384, 640), 64, heads(64, "surface", "objects")),
    Probe("shufflenet_v2_x1_0", (384, 640), 64, heads(64, "surface", "objects")),
    Probe("convnext_tiny", (256, 448), 64, heads(64, "surface", "scene")),
)
"""What the model is fitted to: every backbone, several sizes, widths, necks and sets of heads."""
