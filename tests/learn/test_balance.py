"""Balances: fixed weights add up, uncertainty settles where it should, GradNorm makes gradients equally long."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sharedbb.errors import CompressionError
from sharedbb.learn.balance import ASYMMETRY, Balance, GradNorm, Uncertainty, balance_of, last_shared


class Net(nn.Module):
    """Two heads: ``a`` behind one layer, ``b`` behind another one after that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)
        self.heads = nn.ModuleDict({"a": nn.Conv2d(2, 1, 1), "b": nn.Conv2d(2, 1, 1)})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        shared = self.first(image)
        return {"a.logits": self.heads["a"](shared), "b.logits": self.heads["b"](self.second(shared))}


def losses_at(weight: Tensor, **scales: float) -> dict[str, Tensor]:
    return {head: scale * weight.pow(2).sum() for head, scale in scales.items()}


def test_fixed_weights_are_a_weighted_sum_of_the_heads_that_learn() -> None:
    fixed = balance_of("fixed", {"a": 2.0, "b": 0.5}, Net())
    assert float(fixed({"b": torch.tensor(4.0), "a": torch.tensor(3.0)})) == 8.0
    assert float(fixed({"b": torch.tensor(4.0)})) == 2.0
    assert fixed.current() == {"a": 2.0, "b": 0.5}
    assert not list(fixed.parameters())


def test_uncertainty_settles_at_half_over_the_loss_whatever_the_given_weight() -> None:
    balance = Uncertainty({"a": 1.0, "b": 3.0})
    start = balance({"a": torch.tensor(4.0), "b": torch.tensor(0.25)})
    assert float(start.detach()) == pytest.approx(4 + 3 * 0.25)
    optimizer = torch.optim.SGD(balance.parameters(), lr=0.2)
    for _ in range(400):
        optimizer.zero_grad()
        balance({"b": torch.tensor(0.25), "a": torch.tensor(4.0)}).backward()
        optimizer.step()
    assert balance.current() == pytest.approx({"a": 1 / 8, "b": 3 * 2}, rel=1e-3)


def test_a_head_of_which_nothing_was_known_does_not_become_certain() -> None:
    balance = Uncertainty({"a": 1.0, "b": 1.0})
    balance({"a": torch.tensor(4.0), "b": torch.tensor(0.0)}).backward()
    gradient = balance.log_variances.grad
    assert gradient is not None
    assert gradient.tolist() == [pytest.approx(-3.5), 0.0]


def test_gradnorm_makes_the_weighted_gradients_of_a_layer_equally_long() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    balance = GradNorm({"a": 1.0, "b": 2.0, "c": 1.0}, weight)
    for _ in range(500):
        total = balance(losses_at(weight, a=10.0, b=1.0, c=0.3))
    found = balance.current()
    pulls = [found["a"] * 10.0, found["b"] * 1.0, found["c"] * 0.3]
    assert pulls == pytest.approx([pulls[0]] * 3, rel=1e-2)
    assert found["a"] + found["b"] / 2 + found["c"] == pytest.approx(3, rel=1e-4)
    before = {"a": 10.0, "b": 1.0, "c": 0.3}
    wanted = sum(found[head] * scale for head, scale in before.items()) * float(weight.detach().pow(2).sum())
    assert float(total.detach()) == pytest.approx(wanted, rel=1e-2)
    total.backward()
    assert weight.grad is not None


def test_gradnorm_pulls_harder_at_a_head_that_lags_behind() -> None:
    weight = nn.Parameter(torch.tensor([[1.0]]))
    balance = GradNorm({"fast": 1.0, "slow": 1.0}, weight)
    balance(losses_at(weight, fast=1.0, slow=1.0))
    for _ in range(600):  # the gradient stays, the loss of one has fallen to a quarter
        losses = losses_at(weight, fast=1.0, slow=1.0)
        balance({"fast": losses["fast"] - 0.75, "slow": losses["slow"]})
    found = balance.current()
    assert found["slow"] / found["fast"] == pytest.approx(4**ASYMMETRY, rel=1e-2)


def test_gradnorm_leaves_alone_what_says_nothing() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    balance = GradNorm({"a": 1.0, "b": 1.0, "unknown": 1.0, "broken": 1.0}, weight)
    losses = losses_at(weight, a=5.0, b=5.0)
    losses |= {"unknown": weight.sum() * 0.0, "broken": weight.sum() * math.nan}
    for _ in range(5):
        balance(losses)
    assert balance.current() == pytest.approx(dict.fromkeys(("a", "b", "unknown", "broken"), 1.0))
    assert all(value.isfinite().all() for name, value in balance.state_dict().items() if name == "log_weights")


def test_what_a_balance_has_learnt_is_its_state() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    made: list[Balance] = [GradNorm({"a": 1.0, "b": 1.0}, weight) for _ in range(2)]
    made[0](losses_at(weight, a=5.0, b=1.0))
    made[1].load_state_dict(made[0].state_dict())
    for balance in made:
        balance(losses_at(weight, a=4.0, b=1.0))
    assert made[0].current() == made[1].current() != {"a": 1.0, "b": 1.0}
    assert not list(made[0].parameters())


def test_the_last_shared_layer_is_the_last_that_all_heads_depend_on() -> None:
    net = Net()
    assert last_shared(net, ["a", "b"]) is net.first.weight
    assert last_shared(net, ["b"]) is net.heads["b"].weight
    net.first.requires_grad_(False)
    with pytest.raises(CompressionError, match="gradnorm needs a layer that a, b share"):
        balance_of("gradnorm", {"a": 1.0, "b": 1.0}, net)
    assert net.training
