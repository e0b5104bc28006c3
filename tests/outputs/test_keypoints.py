from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from sharedbb.errors import GraphError
from sharedbb.outputs import Keypoints, keypoints_decoder
from sharedbb.types import Geometry, Size

NETWORK = Size(64, 96)
SAME = Geometry.fit(NETWORK, NETWORK)


def decode(heat: np.ndarray, geometry: Geometry = SAME) -> Keypoints:
    names = ("nose", "tail", "ear")[: heat.shape[-1]]
    return keypoints_decoder(SimpleNamespace(points=names))({"heatmaps": heat[None]}, geometry)


def one_peak(row: int, column: int, logit: float = 2.0) -> np.ndarray:
    heat = np.full((16, 24, 1), -8.0, np.float32)
    heat[row, column] = logit
    return heat


def test_a_lone_peak_is_its_cell_s_centre() -> None:
    found = decode(one_peak(3, 7))
    np.testing.assert_allclose(found.points, [[7.5 * 4, 3.5 * 4]])
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-2.0))], rtol=1e-6)
    assert found.points.dtype == found.scores.dtype == np.float32
    assert len(found) == 1


@pytest.mark.parametrize(("dy", "dx"), [(0, 1), (0, -1), (1, 0), (-1, 0)])
def test_the_peak_moves_a_quarter_cell_towards_the_higher_side(dy: int, dx: int) -> None:
    heat = one_peak(3, 7)
    heat[3 + dy, 7 + dx] = 1.0
    np.testing.assert_allclose(decode(heat).points, [[(7.5 + 0.25 * dx) * 4, (3.5 + 0.25 * dy) * 4]])


@pytest.mark.parametrize(("row", "column"), [(0, 0), (15, 23), (0, 23)])
def test_at_the_border_the_peak_stays(row: int, column: int) -> None:
    heat = one_peak(row, column)
    heat[abs(row - 1), column] = heat[row, abs(column - 1)] = 1.0
    np.testing.assert_allclose(decode(heat).points, [[(column + 0.5) * 4, (row + 0.5) * 4]])


def test_every_name_has_its_own_map() -> None:
    rng = np.random.default_rng(0)
    heat = rng.normal(size=(16, 24, 3)).astype(np.float32)
    found = decode(heat)
    for index in range(3):
        alone = decode(np.ascontiguousarray(heat[..., index : index + 1]))
        np.testing.assert_array_equal(found.points[index], alone.points[0])
        row, column = np.unravel_index(heat[..., index].argmax(), (16, 24))
        assert np.abs(found.points[index] / 4 - (column + 0.5, row + 0.5)).max() <= 0.25


def test_points_come_back_in_source_pixels() -> None:
    geometry = Geometry.fit(Size(96, 288), NETWORK)  # a third of the size, 16 rows of bar above
    found = decode(one_peak(6, 7), geometry)
    np.testing.assert_allclose(found.points, [[7.5 * 4 * 3, (6.5 * 4 - 16) * 3]], rtol=1e-5)
    upright = Geometry.fit(Size(128, 64), NETWORK)  # half the size, 32 columns of bar on the left
    np.testing.assert_allclose(decode(one_peak(6, 9), upright).points, [[(9.5 * 4 - 32) * 2, 6.5 * 4 * 2]], rtol=1e-5)


def test_peaks_in_the_bars_are_not_seen() -> None:
    heat = one_peak(8, 7)
    heat[1, 20] = 9.0
    found = decode(heat, Geometry.fit(Size(96, 288), NETWORK))
    assert found.points[0, 0] == pytest.approx(7.5 * 4 * 3)


def test_nan_is_never_a_peak() -> None:
    heat = np.concatenate([one_peak(3, 7), np.full((16, 24, 1), np.nan, np.float32)], axis=2)
    heat[9, 9] = np.nan
    found = decode(heat)
    np.testing.assert_allclose(found.points[0], [7.5 * 4, 3.5 * 4])
    assert found.scores[1] == 0
    assert np.isfinite(found.points).all()


def test_to_dict_and_errors() -> None:
    record = json.loads(json.dumps(decode(one_peak(3, 7)).to_dict(), allow_nan=False))
    assert record == {"type": "keypoints", "points": [{"name": "nose", "x": 30.0, "y": 14.0, "score": 0.8808}]}
    with pytest.raises(GraphError, match=r"'heatmaps' has shape \(1, 16, 24, 2\).*1\)"):
        keypoints_decoder(SimpleNamespace(points=("nose",)))({"heatmaps": np.zeros((1, 16, 24, 2))}, SAME)
    assert repr(decode(one_peak(3, 7))) == "Keypoints(points (1, 2), scores (1,), nose)"


def test_changed_is_the_share_of_points_that_moved_more_than_a_cell() -> None:
    geometry = Geometry.fit(Size(96, 288), NETWORK)  # a cell is 12 source pixels
    dense = decode(np.concatenate([one_peak(6, 7), one_peak(6, 9)], axis=2), geometry)
    assert dense.cell == pytest.approx((12, 12))
    near = decode(np.concatenate([one_peak(7, 8), one_peak(6, 9, 5.0)], axis=2), geometry)
    far = decode(np.concatenate([one_peak(6, 7), one_peak(6, 11)], axis=2), geometry)
    assert near.changed(dense) == 0
    assert far.changed(dense) == 0.5


def test_points_that_appear_and_disappear_have_changed_and_absent_ones_may_be_anywhere() -> None:
    dense = decode(np.concatenate([one_peak(6, 7), one_peak(6, 9, -2.0), one_peak(6, 9, -2.0)], axis=2))
    other = decode(np.concatenate([one_peak(6, 7, -2.0), one_peak(6, 9, 2.0), one_peak(9, 20, -2.0)], axis=2))
    assert other.moved(dense).tolist() == [True, True, False]
    assert dense.present.tolist() == [True, False, False]
