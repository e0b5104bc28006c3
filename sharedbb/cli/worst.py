"""The worst frames of a comparison as pictures, kept while it runs: a few of each head, however long it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sharedbb import media
from sharedbb.cli.sinks import jpeg
from sharedbb.media.contrast import contrast
from sharedbb.types import FrameResult

KEPT = 4  # of each head
APART = 10  # frames; of neighbours, which look alike, only the worst is kept
WIDTH = 640  # pixels; wider pictures are made smaller


@dataclass(frozen=True, slots=True)
class Shot:
    """One head on one frame: its number, how much the two answers agree (0–1), and three JPEGs.

    ``pictures`` are our answer, the dense one, and where they differ.
    """

    frame: int
    timestamp: float
    share: float
    pictures: tuple[bytes, bytes, bytes]


class WorstFrames:
    """Up to ``kept`` frames of each head, those on which the two answers agreed least so far, worst first.

    Frames on which the answers are the same are never kept. A frame less than ``apart`` frames from a worse one is left
    out, so the worst of all is always there.
    """

    def __init__(self, kept: int = KEPT, apart: int = APART) -> None:
        self._kept = kept
        self._apart = apart
        self._shots: dict[str, list[Shot]] = {}

    def take(self, head: str, share: float, ours: FrameResult, dense: FrameResult) -> None:
        """Keep the frame, drawn, if it is one of the head's worst so far."""
        shots = self._shots.setdefault(head, [])
        near = [shot for shot in shots if abs(shot.frame - ours.index) < self._apart]
        if share >= 1 or any(shot.share <= share for shot in near):
            return
        others = [shot for shot in shots if shot not in near]
        if len(others) >= self._kept and share >= others[-1].share:
            return
        drawn = (media.draw(_only(ours, head)), media.draw(_only(dense, head)))
        apart = contrast(ours.frame, ours[head], dense[head])
        first, second, third = (jpeg(picture, WIDTH) for picture in (*drawn, apart))
        shot = Shot(ours.index, ours.timestamp, share, (first, second, third))
        self._shots[head] = sorted([*others, shot], key=lambda kept: kept.share)[: self._kept]

    def of(self, head: str) -> Sequence[Shot]:
        """A head's frames, the worst first."""
        return tuple(self._shots.get(head, ()))


def _only(result: FrameResult, head: str) -> FrameResult:
    """The result as if it had no other head."""
    return replace(result, outputs={head: result[head]}, freshness={head: result.freshness[head]})
