"""Colour matrices: published values, both ways, and what swscale makes of the same numbers and tags."""

from __future__ import annotations

import itertools

import av
import numpy as np
import pytest

from sharedbb.errors import TransformError
from sharedbb.transforms.colour import LUMA, Colour, Matrix, Range

EVERY = [Colour(matrix, range_) for matrix in LUMA for range_ in ("limited", "full")]


@pytest.mark.parametrize(
    ("matrix", "range_", "rgb", "yuv"),
    [
        ("bt601", "limited", (255, 255, 255), (235, 128, 128)),
        ("bt601", "limited", (0, 0, 0), (16, 128, 128)),
        ("bt601", "limited", (255, 0, 0), (81, 90, 240)),
        ("bt601", "limited", (0, 255, 0), (145, 54, 34)),
        ("bt709", "limited", (255, 0, 0), (63, 102, 240)),
        ("bt709", "limited", (0, 0, 255), (32, 240, 118)),
        ("bt601", "full", (255, 0, 0), (76, 85, 255)),
        ("bt709", "full", (0, 255, 0), (182, 30, 12)),
        ("bt2020", "limited", (255, 0, 0), (74, 97, 240)),
    ],
)
def test_published_colours(matrix: Matrix, range_: Range, rgb: tuple[int, ...], yuv: tuple[int, ...]) -> None:
    forward, offset = Colour(matrix, range_).from_rgb()
    assert np.rint(forward @ rgb + offset).clip(0, 255) == pytest.approx(yuv)


@pytest.mark.parametrize("colour", EVERY, ids=str)
def test_there_and_back(colour: Colour) -> None:
    rgb = np.random.default_rng(0).uniform(0, 255, (3, 50))
    (forward, foot), (back, offset) = colour.from_rgb(), colour.to_rgb()
    assert np.abs(back @ (forward @ rgb + foot[:, None] - offset[:, None]) - rgb).max() <= 1e-10


@pytest.mark.parametrize(("one", "other"), list(itertools.product(EVERY[:4], EVERY[2:6])), ids=str)
def test_from_one_to_another_is_by_way_of_rgb(one: Colour, other: Colour) -> None:
    rgb = np.random.default_rng(1).uniform(0, 255, (3, 50))
    (from_one, foot), (from_other, other_foot) = one.from_rgb(), other.from_rgb()
    matrix, offset = one.towards(other)
    got = matrix @ (from_one @ rgb + foot[:, None]) + offset[:, None]
    assert np.abs(got - (from_other @ rgb + other_foot[:, None])).max() <= 1e-10
    assert (matrix[1:, 0] == 0).all()
    assert (np.count_nonzero(matrix) == 3) == (one.matrix == other.matrix)


@pytest.mark.parametrize(
    ("format_", "tag", "levels", "expected"),
    [
        ("yuv420p", 1, 1, Colour("bt709", "limited")),
        ("yuv420p", 1, 2, Colour("bt709", "full")),
        ("yuv420p", 5, 0, Colour("bt601", "limited")),
        ("yuv420p", 6, 1, Colour("bt601", "limited")),
        ("yuv420p", 2, 0, Colour("bt601", "limited")),
        ("yuv420p", 9, 1, Colour("bt2020", "limited")),
        ("yuvj420p", 2, 0, Colour("bt601", "full")),
        ("yuvj420p", 1, 1, Colour("bt709", "full")),
    ],
)
@pytest.mark.parametrize("size", [(64, 48), (1920, 1080)])
def test_tags_are_read_as_swscale_reads_them(
    size: tuple[int, int], format_: str, tag: int, levels: int, expected: Colour
) -> None:
    video = av.VideoFrame(*size, format_)
    video.colorspace, video.color_range = tag, levels
    assert Colour.of(video) == expected
    yuv = np.array([120, 100, 170])
    for plane, level in zip(video.planes, yuv, strict=True):
        np.frombuffer(plane, np.uint8)[:] = level
    matrix, offset = expected.to_rgb()
    # swscale cuts off two products in red and blue, three in green.
    difference = video.to_ndarray(format="rgb24")[5, 5] - matrix @ (yuv - offset)
    assert np.abs(difference).max() <= 3.05


@pytest.mark.parametrize("tag", [1, 6, 9])
@pytest.mark.parametrize("levels", [1, 2])
def test_full_chroma_is_converted_to_rounding(tag: int, levels: int) -> None:
    """Where swscale converts without short cuts it gives these numbers, to its rounding."""
    video = av.VideoFrame(16, 16, "yuv444p")
    video.colorspace, video.color_range = tag, levels
    yuv = np.array([120, 100, 170])
    for plane, level in zip(video.planes, yuv, strict=True):
        np.frombuffer(plane, np.uint8)[:] = level
    matrix, offset = Colour.of(video).to_rgb()
    assert video.to_ndarray(format="rgb24")[5, 5] == pytest.approx(matrix @ (yuv - offset), abs=0.6)


def test_unknown_matrices_and_ranges() -> None:
    with pytest.raises(TransformError, match=r"^no colour matrix 'rec709'; there are bt601, bt709, fcc, "):
        Colour("rec709")  # type: ignore[arg-type]
    with pytest.raises(TransformError, match=r"^no range 'tv'; there are limited, full$"):
        Colour("bt601", "tv")  # type: ignore[arg-type]
