"""What a network will take, predicted: a linear model of its operators' work, fitted to times measured on a machine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.compress.operators import MULTIPLYING, Operator
from sharedbb.errors import CompressionError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BLOCK = {"f32": 16, "bf16": 32, "f16": 32, "int8": 64}
"""To how many input channels matrix units round up, by precision."""

OUTPUT_BLOCK = 16
"""To how many output channels they do."""

BYTES = {"f32": 4, "bf16": 2, "f16": 2, "int8": 1}
"""Of an element of a feature map, by precision."""

NEAR_BYTES = 1 << 20
"""A map beyond this has left a core's own cache before the next operator reads it."""

FEATURES = (
    *(f"{kind} macs" for kind in MULTIPLYING),
    *("weights", "moved", "moved depthwise", "moved far", "moved elementwise", "moved resample"),
    *("calls", "runs"),
)
"""What a time is a sum of: padded multiply-adds, weights, elements moved, in millions; calls in thousands; runs."""

LEAST = 1e-6
"""Milliseconds that anything takes."""

TINY = 1e-12
"""What counts as zero among coefficients of columns scaled to one."""

REWEIGHED, NOISE = 6, 0.05
"""How often observations are weighed anew by their relative errors, and the error below which all count alike."""

TAIL = 0.9
"""Share of errors that an interval covers."""


def padded_macs(operator: Operator, precision: str) -> float:
    """Multiply-adds as matrix units do them, channels rounded up to their blocks; depthwise ones use vectors alone."""
    outputs = _up(operator.outputs // operator.groups, OUTPUT_BLOCK)
    if operator.kind == "depthwise":
        return float(operator.written * operator.taps * _up(operator.outputs, OUTPUT_BLOCK))
    wide = operator.inputs // operator.groups
    inputs = wide if operator.kind == "stem" else _up(wide, BLOCK[precision])
    return float(operator.written * operator.taps * operator.groups * inputs * outputs)


def _up(count: int, block: int) -> int:
    return math.ceil(count / block) * block


def features(operators: Sequence[Operator], precision: str, runs: int = 1) -> Floats:
    """The values of ``FEATURES`` for operators that run in ``runs`` executables."""
    if precision not in BLOCK:
        raise CompressionError(f"no cost is known of precision {precision!r}; there are {', '.join(BLOCK)}")
    found = dict.fromkeys(FEATURES, 0.0)
    for one in operators:
        read, written = one.inputs * one.read, one.outputs * one.written
        moved = f"moved {one.kind}" if f"moved {one.kind}" in found else "moved"
        if one.kind == "fused":
            written, moved = 0, "moved elementwise"
        else:
            found["calls"] += 1e-3
        if one.kind in MULTIPLYING:
            found[f"{one.kind} macs"] += padded_macs(one, precision) / 1e6
            found["weights"] += one.parameters / 1e6
        found[moved] += (read + written) / 1e6
        found["moved far"] += sum(size for size in (read, written) if size * BYTES[precision] > NEAR_BYTES) / 1e6
    found["runs"] = float(runs)
    return np.array([found[name] for name in FEATURES], np.float64)


@dataclass(frozen=True, slots=True)
class Observation:
    """A time that was measured: of which network, in which way (``"openvino bf16"``), of what, in how many runs.

    Networks of one ``family`` differ in size and width alone.
    """

    network: str
    family: str
    way: str
    operators: tuple[Operator, ...]
    milliseconds: float
    runs: int = 1
    whole: bool = False

    @property
    def features(self) -> Floats:
        """The values of ``FEATURES``."""
        return features(self.operators, precision_of(self.way), self.runs)


def precision_of(way: str) -> str:
    """``bf16`` of ``openvino bf16``."""
    return way.rpartition(" ")[2]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Predicted milliseconds, and between what the measured ones are to be expected in nine cases of ten."""

    milliseconds: float
    low: float
    high: float

    @classmethod
    def around(cls, milliseconds: float, factor: float) -> Estimate:
        """An interval of the same factor either way."""
        return cls(milliseconds, milliseconds / factor, milliseconds * factor)

    def scaled(self, factor: float, plus: float = 0.0) -> Estimate:
        """The estimate, and its interval, times a factor and later by some milliseconds."""
        return Estimate(*(value * factor + plus for value in (self.milliseconds, self.low, self.high)))


@dataclass(frozen=True, slots=True)
class Law:
    """How one way of running behaves: milliseconds a unit of every feature, and how far off that is.

    Errors are of whole networks, each predicted by a law that was fitted without it: ``error`` is their median
    (relative), ``factor`` covers nine of ten. ``anchored`` covers nine of ten where another network of the family was
    measured and only the ratio between the two is predicted.
    """

    milliseconds: tuple[float, ...]
    error: float
    factor: float
    anchored: float
    networks: int

    def __call__(self, operators: Sequence[Operator], precision: str, runs: int = 1) -> float:
        """Milliseconds of operators."""
        return max(float(features(operators, precision, runs) @ np.array(self.milliseconds)), LEAST)


@dataclass(frozen=True)
class CostModel:
    """The laws of a machine by way of running; ``fingerprint`` is the digest of the machine that was measured."""

    fingerprint: str
    laws: Mapping[str, Law]

    def law(self, way: str) -> Law:
        """How a way behaves. Raises CompressionError for one that was not measured."""
        if way not in self.laws:
            known = ", ".join(self.laws) or "none"
            raise CompressionError(f"no times were measured of {way!r} here; measured ways are {known}")
        return self.laws[way]

    def predict(
        self,
        operators: Sequence[Operator],
        way: str,
        *,
        runs: int = 1,
        anchor: tuple[Sequence[Operator], float] | None = None,
    ) -> Estimate:
        """How long operators take in ``way``.

        ``anchor``: what a network of the same family took, its operators and measured milliseconds; then only the ratio
        is predicted, which is more exact. Raises CompressionError for a way that was not measured.
        """
        law = self.law(way)
        found = law(operators, precision_of(way), runs)
        if anchor is None:
            return Estimate.around(found, law.factor)
        reference, milliseconds = anchor
        return Estimate.around(found * milliseconds / law(reference, precision_of(way), runs), law.anchored)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        laws = {
            way: {
                "milliseconds": dict(zip(FEATURES, law.milliseconds, strict=True)),
                **{name: getattr(law, name) for name in ("error", "factor", "anchored", "networks")},
            }
            for way, law in self.laws.items()
        }
        return {"fingerprint": self.fingerprint, "laws": laws}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> CostModel:
        """Of what ``to_dict`` gave. Raises CompressionError for anything else."""
        try:
            laws = {way: _stored_law(law) for way, law in stored["laws"].items()}
            return cls(str(stored["fingerprint"]), laws)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CompressionError(f"this is no cost model of this version: {error!r}; fit it anew") from error


def _stored_law(stored: Mapping[str, Any]) -> Law:
    error, factor, anchored = (float(stored[name]) for name in ("error", "factor", "anchored"))
    values = tuple(float(stored["milliseconds"][name]) for name in FEATURES)
    return Law(values, error, factor, anchored, int(stored["networks"]))


def fit(observations: Iterable[Observation], fingerprint: str = "") -> CostModel:
    """Fit a law to the observations of every way, by non-negative least absolute deviations of relative errors.

    Raises CompressionError for a way of which fewer than two networks were measured.
    """
    by_way: dict[str, list[Observation]] = {}
    for one in observations:
        by_way.setdefault(one.way, []).append(one)
    return CostModel(fingerprint, {way: _law(found) for way, found in by_way.items()})


def _law(observations: Sequence[Observation]) -> Law:
    networks = list(dict.fromkeys(one.network for one in observations))
    if len(networks) < 2:
        raise CompressionError(f"a cost model needs measurements of two networks at least, got {', '.join(networks)}")
    errors: list[float] = []
    by_family: dict[str, list[float]] = {}
    for network in networks:
        without = _coefficients([one for one in observations if one.network != network])
        for one in observations:
            if one.network == network and one.whole:
                errors.append(math.log(max(float(one.features @ without), LEAST) / one.milliseconds))
                by_family.setdefault(one.family, []).append(errors[-1])
    between = [a - b for family in by_family.values() for a, b in itertools.combinations(family, 2)]
    return Law(
        tuple(map(float, _coefficients(observations))),
        error=math.expm1(float(np.median(np.abs(errors)))) if errors else math.inf,
        factor=_factor(errors),
        anchored=_factor(between or errors),
        networks=len(networks),
    )


def _factor(logs: Sequence[float]) -> float:
    return math.exp(float(np.quantile(np.abs(logs), TAIL))) if logs else math.inf


def _coefficients(observations: Sequence[Observation]) -> Floats:
    """Milliseconds a unit that make the absolute relative errors small, by least squares weighed anew a few times.

    So a time that something else on the machine disturbed counts little.
    """
    rows = np.array([one.features / one.milliseconds for one in observations])
    weights = np.ones(len(rows))
    for _ in range(REWEIGHED):
        found = nonnegative(rows * weights[:, None], weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(rows @ found - 1), NOISE))
    return nonnegative(rows * weights[:, None], weights)


def nonnegative(matrix: Floats, target: Floats) -> Floats:
    """The x ≥ 0 that minimises ‖matrix · x − target‖ (Lawson and Hanson, 1974): active sets, columns scaled to one."""
    scale: Floats = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    scaled = matrix / scale
    found: Floats = np.zeros(scaled.shape[1])
    active = np.zeros(scaled.shape[1], bool)
    for _ in range(3 * scaled.shape[1]):
        gradient = np.where(active, -np.inf, scaled.T @ (target - scaled @ found))
        if gradient.max() <= 1e-10 * np.linalg.norm(target):
            break
        active[int(gradient.argmax())] = True
        found, active = _on(scaled, target, active, found)
    return found / scale


def _on(matrix: Floats, target: Floats, active: Flags, found: Floats) -> tuple[Floats, Flags]:
    """The least squares on the active columns, and which of them stay above zero on the way there from ``found``."""
    while True:
        solution = np.zeros_like(found)
        solution[active] = np.linalg.lstsq(matrix[:, active], target, rcond=None)[0]
        falling = active & (solution <= 0)
        if not falling.any():
            return solution, active
        step = (found[falling] / np.maximum(found[falling] - solution[falling], TINY)).min()
        found = found + step * (solution - found)
        active = active & (found > TINY)
