"""Temporal reuse against our own dense run of the same pipeline: how much faster, and what it does to the answers.

``python -m benchmarks.reuse --data DIR`` measures all of it; ``--only bounded,auto`` these sections, and what was
measured of the others before stays as it is. DIR holds ``clips/`` and ``camvid/``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import reuse_clips, reuse_exact, reuse_keyframe, reuse_overhead
from benchmarks.resnet50 import NAME
from benchmarks.reuse_runs import Setup
from benchmarks.timing import RESULTS, conditions, keep

SUITE = "reuse"
SECTIONS: Mapping[str, Callable[[Setup], dict[str, Any]]] = {
    "exact": reuse_exact.measure,
    "bounded": reuse_clips.bounded,
    "keyframe": reuse_keyframe.measure,
    "auto": reuse_clips.auto,
    "overhead": reuse_overhead.measure,
}


def sections(text: str) -> list[str]:
    """The sections named, in the order in which they run. Raises ArgumentTypeError for one that is unknown."""
    wanted = text.split(",")
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in wanted]


def kept() -> dict[str, Any]:
    """The sections measured before."""
    path = RESULTS / f"{SUITE}.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {name: found[name] for name in SECTIONS if name in found}


def main() -> None:
    """Measure and keep ``results/reuse.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds clips/ and camvid/")
    parser.add_argument("--only", type=sections, default=list(SECTIONS), help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--frames", type=int, help="of every run (default: as many as each section needs)")
    parser.add_argument("--resnet", type=Path, default=Path("runs/resnet50") / f"{NAME}.yaml", help="trained pipeline")
    parser.add_argument("--quick", action="store_true", help="a tenth of the frames and a few settings, not kept")
    options = parser.parse_args()
    setup = Setup(options.data, options.resnet, options.frames, options.quick)
    for name in options.only:
        before, start = conditions(), time.perf_counter()
        measured = SECTIONS[name](setup)
        measured["measured"] = {"date": before["date"], "load": before["load"], "machine": before["machine"]}
        print(f"{name}: {time.perf_counter() - start:.0f} s")
        if not options.quick:
            print(f"kept in {keep(SUITE, {**kept(), name: measured})}")


if __name__ == "__main__":
    main()
