"""Backbones from torchvision, cut to what feature taps need, with one tap a stride.

Each function has torchvision's name of the network and gives a ``Backbone`` whose weights keep torchvision's names:
any state dict of the whole torchvision network fits. The tap at a stride is the last map before the next downsampling.
What serves only the ImageNet classifier (pooling, linear layers, a last widening convolution) is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torchvision import models

from sharedbb.errors import GraphError
from sharedbb.nets import weights as weight_files

Module = TypeVar("Module", bound=nn.Module)

SEED = 0
"""Seed of random weights: two backbones built without weights are equal."""


class Backbone(nn.Module):
    """A chain of a network's own modules with some results tapped.

    ``channels`` maps each stride to its channel count, ``tapped`` each tapped step to its stride. Forward takes a
    normalised NCHW float image, sides multiples of 32, and returns stride → feature map
    ``[N, channels[stride], H / stride, W / stride]``, ascending.
    """

    def __init__(self, network: nn.Module, steps: Sequence[str], taps: Mapping[int, tuple[str, int]]) -> None:
        """Keep of ``network`` the modules named in ``steps``, run in that order.

        ``taps`` maps a stride to the step whose result it is and its channel count. Steps may be dotted
        (``features.3``): their parents are kept as containers of the same names.
        """
        super().__init__()
        for step in steps:
            parent: nn.Module = self
            *containers, name = step.split(".")
            for container in containers:
                if not hasattr(parent, container):
                    parent.add_module(container, nn.Module())
                parent = parent.get_submodule(container)
            parent.add_module(name, network.get_submodule(step))
        self.steps = tuple(steps)
        self.channels = {stride: channels for stride, (_, channels) in sorted(taps.items())}
        self.tapped = {step: stride for stride, (step, _) in sorted(taps.items())}

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Run the chain and collect the tapped maps."""
        check_image(image)
        features: dict[int, Tensor] = {}
        value = image
        for step in self.steps:
            value = self.get_submodule(step)(value)
            if step in self.tapped:
                features[self.tapped[step]] = value
        return features


def check_image(image: Tensor) -> None:
    """Raise GraphError for what is no batch of pictures that every stride up to 32 divides."""
    if image.ndim != 4 or image.shape[2] % 32 or image.shape[3] % 32:
        raise GraphError(f"a backbone takes NCHW images of sides that are multiples of 32, got {tuple(image.shape)}")


def mobilenet_v2(weights: str | None = None) -> Backbone:
    """MobileNetV2 (Sandler et al., 2018) without its 1280-channel convolution."""
    return _of_features("mobilenet_v2", weights, {4: (3, 24), 8: (6, 32), 16: (13, 96), 32: (17, 320)})


def mobilenet_v3_small(weights: str | None = None) -> Backbone:
    """MobileNetV3-Small (Howard et al., 2019) without its last convolution."""
    return _of_features("mobilenet_v3_small", weights, {4: (1, 16), 8: (3, 24), 16: (8, 48), 32: (11, 96)})


def mobilenet_v3_large(weights: str | None = None) -> Backbone:
    """MobileNetV3-Large (Howard et al., 2019) without its last convolution."""
    return _of_features("mobilenet_v3_large", weights, {4: (3, 24), 8: (6, 40), 16: (12, 112), 32: (15, 160)})


def efficientnet_b0(weights: str | None = None) -> Backbone:
    """EfficientNet-B0 (Tan and Le, 2019) without its 1280-channel convolution."""
    return _of_features("efficientnet_b0", weights, {4: (2, 24), 8: (3, 40), 16: (5, 112), 32: (7, 320)})


def convnext_tiny(weights: str | None = None) -> Backbone:
    """ConvNeXt-Tiny (Liu et al., 2022)."""
    return _of_features("convnext_tiny", weights, {4: (1, 96), 8: (3, 192), 16: (5, 384), 32: (7, 768)})


def resnet18(weights: str | None = None) -> Backbone:
    """ResNet-18 (He et al., 2016)."""
    return _of_stages("resnet18", weights, _RESNET, (64, 128, 256, 512))


def resnet34(weights: str | None = None) -> Backbone:
    """ResNet-34 (He et al., 2016)."""
    return _of_stages("resnet34", weights, _RESNET, (64, 128, 256, 512))


def resnet50(weights: str | None = None) -> Backbone:
    """ResNet-50 (He et al., 2016), strides in the 3×3 convolutions."""
    return _of_stages("resnet50", weights, _RESNET, (256, 512, 1024, 2048))


def regnet_x_400mf(weights: str | None = None) -> Backbone:
    """RegNetX-400MF (Radosavovic et al., 2020)."""
    steps = ("stem", *(f"trunk_output.block{number}" for number in (1, 2, 3, 4)))
    return _of_stages("regnet_x_400mf", weights, steps, (32, 64, 160, 400))


def shufflenet_v2_x1_0(weights: str | None = None) -> Backbone:
    """ShuffleNetV2 1.0× (Ma et al., 2018) without its 1024-channel convolution."""
    steps = ("conv1", "maxpool", "stage2", "stage3", "stage4")
    return _of_stages("shufflenet_v2_x1_0", weights, steps, (24, 116, 232, 464))


_RESNET = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")


def _of_features(arch: str, weights: str | None, taps: Mapping[int, tuple[int, int]]) -> Backbone:
    """A network whose trunk is the chain ``features``: ``taps`` maps a stride to an index in it and its channels."""
    steps = [f"features.{index}" for index in range(taps[max(taps)][0] + 1)]
    named = {stride: (f"features.{index}", channels) for stride, (index, channels) in taps.items()}
    return _cut(arch, weights, steps, named)


def _of_stages(arch: str, weights: str | None, steps: Sequence[str], channels: tuple[int, int, int, int]) -> Backbone:
    """A network whose last four steps end at strides 4, 8, 16 and 32."""
    taps = dict(zip((4, 8, 16, 32), zip(steps[-4:], channels, strict=True), strict=True))
    return _cut(arch, weights, steps, taps)


def _cut(arch: str, weights: str | None, steps: Sequence[str], taps: Mapping[int, tuple[str, int]]) -> Backbone:
    network = seeded(SEED, lambda: models.get_model(arch, weights=None))
    backbone = Backbone(network, steps, taps)
    if weights is not None:
        local = weight_files.is_file(weights)
        state = weight_files.read_state(weights) if local else weight_files.torchvision_state(arch, weights)
        weight_files.put(state, backbone, f"the weights {weights} for {arch}")
    return backbone


def seeded(seed: int, build: Callable[[], Module]) -> Module:
    """``build()`` on the CPU with a random generator of its own, so that the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return build()
