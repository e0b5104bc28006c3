"""Batches: every picture once a round, the same for a seed and a step, at the scale at which the network sees it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sharedbb.errors import DataError
from sharedbb.learn import batches
from sharedbb.learn.batches import Batch, Batches, Pool
from sharedbb.learn.data import Sample
from sharedbb.learn.known import Present
from sharedbb.learn.labels import Asked
from sharedbb.learn.losses import Tags
from sharedbb.spec import Input

CROP = (32, 64)
INPUT = Input(size=(64, 96))
TASKS = {"scene": Tags(2)}
QUESTIONS = {"scene": Asked("tags", (0, 1))}


def samples(count: int, size: tuple[int, int] = (32, 48)) -> list[Sample]:
    labels = np.zeros(size, np.uint8)
    return [Sample(str(index), np.full((*size, 3), 100 + index, np.uint8), labels) for index in range(count)]


def pool(count: int, share: float = 1.0) -> Pool:
    return Pool(samples(count), QUESTIONS, share)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, again = (Batches([pool(5)], TASKS, INPUT, seed=1) for _ in range(2))
    first.batch(0, 3, CROP)
    assert torch.equal(first.batch(4, 3, CROP).images, again.batch(4, 3, CROP).images)
    assert not torch.equal(first.batch(5, 3, CROP).images, again.batch(4, 3, CROP).images)
    alone = Batches([pool(1)], TASKS, INPUT)
    assert not torch.equal(alone.batch(0, 1, CROP).images, alone.batch(1, 1, CROP).images)
    other = Batches([pool(5)], TASKS, INPUT, seed=2)
    assert not torch.equal(first.batch(4, 3, CROP).images, other.batch(4, 3, CROP).images)


def test_a_batch_has_images_and_a_target_for_each_task() -> None:
    made = Batches([pool(2)], TASKS, INPUT).batch(0, 4, CROP)
    assert made.images.shape == (4, 3, *CROP)
    assert made.images.dtype == torch.uint8
    assert made.targets["scene"].shape == (4, 2)
    moved = made.to(torch.device("cpu"))
    assert torch.equal(moved.targets["scene"], made.targets["scene"])
    assert Batch.of([one.rgb for one in samples(2)]).targets == {}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[float, float]]]:
    """The pictures that crops are made of, with the scales asked for."""
    seen: list[tuple[str, tuple[float, float]]] = []

    def note(sample: Sample, crop: tuple[int, int], rng: Any, scale: tuple[float, float]) -> Sample:
        seen.append((sample.name, scale))
        return Sample(sample.name, np.zeros((*crop, 3), np.uint8), np.zeros(crop, np.uint8))

    monkeypatch.setattr(batches, "training_crop", note)
    return seen


def test_every_picture_comes_once_a_round(taken: list[tuple[str, tuple[float, float]]]) -> None:
    source = Batches([pool(6)], TASKS, INPUT)
    for step in range(4):
        source.batch(step, 3, CROP)
    names = [name for name, _ in taken]
    assert sorted(names[:6]) == sorted(names[6:]) == [str(index) for index in range(6)]
    assert names[:6] != names[6:]


def test_every_set_fills_its_share_and_each_of_its_pictures_comes_once_a_round(
    taken: list[tuple[str, tuple[float, float]]],
) -> None:
    rendered = [Sample("rendered", np.zeros((32, 48, 3), np.uint8))] * 5
    source = Batches([pool(6, share=0.75), Pool(rendered, {}, 0.25)], TASKS, INPUT)
    for step in range(3):
        source.batch(step, 8, CROP)
    assert Counter(name == "rendered" for name, _ in taken) == {True: 6, False: 18}
    names = [name for name, _ in taken if name != "rendered"]
    assert sorted(names[:6]) == sorted(names[6:12]) == [str(index) for index in range(6)]


@pytest.mark.parametrize(
    "shares", [(0.37, *[0.09] * 7), (0.2, 0.1, 0.7), (0.99, 0.01), (0.3, 0.15, 0.1, 0.073, 0.092, 0.091, 0.103, 0.091)]
)
def test_shares_that_are_no_whole_pictures_are_filled_over_the_batches(
    taken: list[tuple[str, tuple[float, float]]], shares: tuple[float, ...]
) -> None:
    grey = np.zeros((32, 48, 3), np.uint8)
    pools = [
        Pool([Sample(f"{place} {index}", grey) for index in range(5)], {}, share) for place, share in enumerate(shares)
    ]
    for step in range(200):
        Batches(pools, TASKS, INPUT).batch(step, 8, CROP)
        for place, share in enumerate(shares):
            count = sum(name.startswith(f"{place} ") for name, _ in taken)
            assert abs(count - share / sum(shares) * len(taken)) < 3
    for place in range(len(shares)):
        names = [name for name, _ in taken if name.startswith(f"{place} ")]
        for begin in range(0, len(names) - 5, 5):
            assert len(set(names[begin : begin + 5])) == 5  # each once a round, whatever the batches


def test_pictures_are_taken_at_the_scale_of_the_networks_input(taken: list[tuple[str, tuple[float, float]]]) -> None:
    for fit, size, scale, content in (
        ("letterbox", (32, 32), (2.0, 2.0), (64, 64)),
        ("stretch", (32, 32), (3.0, 2.0), (64, 96)),
        ("crop", (32, 32), (3.0, 3.0), (64, 96)),
    ):
        source = Batches([Pool(samples(1, size), QUESTIONS)], TASKS, Input(size=(64, 96), fit=fit))
        source.batch(0, 1, CROP)
        assert taken[-1][1] == pytest.approx(scale)
        assert source.content() == content


def test_without_pictures_there_are_no_batches() -> None:
    with pytest.raises(DataError, match="no picture to train on"):
        Batches([Pool([], QUESTIONS)], TASKS, INPUT)
    with pytest.raises(DataError, match=r"above 0, got \[1.0, 0.0\]"):
        Batches([pool(1), pool(1, share=0.0)], TASKS, INPUT)


def test_labels_go_before_teachers_and_sets_may_lack_heads() -> None:
    red, blue = np.array([1, 0], np.float32), np.array([0.25, 0.125], np.float32)
    labelled, taught = samples(1)[0], replace(samples(1)[0], labels=None, known={"scene": Present(blue)})
    both = replace(labelled, known={"scene": Present(blue)})
    bare = replace(labelled, labels=None)
    pools = [Pool([one], QUESTIONS) for one in (labelled, taught, both, bare)]
    rows = Batches(pools, TASKS, INPUT).batch(0, 4, (32, 64)).targets["scene"]
    assert rows[:3].tolist() == [red.tolist(), blue.tolist(), red.tolist()]
    assert rows[3].isnan().all()
