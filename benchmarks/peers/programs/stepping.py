"""What the programs here share: the clip decoded, then a frame for every line that comes in, and a line of JSON for it.

They run in environments of their own and import nothing of sharedbb.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import av


def decoded(clip: str, frames: str) -> list[av.VideoFrame]:
    """The first frames of the clip as the decoder gives them."""
    with av.open(clip) as container:
        return list(islice(container.decode(video=0), int(frames)))


def serve(frames: list[av.VideoFrame], run: Callable[[av.VideoFrame], Any], **ready: Any) -> None:
    """Run the frames whose numbers come in, until none does; ``run`` returns what to say of one."""
    say({"ready": ready})
    for line in sys.stdin:
        say({"answers": run(frames[int(line) % len(frames)])})


def say(what: dict[str, Any]) -> None:
    """A line of JSON for the program that started this one."""
    print(json.dumps(what), flush=True)


def folder(path: str, name: str) -> Path:
    """A folder of this name in there."""
    made = Path(path) / name
    made.mkdir(parents=True, exist_ok=True)
    return made
