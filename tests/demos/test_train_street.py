"""Training of the street pipeline: its batches, that a run learns and resumes, report and card."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from street import pictures
from street.batches import Mix
from street.training import Recipe, Trainer

from sharedbb import artifact
from sharedbb.learn.batches import Batch, Pool
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.known import known_by_labels
from sharedbb.learn.losses import questions_of, tasks_of
from sharedbb.media.synthetic import CLASSES, OBJECTS

ROAD, VEHICLE, PEDESTRIAN, SIGN = (CLASSES.index(name) for name in ("road", "vehicle", "pedestrian", "sign"))


def planted(height: int = 96, width: int = 128) -> np.ndarray:
    """A road with a car of 40×20 pixels, a person of 10×24, and a sign too small to be asked for."""
    made = np.full((height, width), ROAD, np.uint8)
    made[50:70, 20:60] = VEHICLE
    made[30:54, 90:100] = PEDESTRIAN
    made[10:14, 70:74] = SIGN
    return made


def street_picture(seed: int = 0, size: tuple[int, int] = (96, 128)) -> Sample:
    """A picture whose colours tell the classes."""
    rng = np.random.default_rng(seed)
    made = planted(*size)
    palette = np.random.default_rng(1).integers(0, 256, (12, 3))
    rgb = np.clip(palette[made] + rng.normal(0, 6, (*size, 3)), 0, 255).astype(np.uint8)
    return Sample(f"planted{seed}", rgb, made)


def test_synthetic_frames_are_kept_with_their_labels(tmp_path: Path) -> None:
    from street import synthetic

    assert pictures.cached_synthetic(tmp_path / "none") is None
    synthetic.render(tmp_path, 2, seed=0)
    rendered = pictures.cached_synthetic(tmp_path)
    assert rendered is not None
    first, second = rendered
    again = synthetic._sample(synthetic.FIRST_SEED, 1)
    assert first.name != second.name
    assert np.array_equal(second.labels, again.labels)
    assert np.abs(second.rgb.astype(int) - again.rgb).mean() < 4
    assert {"sky", "road", "building"} <= {CLASSES[index] for index in np.unique(first.labels)}


def small_trainer(steps: int, *, seed: int = 0, steady: float = 0.0) -> Trainer:
    """The street network on tiny crops of planted pictures."""
    import train_street

    pipeline, network = train_street.untrained()
    recipe = Recipe(steps=steps, batch=2, crops=((0.0, 64, 96),), bf16=False, seed=seed, steady=steady)
    real = Data.given("planted", [street_picture(index) for index in range(3)], CLASSES)
    unlabelled = [Sample("clip", street_picture(7).rgb)]
    pools = [Pool(real, questions_of(pipeline, real))]
    mix = Mix(pools, tasks_of(pipeline, real), pipeline.input, seed, unlabelled)
    return Trainer(network, recipe, mix, torch.device("cpu"), pipeline.input.normalization)


class TestMix:
    def test_slots_of_all_workers_make_the_batch(self) -> None:
        mix = small_trainer(1).mix
        whole = mix.batch(5, 4, (64, 96)).images
        parts = [mix.of_slots(5, 4, (64, 96), slots).images for slots in ((0, 2), (1, 3))]
        assert torch.equal(whole[[0, 2]], parts[0])
        assert torch.equal(whole[[1, 3]], parts[1])

    def test_views_are_the_crops_unlabelled_ones_and_both_again_with_noise(self) -> None:
        mix = small_trainer(1).mix
        batch, labelled, crops = mix.views(5, 4, (64, 96), range(4))
        assert (labelled, crops, len(batch.images)) == (4, 6, 12)
        assert len(batch.targets["surface"]) == 4
        assert torch.equal(batch.images[:4], mix.batch(5, 4, (64, 96)).images)
        apart = (batch.images[:6].float() - batch.images[6:].float()).abs()
        assert 0 < apart.mean() < 12


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
        questions = trainer.mix.pools[0].questions
        known = [known_by_labels(one, questions) for one in samples]
        batch = Batch.of([one.rgb for one in samples], trainer.mix.tasks, known)
        trainer.network.train()
        losses = [trainer.step(batch, 2e-3) for _ in range(12)]
        for name in ("surface", "objects", "edges", "scene"):
            assert losses[-1][name] < 0.9 * losses[0][name]

    def test_steps_on_two_views_learn_labels_and_ask_for_stillness(self) -> None:
        trainer = small_trainer(8, steady=1.0)
        views = trainer.mix.views(0, 2, (64, 96), range(2))
        trainer.network.train()
        losses = [trainer.steady_step(*views, 1e-3) for _ in range(8)]
        assert {name for name in losses[0] if name.startswith("steady.")} == {
            f"steady.{name}" for name in ("surface", "edges", "scores", "distances", "scene")
        }
        assert losses[-1]["surface"] < losses[0]["surface"]
        assert losses[-1]["edges"] < losses[0]["edges"]

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
    """Metrics as ``evaluation.report`` gives them, all of one value."""
    by_class = dict.fromkeys(CLASSES, value)
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
        told = evaluation.report(network, pipeline, Data.given("planted", [sample], CLASSES))
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
