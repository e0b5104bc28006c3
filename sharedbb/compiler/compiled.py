"""What compiling gives, and how it is kept on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharedbb.compiler import cache
from sharedbb.compiler.choose import Candidate
from sharedbb.compiler.form import Form
from sharedbb.errors import BackendError
from sharedbb.program import Stage, StageFacts, Tiles
from sharedbb.reuse.regions import Tiling


@dataclass(frozen=True, slots=True)
class Compiled:
    """The chosen backend and its stages: the segments, what is fused for sets of heads, ``whole``: everything as
    one, ``fresh``: what is computed of a moved frame.

    ``answers`` maps output names (``head.part``) to features, ``choices`` tells what ``auto`` measured, ``operators``
    and ``separate`` count the operators of the merged graph and of the heads' networks one by one. ``form``: in which
    form the picture is read.
    """

    backend: Any
    stages: tuple[Stage, ...]
    fused: Mapping[frozenset[str], Stage]
    answers: Mapping[str, str]
    choices: tuple[str, ...]
    operators: int
    separate: int
    form: Form
    whole: Stage | None = None
    fresh: Stage | None = None


def store(name: str, compiled: Compiled) -> None:
    """Keep it under a key, where the backend can store what it compiled."""
    last = [stage for stage in (compiled.whole, compiled.fresh) if stage is not None]
    everything = (*compiled.stages, *compiled.fused.values(), *last)
    executables = [
        one for stage in everything for one in (stage.executable, *(tiles.executable for tiles in stage.tiles))
    ]
    blobs = [blob for executable in executables if (blob := compiled.backend.save(executable)) is not None]
    if len(blobs) < len(executables):
        return
    backend = compiled.backend
    described = {
        "way": [backend.name, backend.precision, backend.device],
        "stages": [stage.facts.to_dict() for stage in everything],
        "tilings": [stage.tiling and stage.tiling.to_dict() for stage in everything],
        "tiles": [[[one.size, one.count, one.macs, one.measured_ms] for one in stage.tiles] for stage in everything],
        "last": [name for name in ("whole", "fresh") if getattr(compiled, name) is not None],
        "fused": [sorted(heads) for heads in compiled.fused],
        "answers": dict(compiled.answers),
        "choices": list(compiled.choices),
        "operators": compiled.operators,
        "separate": compiled.separate,
        "form": compiled.form.to_dict(),
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
        remaining = iter(blobs)
        everything = [
            Stage(
                StageFacts.from_dict(facts),
                backend.load(next(remaining)),
                tiling and Tiling.from_dict(tiling),
                tuple(Tiles(size, count, backend.load(next(remaining)), macs, ms) for size, count, macs, ms in tiles),
            )
            for facts, tiling, tiles in zip(described["stages"], described["tilings"], described["tiles"], strict=True)
        ]
        last = {name: everything.pop() for name in reversed(described["last"])}
        sets = [frozenset(heads) for heads in described["fused"]]
        form = Form.from_dict(described["form"])
    except (BackendError, KeyError, TypeError, ValueError, RuntimeError, StopIteration):
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
        form=form,
        **last,
    )
