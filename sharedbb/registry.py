"""Where components are looked up by name: one dict a kind, filled with built-ins and by ``register_*``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from sharedbb.errors import RegistryError


@dataclass(frozen=True, slots=True)
class Lazy:
    """Something importable, ``"package.module:name"``, imported on first use: naming a component costs no import."""

    target: str

    def load(self) -> Any:
        """Import the module and return the object."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


def resolve(item: Any) -> Any:
    """The object itself, imported first where it is Lazy."""
    return item.load() if isinstance(item, Lazy) else item


@dataclass(frozen=True, slots=True)
class HeadType:
    """A kind of head: how it is written, how it is built, how its raw tensors become an answer.

    ``spec``: a pydantic model derived from ``sharedbb.spec.Head`` with a ``type`` literal.
    ``build(spec, channels)``: the torch module; ``channels`` maps each stride to its channel count. Its
    forward takes the tapped feature maps (NCHW, in the order of ``spec.taps``) and returns a dict of tensors.
    ``decoder(spec)``: a callable ``(raw, geometry) -> Output``; ``raw`` maps names to float32 NumPy arrays (four
    dimensions: NHWC).
    """

    spec: Any
    build: Any
    decoder: Any


@dataclass(frozen=True, slots=True)
class BackboneType:
    """A backbone by name: ``build(weights)`` gives the torch module, ``strides`` the feature maps it offers.

    ``weights`` is ``None`` (seeded random), a torchvision weights name (``"IMAGENET1K_V1"``, ``"DEFAULT"``) or a local
    file.
    The module has ``channels: dict[int, int]`` (stride to channels); its forward takes a normalised NCHW float image
    and returns ``dict[int, Tensor]``, stride to feature map.
    """

    build: Any
    strides: tuple[int, ...] = (4, 8, 16, 32)


class Registry(Mapping[str, Any]):
    """Names to components of one kind. A duplicate raises; an unknown name lists the alternatives."""

    def __init__(self, kind: str, items: Mapping[str, Any]) -> None:
        self.kind = kind
        self._items = dict(items)

    def register(self, name: str, item: Any) -> None:
        """Add a component. Raises RegistryError when the name is taken."""
        if name in self._items:
            raise RegistryError(f"a {self.kind} named {name!r} is registered already; choose another name")
        self._items[name] = item

    def unregister(self, name: str) -> None:
        """Take a component out again (for tests and notebooks)."""
        self._items.pop(self._known(name))

    def __getitem__(self, name: str) -> Any:
        return self._items[self._known(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def _known(self, name: str) -> str:
        if name not in self._items:
            near = difflib.get_close_matches(str(name), self._items, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise RegistryError(f"no {self.kind} named {name!r}{hint} (known: {', '.join(sorted(self._items))})")
        return name


def _head(spec: str, build: str, decoder: str) -> HeadType:
    return HeadType(
        Lazy(f"sharedbb.spec.heads:{spec}"), Lazy(f"sharedbb.nets.heads:{build}"), Lazy(f"sharedbb.outputs:{decoder}")
    )


HEADS = Registry(
    "head type",
    {
        "segmentation": _head("SegmentationHead", "segmentation", "segmentation_decoder"),
        "detection": _head("DetectionHead", "detection", "detection_decoder"),
        "depth": _head("DepthHead", "depth", "depth_decoder"),
        "tags": _head("TagsHead", "tags", "tags_decoder"),
        "keypoints": _head("KeypointsHead", "keypoints", "keypoints_decoder"),
        "embedding": _head("EmbeddingHead", "embedding", "embedding_decoder"),
    },
)

BACKBONE_NAMES = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "resnet18",
    "resnet34",
    "resnet50",
    "efficientnet_b0",
    "regnet_x_400mf",
    "shufflenet_v2_x1_0",
    "convnext_tiny",
)

BACKBONES = Registry(
    "backbone", {name: BackboneType(Lazy(f"sharedbb.nets.backbones:{name}")) for name in BACKBONE_NAMES}
)

BACKENDS = Registry(
    "backend",
    {
        "eager": Lazy("sharedbb.backends.torch_backends:EagerBackend"),
        "openvino": Lazy("sharedbb.backends.openvino:OpenVINOBackend"),
        "inductor": Lazy("sharedbb.backends.torch_backends:InductorBackend"),
        "cuda": Lazy("sharedbb.backends.torch_backends:CudaBackend"),
    },
)


def register_head(name: str, *, spec: Any, build: Callable[..., Any], decoder: Callable[..., Any]) -> None:
    """Make a head of your own known by its ``type`` name; see HeadType for what the three parts are."""
    HEADS.register(name, HeadType(spec, build, decoder))


def register_backbone(name: str, build: Callable[..., Any], *, strides: tuple[int, ...] = (4, 8, 16, 32)) -> None:
    """Make a backbone of your own known by its ``arch`` name; see BackboneType."""
    BACKBONES.register(name, BackboneType(build, strides))


def register_backend(name: str, backend: Any) -> None:
    """Make a backend of your own known by name: a class with the methods of ``sharedbb.backends.Backend``."""
    BACKENDS.register(name, backend)
