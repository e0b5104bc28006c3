from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from sharedbb.errors import GraphError, SharedBBError
from sharedbb.outputs import Detections, detection_decoder
from sharedbb.outputs.detections import MOST_CANDIDATES, intersection_over_union
from sharedbb.types import Geometry, Size

NETWORK = Size(96, 160)
STRIDES = (8, 16, 32)
NAMES = ("car", "person", "sign")
CELLS = 12 * 20 + 6 * 10 + 3 * 5
NOTHING = -20.0


def spec(**changes: Any) -> Any:
    fields = {"taps": STRIDES, "classes": NAMES, "score_threshold": 0.3, "iou_threshold": 0.5, "max_detections": 100}
    return SimpleNamespace(**{**fields, **changes})


def empty() -> dict[str, np.ndarray]:
    scores = np.full((1, CELLS, len(NAMES)), NOTHING, np.float32)
    return {"scores": scores, "distances": np.ones((1, CELLS, 4), np.float32)}


def random_raw(rng: np.random.Generator, candidates: int) -> dict[str, np.ndarray]:
    raw = empty()
    chosen = rng.choice(CELLS * len(NAMES), candidates, replace=False)
    raw["scores"].reshape(-1)[chosen] = rng.permutation(np.linspace(-3, 4, max(candidates, 1)))[:candidates]
    raw["distances"][:] = rng.uniform(0, 4, raw["distances"].shape)
    return raw


def slow_reference(raw: dict[str, np.ndarray], geometry: Geometry, wanted: Any) -> list[tuple[str, float, list[float]]]:
    """Cell by cell and class by class, in float64, with torchvision's suppression."""
    boxes, scores, classes = [], [], []
    cell = 0
    for stride in wanted.taps:
        for row in range(geometry.network.height // stride):
            for column in range(geometry.network.width // stride):
                for index in range(len(wanted.classes)):
                    logit = float(raw["scores"][0, cell, index])
                    probability = 1 / (1 + np.exp(-logit))
                    if not probability > wanted.score_threshold:
                        continue
                    left, top, right, bottom = (float(d) * stride for d in raw["distances"][0, cell])
                    x, y = (column + 0.5) * stride, (row + 0.5) * stride
                    x0, x1 = ((v - geometry.offset_x) / geometry.scale_x for v in (x - left, x + right))
                    y0, y1 = ((v - geometry.offset_y) / geometry.scale_y for v in (y - top, y + bottom))
                    box = [min(max(v, 0), limit) for v, limit in zip((x0, y0, x1, y1), _limits(geometry), strict=True)]
                    if box[2] > box[0] and box[3] > box[1]:
                        boxes.append(box)
                        scores.append(probability)
                        classes.append(index)
                cell += 1
    if not boxes:
        return []
    tensors = torch.tensor(boxes, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64), torch.tensor(classes)
    kept = batched_nms(*tensors, wanted.iou_threshold).tolist()[: wanted.max_detections]
    return [(wanted.classes[classes[i]], scores[i], boxes[i]) for i in kept]


def _limits(geometry: Geometry) -> tuple[int, int, int, int]:
    return (geometry.source.width, geometry.source.height) * 2


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    candidates=st.sampled_from([0, 1, 7, 60, 300]),
    fit=st.sampled_from(["letterbox", "stretch", "crop"]),
    source=st.builds(Size, st.integers(1, 400), st.integers(1, 400)),
    iou=st.sampled_from([0.1, 0.5, 0.8]),
    limit=st.sampled_from([3, 100]),
)
def test_decoding_equals_the_slow_reference(
    seed: int, candidates: int, fit: Any, source: Size, iou: float, limit: int
) -> None:
    raw = random_raw(np.random.default_rng(seed), candidates)
    geometry = Geometry.fit(source, NETWORK, fit)
    wanted = spec(iou_threshold=iou, max_detections=limit)
    found = detection_decoder(wanted)(raw, geometry)
    expected = slow_reference(raw, geometry, wanted)
    assert list(found.labels) == [label for label, _, _ in expected]
    np.testing.assert_allclose(found.scores, [score for _, score, _ in expected], atol=1e-6)
    boxes = np.array([box for _, _, box in expected]).reshape(-1, 4)
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-3 * max(source.height, source.width))


def test_one_cell_gives_the_box_that_the_contract_says() -> None:
    raw = empty()
    cell = 12 * 20 + 2 * 10 + 3  # stride 16, row 2, column 3: centre (56, 40)
    raw["scores"][0, cell, 1] = 2.0
    raw["distances"][0, cell] = (0.5, 1.0, 1.5, 2.0)
    found = detection_decoder(spec())(raw, Geometry.fit(Size(192, 320), NETWORK))
    np.testing.assert_allclose(found.boxes, [[96, 48, 160, 144]])
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-2.0))], rtol=1e-6)
    assert found.labels == ("person",)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.classes.dtype == np.int64


def test_nothing_found_is_empty_arrays_of_the_right_shape() -> None:
    found = detection_decoder(spec())(empty(), Geometry.fit(Size(50, 50), NETWORK))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.to_dict() == {"type": "detections", "items": []}
    assert len(found.only("car")) == 0


def test_nan_scores_and_nan_distances_are_dropped() -> None:
    raw = empty()
    raw["scores"][0, 25] = np.nan
    raw["scores"][0, 26, 0] = raw["scores"][0, 130, 0] = 3.0
    raw["distances"][0, 26, 2] = np.nan
    found = detection_decoder(spec())(raw, Geometry.fit(NETWORK, NETWORK))
    np.testing.assert_allclose(found.boxes, [[(10 + 0.5 - 1) * 8, (6 + 0.5 - 1) * 8, (10 + 1.5) * 8, (6 + 1.5) * 8]])


def test_boxes_are_clipped_and_those_without_area_dropped() -> None:
    raw = empty()
    raw["scores"][0, [0, 45, 46], 0] = (1.0, 2.0, 3.0)
    raw["distances"][0, 0] = np.inf
    raw["distances"][0, 45] = (1, 0, 1, 0)
    raw["distances"][0, 46] = (0, 1, 0, 1)
    found = detection_decoder(spec())(raw, Geometry.fit(NETWORK, NETWORK))
    np.testing.assert_array_equal(found.boxes, [[0, 0, 160, 96]])


def test_boxes_in_the_letterbox_bars_are_dropped() -> None:
    raw = empty()
    raw["scores"][0, 4, 0] = raw["scores"][0, 6 * 20 + 4, 0] = 3.0  # first row: bar; seventh: picture
    found = detection_decoder(spec())(raw, Geometry.fit(Size(40, 160), NETWORK))
    assert len(found) == 1
    assert found.boxes[0, 1] == (6.5 - 1) * 8 - 28


def test_only_the_best_thousand_candidates_are_looked_at() -> None:
    strides, network = (8,), Size(512, 512)
    rng = np.random.default_rng(0)
    logits = rng.permutation(np.linspace(0, 5, 64 * 64)).astype(np.float32)
    raw = {"scores": logits.reshape(1, -1, 1), "distances": np.full((1, 64 * 64, 4), 0.4, np.float32)}
    for most in (5000, 2000, MOST_CANDIDATES):
        wanted = spec(taps=strides, classes=("dot",), max_detections=most)
        found = detection_decoder(wanted)(raw, Geometry.fit(network, network))
        assert len(found) == min(most, logits.size)
        np.testing.assert_allclose(found.scores, np.sort(1 / (1 + np.exp(-logits)))[::-1][:most], atol=1e-6)


def test_equal_boxes_of_two_classes_both_stay() -> None:
    raw = empty()
    raw["scores"][0, 100, :2] = (2.0, 1.0)
    found = detection_decoder(spec())(raw, Geometry.fit(NETWORK, NETWORK))
    assert found.labels == ("car", "person")


@pytest.mark.parametrize(("threshold", "count"), [(0.0, CELLS * 3), (1.0, 0)])
def test_thresholds_at_the_ends(threshold: float, count: int) -> None:
    wanted = spec(score_threshold=threshold, iou_threshold=1.0, max_detections=10**6)
    found = detection_decoder(wanted)(empty(), Geometry.fit(NETWORK, NETWORK))
    assert len(found) == count


def test_detections_own_their_data() -> None:
    raw = random_raw(np.random.default_rng(0), 50)
    found = detection_decoder(spec())(raw, Geometry.fit(NETWORK, NETWORK))
    before = found.boxes.copy(), found.scores.copy()
    for array in raw.values():
        array[:] = 7
    np.testing.assert_array_equal(found.boxes, before[0])
    np.testing.assert_array_equal(found.scores, before[1])


def test_tensors_that_do_not_fit_the_spec_are_named() -> None:
    geometry = Geometry.fit(NETWORK, NETWORK)
    with pytest.raises(GraphError, match="no 'scores', only \\['logits'\\]"):
        detection_decoder(spec())({"logits": np.zeros((1, 2), np.float32)}, geometry)
    with pytest.raises(GraphError, match=r"'scores' has shape \(1, 315, 3\).*\(1, any, 2\)"):
        detection_decoder(spec(classes=("a", "b")))(empty(), geometry)
    with pytest.raises(GraphError, match=r"strides \(8, 16\) of 160x96 have 300 cells.*315"):
        detection_decoder(spec(taps=(8, 16)))(empty(), geometry)


def some() -> Detections:
    boxes = np.array([[1.234, 2, 30, 40], [5, 6, 7, 8], [9, 10, 11, 12]], np.float32)
    return Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 2, 0]), NAMES)


def test_only_keeps_the_classes_named() -> None:
    assert some().only("car").scores.tolist() == pytest.approx([0.9, 0.7])
    assert some().only("car", "sign").labels == ("car", "sign", "car")
    assert len(some().only("person")) == 0
    with pytest.raises(KeyError, match="no class 'bus'; these detections have car, person, sign"):
        some().only("bus")


def test_to_dict_is_json_of_one_item_a_box() -> None:
    items = json.loads(json.dumps(some().to_dict(), allow_nan=False))["items"]
    assert items[0] == {"class": "car", "score": 0.9, "box": [1.23, 2.0, 30.0, 40.0]}
    assert [item["class"] for item in items] == ["car", "sign", "car"]
    assert repr(some()) == "Detections(3 boxes of 3 classes)"


def test_to_supervision_carries_everything() -> None:
    pytest.importorskip("supervision")
    detections = some()
    theirs = detections.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, detections.boxes)
    np.testing.assert_array_equal(theirs.confidence, detections.scores)
    np.testing.assert_array_equal(theirs.class_id, detections.classes)
    assert theirs.data["class_name"].tolist() == ["car", "sign", "car"]
    assert len(detections.only("person").to_supervision()) == 0


def test_to_supervision_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(SharedBBError, match="pip install supervision"):
        some().to_supervision()


def boxes_of(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Left, top, right, bottom, score and class of each."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), NAMES)


def test_iou_is_the_shared_area_over_both() -> None:
    first = np.array([[0, 0, 10, 10], [5, 5, 5, 9]], np.float32)
    second = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30], [5, 5, 5, 9]], np.float32)
    np.testing.assert_allclose(intersection_over_union(first, second), [[1 / 3, 1, 0, 0], [0, 0, 0, 0]])
    assert intersection_over_union(first[:0], second).shape == (0, 4)


def test_partners_are_taken_best_score_first_within_a_class() -> None:
    truth = boxes_of((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 8, 0.8, 0), (50, 50, 60, 60, 0.7, 1))
    ours = boxes_of((0, 0, 10, 8, 0.5, 0), (0, 0, 10, 9, 0.9, 0), (50, 50, 60, 60, 0.8, 2), (0, 0, 10, 7, 0.4, 0))
    # The second has 0.9 with the first box and 0.89 with the other: it goes first, and takes the better one.
    assert ours.partners(truth).tolist() == [1, 0, -1, -1]
    assert ours.partners(truth, iou=0.95).tolist() == [1, -1, -1, -1]


def test_changed_is_what_does_not_match() -> None:
    dense = boxes_of((0, 0, 10, 10, 0.9, 0), (30, 30, 40, 40, 0.8, 1))
    assert dense.changed(dense) == 0
    assert boxes_of((0, 0, 10, 6, 0.5, 0), (30, 30, 40, 40, 0.6, 1)).changed(dense) == 0
    assert boxes_of((0, 0, 10, 4, 0.5, 0), (30, 30, 40, 40, 0.6, 1)).changed(dense) == 0.5
    assert boxes_of((30, 30, 40, 40, 0.6, 1)).changed(dense) == pytest.approx(1 / 3)
    assert boxes_of((0, 0, 10, 10, 0.9, 2)).changed(dense) == 1
    assert boxes_of().changed(dense) == dense.changed(boxes_of()) == 1
    assert boxes_of().changed(boxes_of()) == 0
