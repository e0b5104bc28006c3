"""Mixed precision: what stays in float32 on a CPU, and that the network is as it was afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sharedbb.learn.precision import mixed

CPU = torch.device("cpu")


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 4, 3, stride=2, padding=1),
    )


def kinds(network: nn.Module, enabled: bool = True) -> list[torch.dtype]:
    """The type of each layer's answer."""
    seen: list[torch.dtype] = []
    hooks = [layer.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype)) for layer in network.children()]
    with mixed(network, CPU, enabled):
        network(torch.rand(1, 3, 16, 16))
    for hook in hooks:
        hook.remove()
    return seen


def test_only_depthwise_convolutions_with_a_stride_stay_in_float32(network: nn.Module) -> None:
    assert kinds(network) == [torch.bfloat16, torch.float32, torch.bfloat16, torch.bfloat16]
    assert kinds(network, enabled=False) == [torch.float32] * 4


def test_its_gradient_is_that_of_float32_to_the_precision_of_the_layers_around(network: nn.Module) -> None:
    images, wanted = torch.rand(2, 3, 32, 32), torch.rand(2, 4, 8, 8)

    def gradients(network: nn.Module, enabled: bool) -> list[Tensor]:
        with mixed(network, CPU, enabled):
            answer = network(images)
        (answer.float() - wanted).square().mean().backward()
        return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]

    exact, ours = gradients(copy.deepcopy(network), enabled=False), gradients(network, enabled=True)
    assert len(exact) == len(ours) == 8
    for one, other in zip(exact, ours, strict=True):
        assert other.dtype is torch.float32
        assert float((one - other).norm() / one.norm()) < 0.02


def test_the_network_is_as_it_was_also_after_an_error(network: nn.Module) -> None:
    before = [type(layer) for layer in network.modules()]
    with pytest.raises(RuntimeError), mixed(network, CPU):
        network(torch.rand(1, 5, 16, 16))
    assert [type(layer) for layer in network.modules()] == before
    assert kinds(network)[1] is torch.float32
