"""Training crops: labels and distances go where the picture goes, and a crop depends on its generator alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sharedbb.learn.augment import BARS, SCALES, training_crop
from sharedbb.learn.data import Sample
from sharedbb.learn.labels import VOID

CROP = (64, 96)


def sample(*, labelled: bool = True) -> Sample:
    """A white square of 24×24 pixels, label 1 and 10 m away, on black of label 0."""
    labels = np.zeros((60, 90), np.uint8)
    labels[20:44, 30:54] = 1
    rgb = np.where(labels[..., None] == 1, 235, 20).repeat(3, 2).astype(np.uint8)
    return Sample("square", rgb, labels, np.full(labels.shape, 10, np.float32)) if labelled else Sample("square", rgb)


def crops(count: int, *, scale: tuple[float, float] = (1.0, 1.0)) -> list[Sample]:
    return [training_crop(sample(), CROP, np.random.default_rng(seed), scale) for seed in range(count)]


def test_a_crop_has_the_size_that_was_asked_for() -> None:
    for made in crops(20):
        assert made.rgb.shape == (*CROP, 3)
        assert made.rgb.dtype == np.uint8
        assert made.labels is not None
        assert made.labels.shape == CROP
        assert set(np.unique(made.labels)) <= {0, 1, VOID}


def test_the_same_generator_gives_the_same_crop_and_another_one_another() -> None:
    first, again, other = (training_crop(sample(), CROP, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first.rgb, again.rgb)
    assert np.array_equal(first.labels, again.labels)  # type: ignore[arg-type]
    assert not np.array_equal(first.rgb, other.rgb)


def test_labels_stay_on_what_they_name() -> None:
    right = total = 0
    for made in crops(40):
        grey, square, ground = made.rgb.mean(2), made.labels == 1, made.labels == 0
        if square.sum() < 50 or ground.sum() < 50:
            continue
        middle = (grey[square].mean() + grey[ground].mean()) / 2
        assert grey[square].mean() > grey[ground].mean() + 40
        right += int((grey > middle)[square].sum() + (grey < middle)[ground].sum())
        total += int(square.sum() + ground.sum())
    assert total > 0
    assert right / total > 0.98


def test_distances_shrink_as_things_grow() -> None:
    held = 0
    for made in crops(40):
        square = made.labels == 1
        rows, columns = square.any(1).nonzero()[0], square.any(0).nonzero()[0]
        if not len(rows) or rows[0] == 0 or columns[0] == 0 or rows[-1] == CROP[0] - 1 or columns[-1] == CROP[1] - 1:
            continue
        grown = math.sqrt(square.sum() / 24**2)
        assert made.depth is not None
        assert made.depth[square] == pytest.approx(10 / grown, rel=0.08)
        assert np.isnan(made.depth[made.labels == VOID]).all()
        held += 1
    assert held > 10


def test_the_usual_scale_is_the_one_asked_for() -> None:
    def typical(scale: tuple[float, float]) -> float:
        return float(np.median([10 / np.nanmax(made.depth) for made in crops(60, scale=scale)]))  # type: ignore[arg-type]

    assert typical((1.0, 1.0)) == pytest.approx(1.0, rel=0.2)
    depths = [np.nanmax(made.depth) for made in crops(60, scale=(0.5, 0.5))]  # type: ignore[arg-type]
    assert 10 / SCALES[2] <= min(depths)
    assert max(depths) <= 10 / SCALES[0] * 1.001
    areas = {scale: np.mean([(m.labels == 1).sum() for m in crops(60, scale=(scale, scale))]) for scale in (0.5, 1.0)}
    assert areas[0.5] < areas[1.0] / 2


def test_half_of_the_crops_are_mirrored() -> None:
    labels = np.zeros((60, 90), np.uint8)
    labels[:, :45] = 1
    halves = Sample("halves", np.zeros((60, 90, 3), np.uint8), labels)
    mirrored = told = 0
    for seed in range(80):
        made = training_crop(halves, CROP, np.random.default_rng(seed)).labels
        assert made is not None
        left, right = (np.nonzero(made == kind)[1] for kind in (1, 0))
        if len(left) and len(right):
            told += 1
            mirrored += int(left.mean() > right.mean())
    assert 0.3 < mirrored / told < 0.7


def test_what_lies_outside_is_unknown_and_of_one_colour() -> None:
    for seed in range(30):
        made = training_crop(sample(), (160, 192), np.random.default_rng(seed), (0.4, 0.4))
        outside = made.rgb[made.labels == VOID].reshape(-1, 3).astype(int)
        assert len(outside) > 1000
        assert np.median(np.abs(outside - np.median(outside, axis=0))) <= 12
    assert len(set(BARS)) == 3


def test_the_picture_itself_is_left_alone_and_what_it_lacks_stays_away() -> None:
    before = sample()
    training_crop(before, CROP, np.random.default_rng(0))
    assert np.array_equal(before.rgb, sample().rgb)
    assert np.array_equal(before.depth, sample().depth)  # type: ignore[arg-type]
    bare = training_crop(sample(labelled=False), CROP, np.random.default_rng(0))
    assert bare.labels is None
    assert bare.depth is None
    assert np.array_equal(bare.rgb, training_crop(before, CROP, np.random.default_rng(0)).rgb)
