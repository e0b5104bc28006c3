from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sharedbb.errors import GraphError, SpecError
from sharedbb.outputs import SegmentationMap, segmentation_decoder
from sharedbb.outputs.sampling import axes
from sharedbb.types import Fit, Geometry, Size

NETWORK = Size(64, 96)
NAMES = ("sky", "road", "tree", "car", "person")
SIDES = st.integers(1, 150)


def upsampled(logits: np.ndarray, geometry: Geometry) -> np.ndarray:
    """All classes at every source pixel in float64, without any short cut: [H, W, C]."""
    rows, columns = axes(geometry, *logits.shape[:2])
    y, x = rows.fraction.astype(np.float64)[:, None, None], columns.fraction.astype(np.float64)[:, None]
    exact = logits.astype(np.float64)
    upper = exact[rows.low][:, columns.low] * (1 - x) + exact[rows.low][:, columns.high] * x
    lower = exact[rows.high][:, columns.low] * (1 - x) + exact[rows.high][:, columns.high] * x
    return upper * (1 - y) + lower * y


def smooth_logits(seed: int, shape: tuple[int, int, int], noise: float = 0.2) -> np.ndarray:
    """Patches of classes with ragged borders, as a network gives them."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(4, 6, shape[2])).astype(np.float32)
    smooth = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC).reshape(shape)
    return (4 * smooth + rng.normal(0, noise, shape)).astype(np.float32)


def as_map(logits: np.ndarray, geometry: Geometry) -> SegmentationMap:
    return SegmentationMap(logits, geometry, NAMES[: logits.shape[2]])


@settings(max_examples=60, deadline=None)
@given(
    source=st.builds(Size, SIDES, SIDES),
    fit=st.sampled_from(["letterbox", "stretch", "crop"]),
    stride=st.sampled_from([4, 8, 32]),
    classes=st.integers(2, 5),
    noise=st.sampled_from([0.0, 0.2, 5.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_classes_equal_the_largest_of_all_upsampled_logits(
    source: Size, fit: Any, stride: int, classes: int, noise: float, seed: int
) -> None:
    logits = smooth_logits(seed, (64 // stride, 96 // stride, classes), noise)
    geometry = Geometry.fit(source, NETWORK, fit)
    found = as_map(logits, geometry).classes
    values = upsampled(logits, geometry)
    assert found.shape == (source.height, source.width)
    assert found.dtype == np.uint8
    chosen = np.take_along_axis(values, found[..., None].astype(np.int64), 2)[..., 0]
    assert (values.max(2) - chosen).max() < 1e-5
    assert (found != values.argmax(2)).mean() < 0.01  # only where two are equal to rounding


def test_classes_equal_torch_on_a_street_sized_map() -> None:
    logits = smooth_logits(3, (96, 160, 5))
    source = Size(720, 1280)
    found = as_map(logits, Geometry.fit(source, Size(384, 640), "stretch")).classes
    tensor = torch.from_numpy(logits).permute(2, 0, 1)[None]
    expected = F.interpolate(tensor, (720, 1280), mode="bilinear", align_corners=False)[0].argmax(0).numpy()
    assert (found != expected).mean() < 1e-5
    assert len(np.unique(found)) == 5


def test_a_class_that_wins_between_cells_but_at_none_is_found() -> None:
    logits = np.full((8, 12, 3), -9.0, np.float32)
    logits[..., 0], logits[..., 1], logits[..., 2] = 0.0, 1.0, 0.9
    logits[:, 6:, 0], logits[:, 6:, 1] = 1.0, 0.0
    found = as_map(logits, Geometry.fit(Size(64, 96), NETWORK, "stretch")).classes
    assert set(found[30].tolist()) == {0, 1, 2}


def test_ties_go_to_the_first_class() -> None:
    logits = np.zeros((16, 24, 4), np.float32)
    logits[:8, :, 2] = 1.0
    logits[:8, :, 3] = 1.0
    found = as_map(logits, Geometry.fit(Size(128, 192), NETWORK)).classes
    assert set(found[:60].ravel().tolist()) == {2}
    assert set(found[60:70].ravel().tolist()) == {0, 2}
    assert set(found[70:].ravel().tolist()) == {0}


def test_256_classes_fit_and_257_are_an_error() -> None:
    logits = np.zeros((16, 24, 256), np.float32)
    logits[:, :12, 255] = 1.0
    logits[:, 12:, 254] = 1.0
    names = tuple(f"class{index}" for index in range(257))
    found = SegmentationMap(logits, Geometry.fit(Size(50, 60), NETWORK, "stretch"), names[:256]).classes
    assert set(np.unique(found).tolist()) == {254, 255}
    with pytest.raises(SpecError, match="257 classes are too many"):
        segmentation_decoder(SimpleNamespace(classes=names))


@pytest.mark.parametrize("classes", [2, 5])
def test_probability_is_the_softmax_of_upsampled_logits(classes: int) -> None:
    logits = smooth_logits(1, (16, 24, classes))
    geometry = Geometry.fit(Size(70, 50), NETWORK)
    values = upsampled(logits, geometry)
    expected = np.exp(values) / np.exp(values).sum(2, keepdims=True)
    answer = as_map(logits, geometry)
    for index, name in enumerate(answer.names):
        found = answer.probability(name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[..., index], atol=1e-5)


def test_probability_of_very_sure_logits_does_not_overflow() -> None:
    logits = np.zeros((16, 24, 2), np.float32)
    logits[..., 1] = 5000.0
    answer = as_map(logits, Geometry.fit(Size(20, 20), NETWORK))
    assert answer.probability("road").min() == 1.0
    assert answer.probability("sky").max() < 1e-30


def test_shares_count_pixels_and_add_up() -> None:
    answer = as_map(smooth_logits(2, (16, 24, 5)), Geometry.fit(Size(123, 77), NETWORK))
    for index, name in enumerate(NAMES):
        assert answer.share[name] == pytest.approx((answer.classes == index).mean())
        np.testing.assert_array_equal(answer.mask(name), answer.classes == index)
    assert sum(answer.share.values()) == pytest.approx(1)


def test_run_lengths_give_the_map_back() -> None:
    answer = as_map(smooth_logits(2, (16, 24, 5)), Geometry.fit(Size(40, 60), NETWORK))
    record = json.loads(json.dumps(answer.to_dict(runs=True), allow_nan=False))
    runs = record["runs"]
    again = np.repeat(runs["classes"], runs["lengths"]).reshape(record["height"], record["width"])
    np.testing.assert_array_equal(again, answer.classes)
    assert "runs" not in answer.to_dict()
    assert set(record["share"]) == set(NAMES)


def test_decoding_copies_and_upsamples_once() -> None:
    raw = {"logits": smooth_logits(4, (16, 24, 5))[None]}
    geometry = Geometry.fit(Size(100, 100), NETWORK)
    answer = segmentation_decoder(SimpleNamespace(classes=NAMES))(raw, geometry)
    expected = as_map(raw["logits"][0].copy(), geometry).classes
    raw["logits"][:] = 0
    np.testing.assert_array_equal(answer.classes, expected)
    assert answer.classes is answer.classes
    assert repr(answer) == "SegmentationMap(100x100, 5 classes from 24x16 cells)"


def test_logits_of_another_class_count_are_an_error() -> None:
    decoder = segmentation_decoder(SimpleNamespace(classes=NAMES))
    with pytest.raises(GraphError, match=r"'logits' has shape \(1, 16, 24, 4\).*\(1, any, any, 5\)"):
        decoder({"logits": np.zeros((1, 16, 24, 4), np.float32)}, Geometry.fit(NETWORK, NETWORK))


def test_an_unknown_class_is_named() -> None:
    answer = as_map(np.zeros((16, 24, 5), np.float32), Geometry.fit(NETWORK, NETWORK))
    for ask in (answer.probability, answer.mask):
        with pytest.raises(KeyError, match="no class 'bus'; this map has sky, road, tree, car, person"):
            ask("bus")


def test_changed_is_the_share_of_cells_of_another_class() -> None:
    logits = smooth_logits(5, (16, 24, 4))
    dense = as_map(logits, Geometry.fit(NETWORK, NETWORK))
    moved = logits.copy()
    moved[3:5, 2:8] = np.roll(logits[3:5, 2:8], 1, axis=-1)
    assert as_map(moved, dense.geometry).changed(dense) == 12 / (16 * 24)
    assert as_map(logits * 2, dense.geometry).changed(dense) == 0


@pytest.mark.parametrize("classes", [1, 2, 5, 256])
def test_a_cell_s_class_is_its_largest_logit_and_the_first_of_equal_ones(classes: int) -> None:
    logits = np.random.default_rng(classes).normal(size=(16, 24, classes)).round(1).astype(np.float32)
    names = tuple(map(str, range(classes)))
    cells = SegmentationMap(logits, Geometry.fit(NETWORK, NETWORK), names).cells
    assert (cells.dtype, cells.shape) == (np.uint8, (16, 24))
    np.testing.assert_array_equal(cells, logits.argmax(-1))


def test_a_cell_without_a_number_still_has_one_of_the_classes() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    logits[1, 2], logits[3, 0, 1] = np.nan, np.nan
    cells = SegmentationMap(logits, Geometry.fit(Size(16, 20), Size(16, 20)), ("a", "b", "c")).cells
    sure = ~np.isnan(logits).any(2)
    assert np.array_equal(cells[sure], logits.argmax(2)[sure])
    assert cells.max() <= 2


def test_changed_does_not_look_at_the_bars() -> None:
    logits = smooth_logits(5, (16, 24, 4))
    dense = as_map(logits, Geometry.fit(Size(32, 96), NETWORK))  # cells 3 to 13 are read
    moved = logits.copy()
    moved[:3] = np.roll(logits[:3], 1, axis=-1)
    assert as_map(moved, dense.geometry).changed(dense) == 0
    moved[7] = np.roll(logits[7], 1, axis=-1)
    assert as_map(moved, dense.geometry).changed(dense) == pytest.approx(1 / 10)


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_maps_of_two_resolutions_are_compared_where_they_show_the_same(fit: Fit) -> None:
    """A border between two classes that both maps see at the same place is no difference; one elsewhere is."""
    small, large = (Geometry.fit(Size(80, 120), size, fit) for size in (Size(32, 48), Size(64, 96)))
    dense, same, moved = (
        as_map(_halves(at, shape), geometry)
        for at, shape, geometry in ((0.3, (16, 24), large), (0.3, (8, 12), small), (0.55, (8, 12), small))
    )
    assert same.changed(dense) == dense.changed(same) == 0
    assert moved.changed(dense) == pytest.approx(0.25, abs=1 / 24)


def _halves(border: float, shape: tuple[int, int]) -> np.ndarray:
    """Logits of class 0 left of ``border``, a share of the width, and of class 1 right of it."""
    ahead = (np.arange(shape[1]) + 0.5) / shape[1] - border
    return np.tile(np.stack([-ahead, ahead], axis=-1), (shape[0], 1, 1)).astype(np.float32)
