"""Costs of layers at any width, and the choice of widths."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sharedbb.compress.channels import cut
from sharedbb.compress.importance import l2
from sharedbb.compress.torch_pruning import channel_groups
from sharedbb.compress.widths import COSTS, Layer, choose, latency, retrace, total, trace
from sharedbb.graph.capture import capture
from sharedbb.graph.cost import cost
from sharedbb.graph.cost import total as graph_total

SHAPE = (1, 3, 32, 32)


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=32, bias=False),
        nn.BatchNorm2d(32),
        nn.Conv2d(32, 48, 1),
        nn.ReLU(),
        nn.Conv2d(48, 32, 1, groups=2),
        nn.Conv2d(32, 5, 1),
    ).eval()


def test_multiply_adds_are_those_of_the_captured_graph(module: nn.Module) -> None:
    counted = graph_total(cost(capture(module, torch.zeros(*SHAPE), "")).values())
    assert total(trace(module, SHAPE), Layer.macs) == counted.macs


def test_parameters_are_those_of_the_weights(module: nn.Module) -> None:
    weights = sum(weight.numel() for weight in module.parameters() if weight.ndim > 1)
    assert total(trace(module, SHAPE), Layer.parameters) == weights


def test_a_layer_that_runs_twice_has_the_positions_of_both_runs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 3, 1)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.convolution(self.convolution(image)[:, :, ::2, ::2])

    (layer,) = trace(Twice(), SHAPE).values()
    assert layer.positions_out == 32 * 32 + 16 * 16


def test_latency_counts_high_resolution_more_than_its_multiply_adds() -> None:
    fine = Layer("fine", 16, 96, 1, 0, 61440, 61440)
    coarse = Layer("coarse", 160, 960, 1, 0, 600, 600)
    assert fine.macs(16, 96) < 1.1 * coarse.macs(160, 960)
    assert latency(fine, 16, 96) > 4 * latency(coarse, 160, 960)


@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("round_to", [1, 8, 16])
def test_the_goal_is_reached_with_the_cost_that_was_counted(module: nn.Module, name: str, round_to: int) -> None:
    groups, _ = channel_groups(module, torch.zeros(*SHAPE))
    layers = trace(module, SHAPE)
    whole = total(layers, COSTS[name])
    choice = choose(groups, l2(module, groups), layers, 0.7 * whole, cost=COSTS[name], round_to=round_to)
    pruned = copy.deepcopy(module)
    cut(pruned, choice.gone)
    after = trace(pruned, SHAPE)
    assert choice.before == whole
    assert choice.after == pytest.approx(total(after, COSTS[name]))
    assert choice.after <= 0.7 * whole
    assert retrace(layers, pruned) == after
    for layer, was in zip(after.values(), layers.values(), strict=True):
        assert layer.channels_out == was.channels_out or layer.channels_out % round_to == 0
    assert pruned(torch.zeros(*SHAPE)).shape == (1, 5, 16, 16)


def test_planted_dead_channels_are_just_what_goes_and_the_answer_is_the_same(module: nn.Module) -> None:
    with torch.no_grad():
        for tensor in (module[0].weight, module[1].weight, module[1].bias, module[4].weight, module[4].bias):
            tensor[4:20] = 0
    groups, _ = channel_groups(module, torch.zeros(*SHAPE))
    layers = trace(module, SHAPE)
    dead = 16 * (9 * 3 * 32 * 32 + (9 + 48) * 16 * 16)
    choice = choose(groups, l2(module, groups), layers, total(layers, Layer.macs) - dead, round_to=8)
    ((group, gone),) = choice.gone
    assert group.name == "0"
    assert gone.nonzero().flatten().tolist() == list(range(4, 20))
    pruned = copy.deepcopy(module)
    cut(pruned, choice.gone)
    image = torch.randn(*SHAPE)
    torch.testing.assert_close(pruned(image), module(image))


def test_groups_shrink_to_their_last_multiple_and_no_further(module: nn.Module) -> None:
    groups, _ = channel_groups(module, torch.zeros(*SHAPE))
    choice = choose(groups, l2(module, groups), trace(module, SHAPE), 0.0, round_to=8)
    assert [(group.name, group.width * (group.units - int(gone.sum()))) for group, gone in choice.gone] == [
        ("0", 8),
        ("5", 24),
    ]


def test_a_weight_spares_a_group(module: nn.Module) -> None:
    groups, _ = channel_groups(module, torch.zeros(*SHAPE))
    layers = trace(module, SHAPE)
    left = []
    for weight in (1e-3, 1e3):
        weights = [weight if group.name == "0" else 1.0 for group in groups]
        choice = choose(groups, l2(module, groups), layers, 0.7 * total(layers, Layer.macs), weights=weights)
        left.append({group.name: int((~gone).sum()) for group, gone in choice.gone}.get("0", 32))
    assert left[0] < left[1]
