"""One process of the headline: a video file in, the four heads' answers as JSON lines out.

``engine`` runs a pipeline in sharedbb; ``apart`` runs four networks of their own in OpenVINO, with the same decoder,
the same intake and the same decoding of answers. Prints one JSON line: frames, seconds of the steady part, modes.
Either process looks for cycles of objects seldom, and not at its end, as ``sharedbb run`` does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import sharedbb as sb
from sharedbb.cli.collecting import collect_seldom
from sharedbb.runtime.streams import Prefetch

HEADS = ("surface", "objects", "edges", "scene")
AHEAD = 4  # frames decoded ahead, as many as the engine's queue holds


def line_of(index: int, outputs: Mapping[str, Any]) -> str:
    """A frame's answers as a line of JSON: boxes, tags, and how many cells each class of a map covers."""
    told: dict[str, Any] = {"frame": index}
    for head, output in outputs.items():
        if hasattr(output, "cells"):
            told[head] = np.bincount(output.cells.ravel(), minlength=len(output.names)).tolist()
        elif hasattr(output, "present"):
            told[head] = output.present
        else:
            told[head] = output.to_dict()["items"]
    return json.dumps(told)


def engine_results(clip: Path, frames: int | None, pipeline: str, settings: list[str]) -> Iterator[tuple[str, Any]]:
    """Mode and answers of every frame, by sharedbb."""
    engine = sb.compile(sb.load(pipeline, settings), profile=False)
    for result in engine.stream(clip, max_frames=frames):
        yield result.mode, result.outputs


class Apart:
    """Four networks, each compiled by OpenVINO for itself from a file in ``models``.

    ``hint``: LATENCY runs one after another, each on all cores (the plug-in's own recommendation for one input at a
    time); THROUGHPUT has as many frames in flight as the networks ask for
    (``OPTIMAL_NUMBER_OF_INFER_REQUESTS``), every network of each of them started before any is waited for
    (https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/high-level-performance-hints.html).
    Compiled models are cached on disk, as the documentation recommends for fast starts.
    """

    def __init__(self, models: Path, hint: str, pipeline: str) -> None:
        import openvino as ov

        from sharedbb.registry import HEADS as KNOWN
        from sharedbb.registry import resolve
        from sharedbb.transforms.rgb import RgbIntake

        spec = sb.load(pipeline)
        size = spec.input.network_size
        core = ov.Core()
        core.set_property({"CACHE_DIR": str(models / "cache")})
        compiled = {
            head: core.compile_model(_read(core, models / f"{head}.xml"), "CPU", {"PERFORMANCE_HINT": hint})
            for head in HEADS
        }
        self._decoders = {head: resolve(KNOWN[spec.heads[head].type].decoder)(spec.heads[head]) for head in HEADS}
        self._parts = {head: [name.partition(".")[2] for name in _names(compiled[head])] for head in HEADS}
        self._slots = []
        for _ in range(max(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") for model in compiled.values())):
            picture = np.empty((1, size.height, size.width, 3), np.uint8)
            requests = {head: model.create_infer_request() for head, model in compiled.items()}
            for request in requests.values():
                request.set_input_tensor(ov.Tensor(picture, shared_memory=True))
            self._slots.append((RgbIntake(picture, spec.input.fit, spec.input.normalization), requests))
        self._in_turn = hint == "LATENCY"

    def __call__(self, frames: Iterator[sb.Frame]) -> Iterator[dict[str, Any]]:
        """The answers to every frame, in order."""
        waiting: list[tuple[int, Any]] = []
        for number, frame in enumerate(frames):
            slot = number % len(self._slots)
            if len(waiting) == len(self._slots):
                yield self._answers(*waiting.pop(0))
            intake, requests = self._slots[slot]
            geometry = intake(frame)
            for request in requests.values():
                request.start_async()
                if self._in_turn:
                    request.wait()
            waiting.append((slot, geometry))
        for one in waiting:
            yield self._answers(*one)

    def _answers(self, slot: int, geometry: Any) -> dict[str, Any]:
        outputs = {}
        for head, request in self._slots[slot][1].items():
            request.wait()
            raw = {part: request.get_output_tensor(at).data for at, part in enumerate(self._parts[head])}
            outputs[head] = self._decoders[head](raw, geometry)
        return outputs


def _read(core: Any, path: Path) -> Any:
    """A model whose maps come out NHWC, as the decoders read them: transposed inside, where it costs least."""
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    model = core.read_model(str(path))
    steps = PrePostProcessor(model)
    for position, output in enumerate(model.outputs):
        if len(output.get_shape()) == 4:
            steps.output(position).model().set_layout(Layout("NCHW"))
            steps.output(position).tensor().set_layout(Layout("NHWC"))
    return steps.build()


def _names(model: Any) -> list[str]:
    """The names of a compiled model's outputs, as ``surface.logits``."""
    return [next(name for name in output.get_names() if "." in name) for output in model.outputs]


def apart_results(clip: Path, frames: int | None, networks: Apart) -> Iterator[tuple[str, Any]]:
    """Mode and answers of every frame, by four networks; decoded ahead by a thread, as the engine does."""
    with sb.open_source(clip) as source, Prefetch(source, AHEAD, "wait") as ahead:
        for outputs in networks(islice(ahead, frames)):
            yield "apart", outputs


def told(results: Iterator[tuple[str, Any]], into: TextIO) -> dict[str, Any]:
    """Write every frame's line; how many there were, seconds from the first result to the last, and modes."""
    modes: Counter[str] = Counter()
    begun = last = 0.0
    for index, (mode, outputs) in enumerate(results):
        into.write(line_of(index, outputs) + "\n")
        modes[mode] += 1
        last = time.perf_counter()
        begun = begun or last
    return {"frames": modes.total(), "steady_s": last - begun, "modes": dict(modes)}


def main() -> None:
    """Run a clip and print what was measured."""
    collect_seldom()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=("engine", "apart"))
    parser.add_argument("clip", type=Path)
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--models", type=Path, help="folder of the separate networks")
    parser.add_argument("--hint", choices=("LATENCY", "THROUGHPUT"), default="LATENCY")
    parser.add_argument("--frames", type=int)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    if options.way == "engine":
        results = engine_results(options.clip, options.frames, options.pipeline, options.settings)
    else:
        networks = Apart(options.models, options.hint, options.pipeline)
        results = apart_results(options.clip, options.frames, networks)
    with options.results.open("w") as into:
        print(json.dumps(told(results, into)))


if __name__ == "__main__":
    main()
