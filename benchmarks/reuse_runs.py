"""How the benchmarks of temporal reuse run: two engines on the same frames, as ``sharedbb compare`` runs them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import sharedbb as sb
from benchmarks import networks, resnet50
from benchmarks.timing import SETTLE_SECONDS
from sharedbb import artifact
from sharedbb.cli.compare import runs, warmed
from sharedbb.cli.comparison import Comparison, Side
from sharedbb.cli.comparison_table import modes_line
from sharedbb.spec.parts import Reuse
from sharedbb.types import Frame, FrameResult

LARGE = resnet50.SIZE
"""Height and width in pixels of the larger input."""

Look = Callable[[FrameResult, FrameResult], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured on: a folder that holds ``clips/`` and ``camvid/``, and the ResNet-50 pipeline's file.

    ``frames``: of each run, None for what each section takes by itself. ``quick``: few frames and few settings.
    """

    data: Path
    resnet: Path
    frames: int | None = None
    quick: bool = False

    def count(self, usual: int) -> int:
        """How many frames to run where ``usual`` is enough for numbers to keep."""
        return self.frames or (max(12, usual // 10) if self.quick else usual)

    def clip(self, name: str, usual: int) -> Iterator[Frame]:
        """The first frames of a clip. Raises SourceError when it is not there."""
        with sb.open_source(self.data / "clips" / name) as source:
            yield from islice(source, self.count(usual))

    @property
    def is_resnet_trained(self) -> bool:
        """Whether there is a ResNet-50 whose features mean something."""
        return self.resnet.is_file() and self.resnet.with_suffix(artifact.SUFFIX).is_file()

    def resnet_pipeline(self) -> sb.Pipeline:
        """The trained ResNet-50 with the street heads; random weights where there is none."""
        return sb.load(self.resnet) if self.is_resnet_trained else resnet50.untrained()


def large_street() -> sb.Pipeline:
    """The street pipeline, with the larger input."""
    return sb.load(networks.PIPELINE, [f"input.size={list(LARGE)}"])


def compiled(pipeline: sb.Pipeline, **reuse: Any) -> sb.Engine:
    """An engine with these settings of ``reuse``, dense without any; it keeps no profile."""
    return sb.compile(pipeline.model_copy(update={"reuse": Reuse(**reuse)}), profile=False)


class Settled(Side):
    """A side before whose turns worker threads get time to go to sleep."""

    def run(self, frames: Sequence[Frame]) -> list[tuple[FrameResult, float]]:
        """Run frames one after another: the answers and the ms of each."""
        time.sleep(SETTLE_SECONDS)
        return super().run(frames)


def versus(ours: sb.Engine, dense: sb.Engine, frames: Iterable[Frame], look: Look | None = None) -> dict[str, Any]:
    """Ours against dense, a few frames each in turns; both begin with nothing remembered.

    ``look`` is shown the two results of every frame. Returns the numbers of ``row_of``.
    """
    for engine in (ours, dense):
        engine.close("main")
    comparison = Comparison(Settled(ours), Settled(dense))
    for run in runs(warmed(comparison, frames)):
        for pair in comparison.take(run):
            if look is not None:
                look(*pair)
    return row_of(comparison.to_dict())


def row_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a comparison: times as ratios, work, modes, heads.

    Speedups above 1 mean that we are faster; ``p95_ratio`` is our 95th percentile over the dense one. A detection
    head's ``agreement`` is AP50 with the dense boxes as truth, ``ap50_weighted`` the same weighted by how many boxes
    each class has.
    """
    kept = ("frames", "speedup", "speedup_p50", "macs_saved", "macs_saved_as_time", "modes")
    heads = {
        head: {name: value for name, value in summary.items() if not isinstance(value, Mapping)}
        for head, summary in told["heads"].items()
    }
    return {
        **{name: told[name] for name in kept},
        "p95_ratio": round(1 / told["speedup_p95"], 4),
        "work": told["ours"]["work"],
        "ours_ms": {name: told["ours"][f"{name}_ms"] for name in ("p50", "p95", "mean")},
        "dense_ms": {name: told["against"][f"{name}_ms"] for name in ("p50", "p95", "mean")},
        "heads": heads,
    }


class Noisy(Side):
    """An engine that sees every frame with -1, 0 or 1 grey level added to each channel of each pixel."""

    def __init__(self, engine: sb.Engine) -> None:
        super().__init__(engine)
        self._rng = np.random.default_rng(0)

    def step(self, frame: Frame) -> tuple[FrameResult, float]:
        """Run the frame with noise; the time means nothing."""
        rgb = frame.rgb().astype(np.int16)
        noisy = np.clip(rgb + self._rng.integers(-1, 2, rgb.shape, np.int16), 0, 255).astype(np.uint8)
        result = self.engine.step(noisy, stream="noisy", timestamp=frame.timestamp, order="rgb")
        return result, 0.0


def floor(dense: sb.Engine, frames: Iterable[Frame]) -> dict[str, dict[str, Any]]:
    """How well dense agrees with itself under one grey level of noise, by head: no reuse can be asked to do better."""
    comparison = Comparison(Noisy(dense), Side(dense))
    for frame in frames:
        # Both sides go through the same RGB picture: a decoder's frame would be scaled in another way.
        comparison.take([Frame.of(frame.rgb(), index=frame.index, timestamp=frame.timestamp, order="rgb")])
    dense.close("noisy")
    summaries = {head: agreement.summary() for head, agreement in comparison.agreements.items()}
    return {
        head: {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in summary.items()
            if not isinstance(value, Mapping)
        }
        for head, summary in summaries.items()
    }


def console() -> Console:
    """The terminal, or a wide page where there is none: the tables have many columns."""
    return Console(width=None if sys.stdout.isatty() else 220)


def show_rows(title: str, rows: Mapping[str, Mapping[str, Any]], more: Sequence[str] = ()) -> None:
    """Print what ``versus`` gave, by name; ``more`` are further numbers of the rows."""
    table = Table(title=title, title_justify="left")
    heads = list(dict.fromkeys(head for row in rows.values() for head in row["heads"]))
    table.add_column("case", no_wrap=True)
    for column in ("dense ms", "speedup", "of medians", "p95 ratio", "work", "saved as time", *more, *heads):
        table.add_column(column, justify="right")
    table.add_column("modes", overflow="fold")
    for name, row in rows.items():
        ratios = (row["speedup"], row["speedup_p50"], row["p95_ratio"])
        shares = (row["work"], row["macs_saved_as_time"])
        answers = (row["heads"].get(head, {}).get("agreement") for head in heads)
        table.add_row(
            name,
            f"{row['dense_ms']['p50']:.1f}",
            *(f"{ratio:.2f}" for ratio in ratios),
            *(_percent(share) for share in shares),
            *(_number(row[name]) for name in more),
            *(_percent(share) for share in answers),
            modes_line(row["modes"]).removeprefix("frames: "),
        )
    console().print(table)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
