"""Temporal reuse against our own dense run of the same pipeline: how much faster, and what it does to the answers.

``python -m benchmarks.reuse --data DIR`` measures all of it; ``--only bounded,auto`` these sections, and what was
measured of the others before stays as it is. DIR holds ``clips/`` and ``camvid/``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import reuse_clips, reuse_exact, reuse_keyframe, reuse_overhead
from benchmarks.resnet50 import NAME
from benchmarks.reuse_runs import Setup
from benchmarks.sections import Section, chosen, measure
from benchmarks.timing import Parser

SECTIONS: Mapping[str, Callable[[Setup], Section]] = {
    "clips": reuse_clips.every,
    "exact": reuse_exact.measure,
    "bounded": reuse_clips.bounded,
    "keyframe": reuse_keyframe.measure,
    "auto": reuse_clips.auto,
    "overhead": reuse_overhead.measure,
}


def main() -> None:
    """Measure and keep ``results/reuse.json``."""
    parser = Parser(__doc__)
    data = os.environ.get("SHAREDBB_DATA", "data")
    parser.add_argument("--data", type=Path, default=data, help="folder that holds clips/ and camvid/")
    parser.add_argument("--only", type=chosen(SECTIONS), default=list(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--frames", type=int, help="of every run (default: as many as each section needs)")
    parser.add_argument("--resnet", type=Path, default=Path("runs/resnet50") / f"{NAME}.yaml", help="trained pipeline")
    options = parser.options()
    setup = Setup(options.data, options.resnet, options.frames, options.quick)
    measure("reuse", __doc__, options, SECTIONS, lambda: setup)


if __name__ == "__main__":
    main()
