"""The machine that measures: what it is, which cores it gives, and whether anything disturbed it meanwhile."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil

from benchmarks.schema import Conditions
from sharedbb import artifact
from sharedbb.compiler.choose import machine

PACKAGES = (
    "sharedbb",
    "torch",
    "torchvision",
    "openvino",
    "nncf",
    "onnxruntime",
    "numpy",
    "av",
    "opencv-python-headless",
)
OTHERS = 0.10  # of the cores' time that other processes may take while something is measured
DRIFT = 0.10  # by which the same work may take longer, or shorter, at the end than at the beginning
PIPELINES, DIGITS = Path(__file__).parent.parent / "pipelines", 12
PROBE_SIZE, PROBE_RUNS = 100_000, 15


def environment(**more: str) -> dict[str, str]:
    """That of a process that is measured from its start: this one's and ``more``, but Python may keep byte code.

    Told not to, as containers often tell it, every process would compile the package's source again.
    """
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}, **more}


def pin(cores: Sequence[int] | None = None) -> list[int]:
    """Keep this process and all threads that it starts later to these cores; to those it has, without any.

    To be called before torch or OpenVINO start their threads. Returns the cores: all, where a system cannot pin.
    Raises ValueError for a core that the process may not use.
    """
    if not hasattr(os, "sched_setaffinity"):
        return list(range(os.cpu_count() or 1))
    allowed = sorted(os.sched_getaffinity(0))
    wanted = sorted(set(cores)) if cores else allowed
    missing = [core for core in wanted if core not in allowed]
    if missing:
        raise ValueError(f"no core {missing[0]} to pin to; this process may use {', '.join(map(str, allowed))}")
    os.sched_setaffinity(0, wanted)
    return wanted


def probe() -> float:
    """Milliseconds of a fixed piece of work on one core, the best of some runs: longer means a slower clock."""
    numbers = np.random.default_rng(0).random(PROBE_SIZE)
    taken = []
    for _ in range(PROBE_RUNS):
        start = time.perf_counter()
        np.sort(numbers)
        taken.append(time.perf_counter() - start)
    return float(min(taken) * 1e3)


def temperature() -> float | None:
    """The hottest sensor of the processor, in °C; None where none can be read."""
    read = getattr(psutil, "sensors_temperatures", dict)()
    found = [one.current for name, sensors in read.items() if name in ("coretemp", "k10temp") for one in sensors]
    return max(found, default=None)


def described() -> str:
    """The processor, its cores, its memory and, where there is one, the GPU."""
    import torch

    words = f"{machine()}, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    return f"{words}; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else words


class Watch:
    """Whether a measurement had the machine to itself, from when this is made until ``conditions`` is asked."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._cores = list(cores)
        self._load = os.getloadavg()
        self._probe, self._heat = min(probe() for _ in range(3)), temperature()
        self._before = self._busy()
        self._start = time.monotonic()

    def _busy(self) -> tuple[float, float]:
        """Seconds of the cores' time that anybody has used, and that this process and its children have."""
        anybody = sum(
            one.user + one.nice + one.system + getattr(one, "steal", 0.0)
            for core, one in enumerate(psutil.cpu_times(percpu=True))
            if core in self._cores
        )
        own = psutil.Process().cpu_times()
        return anybody, own.user + own.system + own.children_user + own.children_system

    def conditions(self) -> Conditions:
        """What the machine is and how the time since the beginning was disturbed."""
        seconds = time.monotonic() - self._start
        anybody, own = (after - before for after, before in zip(self._busy(), self._before, strict=True))
        others = max(0.0, anybody - own) / max(seconds * len(self._cores), 1e-9)
        drift = min(probe() for _ in range(3)) / self._probe - 1
        frequency = psutil.cpu_freq()
        return Conditions(
            machine=described(),
            system=" ".join((platform.system(), platform.release().partition("-")[0])),
            python=platform.python_version(),
            cores=self._cores,
            mhz=None if frequency is None else round(frequency.current),
            celsius=self._heat if self._heat is None else max(self._heat, temperature() or 0.0),
            load=[round(load, 2) for load in self._load],
            others=round(others, 3),
            drift=round(drift, 3),
            quiet=others <= OTHERS and abs(drift) <= DRIFT,
            seconds=round(seconds),
            date=datetime.now(UTC).strftime("%Y-%m-%d"),
            versions=versions(),
            weights=weights(),
        )


@cache
def weights() -> dict[str, str]:
    """The first digits of the digest of every shipped artifact, by name: which networks were measured."""
    return {path.stem: artifact.digest(path)[:DIGITS] for path in sorted(PIPELINES.glob("*.sbb"))}


def versions() -> dict[str, str]:
    """Of the packages that matter here, those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
