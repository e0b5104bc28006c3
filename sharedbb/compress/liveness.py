"""What a network computes that none of its answers depends on: it runs all the same, so its widths must fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a module gave in a run: one tensor of it, and whether any answer depends on that."""

    module: str
    tensor: Tensor
    is_read: bool


def observed(module: nn.Module, image: Tensor) -> tuple[list[Tensor], list[Given]]:
    """The answers to ``image`` (NCHW), with gradients, and what every module inside gave on the way."""
    given: list[tuple[str, Tensor]] = []

    def keep(name: str, output: Any) -> None:
        given.extend((name, tensor) for tensor in _tensors(output) if tensor.requires_grad)

    with ExitStack() as stack, torch.enable_grad():
        for name, each in module.named_modules():
            if each is not module:
                hook = each.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
                stack.callback(hook.remove)
        answers = list(_tensors(module(image)))
        whole = torch.stack([answer.float().sum() for answer in answers]).sum()
        if not given or not whole.requires_grad:
            return answers, []
        reached = torch.autograd.grad(whole, [tensor for _, tensor in given], retain_graph=True, allow_unused=True)
    return answers, [Given(*one, gradient is not None) for one, gradient in zip(given, reached, strict=True)]


def unread(module: nn.Module, shape: Sequence[int]) -> frozenset[str]:
    """Paths of the modules of which no answer to an image of ``shape`` (NCHW) reads anything, though they run.

    The module must be in eval mode; it is left as it is.
    """
    _, given = observed(_trainable(module), torch.zeros(*shape))
    return idle(given)


def idle(given: Sequence[Given]) -> frozenset[str]:
    """Paths of the modules that gave nothing that is read."""
    return frozenset(one.module for one in given) - {one.module for one in given if one.is_read}


def _trainable(module: nn.Module) -> nn.Module:
    """A copy, all of whose parameters take gradients."""
    return copy.deepcopy(module).requires_grad_(True)


def _tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor in what a module gave."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
