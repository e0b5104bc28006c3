"""What heads learn from labels: losses against hand computation, targets against the labels they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sharedbb.errors import DataError
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.fcos import Assignment
from sharedbb.learn.known import Classes, Direction, Known, Objects, Points, Present, known_by_labels
from sharedbb.learn.labels import VOID, Boxes, edge_cells, edges_of
from sharedbb.learn.losses import (
    Boundaries,
    Depth,
    Detection,
    Embedding,
    Keypoints,
    Segmentation,
    Tags,
    Task,
    binary_divergence,
    cell_loss,
    class_weights,
    depth_loss,
    embedding_loss,
    heatmap_loss,
    overlap_loss,
    questions_of,
    segmentation_loss,
    tags_loss,
    tasks_of,
)
from sharedbb.spec import Pipeline

CLASSES = ("road", "car", "sky")
PIPELINE = Pipeline.model_validate(
    {
        "name": "tiny",
        "input": {"size": [64, 96]},
        "backbone": {"arch": "resnet18"},
        "heads": {
            "surface": {"type": "segmentation", "taps": [4], "classes": ["sky", "road"]},
            "edges": {"type": "segmentation", "taps": [8], "classes": ["inside", "edge"]},
            "objects": {"type": "detection", "taps": [8, 16], "classes": ["car"]},
            "scene": {"type": "tags", "taps": [32], "labels": ["car", "sky"]},
            "far": {"type": "depth", "taps": [8]},
            "other": {"type": "segmentation", "taps": [4], "classes": ["sky", "water"]},
            "body": {"type": "keypoints", "taps": [4], "points": ["hand"]},
            "looks": {"type": "embedding", "taps": [32]},
        },
    }
)


def sample(name: str = "a", *, car: bool = True) -> Sample:
    """Sky above road, a car on it if wanted, the first columns unknown."""
    labels = np.zeros((64, 96), np.uint8)
    labels[:24] = 2
    if car:
        labels[30:56, 40:72] = 1
    labels[:, :8] = VOID
    depth = np.linspace(50, 2, 64, dtype=np.float32)[:, None].repeat(96, 1)
    return Sample(name, np.zeros((64, 96, 3), np.uint8), labels, depth)


SAMPLES = [sample(), sample("b", car=False), Sample("c", np.zeros((64, 96, 3), np.uint8))]


def tasks() -> dict[str, Task]:
    return tasks_of(PIPELINE, Data.given("drawn", SAMPLES[:2], CLASSES))


def target(name: str, samples: Sequence[Sample]) -> Any:
    """What the labels of these pictures ask of a head."""
    data = Data.given("drawn", SAMPLES[:2], CLASSES)
    questions = questions_of(PIPELINE, data)
    return tasks()[name].target([known_by_labels(one, questions).get(name) for one in samples], (64, 96))


def test_heads_learn_what_the_set_knows() -> None:
    made = tasks()
    kinds = {name: type(task) for name, task in made.items()}
    assert kinds == {
        "surface": Segmentation,
        "edges": Boundaries,
        "objects": Detection,
        "scene": Tags,
        "far": Depth,
    }
    assert tasks_of(PIPELINE, Data.given("bare", [Sample("c", SAMPLES[2].rgb)])) == {}


def test_targets_are_the_labels_in_the_heads_own_terms() -> None:
    made = {name: target(name, SAMPLES) for name in tasks()}
    labels = SAMPLES[0].labels
    assert labels is not None
    wanted = np.select([labels == 2, labels == 0], [0, 1], VOID)
    assert torch.equal(made["surface"][0], torch.from_numpy(wanted.astype(np.uint8)))
    assert (made["surface"][2] == VOID).all()
    assert torch.equal(made["edges"][0], torch.from_numpy(edge_cells(edges_of(labels), 8)))
    assert made["scene"][:2].tolist() == [[1, 1], [0, 1]]
    assert made["scene"][2].isnan().all()
    assert isinstance(made["objects"], Assignment)
    assert made["objects"].positive.any(1).tolist() == [True, False, False]
    assert not made["objects"].counted[2].any()
    assert made["far"].shape == (3, 1, 64, 96)
    assert made["far"][2].isnan().all()


def perfect(task: Task, target: object) -> dict[str, Tensor]:
    """Raw answers that say exactly what ``target`` asks for."""
    match task, target:
        case Segmentation(), Tensor():
            cells = target[:, 1::4, 1::4].long().clamp(max=1)
            return {"logits": torch.nn.functional.one_hot(cells, 2).permute(0, 3, 1, 2) * 40.0}
        case Boundaries(), Tensor():
            return {"logits": torch.nn.functional.one_hot(target.long().clamp(max=1), 2).permute(0, 3, 1, 2) * 40.0}
        case Detection(), Assignment():
            return {"scores": target.scores * 40 - 20, "distances": target.distances}
        case Tags(), Tensor():
            return {"logits": target * 40 - 20}
        case Depth(), Tensor():
            return {"depth": target[..., 4::8, 4::8]}
    raise AssertionError


@pytest.mark.parametrize("name", ["surface", "edges", "objects", "scene", "far"])
def test_the_right_answer_costs_little_and_others_more(name: str) -> None:
    task = tasks()[name]
    wanted = target(name, SAMPLES[:2])
    right = perfect(task, wanted)
    least = float(task.loss(right, wanted))
    # On a border between classes one cell holds both, so that the map at stride 4 cannot be right at stride 2.
    assert least < (1.0 if name == "surface" else 1e-3)
    changed = {part: (value * 2 + 1 if name == "far" else -value) for part, value in right.items()}
    if name == "objects":
        changed["distances"] = right["distances"]
    assert float(task.loss(changed, wanted)) > least + 0.1


def test_unknown_pictures_teach_nothing() -> None:
    for name, task in tasks().items():
        wanted = target(name, SAMPLES[2:])
        shapes = {
            "surface": {"logits": (1, 2, 16, 24)},
            "edges": {"logits": (1, 2, 8, 12)},
            "objects": {"scores": (1, 8 * 12 + 4 * 6, 1), "distances": (1, 8 * 12 + 4 * 6, 4)},
            "scene": {"logits": (1, 2)},
            "far": {"depth": (1, 1, 8, 12)},
        }[name]
        raw = {part: torch.ones(shape, requires_grad=True) for part, shape in shapes.items()}
        loss = task.loss(raw, wanted)
        assert float(loss.detach()) == 0, name
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(value.grad is None or not value.grad.any() for value in raw.values())


def test_classes_count_by_their_weight_and_void_not_at_all() -> None:
    logits = torch.tensor([[[[1.0, 0.0, 5.0]], [[0.0, 2.0, -5.0]]]])
    labels = torch.tensor([[[0, 1, VOID]]], dtype=torch.uint8)
    weight = torch.tensor([1.0, 3.0])
    first, second = math.log(1 + math.exp(-1)), math.log(1 + math.exp(-2))
    assert float(cell_loss(logits, labels, weight)) == pytest.approx((first + 3 * second) / 4, rel=1e-5)


def test_segmentation_is_asked_at_twice_its_resolution() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1] = torch.tensor([[0.0, 8.0], [0.0, 8.0]])
    labels = torch.zeros(1, 16, 16, dtype=torch.uint8)
    labels[..., 9:] = 1
    # Bilinear, twice as fine: 0, 2, 6, 8 along each row, of which the left two should be low and the right two high.
    each = [math.log(1 + math.exp(value)) for value in (0, 2, -6, -8)]
    assert float(segmentation_loss(logits, labels, torch.ones(2))) == pytest.approx(sum(each) / 4, rel=1e-4)


def test_overlap_of_sure_answers_is_what_iou_lacks() -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice(np.array([0, 1, 3, VOID], np.uint8), (2, 16, 24))
    seen = labels[:, 2::4, 2::4]
    answers = rng.integers(0, 5, seen.shape)
    logits = torch.from_numpy(np.moveaxis(np.eye(5, dtype=np.float32)[answers], -1, 1) * 100)
    known = seen != VOID
    ious = [((answers == c) & (seen == c)).sum() / (((answers == c) & known) | (seen == c)).sum() for c in (0, 1, 3)]
    assert float(overlap_loss(logits, torch.from_numpy(labels))) == pytest.approx(1 - np.mean(ious), rel=1e-6)


def test_overlap_of_unsure_answers_by_hand() -> None:
    # Class 1 (one cell of three) is off by 0.6, 0.5, 0.2, its own cell in the middle: IoU falls to 1/2, 0, 0 of 1.
    off = torch.tensor([0.6, 0.5, 0.2])
    odds = (torch.tensor([0.6, 0.5, 0.2]) / torch.tensor([0.4, 0.5, 0.8])).log()
    logits = torch.stack([torch.zeros(3), odds])[None, :, None]
    labels = torch.tensor([[[0, 1, 0]]], dtype=torch.uint8)
    # Class 0 (two cells): off by 0.6 and 0.2 where it is right, 0.5 where it is not; IoU falls to 1/2, 1/3, 0.
    wanted = (off @ torch.tensor([1 / 2, 1 / 2, 0]) + off @ torch.tensor([1 / 2, 1 / 6, 1 / 3])) / 2
    assert float(overlap_loss(logits, labels)) == pytest.approx(float(wanted), rel=1e-5)


def test_overlap_counts_where_asked_and_nothing_where_all_is_void() -> None:
    made = tasks_of(PIPELINE, Data.given("drawn", SAMPLES[:2], CLASSES), overlap=0.5)["surface"]
    plain, wanted = tasks()["surface"], target("surface", SAMPLES[:1])
    raw = {"logits": torch.randn(1, 2, 16, 24, generator=torch.Generator().manual_seed(2)).requires_grad_()}
    both = made.loss(raw, wanted)
    assert float(both.detach()) == pytest.approx(
        float((plain.loss(raw, wanted) + 0.5 * overlap_loss(raw["logits"], wanted)).detach()), rel=1e-6
    )
    nothing = overlap_loss(raw["logits"], torch.full((1, 64, 96), VOID, dtype=torch.uint8))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert raw["logits"].grad is not None
    assert raw["logits"].grad.abs().sum() == 0


def test_rare_classes_weigh_more() -> None:
    weight = class_weights(np.array([90.0, 10.0]))
    raw = np.array([1 / math.log(1.15 + 0.9), 1 / math.log(1.15 + 0.1)])
    assert weight.tolist() == pytest.approx((raw / (raw @ [0.9, 0.1])).tolist(), rel=1e-5)
    assert class_weights(np.zeros(3)).tolist() == [1, 1, 1]


def test_tags_that_nobody_knows_do_not_count() -> None:
    logits = torch.tensor([[0.5, -1.0], [3.0, 3.0]])
    tags = torch.tensor([[1.0, 0.0], [math.nan, math.nan]])
    wanted = (math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(-1))) / 2
    assert float(tags_loss(logits, tags)) == pytest.approx(wanted, rel=1e-5)


def test_depth_is_compared_by_ratio() -> None:
    wanted = torch.tensor([10.0, 40.0, math.nan])
    assert float(depth_loss(torch.tensor([20.0, 20.0, 7.0]), wanted)) == pytest.approx(math.log(2), rel=1e-5)


def test_heat_maps_and_vectors() -> None:
    wanted = torch.tensor([[[[0.9, 0.05, 0.05]]]])
    assert float(heatmap_loss(torch.logit(wanted), wanted)) == pytest.approx(0, abs=1e-6)
    assert float(heatmap_loss(torch.zeros(1, 1, 1, 3), wanted)) > 0.1
    empty = torch.zeros(4, 5, 16, 24)
    assert float(heatmap_loss(torch.full_like(empty, -4.6), empty)) < 0.01  # nearly right in every cell
    assert float(heatmap_loss(torch.zeros_like(empty), empty)) > 100
    vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    assert float(embedding_loss(vectors, 3 * vectors)) == pytest.approx(0, abs=1e-6)
    assert float(embedding_loss(vectors, -vectors)) == pytest.approx(2)


def test_binary_divergence_is_that_of_two_coins() -> None:
    p, q = 0.3, 0.8
    wanted = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    got = binary_divergence(torch.logit(torch.tensor(q)), torch.tensor(p))
    assert float(got) == pytest.approx(wanted, rel=1e-5)


def taught(**known: Known) -> Data:
    """One picture of which teachers have said ``known``."""
    return Data.given("taught", [Sample("t", np.zeros((64, 96, 3), np.uint8), known=known)])


def test_heads_learn_what_teachers_say() -> None:
    map_ = np.zeros((64, 96), np.uint8)
    map_[:, 50:] = 1
    boxes = Boxes(
        np.array([[8, 8, 40, 40], [60, 20, 92, 52]], np.float32),
        np.zeros(2, np.int64),
        np.zeros(2, bool),
        np.array([0.9, 0.25], np.float32),
    )
    vector = np.zeros(128, np.float32)
    vector[3] = 1
    known: dict[str, Known] = {
        "surface": Classes(map_),
        "edges": Classes(map_),
        "objects": Objects(boxes),
        "scene": Present(np.array([0.7, 0.1], np.float32)),
        "body": Points(np.array([[22.0, 30.0]], np.float32), np.array([0.8], np.float32), (0,)),
        "looks": Direction(vector),
    }
    made = tasks_of(PIPELINE, taught(**known))
    assert made.keys() == known.keys()
    counts = np.bincount(map_.ravel(), minlength=2)
    assert isinstance(made["surface"], Segmentation)
    assert made["surface"].class_weight.tolist() == class_weights(counts).tolist()
    targets = {name: task.target([known[name], None], (64, 96)) for name, task in made.items()}
    assert torch.equal(targets["surface"][0], torch.from_numpy(map_))
    assert torch.equal(targets["edges"][0], torch.from_numpy(map_[4::8, 4::8]))
    assert sorted(set(targets["objects"].scores[0].flatten().tolist())) == pytest.approx([0, 0.25, 0.9])
    assert targets["scene"][0].tolist() == pytest.approx([0.7, 0.1])
    heat = targets["body"][0, 0]
    assert divmod(int(heat.argmax()), heat.shape[1]) == (7, 5)  # the cell that holds (22, 30), at stride 4
    assert float(heat.max()) == pytest.approx(0.8)
    assert targets["looks"][0].tolist() == vector.tolist()
    assert (targets["surface"][1] == VOID).all()
    assert (targets["edges"][1] == VOID).all()
    assert not targets["objects"].counted[1].any()
    assert all(bool(targets[name][1].isnan().all()) for name in ("scene", "body", "looks"))


def test_points_and_vectors_that_nobody_knows_teach_nothing() -> None:
    for task, raw in (
        (Keypoints(1, 4), {"heatmaps": torch.randn(2, 1, 16, 24)}),
        (Embedding(5), {"vector": torch.randn(2, 5)}),
    ):
        known = (
            Points(np.array([[22.0, 30.0]], np.float32), np.ones(1, np.float32), (0,))
            if isinstance(task, Keypoints)
            else Direction(np.eye(5, dtype=np.float32)[0])
        )
        alone = task.loss({name: value[:1] for name, value in raw.items()}, task.target([known], (64, 96)))
        both = task.loss(raw, task.target([known, None], (64, 96)))
        assert float(both) == pytest.approx(float(alone), rel=1e-5)
        assert float(task.loss(raw, task.target([None, None], (64, 96)))) == 0


def test_a_teacher_of_another_kind_is_refused() -> None:
    with pytest.raises(DataError, match="a teacher gave Present, where the head needs Classes"):
        Segmentation(torch.ones(2)).target([Present(np.zeros(2, np.float32))], (64, 96))
