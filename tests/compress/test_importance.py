"""Importance of channel units: dead ones are worth nothing, and the estimates are what the formulas say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sharedbb.compress import importance
from sharedbb.compress.channels import ChannelGroup
from sharedbb.compress.torch_pruning import channel_groups


class Two(nn.Module):
    """Two heads, each reading its own half of eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.left, self.right = nn.Conv2d(8, 1, 1, bias=False), nn.Conv2d(8, 1, 1, bias=False)
        nn.init.zeros_(self.left.weight[:, 4:])
        nn.init.zeros_(self.right.weight[:, :4])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.trunk(image)
        return {"left.output": self.left(features), "right.output": self.right(features)}


@pytest.fixture
def module() -> Two:
    torch.manual_seed(0)
    with torch.no_grad():
        return Two().eval()


@pytest.fixture
def groups(module: Two) -> list[ChannelGroup]:
    return channel_groups(module, torch.zeros(1, 3, 4, 4))[0]


@pytest.mark.parametrize("layer", ["trunk.0", "trunk.1", "readers"])
def test_a_unit_that_is_dead_anywhere_is_worth_nothing(module: Two, groups: list[ChannelGroup], layer: str) -> None:
    with torch.no_grad():
        if layer == "readers":
            module.left.weight[:, 2] = 0
        else:
            module.get_submodule(layer).weight[2] = 0
            module.get_submodule(layer).bias[2] = 0
    (scores,) = importance.l2(module, groups)
    assert scores[2] == 0
    assert (scores[[0, 1, 3, 4, 5, 6, 7]] > 0).all()


def test_bn_ranks_by_the_scales_of_the_norm(module: Two, groups: list[ChannelGroup]) -> None:
    scales = torch.tensor([0.3, -0.8, 0.1, 0.5, 0.2, 0.9, 0.7, 0.4])
    module.trunk[1].weight.data.copy_(scales)
    (scores,) = importance.bn(module, groups)
    assert scores.argsort().tolist() == scales.abs().argsort().tolist()


def test_bn_counts_weights_where_there_is_no_norm() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    groups, _ = channel_groups(module, torch.zeros(1, 4))
    assert torch.equal(importance.bn(module, groups)[0], importance.l2(module, groups)[0])


def test_taylor_is_the_squared_change_of_a_linear_answer(module: Two, groups: list[ChannelGroup]) -> None:
    """Where an answer is linear in its channels, leaving one out changes it by the square of its part."""
    image = torch.rand(1, 3, 4, 4)
    (scores,) = importance.taylor(module, groups, [image], head_weights={"right": 0.0})
    with torch.no_grad():
        parts = (module.trunk(image)[0] * module.left.weight[0]).square().sum((1, 2)).double()
    torch.testing.assert_close(scores, parts / parts.sum(), rtol=1e-5, atol=1e-9)


def test_each_head_has_as_much_say_as_its_weight(module: Two, groups: list[ChannelGroup]) -> None:
    module.right.weight.data *= 100
    (scores,) = importance.taylor(module, groups, [torch.rand(1, 3, 4, 4)], head_weights={"left": 3.0})
    assert float(scores[:4].sum()) == pytest.approx(3.0)
    assert float(scores[4:].sum()) == pytest.approx(1.0)


def test_a_unit_that_many_read_counts_at_all_of_them() -> None:
    """The sum over readers is taken before the square: what two readers cancel is not missed."""

    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.make = nn.Conv2d(3, 2, 1)
            self.plus, self.minus = nn.Conv2d(2, 1, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)

        def forward(self, image: Tensor) -> Tensor:
            made = self.make(image)
            return self.plus(made) + self.minus(made)

    module = Cancelling().eval()
    with torch.no_grad():
        module.minus.weight.copy_(module.plus.weight)
        module.minus.weight[:, 0] *= -1
    groups, _ = channel_groups(module, torch.zeros(1, 3, 8, 8))
    (scores,) = importance.taylor(module, groups, [torch.rand(1, 3, 8, 8)])
    assert scores[0] == pytest.approx(0.0, abs=1e-9)
    assert scores[1] == pytest.approx(1.0)


def test_taylor_is_repeatable_and_leaves_the_module_alone(module: Two, groups: list[ChannelGroup]) -> None:
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        before = module(image)
    first, second = (importance.taylor(module, groups, [image], seed=3)[0] for _ in range(2))
    assert torch.equal(first, second)
    with torch.no_grad():
        assert torch.equal(module(image)["left.output"], before["left.output"])
    assert all(weight.grad is None for weight in module.parameters())
