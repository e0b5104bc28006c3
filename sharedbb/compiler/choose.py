"""What ``auto`` means on this machine: the device, and the backends and precisions worth trying there."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sharedbb.errors import BackendError
from sharedbb.registry import BACKENDS, resolve

# Backends that ``auto`` tries on a device, in this order; the first that can run there is taken.
PREFERRED = {"cpu": ("openvino", "inductor", "eager"), "cuda": ("cuda", "eager")}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to run the segments."""

    backend: str
    precision: str
    device: str

    def make(self, threads: int | None) -> Any:
        """The backend, ready to compile."""
        return resolve(BACKENDS[self.backend])(self.precision, self.device, threads)

    def __str__(self) -> str:
        return f"{self.backend} {self.precision} on {self.device}"


@cache
def has_cuda() -> bool:
    """Whether a CUDA device can be used; torch is imported only where a driver is in sight."""
    if sys.platform == "linux" and not any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg")):
        return False
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or sys.platform == "darwin":
        return False
    import torch

    return bool(torch.cuda.is_available())


def device_of(asked: str) -> str:
    """``cpu`` or ``cuda``. Raises BackendError when CUDA is asked for and absent."""
    if asked == "auto":
        return "cuda" if has_cuda() else "cpu"
    if asked == "cuda" and not has_cuda():
        raise BackendError("device cuda was asked for, but no CUDA device can be used here; set device: cpu or auto")
    return asked


def candidates(runtime: Any) -> tuple[Candidate, ...]:
    """The ways to run that fit ``runtime`` (device, backend, precision; each may be ``auto``), likeliest first.

    Raises BackendError when there is none.
    """
    device = device_of(runtime.device)
    names = PREFERRED[device] if runtime.backend == "auto" else (runtime.backend,)
    reasons: list[str] = []
    for name in names:
        found = tuple(_of_backend(name, device, runtime.precision, reasons))
        if found:
            return found
    raise BackendError(f"nothing here runs backend {runtime.backend} on {device}: {'; '.join(reasons)}")


def _of_backend(name: str, device: str, precision: str, reasons: list[str]) -> Iterator[Candidate]:
    try:
        able = resolve(BACKENDS[name]).precisions(device)
    except ImportError as error:
        reasons.append(f"{name} is not installed ({error})")
        return
    if not able:
        reasons.append(f"{name} cannot run on {device} here")
        return
    for choice in able if precision == "auto" else (precision,):
        yield Candidate(name, choice, device)


@cache
def machine() -> str:
    """The processor in words, for cache keys and reports."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    except OSError:
        pass
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
