"""What compiling gives, and how it is kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from threading import Thread
from typing import Any

from sharedbb.compiler import cache
from sharedbb.compiler.choose import Candidate
from sharedbb.compiler.form import Form
from sharedbb.errors import BackendError
from sharedbb.program import Executable, Session, Stage, StageFacts, Tiles
from sharedbb.reuse.policy import by_parts
from sharedbb.reuse.regions import Tiling

RUNS_THEM = ("sharedbb.media", "sharedbb.runtime")
"""The rooms that run what is compiled."""


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


class Stored:
    """An executable from the disk cache, which its backend takes up when it is first needed: many never are."""

    def __init__(self, blob: bytes, load: Callable[[bytes], Executable]) -> None:
        self._blob, self._load = blob, load
        self._executable: Executable | None = None

    def ready(self) -> Executable:
        """The backend's own executable, taken up now if it was not. Raises RuntimeError for what it does not take."""
        if self._executable is None:
            self._executable, self._blob = self._load(self._blob), b""
        return self._executable

    def session(self, into: Sequence[Any] | None = None) -> Session:
        """A session of the backend's own executable."""
        return self.ready().session(into)


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


def load(name: str, threads: int | None, mode: str = "off") -> Compiled | None:
    """What ``store`` kept under this key; None when it is not there or the backend does not take it back.

    What ordinary frames run in this mode of reuse is taken up at once, so that none of them waits for it: the run of
    everything and, where changes are computed in parts, every part and its tiles; without reuse the fused stages, or
    the segments where none is.
    """
    found = cache.read(name)
    if found is None:
        return None
    described, blobs = found
    try:
        backend = Candidate(*described["way"]).make(threads)
        remaining = (Stored(blob, backend.load) for blob in blobs)
        everything = [
            Stage(
                StageFacts.from_dict(facts),
                next(remaining),
                tiling and Tiling.from_dict(tiling),
                tuple(Tiles(size, count, next(remaining), macs, ms) for size, count, macs, ms in tiles),
            )
            for facts, tiling, tiles in zip(described["stages"], described["tilings"], described["tiles"], strict=True)
        ]
        last = {name: everything.pop() for name in reversed(described["last"])}
        sets = [frozenset(heads) for heads in described["fused"]]
        form = Form.from_dict(described["form"])
        segments = len(everything) - len(sets)
        fused = dict(zip(sets, everything[segments:], strict=True))
        ordinary = [*last.values()] or [*fused.values()] or everything
        _import_ahead()
        for stage in [*ordinary, *everything[:segments]] if by_parts(mode) else ordinary:
            _take_up(stage)
    except (BackendError, KeyError, TypeError, ValueError, RuntimeError, StopIteration):
        return None
    return Compiled(
        backend=backend,
        stages=tuple(everything[:segments]),
        fused=fused,
        answers=described["answers"],
        choices=tuple(described["choices"]),
        operators=described["operators"],
        separate=described["separate"],
        form=form,
        **last,
    )


def _import_ahead() -> None:
    """Import what will run the stages while native code reads them: a good tenth of a start from the cache."""
    Thread(target=lambda: [import_module(name) for name in RUNS_THEM], daemon=True).start()


def _take_up(stage: Stage) -> None:
    """Have a stage and its tiles ready to run. Raises RuntimeError for what the backend does not take back."""
    for executable in (stage.executable, *(tiles.executable for tiles in stage.tiles)):
        if isinstance(executable, Stored):
            executable.ready()
