"""What pruning asks the heads: a few pictures as the network takes them, and answers in a form that can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sharedbb.errors import CompressionError
from sharedbb.learn.data import Sample
from sharedbb.learn.judge import normalized
from sharedbb.learn.network import Network
from sharedbb.transforms.rgb import RgbIntake
from sharedbb.types import Frame

Form = Callable[[Tensor], Tensor]


def network_shape(network: Network) -> tuple[int, int, int, int]:
    """The shape of one picture as the network takes it, NCHW."""
    size = network.pipeline.input.network_size
    return 1, 3, size.height, size.width


def images(network: Network, data: Sequence[Sample] | None, most: int) -> list[Tensor]:
    """At most ``most`` pictures, spread evenly over ``data``: [1, 3, H, W] each, fitted and normalised.

    Raises CompressionError without pictures.
    """
    if not data:
        raise CompressionError(f"the heads must be asked on pictures: give data, {most} of them are enough, unlabelled")
    given = network.pipeline.input
    found = []
    for at in np.linspace(0, len(data) - 1, min(most, len(data))).round().astype(int).tolist():
        buffer = np.zeros((1, given.network_size.height, given.network_size.width, 3), np.uint8)
        RgbIntake(buffer, given.fit, given.normalization)(Frame.of(data[at].rgb, order="rgb"))
        found.append(normalized(torch.from_numpy(buffer).permute(0, 3, 1, 2), given.normalization))
    return found


def forms(network: Network) -> dict[str, Form]:
    """By ``"head.part"``, the form in which squared changes of an answer are those of its distribution (Fisher).

    That is twice the root of the probabilities: of the classes of a segmentation (dimension 1), and of each score, tag
    and heat map for itself. All other answers count as they are.
    """
    found: dict[str, Form] = {}
    for name, head in network.pipeline.heads.items():
        if head.type == "segmentation":
            found[f"{name}.logits"] = lambda logits: 2 * (0.5 * logits.log_softmax(1)).exp()
        else:
            found.update({f"{name}.{part}": _yes_or_no for part in ("scores", "logits", "heatmaps")})
    return found


def _yes_or_no(logits: Tensor) -> Tensor:
    return 2 * torch.cat([0.5 * F.logsigmoid(logits), 0.5 * F.logsigmoid(-logits)], 1).exp()


def formed(answer: Any, given: Mapping[str, Form]) -> dict[str, Tensor]:
    """A network's answers by ``"head.part"``, each in its form; a bare tensor is called ``output``."""
    named = answer if isinstance(answer, Mapping) else {"output": answer}
    return {name: given[name](value) if name in given else value for name, value in named.items()}


def weighed(votes: Mapping[str, Tensor], head_weights: Mapping[str, float]) -> Tensor:
    """The sum of several vectors by ``"head.part"``, each first made of sum 1, times what its head weighs.

    The parts of a head share its weight, which is 1 where it is not named.
    """
    heads = [name.partition(".")[0] for name in votes]
    total = torch.zeros_like(next(iter(votes.values())))
    for head, vote in zip(heads, votes.values(), strict=True):
        whole = float(vote.sum())
        total += vote * (head_weights.get(head, 1.0) / heads.count(head) / whole if whole else 0.0)
    return total
