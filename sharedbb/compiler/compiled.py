"""What compiling gives, and how it is kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharedbb.compiler import cache
from sharedbb.compiler.choose import Candidate
from sharedbb.errors import BackendError
from sharedbb.program import Stage, StageFacts


@dataclass(frozen=True, slots=True)
class Compiled:
    """The chosen backend and its stages: the segments, and what is fused for sets of heads.

    ``answers`` maps output names (``head.part``) to features, ``choices`` tells what ``auto`` measured, ``operators``
    and ``separate`` count the operators of the merged graph and of the heads' networks one by one.
    """

    backend: Any
    stages: tuple[Stage, ...]
    fused: Mapping[frozenset[str], Stage]
    answers: Mapping[str, str]
    choices: tuple[str, ...]
    operators: int
    separate: int


def store(name: str, compiled: Compiled) -> None:
    """Keep it under a key, where the backend can store what it compiled."""
    everything = (*compiled.stages, *compiled.fused.values())
    blobs = [blob for stage in everything if (blob := compiled.backend.save(stage.executable)) is not None]
    if len(blobs) < len(everything):
        return
    backend = compiled.backend
    described = {
        "way": [backend.name, backend.precision, backend.device],
        "stages": [stage.facts.to_dict() for stage in everything],
        "fused": [sorted(heads) for heads in compiled.fused],
        "answers": dict(compiled.answers),
        "choices": list(compiled.choices),
        "operators": compiled.operators,
        "separate": compiled.separate,
    }
    cache.write(name, described, blobs)


def load(name: str, threads: int | None) -> Compiled | None:
    """What ``store`` kept under this key; None when it is not there or the backend does not take it back."""
    found = cache.read(name)
    if found is None:
        return None
    described, blobs = found
    try:
        backend = Candidate(*described["way"]).make(threads)
        pairs = zip(described["stages"], blobs, strict=True)
        everything = [Stage(StageFacts.from_dict(facts), backend.load(blob)) for facts, blob in pairs]
        sets = [frozenset(heads) for heads in described["fused"]]
    except (BackendError, KeyError, TypeError, ValueError, RuntimeError):
        return None
    segments = len(everything) - len(sets)
    return Compiled(
        backend=backend,
        stages=tuple(everything[:segments]),
        fused=dict(zip(sets, everything[segments:], strict=True)),
        answers=described["answers"],
        choices=tuple(described["choices"]),
        operators=described["operators"],
        separate=described["separate"],
    )
