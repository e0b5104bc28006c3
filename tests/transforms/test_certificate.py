"""The certificate holds against errors that are really made: on pictures of every kind, never below, not far above."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from sharedbb.errors import TransformError
from sharedbb.transforms.bands import Decomposition, wavelet_bands
from sharedbb.transforms.certificate import Certificate
from sharedbb.transforms.fold import fold_bands
from sharedbb.types import Normalization

IMAGENET = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HEIGHT, WIDTH = 64, 96


def _pictures() -> dict[str, np.ndarray]:
    dice = np.random.default_rng(0)
    noise = dice.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    board = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    lines = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    cv2.line(lines, (3, 5), (90, 50), (255, 230, 10), 2)
    cv2.circle(lines, (40, 30), 15, (0, 60, 255), -1)
    return {
        "noise": noise,
        "smooth": cv2.GaussianBlur(noise, (7, 7), 2).view(np.uint8),
        "checkerboard": board,
        "lines": lines,
        "flat": np.full((HEIGHT, WIDTH, 3), 200, np.uint8),
        "black": np.zeros((HEIGHT, WIDTH, 3), np.uint8),
    }


PICTURES = _pictures()
CASES = [
    ("haar", 1, "mallat", "low", (3, 2, 1)),
    ("haar", 1, "mallat", "low_and_edges", (7, 2, 3)),
    ("haar", 2, "mallat", "low_and_edges", (4, 4, 0)),
    ("haar", 2, "packet", "low", (4, 4, 0)),
    ("db2", 1, "mallat", "low", (3, 2, 1)),
    ("bior2.2", 2, "mallat", "low", (7, 4, 3)),
]


def _weight(kernel: int) -> torch.Tensor:
    return torch.randn(6, 3, kernel, kernel, dtype=torch.float64, generator=torch.Generator().manual_seed(kernel))


def _certificate(form: Decomposition, kernel: int, stride: int, padding: int) -> Certificate:
    left_out = [
        (bands, fold_bands(_weight(kernel), (stride, stride), (padding, padding), bands).weight.numpy())
        for bands in form.dropped
    ]
    return Certificate.of(left_out, IMAGENET)


def _missed(form: Decomposition, picture: np.ndarray, kernel: int, stride: int, padding: int) -> np.ndarray:
    """What the stem misses of a picture, [outputs, height, width]: computed from the bands left out, in float64."""
    levels = (picture - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    normalised = torch.from_numpy(levels).permute(2, 0, 1)[:, None]
    total = torch.zeros(1)
    for bands in form.dropped:
        after = [bands.block * (bands.count(side) - 1) + bands.length - bands.lead - side for side in picture.shape[:2]]
        room = functional.pad(normalised, (bands.lead, after[1], bands.lead, after[0]))
        found = functional.conv2d(room, torch.from_numpy(bands.kernels)[:, None], stride=bands.block)
        folded = fold_bands(_weight(kernel), (stride, stride), (padding, padding), bands)
        read = functional.pad(found.flatten(0, 1)[None], folded.pads)
        total = total + functional.conv2d(read, folded.weight, stride=folded.stride)
    return total[0].numpy()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_bound_holds_and_is_near(case: tuple) -> None:
    *settings, convolution = case
    form = wavelet_bands(*settings)
    certificate = _certificate(form, *convolution)
    ratios = []
    for name, picture in PICTURES.items():
        missed = np.abs(_missed(form, picture, *convolution)).max((1, 2))
        bound = certificate.bound(certificate.measure(picture))
        assert (bound >= missed).all(), name
        assert (bound <= certificate.bound()).all(), name
        if missed.max() > 1e-6:
            ratios.append(bound.max() / missed.max())
    assert len(ratios) >= 4
    assert np.median(ratios) <= 20


def test_the_worst_picture_reaches_the_range_of_a_band() -> None:
    certificate = _certificate(wavelet_bands("haar", keep="low"), 3, 2, 1)
    board = certificate.measure(PICTURES["checkerboard"])
    diagonal = certificate.names.index("d")
    np.testing.assert_allclose(board.largest[:, diagonal], certificate.ranges[:, diagonal], rtol=1e-6)
    np.testing.assert_allclose(certificate.ranges[:, diagonal], 255 / np.array(IMAGENET.std), rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_root_mean_square_is_about_right_where_neighbours_are_independent(case: tuple) -> None:
    *settings, convolution = case
    form = wavelet_bands(*settings)
    certificate = _certificate(form, *convolution)
    picture = PICTURES["noise"]
    observed = np.sqrt((_missed(form, picture, *convolution) ** 2).mean((1, 2)))
    np.testing.assert_allclose(certificate.rms(certificate.measure(picture)), observed, rtol=0.25)


def test_nothing_is_missed_of_a_flat_picture() -> None:
    certificate = _certificate(wavelet_bands("haar", keep="low"), 3, 2, 1)
    levels = certificate.measure(PICTURES["flat"])
    assert levels.largest.max() == 0
    assert certificate.rms(levels).max() == 0
    assert certificate.bound(levels).max() < 1e-3 * certificate.bound().max()


def test_it_is_the_same_after_being_stored() -> None:
    certificate = _certificate(wavelet_bands("db2", keep="low"), 3, 2, 1)
    again = Certificate.from_dict(json.loads(json.dumps(certificate.to_dict())))
    levels = certificate.measure(PICTURES["lines"])
    assert np.array_equal(again.measure(PICTURES["lines"]).largest, levels.largest)
    assert np.array_equal(again.bound(levels), certificate.bound(levels))
    assert repr(again) == repr(certificate)
    assert "without h, v, d" in repr(certificate)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\)"),
        (np.zeros((7, 8, 3), np.uint8), "multiples of 2, got 8x7"),
    ],
)
def test_other_pictures_are_refused(picture: np.ndarray, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        _certificate(wavelet_bands("haar", keep="low"), 3, 2, 1).measure(picture)
