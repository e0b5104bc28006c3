"""The cost model of a machine: measured, fitted, kept and found again; on tiny networks in eager torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sharedbb.cli import costing
from sharedbb.cli.costing import Prepared, Way, cost_model, fitted, observe, predicted, subject, way_of, ways
from sharedbb.cli.probes import PROBES, Probe
from sharedbb.compiler.choose import Candidate
from sharedbb.compress.costs import FEATURES, Law
from sharedbb.compress.operators import macs
from sharedbb.errors import CompressionError
from sharedbb.graph.quantization import Scheme, is_rounding
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import Runtime

EAGER = (Way(Candidate("eager", "f32", "cpu")),)
HEADS = {
    "surface": {"type": "segmentation", "taps": [4], "classes": ["a", "b"], "channels": 8},
    "scene": {"type": "tags", "taps": [8], "labels": ["a", "b"]},
}
TINY = (Probe("two_layers", (32, 64), 0, HEADS), Probe("two_layers", (64, 64), 0, HEADS))


class TwoLayers(nn.Module):
    """A backbone of two convolutions."""

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.channels = {4: 8, 8: 16}
        self.first, self.second = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 2, 2)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Features at strides 4 and 8."""
        shallow = self.first(image).relu()
        return {4: shallow, 8: self.second(shallow).relu()}


@pytest.fixture(autouse=True, scope="module")
def backbone() -> Iterator[None]:
    register_backbone("two_layers", TwoLayers, strides=(4, 8))
    yield
    BACKBONES.unregister("two_layers")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHAREDBB_CACHE", str(tmp_path))
    return tmp_path


def test_a_model_is_measured_once(folder: Path) -> None:
    told: list[Any] = []
    made = cost_model(EAGER, 1, probes=TINY, tell=lambda *args: told.append(args))
    assert [(at, total) for _, at, total in told] == [(0, 2), (1, 2)]
    assert "two_layers 64x32 neck 0 surface+scene" in told[0][0]
    assert made.laws["eager f32"].networks == 2
    again = cost_model(EAGER, 1, probes=TINY, tell=lambda *args: pytest.fail("measured again"))
    assert again == made
    (kept,) = folder.glob("costs-*.json")
    assert made.fingerprint in kept.name
    estimate = predicted(made, TINY[0].network(), "eager f32")
    assert 0 < estimate.low <= estimate.milliseconds <= estimate.high


def test_a_model_that_was_fitted_is_found_and_never_made(folder: Path) -> None:
    runtime = Runtime(device="cpu", backend="eager", precision="f32", threads=1)
    assert fitted(runtime, probes=TINY) is None
    assert not [*folder.iterdir()]
    made = cost_model(ways(runtime), 1, probes=TINY, tell=lambda *args: None)
    assert fitted(runtime, probes=TINY) == made
    assert fitted(runtime.model_copy(update={"threads": 2}), probes=TINY) is None
    assert fitted(Runtime(device="cpu", backend="cuda"), probes=TINY) is None  # which runs on no CPU


def test_a_prediction_from_a_network_that_was_measured() -> None:
    small, large = (probe.network() for probe in TINY)
    law = costing.CostModel("", {"eager f32": Law((1.0,) * len(FEATURES), 0.1, 2.0, 1.25, 9)})
    alone = [predicted(law, network, "eager f32").milliseconds for network in (small, large)]
    found = predicted(law, large, "eager f32", anchor=(small, 5.0))
    assert found.milliseconds == pytest.approx(5.0 * alone[1] / alone[0])
    assert found.high == pytest.approx(1.25 * found.milliseconds)
    assert predicted(law, small, "eager f32", anchor=(small, 5.0)).milliseconds == pytest.approx(5.0)


def test_the_way_a_network_runs() -> None:
    network = TINY[0].network()
    rounded = replace(network, scheme=Scheme({}))
    assert way_of(network, "openvino", "bf16") == "openvino bf16"
    assert way_of(rounded, "openvino", "bf16") == "openvino int8"
    assert way_of(rounded, "eager", "f32") == "eager f32"


def test_a_damaged_or_unwanted_model_is_measured_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def observed(name: str, *rest: Any) -> list[Any]:
        calls.append(name)
        return []

    monkeypatch.setattr(costing, "observe", observed)
    monkeypatch.setattr(costing, "fit", lambda found, fingerprint: costing.CostModel(fingerprint, {}))
    for expected, anew in ((1, False), (1, False), (2, True)):
        cost_model(EAGER, 1, probes=TINY[:1], anew=anew, tell=lambda *args: None)
        assert len(calls) == expected
    (kept,) = folder.glob("costs-*.json")
    kept.write_text("{")
    cost_model(EAGER, 1, probes=TINY[:1], tell=lambda *args: None)
    assert len(calls) == 3
    cost_model(EAGER, 2, probes=TINY[:1], tell=lambda *args: None)
    assert len(calls) == 4


def test_observations_are_of_segments_and_of_all() -> None:
    found = observe("net", "family", Prepared.of(TINY[0].network(), EAGER), 1)
    together = [one for one in found if one.whole]
    parts = [one for one in found if not one.whole]
    assert len(together) == 1
    assert len(parts) > 1
    assert sum(macs(one.operators) for one in parts) == macs(together[0].operators) == TINY[0].network().macs
    assert all(one.milliseconds > 0 for one in found)
    assert {one.way for one in found} == {"eager f32"}


@pytest.mark.parametrize("transform", ["rgb", "haar"])
def test_integers_are_on_grids_in_every_convolution_but_the_stem(transform: str) -> None:
    float_way, integers = EAGER[0], Way(EAGER[0].candidate, integers=True)
    network = TINY[0].network()
    read = network.pipeline.model_dump() | {"transform": {"type": transform}}
    network = replace(network, pipeline=network.pipeline.model_validate(read))
    prepared = Prepared.of(network, (float_way, integers))
    counts = [sum(map(is_rounding, form.parts.graph.nodes)) for form in prepared.forms]
    assert counts == [0, 2 * 9]  # of the second layer and those of the heads
    assert str(integers) == "eager int8"


def test_a_subject_has_pieces_with_margins_and_times() -> None:
    network = TINY[0].network()
    found = subject(network, EAGER)
    assert found.heads == {"surface": "segmentation", "scene": "tags"}
    assert macs(found.operators) == network.macs
    assert set(found.measured) == {"eager f32"}
    margins = {piece.name: piece.margin for piece in found.pieces}
    assert margins["scene"] is None
    assert margins["surface"] is not None
    assert margins["surface"] > 0
    assert macs(found.alone("scene")) < macs(found.operators)


def test_a_way_that_was_not_measured_is_not_predicted() -> None:
    with pytest.raises(CompressionError, match="no times were measured of 'eager f32'"):
        predicted(costing.CostModel("", {}), TINY[0].network(), "eager f32")


def test_ways_have_int8_where_the_backend_computes_in_it() -> None:
    assert [str(way) for way in ways(Runtime(device="cpu", backend="openvino", precision="f32"))] == [
        "openvino f32",
        "openvino int8",
    ]
    assert [str(way) for way in ways(Runtime(device="cpu", backend="eager", precision="f32"))] == ["eager f32"]


def test_probes_cover_every_backbone_and_can_be_built() -> None:
    ours = {name for name in BACKBONES if name != "two_layers"}
    assert {probe.arch for probe in PROBES} == ours
    assert len(set(map(str, PROBES))) == len(PROBES)
    narrow = next(probe for probe in PROBES if probe.width == 0.5).network()
    with torch.no_grad():
        answers = narrow.module(torch.zeros(1, 3, 32, 32))
    assert answers["surface.logits"].shape[:2] == (1, 8)
