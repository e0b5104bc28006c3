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
        plain: dict[str, Any] = _rounded(asdict(self))
        return {"schema": SCHEMA_VERSION, **plain}

    def to_json(self) -> str:
        """The text of ``summary.json``."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def _rounded(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _rounded(value) for key, value in tree.items()}
    return round(tree, 4) if isinstance(tree, float) else tree


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


def _object(properties: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _map(values: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "additionalProperties": values}


def _number(description: str) -> dict[str, Any]:
    return {"type": "number", "minimum": 0, "description": description}


def _count(description: str) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "description": description}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_TIMES = {
    "p50_ms": _number("median"),
    "p95_ms": _number("95th percentile"),
    "p99_ms": _number("99th percentile"),
    "mean_ms": _number("mean"),
}

_STAGE = _object(
    {
        "count": _count("spans recorded"),
        **_TIMES,
        "share": {**_number("part of all frames' time, nested stages not counted"), "maximum": 1},
        "background": {"type": "boolean", "description": "ran outside of frames, between them; its share is 0"},
    },
    "one stage; times in ms, nested stages included",
)

_HEAD = _object(
    {
        "ran": _count("frames on which it was computed"),
        "reused": _count("frames on which an earlier answer was given again"),
        "dropped": _count("frames on which it gave no answer"),
    },
    "one head",
)

_REUSE = {
    **_object(
        {
            "modes": _map(_count("frames"), "frames by how they were computed"),
            "work": _number("mean share of a full frame's multiply-adds; audits bring it above what reuse took"),
            "refreshed": _number("mean share of the picture taken anew though it had not changed"),
            "errors": _map(_number("share of answers"), "by head, what differed from a full run at the latest audits"),
        },
        "what was carried over between frames; null where every frame was computed in full",
    ),
    "type": ["object", "null"],
}

SUMMARY_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "sharedbb summary",
    **_object(
        {
            "schema": {"const": SCHEMA_VERSION, "description": "version of this form; another number, another form"},
            "pipeline": _text("the pipeline's name"),
            "source": _text("what was run on"),
            "device": _text("cpu, cuda, ..."),
            "backend": _text("what ran the segments"),
            "precision": _text("f32, bf16, f16, ..."),
            "frames": _count("frames answered"),
            "seconds": _number("from the first frame's begin to the last one's end"),
            "fps": _number("frames / seconds"),
            "dropped_frames": _count("frames of live sources left out because the engine was late"),
            "skipped_frames": _count("damaged frames left out"),
            "latency": _object({**_TIMES, "max_ms": _number("longest")}, "a frame from begin to end, in ms"),
            "stages": _map(_STAGE, "stages by name"),
            "heads": _map(_HEAD, "heads by name"),
            "whys": _map(_map(_count("times"), "reasons by name"), "why each stage ran or did not, by stage"),
            "reuse": _REUSE,
            "machine": _text("processor, cores, system"),
            "versions": _map(_text("version"), "versions by package"),
        },
        "the numbers of one run",
    ),
}
"""JSON Schema of ``summary.json``."""
