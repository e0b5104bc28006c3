"""Two engines on the same frames: how much faster one is, and how far its answers agree with the other's."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharedbb.cli.worst import WorstFrames
from sharedbb.errors import SharedBBError
from sharedbb.outputs.agreement import Agreement
from sharedbb.profiling import forms
from sharedbb.profiling.forms import count, form, mapping, rounded, share, text
from sharedbb.profiling.summary import installed_versions, machine_name
from sharedbb.types import Frame, FrameResult

if TYPE_CHECKING:
    from sharedbb.runtime import Engine

COMPARISON_VERSION = 1


class Side:
    """One of the two engines: what was set for it, and of every frame its time in ms, its mode and its work."""

    def __init__(self, engine: Engine, settings: Sequence[str] = ()) -> None:
        self.engine = engine
        self.settings = tuple(settings)
        self.times_ms = array("d")
        self.modes: Counter[str] = Counter()
        self.work = 0.0
        self._on_cuda = engine.program.device.device.startswith("cuda")

    @property
    def label(self) -> str:
        """What was set, in a line."""
        return ", ".join(self.settings) or "as in the file"

    def step(self, frame: Frame) -> tuple[FrameResult, float]:
        """Run a frame; its answers, and the ms from frame in to answers out."""
        self._synchronize()
        start = time.perf_counter()
        result = self.engine.step(frame)
        self._synchronize()
        return result, (time.perf_counter() - start) * 1e3

    def run(self, frames: Sequence[Frame]) -> list[tuple[FrameResult, float]]:
        """Run frames one after another, with nothing in between: the answers and the ms of each."""
        return [self.step(frame) for frame in frames]

    def note(self, result: FrameResult, took_ms: float) -> None:
        """Take down what a frame took and how it was computed."""
        self.times_ms.append(took_ms)
        self.modes[result.mode] += 1
        self.work += result.work

    def rehearse(self, frames: Sequence[Frame]) -> None:
        """Run frames and forget them, so that nothing is done for the first time later."""
        for frame in frames:
            self.engine.step(frame)
        self.engine.reset()
        self.engine.profiler.reset()

    def to_dict(self) -> dict[str, Any]:
        """Settings, device, times and modes, ready for JSON."""
        device, times = self.engine.program.device, np.array(self.times_ms)
        return {
            "settings": list(self.settings),
            "device": device.device,
            "backend": device.name,
            "precision": device.precision,
            "p50_ms": float(np.percentile(times, 50)),
            "p95_ms": float(np.percentile(times, 95)),
            "mean_ms": float(times.mean()),
            "work": self.work / len(times),
            "modes": {mode: count / len(times) for mode, count in sorted(self.modes.items())},
        }

    def _synchronize(self) -> None:
        if self._on_cuda:
            import torch

            torch.cuda.synchronize()


class Comparison:
    """Ours and the other engine, which counts as the truth, a few frames each in turns.

    ``agreements`` holds what is measured of each head that both have, ``numbers`` the number of every frame compared.
    ``worst`` keeps pictures, where they are wanted. Raises SharedBBError when the two have no head in common.
    """

    def __init__(self, ours: Side, against: Side, worst: WorstFrames | None = None) -> None:
        self.ours = ours
        self.against = against
        self.worst = worst
        self.numbers = array("q")
        self._turns = 0
        self.agreements: dict[str, Agreement] = {}
        heads, others = ours.engine.program.heads, against.engine.program.heads
        self._heads = tuple(head for head in heads if head in others)
        if not self._heads:
            raise SharedBBError(f"no head in common: {', '.join(heads)} here, {', '.join(others)} there")

    def warm_up(self, frames: Sequence[Frame]) -> None:
        """Run both on some frames and forget it all."""
        self.ours.rehearse(frames)
        self.against.rehearse(frames)

    def take(self, frames: Sequence[Frame]) -> list[tuple[FrameResult, FrameResult]]:
        """Run some frames on one side, then on the other, by turns the first, and compare what they answer.

        In turns frame by frame each would find its memory out of the processor's caches, as no application has it.
        Raises SharedBBError when a head's two answers are of different types, classes, labels or points.
        """
        self._turns += 1
        first, second = (self.ours, self.against) if self._turns % 2 else (self.against, self.ours)
        taken = {first: first.run(frames), second: second.run(frames)}
        pairs = list(zip(taken[self.ours], taken[self.against], strict=True))
        for frame, ((ours, ours_ms), (dense, dense_ms)) in zip(frames, pairs, strict=True):
            for head in self._heads:
                self._compare(head, ours, dense)
            self.ours.note(ours, ours_ms)
            self.against.note(dense, dense_ms)
            self.numbers.append(frame.index)
        return [(ours, dense) for (ours, _), (dense, _) in pairs]

    def _compare(self, head: str, ours: FrameResult, dense: FrameResult) -> None:
        kind, other = type(ours[head]), type(dense[head])
        if kind is not other:
            raise SharedBBError(f"head {head} answers with {kind.__name__} here and with {other.__name__} there")
        agreement = self.agreements.setdefault(head, Agreement.of(kind))
        try:
            agreement.add(ours[head], dense[head])
        except SharedBBError as error:
            raise SharedBBError(f"head {head}: {error}") from error
        if self.worst is not None:
            self.worst.take(head, agreement.frames[-1], ours, dense)

    def to_dict(self, source: str = "") -> dict[str, Any]:
        """Plain values, ready for JSON, in the form of ``COMPARISON_SCHEMA``. At least one frame was taken."""
        ours, against = self.ours.to_dict(), self.against.to_dict()
        heads = {head: agreement.summary() for head, agreement in self.agreements.items()}
        for summary in heads.values():
            summary["worst_frame"] = self.numbers[summary["worst_frame"]]
        speedup = against["mean_ms"] / ours["mean_ms"]
        spent, dense = (one.work * one.engine.program.macs for one in (self.ours, self.against))
        saved = max(0.0, 1 - spent / dense) if dense else 0.0
        told = {
            "pipeline": self.ours.engine.program.name,
            "source": source,
            "frames": len(self.numbers),
            "speedup": speedup,
            "speedup_p50": against["p50_ms"] / ours["p50_ms"],
            "speedup_p95": against["p95_ms"] / ours["p95_ms"],
            "agreement": {head: summary["agreement"] for head, summary in heads.items()},
            "worst_decile": {head: summary["worst_decile"] for head, summary in heads.items()},
            "macs_saved": saved,
            "macs_saved_as_time": (1 - 1 / speedup) / saved if saved else None,
            "modes": ours["modes"],
            "heads": heads,
            "ours": ours,
            "against": against,
            "machine": machine_name(),
            "versions": installed_versions(),
        }
        return {"schema": COMPARISON_VERSION, **rounded(told, 6)}


_MODES = mapping(share("of the frames"), "by mode, the share of frames computed in it")

_SIDE = form(
    "one of the two engines",
    settings=forms.array(text("field=value"), "what was set for it on top of the file"),
    device=text("cpu or cuda"),
    backend=text("what runs the segments"),
    precision=text("f32, bf16 or f16"),
    p50_ms=forms.number("median of a frame's time, decoding left out"),
    p95_ms=forms.number("its 95th percentile"),
    mean_ms=forms.number("its mean"),
    work=forms.number("multiply-adds computed, as a share of those of all frames in full"),
    modes=_MODES,
)

_HEAD: dict[str, Any] = {
    "type": "object",
    "description": "one head; what there is beside these depends on its type",
    "properties": {
        "agreement": share("the headline share of its type"),
        "worst_decile": share("mean over the worst tenth of the frames"),
        "worst_frame": count("number of the worst frame"),
    },
    "required": ["agreement", "worst_decile", "worst_frame"],
}

COMPARISON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "sharedbb comparison",
    **form(
        "a pipeline under two settings, on the same frames",
        schema={"const": COMPARISON_VERSION, "description": "version of this form"},
        pipeline=text("the pipeline's name"),
        source=text("what was run on"),
        frames=count("frames compared"),
        speedup=forms.number("the other side's time for all frames over ours"),
        speedup_p50=forms.number("the same of the medians"),
        speedup_p95=forms.number("the same of the 95th percentiles"),
        agreement=mapping(share("the headline share"), "by head"),
        worst_decile=mapping(share("mean over the worst tenth of the frames"), "by head"),
        macs_saved=share("of the other side's multiply-adds that ours did without"),
        macs_saved_as_time={
            "type": ["number", "null"],
            "description": "share of the saved multiply-adds that became time; null where none were saved",
        },
        modes=_MODES,
        heads=mapping(_HEAD, "by head"),
        ours=_SIDE,
        against=_SIDE,
        machine=text("processor, cores, system"),
        versions=mapping(text("version"), "versions by package"),
    ),
}
"""JSON Schema of what ``sharedbb compare --json`` writes."""
