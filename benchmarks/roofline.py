"""The roofline of this machine, measured: bytes and multiply-adds that it moves and computes in a second at best.

Williams et al., "Roofline: an insightful visual performance model for multicore architectures", 2009; an operator's
bytes move at the speed of the level of memory that holds them, as in Ilic et al., "Cache-aware roofline model", 2014.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from benchmarks import networks
from benchmarks.machine import described, pin
from benchmarks.schema import RESULTS, Limit, Suite

if TYPE_CHECKING:
    import openvino as ov

MIB = 2**20
CACHED_MIB = (1, 2, 4, 8, 16, 32, 64)  # working sets: the arrays of all cores together
BEYOND_CACHES, OF_MEMORY = 4, 1 / 4  # times the last level of cache, as STREAM asks; of the memory that is free
REPEATS, LEAST_TRAFFIC = 9, 64 * MIB  # timings of a working set, and bytes that each of them moves on a core at least
PEAK_RUNS = 12

BOUND_BY = {"f32": "f32", "bf16": "bf16", "f16": "f16", "u8": "int8", "i8": "int8"}
"""By the precision that an operator computes in, the rate of multiply-adds that bounds it; f32 for any other."""

ARRANGING = "arranging"


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator as a runtime runs it, with all that is fused into it.

    ``kind`` says where its time counts; what is ``ARRANGING`` only brings numbers into another order or format.
    ``moved`` are the bytes of all that it reads and writes, weights included; ``ms`` is its average time, 0 where none
    was counted.
    """

    name: str
    kind: str
    precision: str
    macs: int
    moved: int
    ms: float = 0.0


@dataclass(frozen=True)
class Roofline:
    """The best rates of a machine: ``bandwidth`` in bytes a second, read and written, by the bytes of the working set;
    ``peak`` in multiply-adds a second, by precision."""

    bandwidth: Mapping[int, float]
    peak: Mapping[str, float]

    @classmethod
    def of_machine(cls, cached: bool = True, folder: Path = RESULTS) -> Roofline:
        """This machine's on the cores that the process has: from ``limits.json`` in a folder where that was measured on
        the same and ``cached`` allows it, else measured now, in some ten seconds."""
        kept = Suite.read("limits", folder) if cached else None
        if kept is not None and (kept.conditions.machine, kept.conditions.cores) == (described(), pin()):
            return cls.from_dict(kept.details["roofline"])
        return _measured()

    @classmethod
    def from_dict(cls, stored: Mapping[str, Mapping[str, float]]) -> Roofline:
        """What ``to_dict`` gave, after JSON made strings of the sizes."""
        return cls({int(size): rate for size, rate in stored["bandwidth"].items()}, dict(stored["peak"]))

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Plain values, ready for JSON."""
        return {"bandwidth": {str(size): rate for size, rate in self.bandwidth.items()}, "peak": dict(self.peak)}

    def bandwidth_at(self, working_set: int) -> float:
        """Bytes a second: the best of all working sets of this size or larger; the largest one's for still larger."""
        reached = [rate for size, rate in self.bandwidth.items() if size >= working_set]
        return max(reached, default=self.bandwidth[max(self.bandwidth)])

    def ms(self, operator: Operator) -> float:
        """What an operator takes at least: the longer of computing and moving.

        Nothing where it only arranges: a program with another layout would leave it out.
        """
        if operator.kind == ARRANGING:
            return 0.0
        peak = self.peak[BOUND_BY.get(operator.precision, "f32")]
        return 1e3 * max(operator.macs / peak, operator.moved / self.bandwidth_at(operator.moved))

    def total_ms(self, operators: Iterable[Operator]) -> float:
        """What operators take at least, one after another."""
        return sum(self.ms(operator) for operator in operators)

    def limits(self) -> dict[str, Limit]:
        """The rates for a suite's ``limits``."""
        *cached, beyond = sorted(self.bandwidth)
        inside = max(cached, key=self.bandwidth.__getitem__)
        stream = "STREAM's Copy and Add, the better, every core on arrays of its own; working set of {} MiB in all"
        rate = "the best of 3×3 convolutions of 256 channels at 64×64 and products of matrices of 1024, in OpenVINO"
        found = {
            "memory bandwidth": Limit(
                value=round(self.bandwidth[beyond] / 1e9, 1),
                unit="GB/s",
                how=f"{stream.format(beyond // MIB)}, beside {last_cache() // MIB} MiB of last-level cache",
            ),
            "cache bandwidth": Limit(
                value=round(self.bandwidth[inside] / 1e9, 1), unit="GB/s", how=stream.format(inside // MIB)
            ),
        }
        for name, peak in self.peak.items():
            found[f"multiply-adds, {name}"] = Limit(value=round(peak / 1e9), unit="10⁹/s", how=rate)
        return found


@cache
def _measured() -> Roofline:
    return Roofline(bandwidths(), peaks())


def bandwidths(sizes: Sequence[int] = ()) -> dict[int, float]:
    """Bytes a second that all cores together read and write, by working set: the better of STREAM's Copy and Add.

    ``sizes``: bytes of working sets; by default some that caches hold, and one that they do not: four times the last
    level of cache, after STREAM's rule (https://www.cs.virginia.edu/stream/ref.html).
    """
    cores = len(pin())
    wanted = sizes or (*(count * MIB for count in CACHED_MIB), beyond_caches())
    with ThreadPoolExecutor(cores) as pool:
        return {size: _bandwidth(pool, cores, size) for size in wanted}


def beyond_caches() -> int:
    """Bytes of a working set that no cache holds, as far as the memory that is free allows."""
    wanted = max(BEYOND_CACHES * last_cache(), 512 * MIB)
    return min(wanted, int(psutil.virtual_memory().available * OF_MEMORY))


def last_cache() -> int:
    """Bytes of the last level of cache that the system tells of, 0 where it tells of none."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    told = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * units[size[-1]] for size in told if size[-1:] in units), default=0)


def _bandwidth(pool: ThreadPoolExecutor, cores: int, working_set: int) -> float:
    """Every core works on arrays of its own, so that none waits for another within a timing."""
    best = 0.0
    for work, count in ((_copy, 2), (_add, 3)):
        elements = max(1, working_set // (cores * count * 4))
        arrays = [[np.ones(elements, np.float32) for _ in range(count)] for _ in range(cores)]
        passes = max(1, LEAST_TRAFFIC // (elements * count * 4))
        for _ in range(REPEATS):
            start = time.perf_counter()
            list(pool.map(work, arrays, [passes] * cores))
            best = max(best, cores * count * elements * 4 * passes / (time.perf_counter() - start))
    return best


def _copy(arrays: Sequence[Any], passes: int) -> None:
    into, source = arrays
    for _ in range(passes):
        np.copyto(into, source)


def _add(arrays: Sequence[Any], passes: int) -> None:
    into, left, right = arrays
    for _ in range(passes):
        np.add(left, right, out=into)


def peaks(runs: int = PEAK_RUNS) -> dict[str, float]:
    """Multiply-adds a second by precision: the best of large convolutions and matrix products in OpenVINO.

    Precisions that the processor does not have are left out, but for f32 and int8, which OpenVINO always runs.
    """
    from sharedbb.backends.openvino import OpenVINOBackend

    native = OpenVINOBackend.precisions("cpu")
    return {name: max(_rate(name, native[0], make, runs) for make in MODELS) for name in (*native, "int8")}


def _rate(name: str, narrowest: str, make: Callable[[bool, int], tuple[ov.Model, int]], runs: int) -> float:
    model, macs = make(name == "int8", 1 if name == "f32" else 4)
    precision = networks.TYPES[narrowest if name == "int8" else name]
    request = networks.openvino_compiled(model, precision).create_infer_request()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        request.infer()
        taken.append(time.perf_counter() - start)
    return macs / min(taken)


def _convolutions(quantized: bool, layers: int) -> tuple[ov.Model, int]:
    """3×3 convolutions of 256 channels at 64×64, one after another, and their multiply-adds."""
    return _chain((1, 256, 64, 64), (256, 256, 3, 3), quantized, layers), layers * 64 * 64 * 256 * 256 * 9


def _products(quantized: bool, layers: int) -> tuple[ov.Model, int]:
    """Products of square matrices of 1024, one after another, and their multiply-adds."""
    return _chain((1024, 1024), (1024, 1024), quantized, layers), layers * 1024**3


MODELS = (_convolutions, _products)


def _chain(shape: tuple[int, ...], weight: tuple[int, ...], quantized: bool, layers: int) -> ov.Model:
    """Layers with a ReLU after each; quantized to 8 bits the way NNCF marks it, by FakeQuantize on both operands."""
    import openvino as ov
    from openvino import opset16 as opset

    def rounded(value: Any, low: float, high: float, levels: int) -> Any:
        bounds = [np.full((1,) * len(shape), bound, np.float32) for bound in (low, high)]
        return opset.fake_quantize(value, *bounds, *bounds, levels) if quantized else value

    random = np.random.default_rng(0)
    given = value = opset.parameter(shape, ov.Type.f32)
    for _ in range(layers):
        weights = opset.constant(random.uniform(-0.1, 0.1, weight).astype(np.float32))
        operands = rounded(value, 0.0, 1.0, 256), rounded(weights, -0.1, 0.1, 255)
        ones = [1, 1]
        convolve = len(shape) == 4
        value = (
            opset.convolution(*operands, ones, ones, ones, ones) if convolve else opset.matmul(*operands, False, True)
        )
        value = opset.relu(value)
    return ov.Model([opset.result(opset.reduce_mean(value, [0]))], [given], "chain")
