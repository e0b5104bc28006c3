"""Single weights made zero: which, how many, and that they stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sharedbb.compress.masks import masks, with_zeros
from sharedbb.errors import CompressionError
from sharedbb.learn.network import Network
from sharedbb.spec import Pipeline


@pytest.fixture(scope="module")
def network() -> Network:
    document = {
        "version": 1,
        "name": "test",
        "input": {"size": [64, 64]},
        "backbone": {"arch": "mobilenet_v3_small"},
        "heads": {"tag": {"type": "tags", "taps": [32], "labels": ["p", "q"]}},
    }
    return Network.of(Pipeline.model_validate(document))


def test_a_threshold_takes_the_smallest_of_all_layers() -> None:
    weights = {"a": torch.tensor([[0.1, -0.2, 3.0]]), "b": torch.tensor([[10.0, 0.15], [-20.0, 30.0]])}
    kept = masks(weights, 3 / 7, "threshold")
    assert kept["a"].tolist() == [[False, False, True]]
    assert kept["b"].tolist() == [[True, False], [True, True]]


def test_magnitude_does_not_depend_on_how_a_layer_is_scaled() -> None:
    weights = {"a": torch.randn(8, 8), "b": torch.randn(16, 4)}
    scaled = {"a": weights["a"] * 1000, "b": weights["b"]}
    kept, same = masks(weights, 0.5, "magnitude"), masks(scaled, 0.5, "magnitude")
    assert all(torch.equal(kept[name], same[name]) for name in weights)


def test_magnitude_scores_a_weight_by_what_its_layer_keeps() -> None:
    """LAMP by hand: 1/(1+4+9), 4/(4+9), 9/9 and 4/(4+4), 4/4; ties in order."""
    weights = {"a": torch.tensor([3.0, -1.0, 2.0]), "b": torch.tensor([2.0, 2.0])}
    assert masks(weights, 0.4, "magnitude")["a"].tolist() == [True, False, False]
    assert masks(weights, 0.6, "magnitude")["b"].tolist() == [False, True]


def test_caution_spares_a_layer() -> None:
    weights = {"a.weight": torch.rand(100), "b.weight": torch.rand(100)}
    kept = masks(weights, 0.5, "threshold", {"a": 100.0})
    assert kept["a.weight"].sum() > 90


@pytest.mark.parametrize("method", ["magnitude", "threshold"])
def test_zeros_are_planted_and_stored_as_gaps(network: Network, method: str) -> None:
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    pruned, facts = with_zeros(network, 0.5, method)
    assert facts["left"] == pytest.approx(0.5, abs=1e-4)
    sparse = {name for name, coding in pruned.coding.items() if coding["sparse"]}
    assert sparse == {name for name, share in facts["sparsity"].items() if share}
    for name, value in pruned.module.state_dict().items():
        assert torch.equal(value[value != 0], before[name][value != 0]), name
        assert torch.equal(network.module.state_dict()[name], before[name])


def test_what_is_kept_has_no_zeros(network: Network) -> None:
    pruned, facts = with_zeros(network, 0.5, "threshold", keep=["heads"])
    assert not [name for name in facts["sparsity"] if name.startswith("heads")]
    assert int((pruned.module.heads["tag"].hidden.weight == 0).sum()) == 0
    with pytest.raises(CompressionError, match="whose weights may go"):
        with_zeros(network, 0.5, "threshold", keep=["heads", "backbone"])


def test_rounds_approach_the_amount_and_never_bring_a_weight_back(network: Network) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def between(current: Network) -> Network:
        seen.append({name: value == 0 for name, value in current.module.state_dict().items()})
        return current

    pruned, facts = with_zeros(network, 0.75, "magnitude", rounds=2, between=between)
    assert facts["left"] == pytest.approx(0.25, abs=1e-4)
    assert len(seen) == 1
    layers = {n for n, m in network.module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    zeros = sum(int(seen[0][f"{name}.weight"].sum()) for name in layers)
    assert zeros == pytest.approx(0.5 * sum(seen[0][f"{name}.weight"].numel() for name in layers), rel=1e-3)
    for name in layers:
        assert (pruned.module.state_dict()[f"{name}.weight"] == 0)[seen[0][f"{name}.weight"]].all()
