"""Branches: the trunk behind one of its steps once more, with weights of its own, for some of the heads.

What comes before is one and the same for all. Heads with a branch read its maps, and the trunk's where it begins too
late to have any. A new branch has the weights of the trunk, so that a network answers the same with and without it
until one of them is trained.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy

from torch import Tensor, nn

from sharedbb.errors import GraphError
from sharedbb.nets.backbones import Backbone, check_image

PICTURE = ""
"""Where a branch begins that shares nothing: in the place of a step, what the first one reads."""


class Maps(dict[int, Tensor]):
    """Feature maps by stride; ``at`` has those that branches begin with, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.at: dict[str, Tensor] = {}


class Trunk(Backbone):
    """A backbone that also hands on what its branches begin with. Parts and weights are the given backbone's own."""

    def __init__(self, backbone: Backbone, places: Iterable[str]) -> None:
        super().__init__(backbone, backbone.steps, taps_of(backbone))
        self.places = frozenset(places)

    def forward(self, image: Tensor) -> Maps:
        """Run the chain and collect the tapped maps, and those of ``places``."""
        check_image(image)
        features = Maps()
        features.at[PICTURE] = image
        for step, value in walk(self, image):
            if step in self.tapped:
                features[self.tapped[step]] = value
            if step in self.places:
                features.at[step] = value
        return features


class Later(Backbone):
    """Some later steps of a backbone: forward takes what the step before them gives, and is otherwise the same."""

    def forward(self, value: Tensor) -> dict[int, Tensor]:
        """Run the chain and collect the tapped maps."""
        return {self.tapped[step]: result for step, result in walk(self, value) if step in self.tapped}


class Branch(nn.Module):
    """Own copies of a backbone's steps behind ``place``, and of the neck where there is one, for some ``heads``.

    State-dict prefixes are ``backbone.`` and ``neck.``.
    """

    def __init__(
        self, backbone: nn.Module, neck: nn.Module | None, after: int | str, taps: Mapping[str, Sequence[int]]
    ) -> None:
        """Copy what lies behind ``after`` (see ``step_at``), as far as the heads read it; ``taps``: strides by head.

        Raises GraphError where a branch cannot begin there, or would have no part.
        """
        super().__init__()
        self.heads = tuple(taps)
        self.place = step_at(backbone, after)
        read = set().union(*taps.values()) if neck is None else {*neck.channels}  # type: ignore[misc]
        self.backbone = _later(chain(backbone), self.place, read)
        if not self.backbone.steps and neck is None:
            raise GraphError(f"a branch after {after} has nothing of its own: {', '.join(taps)} tap nothing behind it")
        self.neck = deepcopy(neck)

    def forward(self, trunk: Maps) -> Mapping[int, Tensor]:
        """The features that the heads of this branch tap, from the trunk's own."""
        features = {**trunk, **self.backbone(trunk.at[self.place])}
        return features if self.neck is None else self.neck(features)


def _later(backbone: Backbone, place: str, read: Collection[int]) -> Later:
    """Copies of the steps behind ``place``, as far as the strides ``read`` need them."""
    steps = backbone.steps[backbone.steps.index(place) + 1 if place != PICTURE else 0 :]
    last = max((at for at, step in enumerate(steps) if backbone.tapped.get(step) in read), default=-1)
    steps = steps[: last + 1]
    taps = {stride: (step, channels) for stride, (step, channels) in taps_of(backbone).items() if step in steps}
    return Later(deepcopy(backbone), steps, taps)


def step_at(backbone: nn.Module, after: int | str) -> str:
    """The step whose result is the backbone's feature at a stride, or the step of that name; PICTURE for stride 0.

    Raises GraphError where there is none, and for a backbone that is no plain chain of steps.
    """
    trunk = chain(backbone)
    places: dict[int | str, str] = {0: PICTURE, **{step: step for step in trunk.steps}}
    places |= {stride: step for step, stride in trunk.tapped.items()}
    if after not in places:
        known = ", ".join(map(str, [*trunk.channels, *trunk.steps]))
        raise GraphError(f"a branch cannot begin after {after!r}; the strides and steps of the trunk are {known}")
    return places[after]


def chain(backbone: nn.Module) -> Backbone:
    """The backbone itself, where it is a plain chain of steps. Raises GraphError for any other."""
    if type(backbone) is not Backbone:
        raise GraphError(f"branches need a backbone that is a plain chain of steps, got a {type(backbone).__name__}")
    return backbone


def taps_of(backbone: Backbone) -> dict[int, tuple[str, int]]:
    """Stride to the step that is tapped there and its channels, as ``Backbone`` takes them."""
    return {stride: (step, backbone.channels[stride]) for step, stride in backbone.tapped.items()}


def walk(backbone: Backbone, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Every step of the chain with its result, in order, beginning with ``value``."""
    for step in backbone.steps:
        value = backbone.get_submodule(step)(value)
        yield step, value
