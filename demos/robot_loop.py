"""A robot's own loop: it fetches frames itself, asks for what it needs now, and looks at how old each answer is.

python demos/robot_loop.py [PIPELINE] [SOURCE] [--frames N]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import sharedbb as sb

STREET = Path(__file__).parent.parent / "pipelines" / "street.yaml"


def main() -> None:
    """Look for objects on every frame, at the surface only when something is near."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", nargs="?", default=str(STREET))
    parser.add_argument("source", nargs="?", default="synthetic:street?motion=drive&frames=50")
    parser.add_argument("--frames", type=int, default=50)
    options = parser.parse_args()

    engine = sb.compile(sb.load(options.pipeline))
    near = True
    with sb.open_source(options.source) as frames:
        for count, frame in enumerate(frames):
            if count >= options.frames:
                break
            result = engine.step(frame, heads=["objects", "surface"] if near else ["objects"])
            boxes = result["objects"].boxes
            near = bool(len(boxes)) and float((boxes[:, 3] - boxes[:, 1]).max()) > frame.size.height / 4
            age = result.freshness["surface"].age_frames
            print(f"{frame.timestamp:6.2f} s  {len(boxes):2d} objects  surface {age} frames old")
    print(f"{1e3 / engine.profile.latency.p50_ms:.0f} frames a second could be done")


if __name__ == "__main__":
    main()
