"""Cutting channels out of layers, and what a grouped convolution ties together."""

from __future__ import annotations

import torch
from torch import nn

from sharedbb.compress.channels import ChannelGroup, Member, cut, within
from sharedbb.compress.torch_pruning import channel_groups


def member(layer: str, side: str, units: int, start: int = 0) -> Member:
    return Member(layer, side, torch.arange(start, start + units), torch.arange(units))  # type: ignore[arg-type]


def test_what_is_left_are_the_weights_that_were_there() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    module[1].running_mean.copy_(torch.arange(4.0))
    plain = {name: value.clone() for name, value in module.state_dict().items()}
    group = ChannelGroup("0", 4, 1, (member("0", "out", 4), member("1", "both", 4), member("2", "in", 4)))
    cut(module, [(group, torch.tensor([False, True, False, False]))])
    kept = [0, 2, 3]
    state = module.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert torch.equal(state[name], plain[name][kept])
    assert torch.equal(state["2.weight"], plain["2.weight"][:, kept])
    assert torch.equal(state["2.bias"], plain["2.bias"])
    assert (module[0].out_channels, module[1].num_features, module[2].in_channels) == (3, 3, 3)


def test_depthwise_and_transposed_convolutions_keep_their_axes() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ConvTranspose2d(4, 6, 2, stride=2))
    group = ChannelGroup("0", 4, 1, (member("0", "both", 4), member("1", "in", 4)))
    outputs = ChannelGroup("1", 6, 1, (member("1", "out", 6),))
    cut(module, [(group, torch.tensor([True, False, False, False])), (outputs, torch.arange(6) > 3)])
    assert module[0].groups == module[0].in_channels == module[0].out_channels == 3
    assert module[1].weight.shape == (3, 4, 2, 2)
    assert module(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 16, 16)


def test_a_frozen_weight_stays_frozen() -> None:
    module = nn.Sequential(nn.Linear(3, 4)).requires_grad_(False)
    cut(module, [(ChannelGroup("0", 4, 1, (member("0", "out", 4),)), torch.arange(4) == 0)])
    assert not module[0].weight.requires_grad


def test_both_sides_of_a_grouped_convolution_are_one_group() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.Conv2d(12, 2, 1)).eval()
    ((group,), _) = channel_groups(module, torch.zeros(1, 3, 8, 8))
    assert (group.name, group.units, group.width) == ("0", 4, 2)
    cut(module, [(group, torch.tensor([False, True, False, False]))])
    assert (module[1].in_channels, module[1].out_channels, module[1].groups) == (6, 9, 3)
    assert module(torch.zeros(1, 3, 8, 8)).shape == (1, 2, 8, 8)


def test_a_grouped_convolution_that_answers_holds_what_it_reads() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, groups=2)).eval()
    groups, held = channel_groups(module, torch.zeros(1, 3, 8, 8))
    assert not groups
    assert {each.name for each in held} == {"0", "1"}


def test_within_takes_whole_names() -> None:
    assert within("backbone.features.1.conv", ["backbone.features.1"])
    assert not within("backbone.features.11.conv", ["backbone.features.1"])
