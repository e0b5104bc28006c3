"""Time on a GPU: CUDA events around interleaved runs, and from a profiler's trace how much of the time it computed."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.schema import Limit
from benchmarks.timing import Rounds, interleaved


def event_rounds(cases: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device, warm: int = 5) -> Rounds:
    """Time every case ``rounds`` times, one after another in every round, by the GPU's own clock.

    The GPU is idle when a case begins, so that its launching counts as it does for a frame that has just come; what is
    left to compute when the host has returned counts as well. On a CPU: the host's clock.
    """
    if device.type != "cuda":
        return interleaved(cases, rounds, warm)
    taken: dict[str, list[float]] = {name: [] for name in cases}
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    order = list(cases.items())
    for round_ in range(rounds + warm):
        order = order[1:] + order[:1]
        for name, case in order:
            torch.cuda.synchronize()
            start.record()
            case()
            end.record()
            end.synchronize()
            if round_ >= warm:
                taken[name].append(start.elapsed_time(end) / 1e3)
    return Rounds(taken)


def traced(run: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """What torch's profiler saw of a run, as the Chrome trace that it exports (times in µs)."""
    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def busy_share(trace: Mapping[str, Any]) -> float | None:
    """The share (0–1) of the time from the first kernel's beginning to the last one's end in which any kernel ran.

    Kernels that ran at once count once; copies do not count. None for a trace without kernels.
    """
    spans = sorted(
        (float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        for event in trace["traceEvents"]
        if event.get("cat") == "kernel"
    )
    if not spans:
        return None
    busy, until = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy / max(until - spans[0][0], 1e-9)


def held_mib(device: torch.device) -> float:
    """MiB of the GPU's memory that torch holds and cannot give back, graphs' pools included; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device) / 2**20


def limits_of(device: torch.device, dtype: torch.dtype, rounds: int = 30) -> dict[str, Limit]:
    """What the device reaches at most: bytes moved by a large copy, multiply-adds of a large matrix product."""
    large = device.type == "cuda"
    copied, side = (2**30, 8192) if large else (2**24, 256)
    source = torch.randint(0, 256, (copied,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(one)
    timings = event_rounds(
        {"copy": lambda: target.copy_(source), "product": lambda: torch.matmul(one, other, out=product)},
        rounds,
        device,
    ).timings
    name = str(dtype).removeprefix("torch.")
    return {
        "memory bandwidth": Limit(
            value=round(2 * copied / timings["copy"].median_ms / 1e6, 1),
            unit="GB/s",
            how=f"a copy of {copied / 2**20:g} MiB on the device, bytes read and written",
        ),
        "multiply-adds": Limit(
            value=round(side**3 / timings["product"].median_ms / 1e9, 3),
            unit="TMAC/s",
            how=f"a {name} product of two matrices of {side}x{side} random numbers",
        ),
    }
