"""The cost model: features by hand, planted laws found again, intervals, and what cannot be predicted."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sharedbb.compress.costs import (
    FEATURES,
    CostModel,
    Estimate,
    Law,
    Observation,
    features,
    fit,
    nonnegative,
    padded_macs,
)
from sharedbb.compress.operators import Operator, resized
from sharedbb.errors import CompressionError

KINDS = ("stem", "dense", "pointwise", "depthwise", "grouped", "product", "elementwise", "resample", "fused")


def feature(operators: list[Operator], precision: str = "f32", runs: int = 1) -> dict[str, float]:
    return {
        name: value
        for name, value in zip(FEATURES, features(operators, precision, runs).tolist(), strict=True)
        if value
    }


@pytest.mark.parametrize(("precision", "inputs"), [("f32", 48), ("bf16", 64), ("int8", 64)])
def test_matrix_units_round_channels_up(precision: str, inputs: int) -> None:
    assert padded_macs(Operator("pointwise", 40, 24, 100, 100), precision) == 100 * inputs * 32


def test_what_is_not_done_by_matrix_units_is_not_rounded_as_such() -> None:
    assert padded_macs(Operator("stem", 3, 16, 400, 100, taps=9), "bf16") == 100 * 9 * 3 * 16
    assert padded_macs(Operator("depthwise", 40, 40, 100, 100, taps=9, groups=40), "bf16") == 100 * 9 * 48
    assert padded_macs(Operator("grouped", 32, 32, 100, 100, taps=9, groups=2), "f32") == 100 * 9 * 2 * 16 * 16


def test_features_by_hand() -> None:
    assert feature([Operator("pointwise", 16, 32, 1000, 1000)]) == pytest.approx(
        {"pointwise macs": 0.512, "weights": 0.000512, "moved": 0.048, "calls": 0.001, "runs": 1.0}
    )
    assert feature([Operator("fused", 16, 16, 1000, 1000)]) == pytest.approx({"moved elementwise": 0.016, "runs": 1.0})
    far = Operator("elementwise", 64, 64, 10_000, 10)
    assert feature([far])["moved far"] == pytest.approx(0.64)
    assert "moved far" not in feature([far], "int8")
    assert feature([], runs=3) == {"runs": 3.0}
    with pytest.raises(CompressionError, match=r"no cost is known of precision 'int3'; there are f32, bf16"):
        features([], "int3")


def test_nonnegative_least_squares_satisfy_the_conditions_of_their_optimum() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        matrix, target = random.normal(size=(30, 8)), random.normal(size=30)
        found = nonnegative(matrix, target)
        gradient = matrix.T @ (target - matrix @ found)
        assert (found >= 0).all()
        assert (gradient <= 1e-8).all()
        assert np.allclose(gradient[found > 0], 0, atol=1e-8)


def test_columns_that_are_zero_or_alike_do_no_harm() -> None:
    matrix = np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0], [3.0, 3.0, 0.0]])
    found = nonnegative(matrix, np.array([2.0, 4.0, 6.0]))
    assert matrix @ found == pytest.approx([2.0, 4.0, 6.0])
    assert not nonnegative(matrix, np.array([-1.0, -1.0, -1.0])).any()


def random_operators(random: np.random.Generator) -> tuple[Operator, ...]:
    """A few operators of every kind, of any width and size."""
    found = []
    for kind in KINDS:
        for _ in range(int(random.integers(1, 4))):
            channels, places = int(random.integers(2, 30)) * 8, int(random.integers(50, 20_000))
            groups = {"depthwise": channels, "grouped": 2}.get(kind, 1)
            taps = 9 if kind in ("stem", "dense", "depthwise", "grouped") else 1
            inputs = 3 if kind == "stem" else channels
            found.append(Operator(kind, inputs, channels, places, places, taps, groups))
    return tuple(found)


PLANTED = tuple(0.05 * (at % 4) for at in range(len(FEATURES)))


def observations(noise: float = 0.0, networks: int = 40) -> list[Observation]:
    """Networks whose times follow a known law."""
    random = np.random.default_rng(1)
    found = []
    for at in range(networks):
        operators = random_operators(random)
        exact = float(features(operators, "bf16") @ np.array(PLANTED))
        measured = exact * math.exp(noise * random.normal())
        found.append(Observation(f"net {at}", f"family {at % 5}", "engine bf16", operators, measured, whole=True))
    return found


def test_a_planted_law_is_found_again() -> None:
    seen = observations()
    law = fit(seen).laws["engine bf16"]
    assert law.milliseconds == pytest.approx(PLANTED, abs=1e-3)
    assert law.error < 0.001
    assert law.factor < 1.001
    assert law.networks == 40
    other = resized(seen[0].operators, 3.0)
    predicted = fit(seen).predict(other, "engine bf16")
    assert predicted.milliseconds == pytest.approx(float(features(other, "bf16") @ np.array(PLANTED)), rel=1e-3)


def test_disturbed_measurements_count_little() -> None:
    seen = observations()
    disturbed = [replace(one, milliseconds=one.milliseconds * (3 if at % 8 == 0 else 1)) for at, one in enumerate(seen)]
    model = fit(disturbed)
    errors = [model.predict(one.operators, one.way).milliseconds / one.milliseconds - 1 for one in seen]
    assert np.max(np.abs(errors)) < 0.05


def test_errors_are_of_networks_that_were_not_seen() -> None:
    noisy = fit(observations(noise=0.1)).laws["engine bf16"]
    assert 0.03 < noisy.error < 0.2
    assert 1 + noisy.error < noisy.factor < 1.5
    assert noisy.anchored > 1


def test_an_anchor_leaves_only_the_ratio_to_be_predicted() -> None:
    seen = observations()
    model = fit(seen)
    half = tuple(replace(one, read=one.read // 2, written=one.written // 2) for one in seen[0].operators)
    law = model.laws["engine bf16"]
    slow = model.predict(half, "engine bf16", anchor=(seen[0].operators, 10 * seen[0].milliseconds))
    ratio = law(half, "bf16") / law(seen[0].operators, "bf16")
    assert slow.milliseconds == pytest.approx(10 * seen[0].milliseconds * ratio)
    assert slow.high == pytest.approx(slow.milliseconds * law.anchored)


def test_estimates_scale_with_their_intervals() -> None:
    assert Estimate.around(4.0, 2.0).scaled(0.5, plus=1.0) == Estimate(3.0, 2.0, 5.0)


def test_a_model_goes_through_json() -> None:
    model = fit(observations(noise=0.1), "abc")
    assert CostModel.from_dict(json.loads(json.dumps(model.to_dict()))) == model


@pytest.mark.parametrize("stored", [{}, {"fingerprint": "a", "laws": {"x bf16": {}}}, {"laws": 3}, []])
def test_something_else_is_no_model(stored: object) -> None:
    with pytest.raises(CompressionError, match="no cost model of this version"):
        CostModel.from_dict(stored)  # type: ignore[arg-type]


def test_what_was_not_measured_is_not_predicted() -> None:
    model = CostModel("", {"a f32": Law((1.0,) * len(FEATURES), 0.1, 1.2, 1.1, 3)})
    with pytest.raises(CompressionError, match="no times were measured of 'a int8' here; measured ways are a f32"):
        model.predict((), "a int8")
    with pytest.raises(CompressionError, match="two networks at least, got net 0"):
        fit(observations(networks=1))
