"""Recipes whose steps are the real ones, quantization above all, on a tiny network and rendered pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sharedbb import artifact
from sharedbb.compress.recipe import Measure, judged, run
from sharedbb.compress.record import Run, Speed
from sharedbb.learn.data import open_data
from sharedbb.learn.network import Network
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec.recipe import loads_space

PIPELINE = """\
name: plain
input: {size: [32, 64], normalize: unit}
backbone: {arch: with_norms}
heads: {surface: {type: segmentation, taps: [4], classes: [a, b, c, d, e, f], channels: 8}}
"""

DATA = "synthetic:street?frames=10&seed=1"
RECIPE = f'pipeline: PIPELINE\ndata: {{train: "{DATA}", calibrate: 2}}\nfloors: {{surface: FLOOR}}\nsteps:\n'

TRAINING = "{steps: 2, batch: 2, crop: [32, 32]}"


class WithNorms(nn.Module):
    """A backbone of three convolutions with batch norms."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {4: 16}
        self.layers = nn.Sequential()
        for at, (inputs, outputs, stride) in enumerate([(3, 16, 2), (16, 32, 2), (32, 16, 1)]):
            layer, norm = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs, momentum=1.0)
            nn.init.normal_(layer.weight, 0.0, 0.2, generator=torch.Generator().manual_seed(at))
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(at))
            self.layers.extend([layer, norm, nn.ReLU()])
        with torch.no_grad():  # statistics by which pictures are told apart
            self(torch.rand(4, 3, 32, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at stride 4."""
        return {4: self.layers(image)}


@pytest.fixture(autouse=True, scope="module")
def backbone() -> Iterator[None]:
    register_backbone("with_norms", WithNorms, strides=(4,))
    yield
    BACKBONES.unregister("with_norms")


def _measured(ratio: float) -> Measure:
    """Times by which every step is so many times as fast as the network before it."""

    def measure(before: Path, after: Path) -> Sequence[Speed]:
        return (Speed("openvino f32", 10.0, 10.0 / ratio),)

    return measure


def _run(folder: Path, floor: float, *steps: str, ratio: float = 2.0) -> Run:
    (folder / "plain.yaml").write_text(PIPELINE)
    text = RECIPE.replace("PIPELINE", str(folder / "plain.yaml")).replace("FLOOR", str(floor))
    recipe = loads_space(text + "".join(f"  - {{type: {step}}}\n" for step in steps)).recipe()
    return run(recipe, folder / "work", measure=_measured(ratio))


def _fates(result: Run) -> list[tuple[str, str]]:
    return [(row.name, row.fate) for row in result.rows[1:]]


@pytest.mark.parametrize(
    "step",
    [
        "quantize, tool: own",
        "quantize, tool: nncf",
        f"quantize, tool: own, method: qat, finetune: {TRAINING}",
    ],
)
def test_eight_bits_hold_a_floor(tmp_path: Path, step: str) -> None:
    result = _run(tmp_path, 0.7, step)
    assert _fates(result) == [("quantize", "kept")]
    network = result.result.network()
    assert network.scheme is not None
    assert result.rows[1].state.entry.facts["bytes"] < result.rows[0].state.entry.facts["bytes"]
    assert 0.7 <= result.rows[1].quality["surface"]["headline"] < 1
    assert result.rows[1].to_dict()["facts"]["macs_in_integers"] > 0.5


def test_few_bits_break_a_floor_and_are_rolled_back(tmp_path: Path) -> None:
    result = _run(tmp_path, 0.9999, "quantize, tool: own, bits: 2, tries: 1", "code, bits: 16")
    assert _fates(result) == [("quantize", "broken"), ("code", "kept")]
    assert result.rows[1].said[0].startswith("surface: headline is 0.")
    assert result.rows[1].said[0].endswith("the floor is 0.9999")
    assert result.result.network().scheme is None
    assert [report.step for report in result.result.reports] == ["code"]


def test_more_bits_are_tried_where_few_break_a_floor(tmp_path: Path) -> None:
    result = _run(tmp_path, 0.8, "quantize, tool: own, bits: 2, tries: 4")
    bits = [row.to_dict()["settings"]["bits"] for row in result.rows[1:]]
    assert bits[:2] == [2, 5]
    assert result.rows[1].fate == "broken"
    assert result.test[1]["surface"]["headline"] > result.rows[1].quality["surface"]["headline"]


def test_integers_that_are_not_faster_are_refused(tmp_path: Path) -> None:
    result = _run(tmp_path, 0.5, "quantize, tool: own", "quantize, method: weights", ratio=1.0)
    assert _fates(result) == [("quantize", "slower"), ("quantize", "kept")]
    assert result.rows[1].said[0].startswith("not faster on openvino f32: 10.00 ms after, 10.00 ms before (1.00×")
    assert result.result.network().scheme is None


def test_pruned_quantized_and_coded_the_artifact_has_the_judged_quality(tmp_path: Path) -> None:
    result = _run(
        tmp_path,
        0.1,
        "prune, amount: 0.4, round_to: 4",
        f"finetune, {TRAINING[1:-1]}",
        "quantize, tool: nncf, layers: {heads: 5}",
        "code, bits: 8, norms: 16",
    )
    assert [fate for _, fate in _fates(result)] == ["kept"] * 4
    result.save(tmp_path / "out.sbb")
    back, before = Network.of(tmp_path / "out.yaml"), Network.of(tmp_path / "plain.yaml")
    assert back.macs < 0.7 * before.macs
    assert back.scheme is not None
    assert {coding.get("bits") for coding in back.coding.values()} == {None, 5, 8}
    tests = open_data(DATA, (32, 64)).of("test")
    assert judged(back, before, tests) == result.test[1]
    assert artifact.load(tmp_path / "out.sbb").manifest.report["test"] == result.test[1]
