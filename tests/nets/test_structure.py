"""Structure: narrowed, replaced and missing layers are told and made again; nothing else is, and nothing large."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sharedbb.errors import WeightsError
from sharedbb.nets import backbones
from sharedbb.nets.structure import WIDEST, apply, differences


def resnet18(network: Any) -> None:
    """A narrower block, two convolutions in the place of one, a block left out."""
    block = network.layer1[0]
    block.conv1, block.bn1 = nn.Conv2d(64, 40, 3, 1, 1, bias=False), nn.BatchNorm2d(40)
    block.conv2 = nn.Conv2d(40, 64, 3, 1, 1, bias=False)
    down, up = nn.Conv2d(128, 32, (3, 1), 1, (1, 0), bias=False), nn.Conv2d(32, 128, (1, 3), 1, (0, 1), bias=False)
    network.layer2[1].conv1 = nn.Sequential(down, up)
    network.layer1[1] = nn.Identity()


def mobilenet_v3_small(network: Any) -> None:
    """A narrower depthwise block with its gate, a pointwise convolution in two, a block left out."""
    expand, depthwise, gate, project = network.get_submodule("features.4.block")
    expand[0], expand[1] = nn.Conv2d(24, 64, 1, bias=False), nn.BatchNorm2d(64, eps=0.001, momentum=0.01)
    depthwise[0] = nn.Conv2d(64, 64, 5, 2, 2, groups=64, bias=False)
    depthwise[1] = nn.BatchNorm2d(64, eps=0.001, momentum=0.01)
    gate.fc1, gate.fc2 = nn.Conv2d(64, 8, 1), nn.Conv2d(8, 64, 1)
    project[0] = nn.Sequential(nn.Conv2d(64, 8, 1, bias=False), nn.Conv2d(8, 40, 1, bias=False))
    setattr(network.features, "5", nn.Identity())


def convnext_tiny(network: Any) -> None:
    """Linear layers in two, one number for a vector of the block's own, a norm with another eps, no block."""
    block = network.get_submodule("features.1.0")
    block.block[3] = nn.Sequential(nn.Linear(96, 16, bias=False), nn.Linear(16, 384))
    block.layer_scale = nn.Parameter(torch.full((1, 1, 1), 0.5))
    network.get_submodule("features.2.0").eps = 1e-3
    network.get_submodule("features.1")[1] = nn.Identity()


def shufflenet_v2_x1_0(network: Any) -> None:
    """Both convolutions around a depthwise one narrower."""
    branch = network.stage2[1].branch2
    branch[0], branch[1] = nn.Conv2d(58, 24, 1, bias=False), nn.BatchNorm2d(24)
    branch[3], branch[4] = nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24)
    branch[5] = nn.Conv2d(24, 58, 1, bias=False)


CHANGES = [resnet18, mobilenet_v3_small, convnext_tiny, shufflenet_v2_x1_0]


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_backbone_is_made_again(change: Callable[[Any], None]) -> None:
    build = getattr(backbones, change.__name__)
    changed, fresh = build().eval(), build().eval()
    torch.manual_seed(0)
    change(changed)
    changed.eval()
    edits = json.loads(json.dumps(differences(fresh, changed)))
    apply(fresh, edits, shapes_of(changed))
    fresh.load_state_dict(changed.state_dict())
    assert {path: type(part) for path, part in fresh.named_modules()} == {
        path: type(part) for path, part in changed.named_modules()
    }
    assert differences(fresh, changed) == {}
    assert not any(part.training for part in fresh.modules())
    image = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        expected, found = changed(image), fresh(image)
    assert all(torch.equal(found[stride], expected[stride]) for stride in expected)


def test_equal_networks_have_no_differences() -> None:
    network = backbones.resnet18()
    other = copy.deepcopy(network)
    other.conv1.weight.data += 1
    assert differences(network, other) == {}


class Owner(nn.Module):
    """Layers of every kind, and widths by stride."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm2d(4)
        self.layer_norm = nn.LayerNorm(4)
        self.act = nn.ReLU()
        self.channels = {4: 4, 8: 4}
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("seen", torch.zeros(4))
        self.register_buffer("scratch", torch.zeros(4), persistent=False)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("conv", nn.Conv2d(4, 2, 3, padding="same", bias=False)),
        ("conv", nn.Conv2d(4, 4, (3, 5), (1, 2), (0, 3), (2, 1), 2, padding_mode="reflect")),
        ("up", nn.ConvTranspose2d(4, 2, 3, 2, 1, 1)),
        ("linear", nn.Linear(2, 3, bias=False)),
        ("norm", nn.BatchNorm2d(2, eps=1e-3, momentum=0.01)),
        ("norm", nn.BatchNorm2d(4, affine=False)),
        ("layer_norm", nn.LayerNorm((2, 3), eps=1e-3)),
        ("layer_norm", nn.LayerNorm(4, elementwise_affine=False)),
        ("layer_norm", nn.LayerNorm(4, bias=False)),
        ("act", nn.Identity()),
        ("conv", nn.Sequential(nn.Conv2d(4, 2, 1), nn.Sequential(nn.Conv2d(2, 2, 3), nn.Identity()))),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_setting_of_a_layer_is_told(name: str, layer: nn.Module) -> None:
    changed, fresh = Owner(), Owner()
    setattr(changed, name, layer)
    edits = differences(fresh, changed)
    assert list(edits) == [name]
    apply(fresh, json.loads(json.dumps(edits)), shapes_of(changed))
    found = getattr(fresh, name)
    assert repr(found) == repr(layer)
    assert shapes_of(found) == shapes_of(layer)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.state_dict().values())


def test_widths_and_tensors_of_a_module_itself_are_told() -> None:
    changed, fresh = Owner(), Owner()
    changed.channels = {4: 2, 8: 3}
    changed.scale = nn.Parameter(torch.ones(2))
    changed.seen = torch.zeros(3)
    changed.scratch = torch.zeros(9)
    edits = json.loads(json.dumps(differences(fresh, changed)))
    apply(fresh, edits, shapes_of(changed))
    fresh.load_state_dict(changed.state_dict())
    assert fresh.channels == {4: 2, 8: 3}
    assert (fresh.scale.shape, fresh.seen.shape) == ((2,), (3,))
    assert {"scale", "seen"} <= fresh.state_dict().keys()


def test_a_layer_of_another_kind_cannot_be_told() -> None:
    changed = Owner()
    changed.act = nn.GELU()
    with pytest.raises(WeightsError, match="act: a GELU cannot be stored where the pipeline has another layer"):
        differences(Owner(), changed)


def test_layers_that_the_network_does_not_have_are_passed_over() -> None:
    network = Owner()
    before = repr(network)
    edits = {
        "heads.gone.predict": {"type": "Identity"},
        "gone.channels": {"type": "channels", "channels": {"4": 2}},
        "heads.gone": {"type": "tensors", "shapes": {}},
    }
    apply(network, edits, {})
    assert repr(network) == before


def conv(**changes: Any) -> dict[str, Any]:
    told = {"type": "Conv2d", "in_channels": 4, "out_channels": 4, "kernel_size": [3, 3], "padding": [1, 1]}
    return told | changes


def nested(depth: int) -> dict[str, Any]:
    told = {"type": "Identity"}
    for _ in range(depth):
        told = {"type": "Sequential", "layers": [told]}
    return told


def deep_list(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = [found]
    return found


HOSTILE: list[tuple[str, Any]] = [
    *(("conv", value) for value in (None, 3, "Conv2d", [], ["Conv2d"], {}, {"type": None}, {"type": []}, {"type": {}})),
    ("conv", {"type": "Module"}),
    ("conv", {"type": "GELU"}),
    ("conv", conv(out_channels=WIDEST)),
    ("conv", conv(out_channels=WIDEST + 1)),
    ("conv", conv(out_channels=10**30)),
    ("conv", conv(out_channels=-1)),
    ("conv", conv(out_channels=4.0)),
    ("conv", conv(out_channels="4")),
    ("conv", conv(out_channels=[[4]])),
    ("conv", conv(out_channels=deep_list(100_000))),
    ("conv", conv(in_channels=WIDEST, out_channels=WIDEST, kernel_size=[WIDEST, WIDEST])),
    ("conv", conv(in_channels=None)),
    ("conv", conv(kernel_size=[5, 5])),
    ("conv", conv(kernel_size=[3] * 40)),
    ("conv", conv(kernel_size="same")),
    ("conv", conv(groups=0)),
    ("conv", conv(groups=3)),
    ("conv", conv(padding_mode="mirror")),
    ("conv", conv(padding_mode="same")),
    ("conv", conv(device="cuda")),
    ("conv", conv(dtype="float64")),
    ("conv", conv(forward=1)),
    ("conv", conv(bias=float("nan"))),
    ("linear", {"type": "Linear", "in_features": WIDEST, "out_features": WIDEST}),
    ("layer_norm", {"type": "LayerNorm", "normalized_shape": [WIDEST] * 4}),
    ("layer_norm", {"type": "LayerNorm", "normalized_shape": None}),
    ("norm", {"type": "BatchNorm2d", "num_features": 4, "eps": float("inf")}),
    ("conv", {"type": "Sequential", "layers": []}),
    ("conv", {"type": "Sequential", "layers": [conv()] * 9}),
    ("conv", {"type": "Sequential", "layers": [3]}),
    ("conv", {"type": "Sequential", "layers": {"0": conv()}}),
    ("conv", nested(10)),
    ("conv", nested(100_000)),
    ("", {"type": "Identity"}),
    ("", conv()),
    ("", {"type": "tensors", "shapes": None}),
    ("", {"type": "tensors", "shapes": {"scale": [4]}}),
    ("", {"type": "tensors", "shapes": {"scale": [10**9], "seen": [4]}}),
    ("", {"type": "tensors", "shapes": {"scale": 4, "seen": [4]}}),
    ("", {"type": "tensors", "shapes": {"scale": None, "seen": [4]}}),
    *((".channels", {"type": "channels", "channels": value}) for value in (None, [], {}, 4, {"4": 4})),
    *(
        (".channels", {"type": "channels", "channels": {"4": value, "8": 4}})
        for value in (0, -1, None, "4", [4], 4.5, True, WIDEST + 1, 10**30)
    ),
    (".channels", {"type": "channels", "channels": {"²": 4, "8": 4}}),
    (".channels", {"type": "channels", "channels": {"9" * 5000: 4, "8": 4}}),
    ("conv.channels", {"type": "channels", "channels": {"4": 4}}),
]


@pytest.mark.parametrize(("path", "told"), HOSTILE)
def test_what_is_damaged_or_hostile_is_refused_in_one_line_and_takes_no_memory(path: str, told: Any) -> None:
    network = Owner()
    shapes = shapes_of(network)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as caught:
            apply(network, {path: told}, shapes)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 6000


def test_a_layer_is_only_made_where_its_weights_are() -> None:
    with pytest.raises(WeightsError, match=r"weight of shape \(8, 4, 3, 3\), stored: \(4, 4, 3, 3\)"):
        apply(Owner(), {"conv": conv(out_channels=8)}, shapes_of(Owner()))
    with pytest.raises(WeightsError, match="stored: None"):
        apply(Owner(), {"act": conv()}, shapes_of(Owner()))
