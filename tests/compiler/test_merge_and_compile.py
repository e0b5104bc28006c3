"""What a user brings, merged and run on pictures: the same answers as the networks alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharedbb as sb
from sharedbb.errors import GraphError

SIZE = (64, 96)


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TwoAnswers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.scores, self.boxes = Trunk(), nn.Conv2d(16, 3, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"scores": self.scores(features), "boxes": self.boxes(features)}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    one = nn.Sequential(Trunk(), nn.Conv2d(16, 5, 1)).eval()
    return {"seg": one, "det": TwoAnswers().eval(), "odd": nn.Sequential(nn.Conv2d(3, 2, 5, 2), nn.Flatten()).eval()}


@pytest.fixture(scope="module")
def shared(networks: dict[str, nn.Module]) -> sb.Shared:
    return sb.merge(networks, torch.rand(1, 3, *SIZE))


def test_answers_are_bit_equal_and_nested(shared: sb.Shared, networks: dict[str, nn.Module]) -> None:
    x = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        answers = shared(x)
        assert torch.equal(answers["seg"], networks["seg"](x))
        assert torch.equal(answers["odd"], networks["odd"](x))
        expected = networks["det"](x)
    assert answers["det"].keys() == expected.keys()
    assert all(torch.equal(answers["det"][part], expected[part]) for part in expected)


def test_explain_says_what_is_shared_and_where_networks_part(shared: sb.Shared) -> None:
    text = shared.explain()
    assert "3 networks, 15 operators apart, 10 merged; 0 serve all" in text
    assert "det leaves seg at det/scores (where seg has seg/1)" in text
    assert "weight of shape (3, 16, 1, 1)" in text
    assert "odd" in text


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_compiled_networks_answer_on_pictures(
    shared: sb.Shared, networks: dict[str, nn.Module], backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHAREDBB_CACHE", str(tmp_path))
    settings = {"backend": backend, "precision": "f32", "device": "cpu", "normalize": "unit", "every": {"odd": 2}}
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    x = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    for _ in range(2):  # the second time from the cache, where the backend can store
        engine = shared.compile(**settings)
        first, second = engine.step(picture, order="rgb"), engine.step(picture, order="rgb")
        with torch.no_grad():
            seg = networks["seg"](x).numpy()
            scores = networks["det"](x)["scores"].numpy()
        assert np.allclose(first["seg"].arrays["output"], seg, atol=1e-5)
        assert np.allclose(first["det"].arrays["scores"], scores, atol=1e-5)
        assert first.freshness["odd"].ran
        assert not second.freshness["odd"].ran
        assert second.freshness["odd"].age_frames == 1


def test_a_decoder_turns_raw_answers_into_typed_ones(shared: sb.Shared) -> None:
    engine = shared.compile(
        backend="eager",
        decoders={"seg": lambda raw, geometry: sb.Tags(("mean",), raw["output"].mean((0, 1, 2))[:1], 0)},
    )
    assert isinstance(engine.step(np.zeros((10, 10, 3), np.uint8))["seg"], sb.Tags)


def test_names_and_inputs_are_checked(networks: dict[str, nn.Module]) -> None:
    with pytest.raises(GraphError, match="at least one"):
        sb.merge({}, torch.rand(1, 3, 8, 8))
    with pytest.raises(GraphError, match=r"'a\.b' cannot name a network"):
        sb.merge({"a.b": networks["seg"]}, torch.rand(1, 3, 8, 8))
    with pytest.raises(GraphError, match="one RGB picture"):
        sb.merge({"a": nn.Conv2d(4, 1, 1)}, torch.rand(1, 4, 32, 32)).compile(backend="eager")


def _small() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"a": nn.Conv2d(3, 4, 3, 2, 1).eval()}


def test_pictures_of_any_size_are_compiled() -> None:
    shared = sb.merge(_small(), torch.rand(1, 3, 50, 70))
    result = shared.compile(backend="eager", use_cache=False).step(np.zeros((9, 9, 3), np.uint8))
    assert result["a"].arrays["output"].shape == (1, 4, 25, 35)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"normalize": "imgnet"}, "normalize.*'imagenet', 'unit' or 'none'"),
        ({"fit": "box"}, "fit.*'letterbox', 'stretch' or 'crop'"),
        ({"thread": 2}, "thread: "),
        ({"backend": "tensorrt"}, "backend: must be 'auto', 'eager'"),
        ({"every": {"b": 2}}, "every.b: there is no network 'b'; the networks are a"),
        ({"every": {"a": 0}}, "every.a: must be a whole number, at least 1, got 0"),
        ({"decoders": {"b": None}}, "decoders.b: there is no network 'b'"),
        ({"decoders": {"a": 5}}, "decoders.a: must be a function of raw arrays and geometry, got 5"),
        ({"max_age_ms": {"a": "5"}}, "max_age_ms.a: must be a number above 0, got '5'"),
        ({"max_age_ms": {"a": float("nan")}}, "max_age_ms.a: must be a number above 0, got nan"),
        ({"priority": {"a": "high"}}, "priority.a: must be a whole number, got 'high'"),
        ({"every": 2}, "every: must be a mapping, got 2"),
        ({"reuse": "exact"}, "reuse: must be a mapping, got 'exact'"),
    ],
)
def test_settings_that_cannot_be_are_said(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(sb.SpecError, match=said):
        sb.merge(_small(), torch.rand(1, 3, 32, 32)).compile(**{"backend": "eager", "use_cache": False, **asked})


def test_answers_of_complex_numbers_are_refused() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft2(x)

    with pytest.raises(GraphError, match=r"a is of complex numbers; let the network return torch\.view_as_real"):
        sb.merge({"a": Spectrum()}, torch.rand(1, 3, 32, 32)).compile(backend="eager", use_cache=False)


def test_the_cache_is_left_alone_where_that_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDBB_CACHE", str(tmp_path))
    shared = sb.merge(_small(), torch.rand(1, 3, 32, 32))
    shared.compile(backend="openvino", precision="f32", cache=False)
    assert list(tmp_path.iterdir()) == []
    shared.compile(backend="openvino", precision="f32")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_what_a_decoder_of_ones_own_keeps_is_its_own(backend: str) -> None:
    shared = sb.merge(_small(), torch.rand(1, 3, 32, 32))
    engine = shared.compile(
        backend=backend, precision="f32", use_cache=False, decoders={"a": lambda raw, geometry: raw["output"]}
    )
    first = engine.step(np.zeros((32, 32, 3), np.uint8))["a"]
    before = first.copy()
    engine.step(np.full((32, 32, 3), 255, np.uint8))
    assert np.array_equal(first, before)


def test_an_input_of_another_shape_is_refused() -> None:
    class Folded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(x.shape[0], -1).mean(1)

    shared = sb.merge({"a": Folded()}, torch.rand(1, 3, 8, 8))
    with pytest.raises(GraphError, match=r"example of shape \(1, 3, 8, 8\), got \(2, 3, 8, 8\)"):
        shared(torch.rand(2, 3, 8, 8))


def test_what_is_no_mapping_of_modules_is_said() -> None:
    example = torch.rand(1, 3, 8, 8)
    with pytest.raises(GraphError, match="by name"):
        sb.merge([nn.Identity()], example)
    with pytest.raises(GraphError, match="1 cannot name a network"):
        sb.merge({1: nn.Identity()}, example)
    with pytest.raises(GraphError, match="float, not"):
        sb.merge({"a": nn.Identity()}, torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).compile()


def test_training_on_does_not_change_what_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDBB_CACHE", str(tmp_path))
    networks, picture = _small(), np.full((32, 32, 3), 200, np.uint8)
    shared = sb.merge(networks, torch.rand(1, 3, 32, 32))
    settings = {"backend": "openvino", "device": "cpu", "precision": "f32"}
    before = shared.compile(**settings).step(picture)["a"].arrays["output"]
    with torch.no_grad():
        networks["a"].weight.neg_()
    assert np.array_equal(shared.compile(**settings).step(picture)["a"].arrays["output"], before)
    again = sb.merge(networks, torch.rand(1, 3, 32, 32)).compile(**settings).step(picture)["a"].arrays["output"]
    assert not np.allclose(again, before, atol=1e-2)


def test_merged_networks_take_clocks_and_a_deadline(shared: sb.Shared) -> None:
    engine = shared.compile(
        backend="eager", max_age_ms={"seg": 100.0}, priority={"det": 2}, schedule={"deadline_ms": 5.0, "queue": 2}
    )
    program = engine.program
    assert (program.heads["seg"].max_age_ms, program.heads["det"].priority) == (100.0, 2)
    assert (program.deadline_ms, program.queue) == (5.0, 2)
    with pytest.raises(sb.SpecError, match=r"priority\.sge: there is no network 'sge'"):
        shared.compile(backend="eager", priority={"sge": 1})
    with pytest.raises(sb.SpecError, match="deadline"):
        shared.compile(backend="eager", schedule={"deadline": 1.0})


@pytest.mark.parametrize("transform", [None, {"type": "space_to_depth"}])
def test_merged_networks_reuse_features_and_read_other_forms(
    shared: sb.Shared, transform: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharedbb.reuse.worth.GAIN", float("inf"))
    settings = {"backend": "eager", "precision": "f32", "device": "cpu", "use_cache": False}
    engine = shared.compile(**settings, transform=transform, reuse={"mode": "exact", "audit": 0})
    plain = shared.compile(**settings)
    assert len(engine.program.stems) == (2 if transform else 0)
    first = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    second = first.copy()
    second[:16, :16] = 255 - second[:16, :16]
    modes = []
    for picture in (first, first, second):
        found, expected = engine.step(picture), plain.step(picture)
        modes.append(found.mode)
        for name in expected:
            for part, array in expected[name].arrays.items():
                assert np.allclose(found[name].arrays[part], array, atol=1e-5)
    assert modes[:2] == ["dense", "still"]
    assert modes[2] != "still"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"transform": {"type": "haar", "levels": 2}}, r"stride 2, of which blocks of 4"),
        ({"transform": {"type": "harr"}}, r"transform"),
        ({"transform": {"type": "low_resolution", "sizes": [[64, 96], [32, 64]]}}, "low_resolution needs a pipeline"),
        ({"reuse": {"mode": "exactly"}}, "mode"),
    ],
)
def test_transforms_and_reuse_that_cannot_be_are_said(shared: sb.Shared, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(sb.SharedBBError, match=said):
        shared.compile(backend="eager", use_cache=False, **asked)
    with pytest.raises(sb.SpecError, match="multiples of 16, these read 70x50"):
        sb.merge(_small(), torch.rand(1, 3, 50, 70)).compile(backend="eager", reuse={"mode": "exact"})
