"""The numbers of a run, and ``summary.json``: its fields, its schema, and the versions that made it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sharedbb.profiling.forms import amount, count, form, mapping, rounded, share, text

SCHEMA_VERSION = 1

_VERSIONED = ("sharedbb", "torch", "torchvision", "openvino", "numpy", "av", "opencv-python-headless")


@dataclass(frozen=True, slots=True)
class Latency:
    """How long frames took from begin to end, in ms."""

    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    mean_ms: float = 0.0
    max_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class StageSummary:
    """One stage: how often it ran, how long it took in ms, and its part of all frames' time.

    Times include nested stages, ``share`` (0–1) does not: shares add up to at most 1. A ``background`` stage ran
    outside of frames (between them) and has no share.
    """

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    share: float
    background: bool = False


@dataclass(frozen=True, slots=True)
class HeadSummary:
    """On how many frames a head ran, gave an earlier answer again, or gave none."""

    ran: int = 0
    reused: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class ReuseSummary:
    """What was carried over between frames.

    ``modes``: frames by how they were computed (``audit``: in parts and then in full). ``work``: mean share of a full
    frame's multiply-adds. ``refreshed``: mean share of the picture that was taken anew though it had not changed.
    ``errors``: by head, the share of answers that differed from a full run at the latest audits.
    """

    modes: Mapping[str, int]
    work: float
    refreshed: float
    errors: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in numbers; ``seconds`` lasts from the first frame's begin to the last one's end.

    ``dropped_frames`` came too late and were left out, ``skipped_frames`` were damaged. ``whys`` counts, for every
    stage, the reasons its spans and marks gave: ``{"trunk.0": {"full": 12, "partial 12 %": 30}}``. ``reuse`` is None
    where every frame was computed in full.
    """

    pipeline: str = ""
    source: str = ""
    device: str = ""
    backend: str = ""
    precision: str = ""
    frames: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    dropped_frames: int = 0
    skipped_frames: int = 0
    latency: Latency = Latency()
    stages: Mapping[str, StageSummary] = field(default_factory=dict)
    heads: Mapping[str, HeadSummary] = field(default_factory=dict)
    whys: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    reuse: ReuseSummary | None = None
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values in the form of ``SUMMARY_SCHEMA``; times and shares rounded to four places."""
        plain: dict[str, Any] = rounded(asdict(self), 4)
        return {"schema": SCHEMA_VERSION, **plain}

    def to_json(self) -> str:
        """The text of ``summary.json``."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


@cache
def installed_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that decide about speed; imports none of them."""
    versions = {"python": platform.python_version()}
    for package in _VERSIONED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def machine_name() -> str:
    """The processor, the cores this process may use, and the system, in one line."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor}, {cores} cores, {platform.system()}"


_TIMES = {
    "p50_ms": amount("median"),
    "p95_ms": amount("95th percentile"),
    "p99_ms": amount("99th percentile"),
    "mean_ms": amount("mean"),
}

_STAGE = form(
    "one stage; times in ms, nested stages included",
    count=count("spans recorded"),
    **_TIMES,
    share=share("part of all frames' time, nested stages not counted"),
    background={"type": "boolean", "description": "ran outside of frames, between them; its share is 0"},
)

_HEAD = form(
    "one head",
    ran=count("frames on which it was computed"),
    reused=count("frames on which an earlier answer was given again"),
    dropped=count("frames on which it gave no answer"),
)

_REUSE = {
    **form(
        "what was carried over between frames; null where every frame was computed in full",
        modes=mapping(count("frames"), "frames by how they were computed"),
        work=amount("mean share of a full frame's multiply-adds; audits bring it above what reuse took"),
        refreshed=amount("mean share of the picture taken anew though it had not changed"),
        errors=mapping(amount("share of answers"), "by head, what differed from a full run at the latest audits"),
    ),
    "type": ["object", "null"],
}

SUMMARY_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "sharedbb summary",
    **form(
        "the numbers of one run",
        schema={"const": SCHEMA_VERSION, "description": "version of this form; another number, another form"},
        pipeline=text("the pipeline's name"),
        source=text("what was run on"),
        device=text("cpu, cuda, ..."),
        backend=text("what ran the segments"),
        precision=text("f32, bf16, f16, ..."),
        frames=count("frames answered"),
        seconds=amount("from the first frame's begin to the last one's end"),
        fps=amount("frames / seconds"),
        dropped_frames=count("frames of live sources left out because the engine was late"),
        skipped_frames=count("damaged frames left out"),
        latency=form("a frame from begin to end, in ms", **_TIMES, max_ms=amount("longest")),
        stages=mapping(_STAGE, "stages by name"),
        heads=mapping(_HEAD, "heads by name"),
        whys=mapping(mapping(count("times"), "reasons by name"), "why each stage ran or did not, by stage"),
        reuse=_REUSE,
        machine=text("processor, cores, system"),
        versions=mapping(text("version"), "versions by package"),
    ),
}
"""JSON Schema of ``summary.json``."""
