"""Channel groups of real networks: dead units of every group are cut out and every head answers as before."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import Tensor, nn

from sharedbb import nets
from sharedbb.compress.channels import ChannelGroup, cut, is_grouped
from sharedbb.compress.torch_pruning import channel_groups
from sharedbb.errors import CompressionError
from sharedbb.registry import BACKBONES
from sharedbb.spec import Pipeline

IMAGE = torch.zeros(1, 3, 64, 64)
HEADS = {
    "seg": {"type": "segmentation", "taps": [4, 8], "classes": ["a", "b", "c"], "channels": 16},
    "det": {"type": "detection", "taps": [8, 16, 32], "classes": ["x", "y"], "channels": 16},
    "tag": {"type": "tags", "taps": [16, 32], "labels": ["p", "q"]},
    "emb": {"type": "embedding", "taps": [32], "dim": 8},
    "dep": {"type": "depth", "taps": [4], "channels": 16},
    "key": {"type": "keypoints", "taps": [8], "points": ["u", "v"], "channels": 16},
}


def network(arch: str, decomposition: str = "none", neck: bool = True) -> nn.Module:
    """A network with every type of head, its batch norms off their start."""
    document = {
        "version": 1,
        "name": "test",
        "input": {"size": [64, 64]},
        "backbone": {"arch": arch, "decomposition": decomposition},
        "heads": HEADS,
    }
    if neck:
        document["neck"] = {"type": "fpn", "channels": 32, "strides": [4, 8, 16, 32]}
    module = nets.build(Pipeline.model_validate(document)).eval()
    random = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, spread, least in (
                (norm.weight, 1.0, 0.5),
                (norm.bias, 0.6, -0.3),
                (norm.running_mean, 0.4, -0.2),
                (norm.running_var, 1.0, 0.5),
            ):
                tensor.data.copy_(torch.rand(norm.num_features, generator=random) * spread + least)
    return module


def kill(module: nn.Module, group: ChannelGroup, gone: Tensor) -> None:
    """Make everything that reads the units that go read them with zeros."""
    for member in group.side("in"):
        layer = module.get_submodule(member.layer)
        channels = member.channels[gone[member.units]]
        if is_grouped(layer):
            size, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
            for channel in channels.tolist():
                number = channel // size
                layer.weight.data[number * outputs : (number + 1) * outputs, channel % size] = 0
        else:
            layer.weight.data[:, channels] = 0


def choice(group: ChannelGroup, random: torch.Generator) -> Tensor:
    gone = torch.rand(group.units, generator=random) < 0.4
    gone[0] = False
    return gone


@pytest.mark.parametrize(
    ("arch", "decomposition", "neck"),
    [*((arch, "none", True) for arch in BACKBONES), ("mobilenet_v2", "two_branch", True), ("resnet18", "none", False)],
)
def test_dead_units_of_every_group_go_and_no_head_notices(arch: str, decomposition: str, neck: bool) -> None:
    module = network(arch, decomposition, neck)
    groups, held = channel_groups(module, IMAGE)
    random = torch.Generator().manual_seed(0)
    gone = [(group, choice(group, random)) for group in groups]
    for group, mask in gone:
        kill(module, group, mask)
    pruned = copy.deepcopy(module)
    cut(pruned, gone)
    image = torch.randn(1, 3, 64, 64, generator=random)
    with torch.no_grad():
        before, after = module(image), pruned(image)
    for name, answer in before.items():
        torch.testing.assert_close(after[name], answer, rtol=1e-4, atol=1e-4 * float(answer.abs().max()))
    sizes = [sum(weight.numel() for weight in net.parameters()) for net in (module, pruned)]
    assert sizes[1] < 0.7 * sizes[0]
    assert {f"heads.{name}.predict" for name in HEADS if name != "det"} <= {each.name for each in held}
    with torch.no_grad():
        taps = pruned.backbone(image)
    assert pruned.backbone.channels == {stride: value.shape[1] for stride, value in taps.items()}


def test_a_residual_stream_is_one_group_with_all_that_reads_it() -> None:
    groups, _ = channel_groups(network("resnet18"), IMAGE)
    stream = next(group for group in groups if group.name == "backbone.conv1")
    layers = {(member.layer, member.side) for member in stream.members}
    assert {
        ("backbone.conv1", "out"),
        ("backbone.layer1.1.conv2", "out"),
        ("backbone.layer1.0.conv1", "in"),
        ("backbone.layer2.0.downsample.0", "in"),
        ("neck.laterals.4.0", "in"),
    } <= layers
    assert stream.units == 64


def test_levels_that_share_a_convolution_are_narrowed_together() -> None:
    groups, _ = channel_groups(network("resnet18"), IMAGE)
    tower = next(group for group in groups if group.name == "heads.det.tower.pointwise")
    assert {member.layer for member in tower.side("both")} >= {f"heads.det.tower.pointwise_norms.{n}" for n in range(3)}


def test_units_of_a_grouped_convolution_are_its_groups() -> None:
    groups, _ = channel_groups(network("regnet_x_400mf"), IMAGE)
    wide = [group for group in groups if group.width > 1]
    assert wide
    assert {group.width for group in wide} == {16}


def test_what_is_shuffled_split_or_normalised_over_channels_is_held() -> None:
    _, held = channel_groups(network("shufflenet_v2_x1_0"), IMAGE)
    assert "they are split or shuffled" in {each.why for each in held}
    _, held = channel_groups(network("convnext_tiny"), IMAGE)
    assert {"backbone.features.0.0"} <= {each.name for each in held if "mixes them" in each.why}


def test_a_flattened_map_is_read_in_as_many_columns_as_it_has_places() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5)).eval()
    ((group,), _) = channel_groups(module, torch.zeros(1, 3, 8, 8))
    (reader,) = group.side("in")
    assert reader.units.tolist() == [unit for unit in range(4) for _ in range(64)]


def test_the_module_is_left_as_it_was() -> None:
    module = network("mobilenet_v2").train()
    before = copy.deepcopy(module.state_dict())
    channel_groups(module, IMAGE)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_without_torch_pruning_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(CompressionError, match=r"sharedbb\[compress\]"):
        channel_groups(nn.Sequential(nn.Conv2d(3, 4, 1)), IMAGE)
