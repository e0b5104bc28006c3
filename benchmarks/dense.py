"""Sharing alone: four heads in one engine, against the same network merged by hand and against four networks."""

from __future__ import annotations

import argparse

import numpy as np
import openvino as ov

import sharedbb as sb
from benchmarks import networks
from benchmarks.timing import Timing, interleaved, keep, rows, show
from sharedbb.runtime.schedule import Moment, plan

TYPES = {"bf16": ov.Type.bf16, "f32": ov.Type.f32}


def main() -> None:
    """Measure and keep ``results/dense.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="leave out ONNX Runtime and torch")
    options = parser.parse_args()

    pipeline = networks.street()
    engine = sb.compile(pipeline, profile=False)
    precision = TYPES[engine.program.device.precision]
    normalization = pipeline.input.normalization
    size = engine.program.size
    picture = np.random.default_rng(0).integers(0, 256, (1, size.height, size.width, 3), np.uint8)
    shape = (1, 3, size.height, size.width)

    whole = networks.build_network(pipeline)
    alone = networks.separate(pipeline)
    merged = networks.openvino_model(whole, normalization, shape)
    models = [networks.openvino_model(network, normalization, shape) for network in alone.values()]
    apart = [networks.openvino_call(model, precision, picture) for model in models]

    state = engine.state()
    state.picture.planes["input"][...] = picture
    everything = plan(engine.program, Moment(0, 0.0, {}))
    cases = {
        "engine, segments and heads": lambda: engine._execute(everything, state),
        "hand-merged, one OpenVINO model": networks.openvino_call(merged, precision, picture),
        "four OpenVINO models": lambda: [call() for call in apart],
        "four OpenVINO models, throughput hint, two frames": networks.openvino_throughput(models, precision, picture),
    }
    timings = interleaved(cases, options.rounds)
    if not options.quick:
        slow = {
            "engine, segments and heads (beside the slow ones)": cases["engine, segments and heads"],
            "hand-merged, ONNX Runtime f32": networks.onnx_call(whole, normalization, picture),
            "hand-merged, torch eager f32": networks.torch_call(whole, normalization, picture),
            "hand-merged, torch Inductor bf16": networks.torch_call(whole, normalization, picture, compiled=True),
        }
        timings |= interleaved(slow, max(10, options.rounds // 3))
    _report(timings, engine)


def _report(timings: dict[str, Timing], engine: sb.Engine) -> None:
    ours = timings["engine, segments and heads"].median_ms
    by_hand = timings["hand-merged, one OpenVINO model"].median_ms
    apart = timings["four OpenVINO models"].median_ms
    two_frames = timings["four OpenVINO models, throughput hint, two frames"].median_ms
    found = {
        "engine_over_hand_merged": {"measured": round(ours / by_hand, 3), "goal": 1.03},
        "separate_over_engine": {"measured": round(apart / ours, 3), "goal": 2.8},
        "separate_throughput_per_frame_over_engine": {"measured": round(two_frames / 2 / ours, 3)},
        "operators": {"merged": engine.program.operators, "separate": engine.program.separate},
    }
    size, precision = engine.program.size, engine.program.device.precision
    show(f"street, four heads, {size}, {precision}", timings, "engine, segments and heads")
    print(found)
    path = keep("dense", {"precision": precision, "timings": rows(timings), "numbers": found})
    print(f"kept in {path}")


if __name__ == "__main__":
    main()
