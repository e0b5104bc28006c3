"""Training of the street pipeline: targets, assignment, losses, metrics, and that a run learns and resumes."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from street import labels, loss, metrics, pictures
from street.augment import training_crop
from street.batches import Batch, Mix, class_weights
from street.labels import IGNORED, OBJECTS, SURFACES, VOID, Boxes, boxes_of
from street.training import Recipe, Trainer
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from sharedbb import artifact

ROAD, VEHICLE, PEDESTRIAN, SIGN = (SURFACES.index(name) for name in ("road", "vehicle", "pedestrian", "sign"))


def planted(height: int = 96, width: int = 128) -> np.ndarray:
    """A road with a car of 40×20 pixels, a person of 10×24, and a sign too small to be asked for."""
    made = np.full((height, width), ROAD, np.uint8)
    made[50:70, 20:60] = VEHICLE
    made[30:54, 90:100] = PEDESTRIAN
    made[10:14, 70:74] = SIGN
    return made


def street_picture(seed: int = 0, size: tuple[int, int] = (96, 128)) -> pictures.Labelled:
    """A picture whose colours tell the classes."""
    rng = np.random.default_rng(seed)
    made = planted(*size)
    palette = np.random.default_rng(1).integers(0, 256, (12, 3))
    rgb = np.clip(palette[made] + rng.normal(0, 6, (*size, 3)), 0, 255).astype(np.uint8)
    return pictures.Labelled(f"planted{seed}", rgb, made)


class TestLabels:
    def test_boxes_bound_the_planted_components(self) -> None:
        boxes = boxes_of(planted())
        found = {
            (OBJECTS[index], tuple(box.tolist()), bool(ignored))
            for index, box, ignored in zip(boxes.classes, boxes.xyxy, boxes.ignored, strict=True)
        }
        assert found == {
            ("vehicle", (20, 50, 60, 70), False),
            ("pedestrian", (90, 30, 100, 54), False),
            ("sign", (70, 10, 74, 14), True),
        }

    def test_diagonal_neighbours_are_one_object_and_a_split_one_is_two(self) -> None:
        made = np.full((64, 64), ROAD, np.uint8)
        made[0:10, 0:10] = made[10:20, 10:20] = VEHICLE
        made[40:50, 0:30] = VEHICLE
        made[40:50, 14:16] = SURFACES.index("pole")
        assert sorted(boxes_of(made).xyxy.tolist()) == [[0, 0, 20, 20], [0, 40, 14, 50], [16, 40, 30, 50]]

    def test_thin_components_are_ignored_however_long(self) -> None:
        made = np.full((64, 64), ROAD, np.uint8)
        made[0:5, 0:60] = VEHICLE
        assert boxes_of(made).ignored.tolist() == [True]

    def test_a_map_without_objects_has_no_boxes(self) -> None:
        boxes = boxes_of(np.full((32, 32), VOID, np.uint8))
        assert len(boxes) == 0
        assert boxes.xyxy.shape == (0, 4)

    def test_boundary_lies_on_both_sides_and_not_along_void(self) -> None:
        made = np.full((8, 12), ROAD, np.uint8)
        made[:, 4:8] = VEHICLE
        made[:, 8:] = VOID
        assert np.flatnonzero(labels.boundary_of(made).all(axis=0)).tolist() == [3, 4]
        assert labels.boundary_of(made).sum() == 2 * 8

    def test_edge_cells_match_a_plain_loop(self) -> None:
        made = np.random.default_rng(0).choice([0, 3, VOID], (32, 48), p=[0.02, 0.96, 0.02]).astype(np.uint8)
        edge, target = labels.boundary_of(made), labels.edge_target(made)
        for row in range(8):
            for column in range(12):
                cell = np.s_[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                expected = 1 if edge[cell].any() else IGNORED if (made[cell] == VOID).any() else 0
                assert target[row, column] == expected
        assert set(np.unique(target)) == {0, 1, IGNORED}

    def test_tags_need_a_thousandth_of_what_is_known(self) -> None:
        made = np.full((100, 100), VOID, np.uint8)
        made[:40] = ROAD
        made[0, :4] = SIGN
        made[1, :3] = VEHICLE
        assert [name for name, there in zip(SURFACES, labels.tags_of(made), strict=True) if there] == ["road", "sign"]


class TestAugmentation:
    def test_picture_and_labels_move_together(self) -> None:
        sample = street_picture()
        marked = pictures.Labelled(
            "m", np.repeat((sample.labels == VEHICLE)[..., None] * np.uint8(255), 3, 2), sample.labels
        )
        for seed in range(20):
            rgb, moved = training_crop(marked, (96, 96), np.random.default_rng(seed))
            inside = rgb[moved == VEHICLE].mean() if (moved == VEHICLE).any() else 255
            outside = rgb[(moved != VEHICLE) & (moved != VOID)].mean()
            assert inside > outside + 60

    def test_scales_stay_in_range_and_both_sides_occur(self) -> None:
        sample = pictures.Labelled("wide", np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8))
        known = [
            (training_crop(sample, (160, 160), np.random.default_rng(seed))[1] != VOID).sum() for seed in range(60)
        ]
        sides = np.sqrt(known)
        assert 0.5 * 64 - 2 <= sides.min() < 64 < sides.max() <= 2 * 64 + 2

    def test_batches_depend_on_seed_and_step_alone(self) -> None:
        mix = Mix([street_picture(seed) for seed in range(5)], [street_picture(9)], 0.25, seed=3)
        first, second = mix.batch(7, 4, (64, 96)), mix.batch(7, 4, (64, 96))
        assert torch.equal(first.images, second.images)
        assert not torch.equal(first.images, mix.batch(8, 4, (64, 96)).images)
        assert first.images.shape == (4, 3, 64, 96)
        assert first.targets["edges"].shape == (4, 16, 24)

    def test_every_picture_comes_once_a_round(self) -> None:
        from street.batches import _shuffled

        for turn in range(3):
            assert sorted(_shuffled(7, turn * 7 + place, 0) for place in range(7)) == list(range(7))

    def test_class_weights_favour_the_rare_and_keep_the_scale(self) -> None:
        sample = street_picture()
        weight = class_weights([sample])
        counts = np.bincount(sample.labels.ravel(), minlength=11)
        assert weight[SIGN] > weight[PEDESTRIAN] > weight[VEHICLE] > weight[ROAD]
        assert float((weight.numpy() * counts).sum() / counts.sum()) == pytest.approx(1, abs=1e-5)


def test_synthetic_frames_are_kept_with_their_labels(tmp_path: Path) -> None:
    from street import synthetic

    from sharedbb.media.synthetic import CLASSES

    assert CLASSES == SURFACES
    assert pictures.cached_synthetic(tmp_path / "none") == []
    synthetic.render(tmp_path, 2, seed=0)
    first, second = pictures.cached_synthetic(tmp_path)
    again = synthetic._sample(synthetic.FIRST_SEED, 1)
    assert first.name != second.name
    assert np.array_equal(second.labels, again.labels)
    assert np.abs(second.rgb.astype(int) - again.rgb).mean() < 4
    assert {"sky", "road", "building"} <= {SURFACES[index] for index in np.unique(first.labels)}


def boxes(*items: tuple[str, tuple[float, float, float, float]], ignored: tuple[bool, ...] | None = None) -> Boxes:
    return Boxes(
        np.float32([box for _, box in items]).reshape(-1, 4),
        np.int64([OBJECTS.index(name) for name, _ in items]),
        np.array(ignored or [False] * len(items), dtype=bool),
    )


class TestAssignment:
    grid = loss.Grid.of(256, 320, (8, 16, 32))

    def assign(self, wanted: Boxes, void: torch.Tensor | None = None) -> loss.Assignment:
        none = torch.zeros(len(self.grid.xy), dtype=torch.bool)
        return loss.assign(wanted, none if void is None else void, self.grid, len(OBJECTS))

    def test_grid_runs_over_levels_rows_columns_at_cell_centres(self) -> None:
        assert len(self.grid.xy) == 32 * 40 + 16 * 20 + 8 * 10
        assert self.grid.xy[0].tolist() == [4, 4]
        assert self.grid.xy[1].tolist() == [12, 4]
        assert self.grid.xy[40].tolist() == [4, 12]
        assert self.grid.xy[-1].tolist() == [9.5 * 32, 7.5 * 32]

    def test_matches_a_plain_loop_over_points_and_boxes(self) -> None:
        rng = np.random.default_rng(0)
        corners, sizes = rng.uniform(0, 200, (12, 2)), rng.uniform(8, 200, (12, 2))
        wanted = Boxes(
            np.concatenate([corners, corners + sizes], 1).astype(np.float32),
            rng.integers(0, 4, 12),
            np.array([False] * 10 + [True] * 2),
        )
        made = self.assign(wanted)
        assert (made.box >= 0).sum() > 10
        for point, (x, y) in enumerate(self.grid.xy.tolist()):
            stride, best = float(self.grid.stride[point]), (math.inf, -1)
            for index, (left, top, right, bottom) in enumerate(wanted.xyxy.tolist()):
                sides = (x - left, y - top, right - x, bottom - y)
                near = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2)) < 1.5 * stride
                low, high = loss.LEVEL_REACH[int(stride)]
                if min(sides) > 0 and near and low < max(sides) <= high and not wanted.ignored[index]:
                    best = min(best, ((right - left) * (bottom - top), index))
            assert made.box[point] == best[1]

    def test_scores_and_levels_of_a_small_and_a_large_box(self) -> None:
        made = self.assign(boxes(("pedestrian", (40, 40, 60, 80)), ("vehicle", (80, 60, 300, 200))))
        for index, stride in ((0, 8), (1, 32)):
            mine = made.box == index
            assert set(self.grid.stride[mine].tolist()) == {stride}
        assert made.scores.sum() == (made.box >= 0).sum()
        assert set(made.scores[made.box == 0].argmax(1).tolist()) == {OBJECTS.index("pedestrian")}
        assert made.counted.all()

    def test_ignored_boxes_are_neither_object_nor_background(self) -> None:
        made = self.assign(boxes(("sign", (40, 40, 60, 60)), ignored=(True,)))
        assert (made.box < 0).all()
        inside = ((self.grid.xy > 40) & (self.grid.xy < 60)).all(1)
        assert not made.counted[inside, OBJECTS.index("sign")].any()
        assert made.counted[:, OBJECTS.index("vehicle")].all()
        assert made.counted[~inside].all()

    def test_void_counts_for_nothing_unless_a_box_is_there(self) -> None:
        void = torch.ones(len(self.grid.xy), dtype=torch.bool)
        made = self.assign(boxes(("vehicle", (40, 40, 80, 80))), void)
        assert torch.equal(made.counted.all(1), made.box >= 0)
        assert (made.box >= 0).any()


class TestLosses:
    def test_giou_equals_torchvision(self) -> None:
        torch.manual_seed(0)
        predicted, wanted = torch.rand(50, 4) * 9, torch.rand(50, 4) * 9 + 0.1
        as_xyxy = [torch.cat((-sides[:, :2], sides[:, 2:]), 1) for sides in (predicted, wanted)]
        expected = generalized_box_iou(*as_xyxy).diagonal()
        torch.testing.assert_close(loss.giou_of_distances(predicted, wanted), expected, atol=1e-5, rtol=1e-4)

    def test_focal_equals_torchvision(self) -> None:
        torch.manual_seed(0)
        logits, targets = torch.randn(40, 4) * 3, (torch.rand(40, 4) > 0.8).float()
        torch.testing.assert_close(loss.focal(logits, targets), sigmoid_focal_loss(logits, targets))

    def test_a_perfect_detector_has_almost_no_loss(self) -> None:
        wanted = boxes(("vehicle", (40, 40, 90, 80)), ("sign", (120, 30, 136, 46)))
        grid = loss.Grid.of(128, 160, (8, 16, 32))
        made = loss.assign(wanted, torch.zeros(len(grid.xy), dtype=torch.bool), grid, 4)
        distances = torch.ones(1, len(grid.xy), 4)
        point = (made.box >= 0).nonzero().flatten()
        box = torch.from_numpy(wanted.xyxy)[made.box[point]]
        x, y = grid.xy[point].T
        sides = torch.stack((x - box[:, 0], y - box[:, 1], box[:, 2] - x, box[:, 3] - y), 1)
        distances[0, point] = sides / grid.stride[point, None]
        known = torch.zeros(1, 128, 160, dtype=torch.uint8)
        right = loss.detection_loss(made.scores[None] * 24 - 12, distances, [wanted], known, grid)
        assert float(right) < 1e-3
        shifted = loss.detection_loss(made.scores[None] * 24 - 12, distances + 0.5, [wanted], known, grid)
        missed = loss.detection_loss(torch.full_like(made.scores[None], -12), distances, [wanted], known, grid)
        assert float(shifted) > 0.05
        assert float(missed) > 1

    def test_void_pixels_bear_no_loss(self) -> None:
        torch.manual_seed(0)
        logits, target = torch.randn(1, 11, 8, 8), torch.full((1, 32, 32), ROAD, dtype=torch.uint8)
        half = target.clone()
        half[:, :, 16:] = VOID
        wild = logits.clone()
        wild[..., 5:] += 50 * torch.randn(1, 11, 8, 3)
        ones = torch.ones(11)
        assert loss.segmentation_loss(logits, half, ones) == loss.segmentation_loss(wild, half, ones)
        assert loss.segmentation_loss(logits, target, ones) != loss.segmentation_loss(wild, target, ones)


class TestMetrics:
    def test_iou_by_counting(self) -> None:
        rng = np.random.default_rng(0)
        confusion = metrics.Confusion(4)
        pairs = [
            (rng.choice([0, 1, 2, VOID], (9, 7)).astype(np.uint8), rng.integers(0, 3, (9, 7), np.uint8)) for _ in "ab"
        ]
        for truth, said in pairs:
            confusion.add(truth, said)
        truth, said = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
        truth, said = truth[truth != VOID], said[truth != VOID]
        for index in range(3):
            expected = ((truth == index) & (said == index)).sum() / ((truth == index) | (said == index)).sum()
            assert confusion.iou()[index] == pytest.approx(expected)
        assert np.isnan(confusion.iou()[3])
        assert confusion.mean_iou() == pytest.approx(confusion.iou()[:3].mean())
        assert confusion.accuracy() == pytest.approx((truth == said).mean())

    def test_average_precision_against_a_plain_reference(self) -> None:
        rng = np.random.default_rng(0)
        metric, everything, wanted = metrics.BoxPrecision(1), [], 0
        for _ in range(12):
            true = _random_boxes(rng, 5)
            said = np.concatenate([true[:4] + rng.normal(0, 3, (4, 4)).astype(np.float32), _random_boxes(rng, 4)])
            scores = rng.permutation(8).astype(np.float32) / 8 + rng.random(8, np.float32) / 100
            metric.add(Boxes(true, np.zeros(5, np.int64), np.zeros(5, bool)), said, scores, np.zeros(8, np.int64))
            everything += _reference_matches(true, said, scores)
            wanted += 5
        assert metric.mean() == pytest.approx(_reference_area(everything, wanted), abs=1e-9)
        assert 0.2 < metric.mean() < 0.95

    def test_perfect_boxes_have_average_precision_one_and_doubles_cost(self) -> None:
        true = boxes(("vehicle", (0, 0, 20, 20)), ("sign", (50, 50, 70, 70)))
        perfect, doubled = metrics.BoxPrecision(4), metrics.BoxPrecision(4)
        perfect.add(true, true.xyxy, np.float32([0.9, 0.8]), true.classes)
        assert perfect.mean() == 1
        assert np.isnan(perfect.average_precision()).tolist() == [False, True, True, False]
        other = boxes(("vehicle", (0, 0, 20, 20)), ("vehicle", (100, 0, 120, 20)))
        said = np.float32([[0, 0, 20, 20], [0, 0, 20, 19], [100, 0, 120, 20]])
        doubled.add(other, said, np.float32([0.9, 0.8, 0.7]), np.zeros(3, np.int64))
        assert doubled.mean() == pytest.approx(0.5 + 0.5 * 2 / 3)

    def test_what_hits_an_ignored_box_does_not_count(self) -> None:
        true = boxes(("vehicle", (0, 0, 20, 20)), ("vehicle", (50, 50, 55, 55)), ignored=(False, True))
        metric = metrics.BoxPrecision(4)
        said = np.float32([[50, 50, 55, 56], [0, 0, 20, 20]])
        metric.add(true, said, np.float32([0.9, 0.8]), np.zeros(2, np.int64))
        assert metric.mean() == 1

    def test_boundary_f1_forgives_the_tolerance_and_no_more(self) -> None:
        truth, none = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
        truth[:, 10] = True
        for shift, expected in ((0, 1.0), (4, 1.0), (5, 0.0)):
            metric = metrics.BoundaryF1()
            metric.add(truth, np.roll(truth, shift, axis=1), none)
            assert metric.scores()[2] == pytest.approx(expected)
        both = metrics.BoundaryF1()
        said = truth.copy()
        said[:, 30] = True
        both.add(truth, said, none)
        assert both.scores()[:2] == pytest.approx((0.5, 1.0))
        void = metrics.BoundaryF1()
        void.add(truth, said, np.arange(40)[None] >= 25 + np.zeros((40, 1)))
        assert void.scores() == pytest.approx((1.0, 1.0, 1.0))
        empty = metrics.BoundaryF1()
        empty.add(truth, none, none)
        assert empty.scores()[2] == 0

    def test_tag_f1_by_counting(self) -> None:
        metric = metrics.TagF1(3)
        metric.add(np.array([True, False, False]), np.array([True, True, False]))
        metric.add(np.array([True, True, False]), np.array([False, True, False]))
        assert metric.f1()[:2] == pytest.approx([2 / 3, 2 / 3])
        assert np.isnan(metric.f1()[2])
        assert metric.mean() == pytest.approx(2 / 3)


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, size = rng.uniform(0, 80, (count, 2)), rng.uniform(10, 30, (count, 2))
    return np.concatenate([corner, corner + size], 1).astype(np.float32)


def _reference_matches(true: np.ndarray, said: np.ndarray, scores: np.ndarray) -> list[tuple[float, bool]]:
    taken: set[int] = set()
    matches = []
    for one in np.argsort(-scores):
        best, place = 0.0, -1
        for index, other in enumerate(true):
            width = min(said[one][2], other[2]) - max(said[one][0], other[0])
            height = min(said[one][3], other[3]) - max(said[one][1], other[1])
            shared = max(0.0, width) * max(0.0, height)
            whole = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (said[one], other)) - shared
            if index not in taken and shared / whole > best:
                best, place = shared / whole, index
        if best >= 0.5:
            taken.add(place)
        matches.append((float(scores[one]), best >= 0.5))
    return matches


def _reference_area(matches: list[tuple[float, bool]], wanted: int) -> float:
    """Area under precision made monotone, by its definition: at each recall, the best precision from there on."""
    ordered = sorted(matches, reverse=True)
    curve = []
    for count in range(1, len(ordered) + 1):
        hits = sum(hit for _, hit in ordered[:count])
        curve.append((hits / wanted, hits / count))
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - before) * max(precision for _, precision in curve[place:])
        before = recall
    return area


def small_trainer(steps: int, *, seed: int = 0) -> Trainer:
    """The street network on tiny crops of planted pictures."""
    import train_street

    pipeline, network = train_street.untrained()
    recipe = Recipe(steps=steps, batch=2, crops=((0.0, 64, 96),), bf16=False, seed=seed)
    mix = Mix([street_picture(index) for index in range(3)], [], seed=seed)
    normalization = pipeline.input.normalization
    return Trainer(network, recipe, mix, torch.device("cpu"), normalization.mean, normalization.std)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
class TestTraining:
    def test_steps_on_one_batch_lower_every_loss(self) -> None:
        trainer = small_trainer(12)
        samples = [street_picture(index, (96, 128)) for index in range(2)]
        batch = Batch.of([sample.rgb for sample in samples], [sample.labels for sample in samples])
        trainer.network.train()
        losses = [trainer.step(batch, 2e-3) for _ in range(12)]
        for name in ("surface", "objects", "edges", "scene"):
            assert losses[-1][name] < 0.9 * losses[0][name]

    def test_a_resumed_run_ends_where_an_unbroken_one_does(self, tmp_path: Path) -> None:
        unbroken = small_trainer(4)
        list(unbroken.run())
        broken = small_trainer(4)
        running = broken.run()
        next(running), next(running)
        broken.save(tmp_path / "checkpoint.safetensors")
        resumed = small_trainer(4)
        resumed.resume(tmp_path / "checkpoint.safetensors")
        assert (resumed.clock.step, resumed.clock.seconds) == (2, broken.clock.seconds)
        assert [line["step"] for line in resumed.run()] == [3, 4]
        for name, tensor in unbroken.network.state_dict().items():
            torch.testing.assert_close(resumed.network.state_dict()[name], tensor, rtol=0, atol=0)
        for name, tensor in unbroken.average.items():
            torch.testing.assert_close(resumed.average[name], tensor, rtol=0, atol=0)

    def test_the_schedule_warms_up_cools_down_and_survives_a_pause(self) -> None:
        from street.training import LONGEST_STEP, Clock

        recipe = Recipe(minutes=1.0, lr=1.0)
        rates = [recipe.rate(progress / 100) for progress in range(101)]
        assert rates[0] < 0.05
        assert max(rates) == pytest.approx(1, abs=0.02)
        assert rates[-1] < 0.01
        assert rates[10:] == sorted(rates[10:], reverse=True)
        clock = Clock()
        clock.tick(3600)
        assert clock.progress(recipe) == LONGEST_STEP / 60
        assert (recipe.crop(0.0), recipe.crop(0.7), recipe.crop(0.9)) == ((224, 320), (288, 384), (352, 480))

    def test_a_loss_that_is_not_finite_stops_the_run(self) -> None:
        trainer = small_trainer(1)
        with torch.no_grad():
            next(trainer.network.parameters()).fill_(float("nan"))
        with pytest.raises(ValueError, match="not finite at step 0: surface nan"):
            list(trainer.run())


def report(value: float) -> dict[str, Any]:
    """Metrics as ``judge`` gives them, all of one value."""
    by_class = dict.fromkeys(SURFACES, value)
    return {
        "pictures": 3,
        "surface": {"miou": value, "accuracy": value, "iou": by_class},
        "objects": {"map50": value, "ap50": dict.fromkeys(OBJECTS, value), "boxes": dict.fromkeys(OBJECTS, 7)},
        "edges": {"f1": value, "precision": value, "recall": value, "tolerance_px": 4.0},
        "scene": {"f1": value, "f1_by_tag": by_class | {"sky": None}},
    }


@pytest.mark.usefixtures("_one_thread")
class TestPublishing:
    def test_the_artifact_gives_back_the_averaged_weights(self, tmp_path: Path) -> None:
        import train_street
        from street import publishing

        trainer = small_trainer(1)
        trainer.save(tmp_path / "checkpoint.safetensors")
        state = publishing.rounded(publishing.averaged(tmp_path / "checkpoint.safetensors"))
        recipe = publishing.recipe_of(tmp_path / "checkpoint.safetensors") | {"synthetic_frames": 5}
        pipeline, network = train_street.untrained()
        told = {"val": report(0.25), "test": report(0.125)}
        publishing.publish(pipeline, state, told, recipe, tmp_path / "street.sbb")
        read = artifact.load(tmp_path / "street.sbb")
        artifact.load_weights(network, read, pipeline.heads)
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
            torch.testing.assert_close(tensor, trainer.average[name], rtol=1e-3, atol=1e-5)
        assert read.manifest.report["test"]["surface"]["miou"] == 0.125
        assert read.manifest.pipeline["backbone"]["weights"] is None
        assert (tmp_path / "street.sbb").stat().st_size < 10e6
        card = (tmp_path / "street.md").read_text()
        assert "| `surface` mIoU | 0.250 | 0.125 |" in card
        assert "| sky | 0.250 | 0.125 | – | – |" in card
        assert "| vehicle | 0.250 | 7 | 0.125 | 7 |" in card
        assert "research use" in card
        assert "* The synthetic street, 5 rendered frames" in card
        assert "{" not in card

    def test_a_network_is_judged_in_source_pixels(self) -> None:
        import train_street
        from street import evaluation

        pipeline, network = train_street.untrained()
        sample = street_picture(size=(90, 130))
        told = evaluation.judge(evaluation.Predictor(network, pipeline, 0.02), [sample])
        assert told["pictures"] == 1
        assert 0 <= told["surface"]["accuracy"] <= 1
        assert told["objects"]["boxes"] == {"vehicle": 1, "pedestrian": 1, "cyclist": 0, "sign": 0}
        assert told["objects"]["ap50"]["cyclist"] is None


@pytest.mark.slow
def test_two_workers_train_as_one(tmp_path: Path) -> None:
    from street import publishing

    pictures.write_cache(tmp_path / "cache", [street_picture(seed) for seed in range(2)], {})
    (tmp_path / "cache" / "rgb").rename(tmp_path / "train")
    (tmp_path / "cache" / "labels").rename(tmp_path / "trainannot")
    script = Path(__file__).resolve().parents[2] / "demos" / "train_street.py"
    options = {"--data": tmp_path, "--run": tmp_path / "run", "--batch": 2, "--steps": 1, "--workers": 2}
    words = [str(word) for pair in options.items() for word in pair]
    subprocess.run([sys.executable, str(script), "train", *words], check=True, timeout=240, capture_output=True)
    assert publishing.recipe_of(tmp_path / "run" / "checkpoint.safetensors")["step"] == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint.safetensors", "log.jsonl"]


@pytest.mark.real
def test_camvid_reads_with_labels_in_range(data: Path) -> None:
    found = pictures.camvid(data / "camvid", "val")
    assert len(found) == 101
    assert all(picture.rgb.shape == (360, 480, 3) for picture in found)
    assert max(int(picture.labels.max()) for picture in found) <= VOID
    assert sum(len(boxes_of(picture.labels)) for picture in found) > 500
