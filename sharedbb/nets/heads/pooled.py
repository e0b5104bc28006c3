"""Heads with one answer for the whole picture: tags and embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 128
"""Units between the pooled features and the labels."""


class TagsSpec(Protocol):
    """What a tags head is built from: strides tapped and labels."""

    taps: tuple[int, ...]
    labels: Sequence[str]


class EmbeddingSpec(Protocol):
    """What an embedding head is built from: strides tapped and the vector's length."""

    taps: tuple[int, ...]
    dim: int


class TagsHead(nn.Module):
    """Mean and maximum of every channel over the picture, a hidden layer, a logit a label.

    The maximum is what finds small things: a pedestrian covers one cell in hundreds.
    Forward takes the tapped maps and returns ``{"logits": [N, labels]}``.
    """

    def __init__(self, spec: TagsSpec, channels: Mapping[int, int]) -> None:
        super().__init__()
        pooled = 2 * sum(channels[stride] for stride in spec.taps)
        self.hidden = nn.Linear(pooled, HIDDEN)
        self.predict = nn.Linear(HIDDEN, len(spec.labels))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pool, join, classify."""
        pooled = [pool for value in features for pool in (value.mean((2, 3)), value.amax((2, 3)))]
        return {"logits": self.predict(F.relu(self.hidden(torch.cat(pooled, 1))))}


class EmbeddingHead(nn.Module):
    """Mean of every channel over the picture, a linear layer, and length one.

    Forward takes the tapped maps and returns ``{"vector": [N, dim]}``, L2-normalised.
    """

    def __init__(self, spec: EmbeddingSpec, channels: Mapping[int, int]) -> None:
        super().__init__()
        self.predict = nn.Linear(sum(channels[stride] for stride in spec.taps), spec.dim)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pool, join, project, normalise (the small floor keeps half precision finite)."""
        pooled = torch.cat([value.mean((2, 3)) for value in features], 1)
        return {"vector": F.normalize(self.predict(pooled), dim=1, eps=1e-6)}


def tags(spec: TagsSpec, channels: Mapping[int, int]) -> nn.Module:
    """``logits`` [N, labels], each label for itself."""
    return TagsHead(spec, channels)


def embedding(spec: EmbeddingSpec, channels: Mapping[int, int]) -> nn.Module:
    """``vector`` [N, dim] of length one."""
    return EmbeddingHead(spec, channels)
