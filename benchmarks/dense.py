"""Sharing alone: four heads in one engine, against the same network merged by hand and against four networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import nn

import sharedbb as sb
from benchmarks import networks
from benchmarks.limits import Counted, account, spent
from benchmarks.roofline import Roofline
from benchmarks.schema import Limit, Number
from benchmarks.timing import Measurement, Parser, Rounds, interleaved, show
from sharedbb.types import Normalization

OURS = "engine, segments and heads"
MERGED = "hand-merged, one OpenVINO model"
FOUR = "four OpenVINO models"
THROUGHPUT = "four OpenVINO models, throughput hint, per frame"
MERGED_THROUGHPUT = "hand-merged, throughput hint, per frame"


def main() -> None:
    """Measure and keep ``results/dense.json``."""
    options = Parser(__doc__).options()
    measurement = Measurement("dense", __doc__, options)

    pipeline = networks.street()
    engine = sb.compile(pipeline, profile=False, use_cache=False)
    program = engine.program
    precision, size = networks.TYPES[program.device.precision], program.size
    picture, normalization = networks.picture_of(size), pipeline.input.normalization
    shape = (1, 3, size.height, size.width)

    whole = networks.build_network(pipeline)
    merged = networks.openvino_model(whole, normalization, shape)
    models = [
        networks.openvino_model(network, normalization, shape) for network in networks.separate(pipeline).values()
    ]
    apart = [networks.openvino_call(model, precision, picture) for model in models]
    cases = {
        OURS: networks.engine_call(engine, picture),
        MERGED: networks.openvino_call(merged, precision, picture),
        FOUR: lambda: [call() for call in apart],
    }
    queued = {THROUGHPUT: models, MERGED_THROUGHPUT: [merged]}
    in_flight = {case: networks.openvino_in_flight(some, precision) for case, some in queued.items()}
    cases |= {
        case: networks.openvino_throughput(some, precision, picture, in_flight[case]) for case, some in queued.items()
    }
    counted = {
        OURS: Counted.of_program(program),
        MERGED: Counted.of_models([merged], precision, picture),
        FOUR: Counted.of_models(models, precision, picture),
    }
    beside = {f"{case}, operators counted": call for case, call in counted.items()}
    taken = interleaved({**cases, **beside}, options.rounds).seconds
    taken = {case: taken[case] for case in cases}
    rounds = Rounds({case: [one / in_flight.get(case, 1) for one in seconds] for case, seconds in taken.items()})
    timings = rounds.timings
    if not options.quick:
        slow = {f"{OURS} (beside the slow ones)": cases[OURS], **_slow(whole, normalization, picture)}
        timings |= interleaved(slow, max(10, options.rounds // 3)).timings
    show(f"street, four heads, {size}, {program.device.precision}", timings, OURS)

    roofline = Roofline.of_machine()
    timed = {case: call.operators() for case, call in counted.items()}
    least = roofline.total_ms(timed[OURS])
    how = "roofline of the engine's operators: the longer of computing and moving, by the rates of `limits`, added up"
    measurement.keep(
        timings=timings,
        numbers=_numbers(rounds, spent(timed[OURS], timings[OURS].median_ms)),
        limits={"roofline of the network": Limit(value=round(least, 2), unit="ms", how=how)},
        spent={case: spent(found, timings[case].median_ms) for case, found in timed.items()},
        notes=[account(case, timings[case].median_ms, found, roofline) for case, found in timed.items()],
        details={
            "precision": program.device.precision,
            "frames in flight": in_flight,
            "operators": {"merged": program.operators, "separate": program.separate},
        },
    )


def _slow(whole: nn.Module, normalization: Normalization, picture: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The hand-merged network in runtimes that take several times as long."""
    return {
        "hand-merged, ONNX Runtime f32": networks.onnx_call(whole, normalization, picture),
        "hand-merged, torch eager f32": networks.torch_call(whole, normalization, picture),
        "hand-merged, torch Inductor bf16": networks.torch_call(whole, normalization, picture, compiled=True),
    }


def _numbers(rounds: Rounds, parts: Mapping[str, float]) -> dict[str, Number]:
    """Ours against the others; ``parts``: where our milliseconds go."""
    where = ", ".join(f"{kind} {ms:.2f} ms" for kind, ms in parts.items())
    numbers = {
        "engine over hand-merged": rounds.ratio(OURS, MERGED, goal=1.03, better="lower"),
        "separate over engine": rounds.ratio(FOUR, OURS, goal=2.8),
        "separate with throughput hint, per frame, over engine": rounds.ratio(THROUGHPUT, OURS),
        "hand-merged with throughput hint, per frame, over engine": rounds.ratio(MERGED_THROUGHPUT, OURS),
    }
    return {
        name: number.model_copy(update={"why": f"the engine's time: {where}"}) if number.is_met is False else number
        for name, number in numbers.items()
    }


if __name__ == "__main__":
    main()
