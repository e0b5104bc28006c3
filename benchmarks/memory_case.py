"""A program that decodes a clip over and over, runs four heads on every frame, and prints the memory that it holds.

``python -m benchmarks.memory_case CASE``, CASE as JSON: what ``benchmarks.memory`` runs as a process of its own.
Nothing is imported that the case does not need.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, repeat
from pathlib import Path
from typing import Any

FPS, MIB = 25.0, 2**20
SAMPLES = 10  # of the resident memory, evenly spaced over the frames

Step = Callable[[Any, int], Any]  # of a decoded frame and its number


def decoded(clip: str) -> Iterator[Any]:
    """The frames of a clip, again and again."""
    import av

    for path in repeat(clip):
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield from container.decode(stream)


def nothing(_: Mapping[str, Any]) -> Step:
    """Decoding alone."""
    return lambda frame, number: None


def engine(case: Mapping[str, Any]) -> Step:
    """A ``pipeline`` with ``changes``, every frame shown to each of ``streams`` streams of one engine."""
    import sharedbb as sb

    running = sb.compile(sb.load(case["pipeline"], case["changes"]), profile=False)
    names = [f"camera {number}" for number in range(case["streams"])]

    def step(frame: Any, number: int) -> None:
        for name in names:
            running.step(frame, stream=name, timestamp=number / FPS)

    return step


def openvino(case: Mapping[str, Any]) -> Step:
    """Networks in files, ``models``, one after another; compiled ones are kept in the folder ``cache`` if it is named.

    https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/optimizing-latency/model-caching-overview.html
    """
    import openvino as ov

    core = ov.Core()
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": case["precision"]}
    if case["cache"]:
        options["CACHE_DIR"] = case["cache"]
    requests = [core.compile_model(path, "CPU", options).create_infer_request() for path in case["models"]]
    _, height, width, _ = requests[0].model_inputs[0].get_shape()

    def step(frame: Any, number: int) -> list[Any]:
        picture = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()[None]
        return [request.infer([picture], share_inputs=True, share_outputs=True) for request in requests]

    return step


def peak() -> float | None:
    """MiB that were resident at most; None where the system does not tell.

    Not by ``getrusage``, whose maximum begins with what the process that started this one held.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return round(int(status.partition("VmHWM:")[2].split()[0]) / 2**10, 1)


KINDS = {"nothing": nothing, "engine": engine, "openvino": openvino}


def main(text: str) -> None:
    """Run the case: ``kind``, ``clip``, ``frames``, and what its kind reads."""
    import psutil

    case = json.loads(text)
    step, process, count = KINDS[case["kind"]](case), psutil.Process(), case["frames"]
    marks = {round(count * (sample + 1) / SAMPLES) for sample in range(SAMPLES)}
    resident = {}
    for number, frame in enumerate(islice(decoded(case["clip"]), count), 1):
        step(frame, number)
        if number in marks:
            resident[number] = round(process.memory_info().rss / MIB, 1)
    own = round(process.memory_full_info().uss / MIB, 1)
    print(json.dumps({"resident": resident, "peak": peak(), "own": own}))


if __name__ == "__main__":
    main(sys.argv[1])
