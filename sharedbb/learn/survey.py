"""Looking at sets before work begins: which pictures can be used, and which set knows what about which head."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sharedbb import artifact
from sharedbb.errors import DataError
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.judge import LOWEST_SCORE, Quality, judge
from sharedbb.learn.losses import questions_of
from sharedbb.learn.network import Network
from sharedbb.spec import Pipeline

MOST_UNUSABLE = 0.1
"""Share of a set's pictures that may be unusable."""

LISTED = 5
"""Names and numbers in a sentence."""


def usable(data: Data, tell: Callable[[float], None] = lambda share: None) -> Data:
    """The pictures of a set that can be read with their labels; ``said`` counts the others and names the first.

    Reads all of them, from which it has their ``digest``, and says as well which numbers labels have that no class has.
    ``tell`` is told the share done.
    Raises DataError where more than MOST_UNUSABLE cannot be used.
    """
    places, faults = list[int](), list[str]()
    unnamed: dict[int, int] = {}
    read = hashlib.sha256(repr((data.classes, data.depth, data.boxed)).encode())
    for place in range(len(data)):
        try:
            sample = data[place]
        except DataError as error:
            faults.append(str(error))
            continue
        places.append(place)
        for array in _arrays(sample):
            read.update(repr((array.shape, array.dtype.str)).encode())
            read.update(np.ascontiguousarray(array).data)
        for number in sample.unnamed:
            unnamed[number] = unnamed.get(number, 0) + 1
        tell((place + 1) / len(data))
    said = []
    if faults:
        told = f"{len(faults)} of {len(data)} pictures cannot be used; the first: {faults[0]}"
        if len(faults) > MOST_UNUSABLE * len(data):
            raise DataError(f"{data.name}: {told}")
        said.append(told)
    if unnamed:
        said.append(
            f"labels have numbers that no class has, {_few(sorted(unnamed))}, in up to {max(unnamed.values())} of "
            f"{len(data)} pictures: they count as void, beside the {len(data.classes)} classes from 0 on"
        )
    found = data.only(places, *said)
    found.digest = read.hexdigest()[:32]
    return found


def _arrays(sample: Sample) -> Iterator[NDArray[Any]]:
    """Everything that a picture and its labels consist of."""
    yield sample.rgb
    yield np.zeros(0) if sample.labels is None else sample.labels
    yield np.zeros(0) if sample.depth is None else sample.depth
    if sample.boxes is not None:
        yield from (sample.boxes.xyxy, sample.boxes.classes, sample.boxes.ignored)


def part_of(data: Data, part: str) -> Data | None:
    """The pictures of ``train``, ``val`` or ``test``; None where there are none."""
    try:
        return data.of(part)
    except DataError:
        return None


def unknown(pipeline: Pipeline, data: Data) -> list[str]:
    """Why a set with labels knows nothing of a head, a sentence each, where some of the head's names are in it."""
    told = []
    for name, head in pipeline.heads.items():
        names = artifact.class_names(head)
        absent = [one for one in names if one not in data.classes]
        if name not in questions_of(pipeline, data) and absent and len(absent) < len(names):
            told.append(
                f"it says nothing of {name}, whose {_few(absent)} is not among its classes {_few(data.classes)}"
            )
    return told


@dataclass(frozen=True, slots=True)
class Examiner:
    """Judges a network: each head on the first of several sets whose labels know it.

    ``sets``: sets with the heads that each of them judges.
    """

    sets: tuple[tuple[Data, tuple[str, ...]], ...]

    @classmethod
    def of(cls, pipeline: Pipeline, sets: Sequence[Data]) -> Examiner:
        """For sets of pictures to judge by, the one that decides first."""
        found: list[tuple[Data, tuple[str, ...]]] = []
        left = list(pipeline.heads)
        for data in sets:
            heads = tuple(name for name in left if name in questions_of(pipeline, data))
            left = [name for name in left if name not in heads]
            if heads:
                found.append((data, heads))
        return cls(tuple(found))

    def spread(self, most: int) -> Examiner:
        """The same on at most so many pictures of each set."""
        return Examiner(tuple((data.spread(most), heads) for data, heads in self.sets))

    def __call__(self, network: Network) -> Quality:
        """The metrics of every head that is known, as ``judge`` gives them; on a CUDA device where there is one."""
        found: dict[str, dict[str, Any]] = {}
        network.module.to("cuda" if torch.cuda.is_available() else "cpu")
        for data, heads in self.sets:
            only = {name: network.pipeline.heads[name] for name in heads}
            found |= judge(network.predictor(lowest_score=LOWEST_SCORE), data, only)
        network.module.to("cpu")
        return {name: found[name] for name in network.pipeline.heads if name in found}

    def __bool__(self) -> bool:
        return bool(self.sets)

    def names(self) -> Mapping[str, str]:
        """By head, the set that judges it."""
        return {name: data.name for data, heads in self.sets for name in heads}


def _few(values: Sequence[Any]) -> str:
    shown = ", ".join(str(value) for value in values[:LISTED])
    return shown if len(values) <= LISTED else f"{shown} and {len(values) - LISTED} more"
