"""Low-rank decompositions of a kernel [out, in, height, width], and the thinner layers that compute them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROUNDS = 60
"""Rounds of alternating least squares."""

_RIDGE = 1e-10  # of the mean of the diagonal: keeps systems of dependent factors solvable


@dataclass(frozen=True, slots=True)
class Factors:
    """Kernels of convolutions, one behind the other, that come near to one kernel.

    ``ranks``: the channels between them. ``energy``: share of the kernel's squared norm (of the outputs', where
    something is known of the inputs) that they keep. ``depthwise``: which of them sees each channel alone. ``shift``:
    what is to be added to each output, None for nothing.
    """

    kernels: tuple[Tensor, ...]
    ranks: tuple[int, ...]
    energy: float
    depthwise: tuple[bool, ...]
    shift: Tensor | None = None

    def macs(self, stride: int) -> int:
        """Multiply-adds per output place; layers before the spatial one compute ``stride`` times as many places.

        ``stride`` is the product of both directions'.
        """
        spatial = self.spatial
        return sum(kernel.numel() * (stride if at < spatial else 1) for at, kernel in enumerate(self.kernels))

    @property
    def spatial(self) -> int:
        """Position of the kernel that looks at a neighbourhood, or of the first where none does."""
        return max(range(len(self.kernels)), key=lambda at: (self.kernels[at].shape[2:].numel(), -at))


def svd(kernel: Tensor, moments: Tensor | None = None, *, energy: float = 1.0, rank: int | None = None) -> Factors:
    """The kernel with ``rank`` outputs, then a 1x1 that makes all of them: the best of that rank.

    ``moments``: means of the products of the patches that the kernel sees, each with a 1 behind it, [in·height·width
    + 1]². With them the outputs' variance is kept best and their means are kept exactly (by ``shift``); without them
    the kernel's norm. Without ``rank`` it is the least that keeps ``energy``. The basis is that of the largest
    eigenvalues of the outputs' covariance (Zhang et al., "Accelerating Very Deep Convolutional Networks", 2016).
    """
    matrix = kernel.double().flatten(1)
    if moments is None:
        mean, outputs = None, matrix @ matrix.T
    else:
        mean = moments[:-1, -1].double()
        outputs = matrix @ (moments[:-1, :-1] - mean.outer(mean)) @ matrix.T
    basis, kept = _basis(outputs, energy, rank)
    first = basis.T @ matrix
    shift = None if mean is None else ((matrix - basis @ first) @ mean).float()
    kernels = _floats(first.reshape(-1, *kernel.shape[1:]), basis[:, :, None, None])
    return Factors(kernels, (basis.shape[1],), kept, (False, False), shift)


def tucker(kernel: Tensor, *, energy: float = 1.0, rank: int | None = None) -> Factors:
    """A 1x1 to fewer channels, the kernel between those, a 1x1 to all outputs (Tucker-2; Kim et al., ICLR 2016).

    Each side loses at most half of what ``energy`` lets go; ``rank`` bounds both. Refined by higher-order orthogonal
    iteration.
    """
    core = kernel.double()
    side = 1 - (1 - energy) / 2
    ins, _ = _basis(_gram(core, 1), side, rank)
    outs, _ = _basis(_gram(core, 0), side, rank)
    for _ in range(3):
        outs, _ = _basis(_gram(torch.einsum("oihw,ir->orhw", core, ins), 0), 1.0, outs.shape[1])
        ins, _ = _basis(_gram(torch.einsum("oihw,os->sihw", core, outs), 1), 1.0, ins.shape[1])
    small = torch.einsum("oihw,os,ir->srhw", core, outs, ins)
    kept = float(small.square().sum() / core.square().sum().clamp_min(1e-300))
    kernels = _floats(ins.T[:, :, None, None], small, outs[:, :, None, None])
    return Factors(kernels, (ins.shape[1], outs.shape[1]), kept, (False, False, False))


def cp(kernel: Tensor, rank: int) -> Factors:
    """A 1x1 to ``rank`` channels, a depthwise kernel, a 1x1 to all outputs (CP; Lebedev et al., ICLR 2015).

    A sum of ``rank`` products of an output, an input and a spatial factor, by alternating least squares from the
    leading directions of each.
    """
    tensor = kernel.double().flatten(2)
    factors = [_start(tensor, mode, rank) for mode in range(3)]
    modes = ("oik,ir,kr->or", "oik,or,kr->ir", "oik,or,ir->kr")
    for _ in range(ROUNDS):
        for mode, product in enumerate(modes):
            others = [factors[other] for other in range(3) if other != mode]
            gram = (others[0].T @ others[0]) * (others[1].T @ others[1])
            gram += torch.eye(rank, dtype=gram.dtype) * (_RIDGE * gram.diagonal().mean() + 1e-300)
            factors[mode] = torch.linalg.solve(gram, torch.einsum(product, tensor, *others).T).T
            if mode < 2:  # scale goes to the last
                factors[mode] = factors[mode] / factors[mode].norm(dim=0).clamp_min(1e-150)
    outs, ins, places = factors
    pairs = (ins[:, None] * places).flatten(0, 1)  # inputs x places, by rank: no product with the outputs as well
    near = (outs @ pairs.T).view_as(tensor)
    kept = 1 - float((tensor - near).square().sum() / tensor.square().sum().clamp_min(1e-300))
    spatial = places.T.reshape(rank, 1, *kernel.shape[2:])
    kernels = _floats(ins.T[:, :, None, None], spatial, outs[:, :, None, None])
    return Factors(kernels, (rank,), kept, (False, True, False))


def stacked(layer: nn.Conv2d | nn.Linear, factors: Factors) -> nn.Sequential:
    """Layers that compute ``factors`` in place of ``layer``: its window at the spatial one, its bias at the last."""
    last = len(factors.kernels) - 1
    bias = _bias(layer, factors)
    made: list[nn.Module] = []
    for at, (kernel, depthwise) in enumerate(zip(factors.kernels, factors.depthwise, strict=True)):
        own = bias if at == last else None
        outputs, inputs, height, width = kernel.shape
        new: nn.Conv2d | nn.Linear
        if isinstance(layer, nn.Linear):
            new = nn.Linear(inputs, outputs, bias=own is not None)
        else:
            groups = outputs if depthwise else 1
            new = nn.Conv2d(inputs * groups, outputs, (height, width), groups=groups, bias=own is not None)
            if at == factors.spatial:
                new.stride, new.padding, new.dilation = layer.stride, layer.padding, layer.dilation
        with torch.no_grad():
            new.weight.copy_(kernel.reshape(new.weight.shape))
            if new.bias is not None and own is not None:
                new.bias.copy_(own)
        made.append(new)
    return nn.Sequential(*made)


def _bias(layer: nn.Conv2d | nn.Linear, factors: Factors) -> Tensor | None:
    if layer.bias is None or factors.shift is None:
        return layer.bias if factors.shift is None else factors.shift
    return layer.bias + factors.shift


def _gram(tensor: Tensor, mode: int) -> Tensor:
    """Products of a tensor's slices along ``mode`` with each other."""
    slices = tensor.movedim(mode, 0).flatten(1)
    return slices @ slices.T


def _basis(gram: Tensor, energy: float, rank: int | None) -> tuple[Tensor, float]:
    """Eigenvectors of the largest eigenvalues, as columns: ``rank`` of them, or as few as hold ``energy`` of the sum;
    and the share that they hold."""
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    shares = values.cumsum(0) / values.sum().clamp_min(1e-300)
    if rank is None:
        rank = int((shares < energy).sum()) + 1
    rank = max(1, min(rank, len(values)))
    return vectors[:, :rank], float(shares[rank - 1])


def _start(tensor: Tensor, mode: int, rank: int) -> Tensor:
    """Leading directions of one side; where it has fewer than ``rank``, seeded noise for the rest."""
    vectors, _ = _basis(_gram(tensor, mode), 1.0, rank)
    rest = rank - vectors.shape[1]
    noise = torch.randn(vectors.shape[0], max(0, rest), generator=torch.Generator().manual_seed(mode)).double()
    return torch.cat([vectors, noise / noise.norm(dim=0).clamp_min(1e-150)], dim=1)


def _floats(*kernels: Tensor) -> tuple[Tensor, ...]:
    return tuple(kernel.float().contiguous() for kernel in kernels)


def least(ranks: Sequence[int], energy: float, kernel: Tensor) -> Factors | None:
    """The CP decomposition of the smallest of ``ranks`` that keeps ``energy``, by bisection; None where none does."""
    found, low, high = None, 0, len(ranks)
    while low < high:
        middle = (low + high) // 2
        factors = cp(kernel, ranks[middle])
        if factors.energy >= energy:
            found, high = factors, middle
        else:
            low = middle + 1
    return found
