"""Judging: perfect answers are perfect, wrong ones count as they should, and a network is asked as in a pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from sharedbb import nets
from sharedbb.errors import DataError
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.judge import LOWEST_SCORE, Predictor, headline, judge, normalized
from sharedbb.learn.labels import VOID, boundary_of, boxes_of, tags_of
from sharedbb.outputs.depth import DepthMap
from sharedbb.outputs.detections import Detections
from sharedbb.outputs.segmentation import SegmentationMap
from sharedbb.outputs.tags import Tags
from sharedbb.spec import Pipeline
from sharedbb.types import Geometry, Normalization, Output, Size

CLASSES = ("road", "car", "sky")
PIPELINE = Pipeline.model_validate(
    {
        "name": "tiny",
        "input": {"size": [64, 96], "normalize": "imagenet"},
        "backbone": {"arch": "mobilenet_v3_small"},
        "heads": {
            "surface": {"type": "segmentation", "taps": [8], "classes": ["car", "road", "sky"], "channels": 8},
            "edges": {"type": "segmentation", "taps": [8], "classes": ["inside", "edge"], "channels": 8},
            "objects": {"type": "detection", "taps": [16], "classes": ["car"], "channels": 8},
            "scene": {"type": "tags", "taps": [32], "labels": ["sky", "car"]},
            "far": {"type": "depth", "taps": [8], "channels": 8, "max_m": 50},
            "looks": {"type": "embedding", "taps": [32], "dim": 8},
        },
    }
)
LABELLED = {name: head for name, head in PIPELINE.heads.items() if name != "looks"}
IDS = {"surface": (1, 0, 2), "objects": (1,), "scene": (2, 1)}


def picture(seed: int) -> Sample:
    """Sky over a road with two cars, void at the left; the colours tell the classes."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((40, 60), np.uint8)
    labels[:15] = 2
    for left in (8, 36):
        labels[20 : 30 + seed, left : left + 12] = 1
    labels[:, :4] = VOID
    rgb = np.array([[90, 90, 90], [200, 30, 30], [120, 160, 250]], np.uint8)[np.where(labels == VOID, 0, labels)]
    depth = np.linspace(60, 2, 40, dtype=np.float32)[:, None].repeat(60, 1)
    return Sample(f"p{seed}", np.clip(rgb + rng.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8), labels, depth)


SAMPLES = tuple(picture(seed) for seed in range(4))
DATA = Data.given("planted", SAMPLES, CLASSES)
PLAIN = Data.given("plain", [Sample(sample.name, sample.rgb) for sample in SAMPLES])


def oracle(rgb: np.ndarray, sign: float = 1.0) -> Mapping[str, Output]:
    """What the labels say, as answers, and nonsense where they say nothing; ``sign`` −1 turns the maps around."""
    sample = next(sample for sample in SAMPLES if sample.rgb is rgb)
    assert sample.labels is not None
    assert sample.depth is not None
    size = Size(*rgb.shape[:2])
    geometry = Geometry.fit(size, size)

    def map_of(masks: list[np.ndarray], names: tuple[str, ...]) -> SegmentationMap:
        return SegmentationMap(np.stack(masks, -1).astype(np.float32) * sign, geometry, names)

    surface, edge = PIPELINE.heads["surface"], boundary_of(sample.labels)
    void, reach = sample.labels == VOID, np.where(sample.depth > 50, np.float32(1), sample.depth)
    found = boxes_of(sample.labels, IDS["objects"])
    tags = tags_of(sample.labels, IDS["scene"]).astype(np.float32)
    scores = np.linspace(0.9, 0.8, len(found), dtype=np.float32)
    return {
        "surface": map_of([sample.labels == value for value in IDS["surface"]], surface.classes),  # type: ignore[attr-defined]
        "edges": map_of([~edge, edge | void], ("inside", "edge")),
        "objects": Detections(found.xyxy, scores, found.classes, ("car",)),
        "scene": Tags(("sky", "car"), tags if sign > 0 else 1 - tags, 0.5),
        "far": DepthMap(reach * np.float32(1.2 if sign > 0 else 1.3), geometry),
    }


def test_right_answers_have_every_headline_at_one() -> None:
    told = judge(oracle, DATA, LABELLED)
    assert headline(told) == dict.fromkeys(LABELLED, 1.0)
    assert told["surface"]["iou"] == {"car": 1, "road": 1, "sky": 1}
    assert told["surface"]["accuracy"] == 1
    assert told["objects"]["boxes"] == {"car": 8}
    assert told["scene"]["f1_by_tag"] == told["scene"]["ap"] == {"sky": 1, "car": 1}
    assert told["scene"]["map"] == 1
    assert told["far"]["relative_error"] == pytest.approx(0.2)
    assert told["edges"]["tolerance_px"] == 4
    assert not any("agreement" in metrics for metrics in told.values())


def test_wrong_answers_count() -> None:
    told = headline(judge(lambda rgb: oracle(rgb, -1), DATA, LABELLED))
    assert told["surface"] < 0.3
    assert told["edges"] < 0.7
    assert told["scene"] == told["far"] == 0


def test_classes_that_a_head_does_not_have_are_void() -> None:
    head = {"surface": LABELLED["surface"].model_copy(update={"classes": ("car", "sky")})}

    def blind_to_road(rgb: np.ndarray) -> Mapping[str, Output]:
        whole: Any = oracle(rgb)["surface"]
        return {"surface": SegmentationMap(whole.logits[..., [0, 2]], whole.geometry, ("car", "sky"))}

    assert judge(blind_to_road, DATA, head)["surface"]["iou"] == {"car": 1, "sky": 1}


def test_what_never_occurs_is_null_and_has_no_headline() -> None:
    data = Data.given("empty", [Sample("p", SAMPLES[0].rgb, np.full((40, 60), VOID, np.uint8))], CLASSES)
    told = judge(oracle, data, {"objects": LABELLED["objects"]})
    assert told["objects"] == {"map50": None, "ap50": {"car": None}, "boxes": {"car": 0}}
    assert headline(told) == {}


def test_boxes_that_somebody_drew_are_judged_as_coco_does() -> None:
    pytest.importorskip("pycocotools")
    drawn = [
        dataclasses.replace(sample, labels=None, depth=None, boxes=boxes_of(sample.labels, (1,)))
        for sample in SAMPLES
        if sample.labels is not None
    ]
    data = Data.given("drawn", drawn, ("car", "sky"))

    def near(rgb: np.ndarray) -> Mapping[str, Output]:
        right: Any = oracle(rgb)["objects"]
        return oracle(rgb) | {"objects": dataclasses.replace(right, boxes=right.boxes + np.float32([0, 0, 4, 0]))}

    heads = {name: LABELLED[name] for name in ("objects", "scene")}
    told = judge(near, data, heads)
    assert told["objects"]["map50"] == 1
    assert told["objects"]["map"] == pytest.approx(0.6)  # an overlap of 12 in 16 is enough for six of ten thresholds
    assert told["objects"]["ap"] == {"car": pytest.approx(0.6)}
    assert told["objects"]["boxes"] == {"car": 8}
    assert headline(told)["objects"] == 1
    assert told["scene"]["f1_by_tag"] == {"sky": 0, "car": 1}  # no sky was drawn
    with pytest.raises(DataError, match="drawn has no labels for surface"):
        judge(oracle, data, {"surface": LABELLED["surface"]})


def test_a_picture_whose_labels_say_nothing_does_not_count() -> None:
    data = Data.given("partly", [SAMPLES[0], dataclasses.replace(SAMPLES[1], labels=None)], CLASSES)
    heads = {name: LABELLED[name] for name in ("surface", "objects", "scene")}
    assert judge(oracle, data, heads) == judge(oracle, data[:1], heads)


def test_without_labels_answers_are_held_against_the_reference() -> None:
    told = judge(oracle, PLAIN, LABELLED, oracle)
    assert told == {name: {"agreement": 1.0} for name in LABELLED}
    wrong = headline(judge(lambda rgb: oracle(rgb, -1), PLAIN, LABELLED, oracle))
    assert wrong["surface"] < 0.3
    assert wrong["scene"] == 0
    assert wrong["far"] == 0


def test_labels_make_the_headline_where_both_are_there() -> None:
    told = judge(lambda rgb: oracle(rgb, -1), DATA, LABELLED, lambda rgb: oracle(rgb, -1))
    assert told["scene"]["agreement"] == 1
    assert headline(told)["scene"] == told["scene"]["f1"] == 0


def test_boxes_below_the_threshold_are_no_answers_of_the_reference() -> None:
    def doubting(rgb: np.ndarray) -> Mapping[str, Output]:
        sure: Any = oracle(rgb)["objects"]
        more = np.concatenate([sure.boxes, np.float32([[0, 0, 9, 9]])])
        scores = np.append(sure.scores, np.float32(0.05))
        return {"objects": Detections(more, scores, np.append(sure.classes, 0), ("car",))}

    head = {"objects": LABELLED["objects"]}
    assert headline(judge(oracle, PLAIN, head, doubting)) == {"objects": 1.0}
    assert headline(judge(doubting, PLAIN, head, oracle)) == {"objects": 1.0}


def test_a_head_that_nobody_knows_anything_about_is_refused() -> None:
    with pytest.raises(DataError, match="planted has no labels for looks; give a reference"):
        judge(oracle, DATA, PIPELINE.heads)
    with pytest.raises(DataError, match="has no pictures"):
        judge(oracle, DATA[:0], LABELLED)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return nets.build(PIPELINE).eval()


class TestPredictor:
    def test_answers_are_those_of_the_network_on_the_picture_as_it_is_placed(self, network: nn.Module) -> None:
        wide = SAMPLES[1].rgb[:20]
        grey = np.rint(PIPELINE.input.normalization.mean)
        seen = np.full((64, 96, 3), grey, np.float32)
        seen[16:48] = cv2.resize(wide, (96, 32), interpolation=cv2.INTER_LINEAR)
        mean, std = (np.float32(values) for values in dataclasses.astuple(PIPELINE.input.normalization))
        with torch.no_grad():
            raw = network(torch.from_numpy((seen - mean) / std).permute(2, 0, 1)[None])
        answers = Predictor(network, PIPELINE)(wide)
        assert answers["far"].cells == pytest.approx(raw["far.depth"][0, 0].numpy(), rel=1e-4)
        assert answers["scene"].probabilities == pytest.approx(raw["scene.logits"][0].sigmoid().numpy(), abs=1e-5)
        assert answers["surface"].classes.shape == (20, 60)
        assert answers["surface"].cells.tolist() == raw["surface.logits"][0].argmax(0).tolist()

    def test_a_network_agrees_with_itself_and_a_callable_will_do(self, network: nn.Module) -> None:
        module = Predictor(network, PIPELINE, LOWEST_SCORE)
        same = Predictor(lambda images: network(images), PIPELINE, LOWEST_SCORE)
        told = judge(module, PLAIN, PIPELINE.heads, same)
        assert headline(told) == pytest.approx(dict.fromkeys(PIPELINE.heads, 1.0))

    def test_every_box_is_kept_where_precision_asks_for_it(self, network: nn.Module) -> None:
        few, many = (Predictor(network, PIPELINE, lowest)(SAMPLES[0].rgb)["objects"] for lowest in (0.9, 0.0))
        assert len(few) == 0 < len(many)

    def test_a_module_in_training_is_asked_in_eval_mode(self, network: nn.Module) -> None:
        before = Predictor(network, PIPELINE)(SAMPLES[0].rgb)["scene"].probabilities
        network.train()
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        assert np.array_equal(Predictor(network, PIPELINE)(SAMPLES[0].rgb)["scene"].probabilities, before)
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())

    def test_bf16_is_near(self, network: nn.Module) -> None:
        full, half = (Predictor(network, PIPELINE, bf16=bf16)(SAMPLES[0].rgb) for bf16 in (False, True))
        assert not np.array_equal(full["far"].cells, half["far"].cells)
        assert half["far"].cells == pytest.approx(full["far"].cells, rel=0.1)


def test_normalized_is_by_channel_and_channels_last() -> None:
    images = torch.arange(24, dtype=torch.uint8).reshape(1, 3, 2, 4)
    made = normalized(images, Normalization((1.0, 2.0, 3.0), (2.0, 4.0, 5.0)))
    assert made[0, 1, 1, 2] == (14 - 2) / 4
    assert made.is_contiguous(memory_format=torch.channels_last)
