"""What this machine has: packages that import, processor features, GPUs, backends. Nothing here raises."""

from __future__ import annotations

import os
import platform
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

State = Literal["good", "absent", "broken"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a doctor's report."""

    name: str
    value: str
    state: State = "good"


# What is shown as, and what is imported for it.
PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "openvino": "openvino",
    "av": "av",
    "opencv": "cv2",
    "numpy": "numpy",
    "pydantic": "pydantic",
    "safetensors": "safetensors",
}

# Flags of the processor that decide about speed, as Linux spells them, on x86 and ARM.
FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI (int8)",
    "avx512_bf16": "AVX-512 bf16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "bf16",
    "i8mm": "int8 matrices",
}

# What a backend that finds no device is missing.
NEEDS = {
    "inductor": "needs a C++ compiler (g++ or clang++)",
    "cuda": "needs an NVIDIA GPU, its driver, and a torch built for CUDA",
    "openvino": "needs an x86-64 or ARM64 processor",
}


def packages() -> tuple[Fact, ...]:
    """Python and the packages that do the work, each of them imported to see whether it does."""
    python = Fact("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    return (python, *(_package(name, module) for name, module in PACKAGES.items()))


def _package(name: str, module: str) -> Fact:
    try:
        if find_spec(module) is None:
            return Fact(name, "not installed", "absent")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = getattr(import_module(module), "__version__", "of unknown version")
    except Exception as error:  # a package may fail in any way while it is imported
        return Fact(name, f"installed, but cannot be imported: {reason(error)}", "broken")
    return Fact(name, str(version))


def processor() -> tuple[Fact, ...]:
    """Model, cores and features of the CPU."""
    told = _cpuinfo()
    model = told.get("model name") or platform.processor() or platform.machine() or "unknown"
    flags = set((told.get("flags") or told.get("Features") or "").split())
    features = [said for flag, said in FEATURES.items() if flag in flags]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    unknown = "none of those that matter" if flags else "not told by this system"
    return (
        Fact("cpu", model),
        Fact("cores", f"{usable} usable of {os.cpu_count()}"),
        Fact("features", ", ".join(features) or unknown),
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries; empty where the system has no /proc."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def cuda() -> Fact:
    """The CUDA devices that torch can use."""
    try:
        import torch

        if not torch.cuda.is_available():
            build = "torch is built for it" if torch.version.cuda else "torch is built without it"
            return Fact("cuda", f"no device ({build})", "absent")
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        return Fact("cuda", f"{torch.version.cuda}: {names}")
    except Exception as error:
        return Fact("cuda", f"cannot be asked: {reason(error)}", "absent")


def backends() -> tuple[Fact, ...]:
    """For every registered backend the precisions it runs on each device, or why it does not run."""
    from sharedbb.registry import BACKENDS

    return tuple(_backend(name, BACKENDS[name]) for name in BACKENDS)


def _backend(name: str, registered: Any) -> Fact:
    from sharedbb.registry import resolve

    try:
        kind = resolve(registered)
        able = {device: kind.precisions(device) for device in ("cpu", "cuda")}
        runs = [f"{', '.join(precisions)} on {device}" for device, precisions in able.items() if precisions]
        if runs:
            return Fact(name, f"{'; '.join(runs)} (version {kind.version()})")
        return Fact(name, f"cannot run here: {NEEDS.get(name, 'it finds no device')}", "absent")
    except ImportError as error:
        return Fact(name, f"cannot run here: {reason(error)}", "absent")
    except Exception as error:
        return Fact(name, f"broken: {reason(error)}", "broken")


def cache() -> Fact:
    """Where compiled pipelines are kept, how many there are, and their size."""
    try:
        from sharedbb.compiler.cache import folder

        place = folder()
        files = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else []
        entries = sum(path.name == "program.json" for path in files)
        size = sum(path.stat().st_size for path in files) / 1e6
        return Fact("cache", f"{place}: {entries} compiled pipelines, {size:.1f} MB")
    except Exception as error:
        return Fact("cache", f"cannot be read: {reason(error)}", "broken")


def reason(error: BaseException) -> str:
    """The first line of an error, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
