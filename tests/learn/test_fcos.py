"""Detection targets and losses, against plain loops over points and boxes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sharedbb.learn.fcos import (
    CENTRE_RADIUS,
    FARTHEST,
    Assignment,
    Grid,
    assign,
    detection_loss,
    focal,
    giou_of_distances,
)
from sharedbb.learn.labels import Boxes

SIZE = (96, 128)
STRIDES = (8, 16, 32)


def boxes_from(*rows: tuple[float, float, float, float, int, bool]) -> Boxes:
    xyxy = np.array([row[:4] for row in rows], np.float32).reshape(-1, 4)
    return Boxes(xyxy, np.array([row[4] for row in rows], np.int64), np.array([row[5] for row in rows], bool))


def test_the_grid_has_the_centre_of_every_cell_of_every_level() -> None:
    grid = Grid.of(*SIZE, STRIDES)
    wanted = [
        ((column + 0.5) * stride, (row + 0.5) * stride, stride)
        for stride in STRIDES
        for row in range(SIZE[0] // stride)
        for column in range(SIZE[1] // stride)
    ]
    assert torch.cat((grid.xy, grid.stride[:, None]), 1).tolist() == [list(point) for point in wanted]
    assert grid.low[0] == 0
    assert grid.high[0] == grid.low[12 * 16] == FARTHEST[8]
    assert math.isinf(float(grid.high[-1]))


def test_one_level_takes_boxes_of_any_size() -> None:
    grid = Grid.of(*SIZE, (16,))
    assert grid.low.max() == 0
    assert grid.high.isinf().all()


def owner_of(x: float, y: float, stride: int, boxes: Boxes) -> int | None:
    """The smallest box that a point answers for, by the rules of the paper."""
    at = STRIDES.index(stride)
    low = 0.0 if at == 0 else FARTHEST[STRIDES[at - 1]]
    high = math.inf if at == len(STRIDES) - 1 else FARTHEST[stride]
    fits = []
    for index, (left, top, right, bottom) in enumerate(boxes.xyxy.tolist()):
        sides = (x - left, y - top, right - x, bottom - y)
        off = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2))
        inside = min(sides) > 0 and off < CENTRE_RADIUS * stride and low < max(sides) <= high
        if inside and not boxes.ignored[index]:
            fits.append(((right - left) * (bottom - top), index))
    return min(fits)[1] if fits else None


def test_points_answer_for_boxes_as_in_plain_loops() -> None:
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 70, (12, 2))
    sides = rng.uniform(8, 60, (12, 2))
    boxes = Boxes(
        np.concatenate((corners, corners + sides), 1).astype(np.float32),
        rng.integers(0, 3, 12).astype(np.int64),
        rng.random(12) < 0.2,
    )
    grid, made = Grid.of(*SIZE, STRIDES), assign(boxes, None, Grid.of(*SIZE, STRIDES), 3)
    answered = 0
    for point, ((x, y), stride) in enumerate(zip(grid.xy.tolist(), grid.stride.tolist(), strict=True)):
        owner = owner_of(x, y, int(stride), boxes)
        assert bool(made.positive[point]) == (owner is not None)
        if owner is None:
            assert made.scores[point].sum() == 0
            continue
        answered += 1
        assert made.scores[point].tolist() == [float(k == boxes.classes[owner]) for k in range(3)]
        left, top, right, bottom = boxes.xyxy[owner].tolist()
        sides_wanted = [(x - left) / stride, (y - top) / stride, (right - x) / stride, (bottom - y) / stride]
        assert made.distances[point].tolist() == pytest.approx(sides_wanted, abs=1e-4)
    assert answered > 20


def test_void_ignored_and_unanswered_boxes_do_not_count() -> None:
    unknown = np.zeros(SIZE, bool)
    unknown[:, 64:] = True
    boxes = boxes_from((8, 8, 40, 40, 1, True), (64, 16, 96, 48, 0, False), (50, 70, 51, 71, 0, False))
    grid = Grid.of(*SIZE, STRIDES)
    made = assign(boxes, unknown, grid, 2)
    inside = ((grid.xy > 8) & (grid.xy < 40)).all(1)
    void = grid.xy[:, 0] >= 64
    assert not made.counted[inside, 1].any()
    assert made.counted[inside, 0].all()
    assert not made.counted[void & ~made.positive].any()
    assert made.counted[made.positive].all()
    assert (made.positive & void).any()


def test_a_picture_without_boxes_has_only_background() -> None:
    made = assign(boxes_from(), None, Grid.of(*SIZE, STRIDES), 2)
    assert made.counted.all()
    assert not made.scores.any()
    assert not made.positive.any()


def test_focal_loss_is_the_papers() -> None:
    for logit, target in ((0.3, 1.0), (-1.2, 0.0), (2.0, 0.0)):
        p = 1 / (1 + math.exp(-logit))
        wanted = -0.25 * (1 - p) ** 2 * math.log(p) if target else -0.75 * p**2 * math.log(1 - p)
        assert float(focal(torch.tensor(logit), torch.tensor(target))) == pytest.approx(wanted, rel=1e-5)


def test_giou_is_that_of_the_boxes() -> None:
    ours, theirs = torch.tensor([[2.0, 1.0, 3.0, 4.0]]), torch.tensor([[1.0, 2.0, 1.0, 1.0]])
    assert float(giou_of_distances(ours, ours)) == pytest.approx(1.0)
    overlap, first, second, hull = (1 + 1) * (1 + 1), 5 * 5, 2 * 3, (2 + 3) * (2 + 4)
    union = first + second - overlap
    assert float(giou_of_distances(ours, theirs)) == pytest.approx(overlap / union - (hull - union) / hull)


def test_the_loss_is_near_zero_for_what_is_wanted_and_grows_with_every_mistake() -> None:
    boxes = boxes_from((10, 12, 44, 40, 1, False), (60, 8, 120, 90, 0, False))
    grid = Grid.of(*SIZE, STRIDES)
    target = Assignment.stack([assign(boxes, None, grid, 2), assign(boxes_from(), None, grid, 2)])
    scores, distances = (target.scores * 2 - 1) * 12, target.distances.clone()
    perfect = float(detection_loss(scores, distances, target))
    assert perfect < 1e-4
    positives = int(target.positive.sum())
    assert float(detection_loss(scores, distances + target.positive[..., None], target)) > 0.05
    missed = scores.clone()
    missed[target.positive] = -12
    assert float(detection_loss(missed, distances, target)) == pytest.approx(0.25 * 12, rel=0.01)
    wrong = scores.clone()
    wrong[1, 5, 0] = 12
    assert float(detection_loss(wrong, distances, target)) == pytest.approx(perfect + 0.75 * 12 / positives, rel=0.01)
    target.counted[1, 5, 0] = False
    assert float(detection_loss(wrong, distances, target)) == pytest.approx(perfect, abs=1e-4)


def test_the_loss_of_a_batch_without_boxes_has_a_gradient() -> None:
    target = Assignment.stack([assign(boxes_from(), None, Grid.of(*SIZE, STRIDES), 2)])
    scores = torch.zeros_like(target.scores, requires_grad=True)
    loss = detection_loss(scores, torch.ones_like(target.distances), target)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert scores.grad is not None
    assert (scores.grad > 0).all()


def test_what_a_teacher_is_not_sure_of_counts_less() -> None:
    grid = Grid.of(*SIZE, STRIDES)
    sure = boxes_from((10, 10, 34, 34, 0, False))
    half = replace(sure, scores=np.array([0.5], np.float32))
    (one, other) = (Assignment.stack([assign(boxes, None, grid, 1)]) for boxes in (sure, half))
    assert float(one.scores.max()) == 1
    assert float(other.scores.max()) == 0.5
    assert torch.equal(one.positive, other.positive)
    right = torch.full_like(other.scores, -20.0)
    right[other.positive] = 0.0  # a probability of one half
    assert float(detection_loss(right, other.distances, other)) < 1e-3
    assert float(detection_loss(right, one.distances, one)) > 0.01


def test_a_doubtful_box_may_lie_wrong_more_cheaply() -> None:
    boxes = boxes_from((4, 4, 28, 28, 0, False), (64, 40, 88, 64, 0, False))
    target = Assignment.stack(
        [assign(replace(boxes, scores=np.array([1, 0.25], np.float32)), None, Grid.of(*SIZE, STRIDES), 1)]
    )
    scores = torch.logit(target.scores.clamp(1e-6, 1 - 1e-6))
    costs = []
    for sure in (1.0, 0.25):
        wrong = target.distances.clone()
        wrong[target.scores[..., 0] == sure] *= 2
        costs.append(float(detection_loss(scores, wrong, target)))
    counts = [int((target.scores == sure).sum()) for sure in (1.0, 0.25)]
    assert costs[1] / costs[0] == pytest.approx(0.25 * counts[1] / counts[0], rel=0.02)
