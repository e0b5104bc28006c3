"""Pictures in frames of other sizes: where they land, and what is around them."""

from __future__ import annotations

import numpy as np
import pytest

from sharedbb.media.placing import letterboxed, padded


def test_padding_repeats_the_edge() -> None:
    picture = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    result = padded(picture, 4, 4)
    assert np.array_equal(result[:2, :3], picture)
    assert np.array_equal(result, np.pad(picture, ((0, 2), (0, 1), (0, 0)), mode="edge"))
    assert padded(picture, 2, 3) is picture


@pytest.mark.parametrize(
    ("size", "within", "place"),
    [
        ((10, 10), (20, 40), (0, 20, 10, 30)),
        ((40, 20), (20, 20), (0, 20, 5, 15)),
        ((20, 40), (20, 20), (5, 15, 0, 20)),
        ((6, 8), (6, 8), (0, 6, 0, 8)),
        ((1, 1), (2, 6), (0, 2, 2, 4)),
        ((1, 500), (10, 20), (4, 5, 0, 20)),
    ],
)
def test_the_whole_picture_with_bars(
    size: tuple[int, int], within: tuple[int, int], place: tuple[int, int, int, int]
) -> None:
    framed = letterboxed(np.full((*size, 3), 200, np.uint8), *within)
    expected = np.zeros((*within, 3), np.uint8)
    top, bottom, left, right = place
    expected[top:bottom, left:right] = 200
    assert np.array_equal(framed, expected)


def test_shrinking_averages() -> None:
    stripes = np.zeros((8, 8, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (letterboxed(stripes, 4, 4) == 100).all()
