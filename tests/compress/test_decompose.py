"""Decompositions: exact at the kernel's own rank, as good as the best below it, and computed by the layers made."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sharedbb.compress.decompose import Factors, cp, least, stacked, svd, tucker


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_rank(rank: int, *shape: int) -> Tensor:
    """A matrix kernel [out, in, k, k] of a rank."""
    return (noise(shape[0], rank) @ noise(rank, shape[1] * shape[2] ** 2, seed=1)).reshape(
        *shape[:2], shape[2], shape[2]
    )


def layer(kernel: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1) -> nn.Conv2d:
    outputs, inputs, side, _ = kernel.shape
    made = nn.Conv2d(inputs, outputs, side, stride, padding, dilation)
    with torch.no_grad():
        made.weight.copy_(kernel)
        made.bias.copy_(noise(outputs, seed=2))
    return made


def same(plain: nn.Module, factors: Factors, seen: Tensor) -> bool:
    with torch.no_grad():
        return torch.allclose(plain(seen), stacked(plain, factors)(seen), atol=2e-3)


@pytest.mark.parametrize("side", [1, 3])
def test_a_kernel_of_rank_three_is_found_at_rank_three(side: int) -> None:
    kernel = of_rank(3, 12, 8, side)
    factors = svd(kernel, energy=1 - 1e-6)
    assert factors.ranks == (3,)
    assert factors.energy == pytest.approx(1)
    plain = layer(kernel, stride=2, padding=side // 2)
    assert same(plain, factors, noise(2, 8, 9, 11))
    first, second = stacked(plain, factors)
    assert (first.stride, first.padding, first.bias) == ((2, 2), (side // 2,) * 2, None)
    assert (second.stride, second.kernel_size, second.bias is not None) == ((1, 1), (1, 1), True)


def test_a_linear_layer_of_rank_three() -> None:
    plain = nn.Linear(8, 12)
    with torch.no_grad():
        plain.weight.copy_(of_rank(3, 12, 8, 1)[:, :, 0, 0])
    factors = svd(plain.weight.detach()[:, :, None, None], energy=1 - 1e-6)
    assert factors.ranks == (3,)
    assert factors.macs(1) == 3 * (8 + 12)
    assert same(plain, factors, noise(5, 7, 8))


def test_no_matrix_of_the_rank_is_nearer() -> None:
    kernel = noise(10, 6, 3, 3)
    for rank in (1, 4, 9):
        factors = svd(kernel, rank=rank)
        near = torch.einsum("or,rikl->oikl", factors.kernels[1][:, :, 0, 0], factors.kernels[0])
        singular = torch.linalg.svdvals(kernel.flatten(1).double())
        assert (kernel - near).norm() == pytest.approx(float(singular[rank:].norm()), rel=1e-4)
        assert factors.energy == pytest.approx(float(singular[:rank].square().sum() / singular.square().sum()))


def test_energy_asks_for_the_least_rank_that_keeps_it() -> None:
    kernel = noise(10, 6, 3, 3)
    for energy in (0.3, 0.6, 0.95):
        rank = svd(kernel, energy=energy).ranks[0]
        assert svd(kernel, rank=rank).energy >= energy > svd(kernel, rank=rank - 1).energy


def test_knowing_the_inputs_keeps_the_outputs_and_their_means() -> None:
    kernel = noise(10, 6, 1, 1)
    seen = noise(4000, 6, seed=3) * torch.tensor([5.0, 3, 1, 0.1, 0.01, 0]) + torch.tensor([0.0, 2, 0, 0, 8, 1])
    rows = torch.cat([seen, torch.ones(4000, 1)], 1).double()
    plain = layer(kernel)
    image = seen.T.reshape(1, 6, 4000, 1)

    def error(factors: Factors) -> tuple[float, float]:
        with torch.no_grad():
            change = (stacked(plain, factors)(image) - plain(image)).flatten(2)
            return float(change.var(-1).sum()), float(change.mean(-1).abs().max())

    for rank in (2, 4):
        knowing, blind = svd(kernel, rows.T @ rows / 4000, rank=rank), svd(kernel, rank=rank)
        assert error(knowing)[0] < 0.3 * error(blind)[0]
        assert error(knowing)[1] < 1e-3 < error(blind)[1]
        with torch.no_grad():
            spread = plain(image).flatten(2).var(-1).sum()
        assert error(knowing)[0] / spread == pytest.approx(1 - knowing.energy, abs=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_tucker_is_exact_at_the_ranks_of_both_sides(stride: int) -> None:
    kernel = torch.einsum("os,ri,srkl->oikl", noise(12, 4), noise(3, 8, seed=1), noise(4, 3, 3, 3, seed=2))
    factors = tucker(kernel, energy=1 - 1e-8)
    assert factors.ranks == (3, 4)
    assert same(layer(kernel, stride, 2, 2), factors, noise(2, 8, 9, 11))
    assert factors.macs(stride**2) == 8 * 3 * stride**2 + 3 * 4 * 9 + 4 * 12


def test_tucker_keeps_the_energy_asked_for() -> None:
    kernel = noise(12, 8, 3, 3)
    for energy in (0.5, 0.9):
        factors = tucker(kernel, energy=energy)
        assert factors.energy >= energy
        near = torch.einsum(
            "os,srkl,ri->oikl", factors.kernels[2][..., 0, 0], factors.kernels[1], factors.kernels[0][..., 0, 0]
        )
        assert 1 - float((kernel - near).square().sum() / kernel.square().sum()) == pytest.approx(
            factors.energy, abs=1e-5
        )


@pytest.mark.parametrize("stride", [1, 2])
def test_cp_is_exact_at_the_rank(stride: int) -> None:
    kernel = torch.einsum("or,ir,kr->oik", noise(12, 3), noise(8, 3, seed=1), noise(9, 3, seed=2)).reshape(12, 8, 3, 3)
    factors = cp(kernel, 3)
    assert factors.energy == pytest.approx(1, abs=1e-6)
    assert same(layer(kernel, stride, 1), factors, noise(2, 8, 9, 11))
    assert factors.macs(stride**2) == 3 * (8 * stride**2 + 9 + 12)
    found = least(range(1, 7), 1 - 1e-6, kernel)
    assert found is not None
    assert found.ranks == (3,)
    assert least(range(1, 3), 1 - 1e-6, kernel) is None


def test_cp_has_more_ranks_than_a_side_has_directions() -> None:
    kernel = noise(4, 4, 3, 3)
    energies = [cp(kernel, rank).energy for rank in (1, 6, 14)]
    assert energies == sorted(energies)
    assert energies[-1] > 0.9


def test_the_same_kernel_gives_the_same_factors() -> None:
    kernel = noise(6, 5, 3, 3)
    for decompose in (lambda: svd(kernel, rank=2), lambda: tucker(kernel, rank=2), lambda: cp(kernel, 7)):
        first, second = decompose(), decompose()
        assert all(torch.equal(one, two) for one, two in zip(first.kernels, second.kernels, strict=True))


@pytest.mark.parametrize("method", ["svd", "tucker", "cp"])
def test_a_kernel_of_zeros_is_no_fault(method: str) -> None:
    kernel = torch.zeros(4, 4, 3, 3)
    factors = cp(kernel, 2) if method == "cp" else {"svd": svd, "tucker": tucker}[method](kernel, energy=0.9)
    assert all(bool(torch.isfinite(each).all()) for each in factors.kernels)
    assert same(layer(kernel), factors, noise(1, 4, 5, 5))
