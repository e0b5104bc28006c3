"""Learning from a teacher: its answers, its shared features, and where it looks.

Answers: Hinton et al., Distilling the Knowledge in a Neural Network, 2015. Features: Romero et al., FitNets, 2015.
Attention: Zagoruyko and Komodakis, Paying More Attention to Attention, 2017. The student may be another network with
another backbone: only the heads, and for features and attention the strides, must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharedbb.errors import CompressionError
from sharedbb.learn.fcos import giou_of_distances
from sharedbb.learn.losses import Raw, binary_divergence, depth_loss, embedding_loss, heatmap_loss
from sharedbb.nets.backbones import seeded
from sharedbb.spec import Pipeline

ADAPTOR_SEED = 1
PROBE = 64
"""Side of the picture on which the answers of student and teacher are compared."""


@dataclass(frozen=True, slots=True)
class Distill:
    """How much a student listens to its teacher.

    ``alpha`` in 0–1: a head that has labels too learns ``(1 − alpha) · labels + alpha · teacher``; one without learns
    from the teacher alone. ``temperature`` ≥ 1 softens both answers of classes, tags and heat maps (the loss is scaled
    by its square, so that alpha means the same at any temperature). ``features`` and ``attention``: weights of those
    losses, 0 for none.
    """

    alpha: float = 0.5
    temperature: float = 2.0
    features: float = 0.0
    attention: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise CompressionError(f"alpha is the teacher's share of a loss, 0 to 1, got {self.alpha:g}")
        if not self.temperature > 0:
            raise CompressionError(f"the temperature must be above 0 (1 changes nothing), got {self.temperature:g}")
        if self.features < 0 or self.attention < 0:
            raise CompressionError("the weights of features and attention must be at least 0")


def response_loss(kind: str, raw: Raw, wanted: Raw, temperature: float) -> Tensor:
    """How far a head's parts are from the teacher's, 0 where they are equal: a scalar.

    ``kind`` is the head's type; of one that is not built in, the parts' squared distance over the teacher's variance.
    """
    known = RESPONSES.get(kind)
    return known(raw, wanted, temperature) if known else _parts(raw, wanted)


def _segmentation(raw: Raw, wanted: Raw, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the classes, mean over the cells."""
    logits, taught = raw["logits"].float() / temperature, wanted["logits"].float() / temperature
    each = F.kl_div(logits.log_softmax(1), taught.log_softmax(1), reduction="none", log_target=True)
    return each.sum(1).mean() * temperature**2


def _detection(raw: Raw, wanted: Raw, temperature: float) -> Tensor:
    """Scores and boxes, both per unit of the teacher's score: points where it sees nothing have no box.

    At temperature 1: softened scores of thousands of empty points would drown those of the few that answer.
    """
    score = wanted["scores"].float().sigmoid()
    found = score.amax(-1)
    off = 1 - giou_of_distances(raw["distances"].float(), wanted["distances"].float())
    scores = binary_divergence(raw["scores"], score).sum() / score.sum().clamp(min=1.0)
    return scores + (found * off).sum() / found.sum().clamp(min=1.0)


def _tags(raw: Raw, wanted: Raw, temperature: float) -> Tensor:
    taught = (wanted["logits"].float() / temperature).sigmoid()
    return binary_divergence(raw["logits"].float() / temperature, taught).mean() * temperature**2


def _keypoints(raw: Raw, wanted: Raw, temperature: float) -> Tensor:
    taught = (wanted["heatmaps"].float() / temperature).sigmoid()
    return heatmap_loss(raw["heatmaps"].float() / temperature, taught) * temperature**2


def _depth(raw: Raw, wanted: Raw, temperature: float) -> Tensor:
    return depth_loss(raw["depth"], wanted["depth"])


def _embedding(raw: Raw, wanted: Raw, temperature: float) -> Tensor:
    return embedding_loss(raw["vector"], wanted["vector"])


def _parts(raw: Raw, wanted: Raw) -> Tensor:
    return torch.stack([_relative_distance(raw[name].float(), value.float()) for name, value in wanted.items()]).sum()


RESPONSES: dict[str, Callable[[Raw, Raw, float], Tensor]] = {
    "segmentation": _segmentation,
    "detection": _detection,
    "tags": _tags,
    "keypoints": _keypoints,
    "depth": _depth,
    "embedding": _embedding,
}


def feature_loss(feature: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of two maps [N, C, h, w] over the variance of ``wanted``: 1 for a constant guess of its mean."""
    return _relative_distance(feature.float(), wanted.float())


def attention_loss(feature: Tensor, wanted: Tensor) -> Tensor:
    """Mean over pictures of the squared distance of two attention maps, of any widths but one height and width."""
    return (attention(feature) - attention(wanted)).pow(2).sum(1).mean()


def attention(feature: Tensor) -> Tensor:
    """Where a map [N, C, h, w] is active: the sum over its channels of its squares, as vectors [N, h·w] of length 1."""
    return F.normalize(feature.float().pow(2).sum(1).flatten(1), dim=1)


def _relative_distance(value: Tensor, wanted: Tensor) -> Tensor:
    return F.mse_loss(value, wanted) / wanted.var(unbiased=False).clamp(min=1e-6)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a network said of a batch: ``raw`` by "head.part", and its shared ``features`` by stride, if asked for."""

    raw: Mapping[str, Tensor]
    features: Mapping[int, Tensor]


@dataclass(slots=True)
class Distiller:
    """A frozen teacher for students of ``pipeline``'s heads; adaptors bring the student's features to its widths.

    ``adaptors`` are trained with the student and thrown away after that.
    """

    teacher: nn.Module
    pipeline: Pipeline
    settings: Distill
    adaptors: nn.ModuleDict = field(default_factory=nn.ModuleDict)

    def __post_init__(self) -> None:
        self.teacher.eval().requires_grad_(False)

    def adapt(self, student: nn.Module) -> None:
        """Make the adaptors for this student: a 1×1 convolution for each stride whose widths differ.

        Raises CompressionError when the teacher answers something else than the student, or, for features and
        attention, has no stride in common with it.
        """
        ours, theirs = _shapes(student), _shapes(self.teacher)
        for name, shape in ours.items():
            if theirs.get(name) != shape:
                got = f"answers {name} with shape {theirs[name]}" if name in theirs else f"has no {name}"
                raise CompressionError(f"the teacher {got}, where the student gives {shape}: their heads must be equal")
        if not self.watches:
            return
        width, wanted = channels(student), channels(self.teacher)
        shared = sorted(width.keys() & wanted.keys())
        if not shared:
            raise CompressionError(
                f"features and attention need a stride that both networks have: the student has {sorted(width)}, "
                f"the teacher {sorted(wanted)}"
            )
        for stride in shared:
            if self.settings.features and width[stride] != wanted[stride]:
                build = partial(nn.Conv2d, width[stride], wanted[stride], 1)
                self.adaptors[str(stride)] = seeded(ADAPTOR_SEED, build)

    @property
    def watches(self) -> bool:
        """Whether features are needed at all."""
        return self.settings.features > 0 or self.settings.attention > 0

    @torch.no_grad()
    def teach(self, images: Tensor) -> Lesson:
        """What the teacher says of normalised images [N, 3, H, W]."""
        with watching(self.teacher, self.watches) as features:
            raw = self.teacher(images)
        return Lesson(raw, features)

    def responses(self, said: Raw, lesson: Lesson) -> dict[str, Tensor]:
        """By head, how far the student's raw answers are from the teacher's."""
        return {
            name: response_loss(head.type, parts_of(said, name), parts_of(lesson.raw, name), self.settings.temperature)
            for name, head in self.pipeline.heads.items()
        }

    def hints(self, features: Mapping[int, Tensor], lesson: Lesson) -> dict[str, Tensor]:
        """The weighted losses of features and attention, each the mean over the strides that both networks have."""
        shared = sorted(features.keys() & lesson.features.keys())
        losses: dict[str, Tensor] = {}
        if self.settings.features:
            each = [feature_loss(self._adapted(stride, features[stride]), lesson.features[stride]) for stride in shared]
            losses["features"] = self.settings.features * torch.stack(each).mean()
        if self.settings.attention:
            each = [attention_loss(features[stride], lesson.features[stride]) for stride in shared]
            losses["attention"] = self.settings.attention * torch.stack(each).mean()
        return losses

    def _adapted(self, stride: int, feature: Tensor) -> Tensor:
        return self.adaptors[str(stride)](feature.float()) if str(stride) in self.adaptors else feature


def parts_of(raw: Raw, head: str) -> dict[str, Tensor]:
    """The parts of one head, by part name."""
    return {name.partition(".")[2]: value for name, value in raw.items() if name.partition(".")[0] == head}


def trunk(network: nn.Module) -> nn.Module:
    """The module whose results the heads tap: the neck, or the backbone. Raises CompressionError if there is none."""
    for name in ("neck", "backbone"):
        found = getattr(network, name, None)
        if isinstance(found, nn.Module):
            return found
    raise CompressionError(f"features are tapped behind a backbone or a neck; a {type(network).__name__} has neither")


def channels(network: nn.Module) -> dict[int, int]:
    """Stride → channels of the features that the heads tap."""
    found: Any = trunk(network)
    return dict(found.channels)


@torch.no_grad()
def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every raw answer to a small picture, without its batch axis."""
    training, device = network.training, next(network.parameters()).device
    raw = network.eval()(torch.zeros(1, 3, PROBE, PROBE, device=device))
    network.train(training)
    return {name: tuple(value.shape[1:]) for name, value in raw.items()}


@contextmanager
def watching(network: nn.Module, watch: bool = True) -> Iterator[dict[int, Tensor]]:
    """Collect the shared features of what ``network`` computes inside the block; nothing without ``watch``."""
    found: dict[int, Tensor] = {}
    if not watch:
        yield found
        return
    hook = trunk(network).register_forward_hook(lambda _module, _inputs, features: found.update(features))
    try:
        yield found
    finally:
        hook.remove()
