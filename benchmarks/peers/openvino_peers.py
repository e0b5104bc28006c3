"""OpenVINO's CPU plugin: separate networks and the merged one, for latency and for throughput, in bf16 and in int8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import openvino as ov

import sharedbb as sb
from benchmarks.peers.base import Answers, Intake, Peer, Work
from benchmarks.peers.quantized import float_models, int8_models, merged_float, merged_int8

PAGES = "https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference"
LATENCY = f"{PAGES}/high-level-performance-hints.html: the LATENCY hint, one request, input and output bound in place"
TOGETHER = f"{PAGES}/optimizing-latency.html: the LATENCY hint; the four models' requests begun together, then awaited"
THROUGHPUT = (
    f"{PAGES}/optimizing-throughput.html: the THROUGHPUT hint, requests in flight through AsyncInferQueue; "
    "the device chooses the number of streams"
)
IN_FLIGHT = 8

Models = Callable[[Work], Sequence[Path]]


def separate(work: Work) -> list[Path]:
    """The four separate networks; the plugin runs them in bf16 where the processor has units for it."""
    return list(float_models(work).values())


def merged(work: Work) -> list[Path]:
    """The hand-merged network."""
    return [merged_float(work)]


def separate_int8(work: Work) -> list[Path]:
    """The four separate networks in 8 bits; what stays in floating point runs as above."""
    return list(int8_models(work).values())


def whole_int8(work: Work) -> list[Path]:
    """The hand-merged network in 8 bits."""
    return [merged_int8(work)]


def compiled(models: Sequence[Path], hint: str) -> list[ov.CompiledModel]:
    """Every model for the CPU, in the precision that the plugin prefers."""
    core = ov.Core()
    return [core.compile_model(model, "CPU", {"PERFORMANCE_HINT": hint}) for model in models]


def answered(request: ov.InferRequest) -> Answers:
    """What a request has computed, where it lies; valid until it runs again."""
    outputs = request.model_outputs
    return {output.any_name: request.get_output_tensor(index).data for index, output in enumerate(outputs)}


def one_by_one(models: Models, *, together: bool = False) -> Callable[[Work], Callable[[sb.Frame], Answers]]:
    """A frame through all models, each with all cores; or all begun before the first is awaited."""

    def prepare(work: Work) -> Callable[[sb.Frame], Answers]:
        intake = work.intake()
        requests = [model.create_infer_request() for model in compiled(models(work), "LATENCY")]
        for request in requests:
            request.set_input_tensor(ov.Tensor(intake.picture, shared_memory=True))

        def run(frame: sb.Frame) -> Answers:
            intake(frame)
            for request in requests:
                request.start_async()
                if not together:
                    request.wait()
            found: Answers = {}
            for request in requests:
                request.wait()
                found |= answered(request)
            return found

        return run

    return prepare


class InFlight:
    """Frames through all models, ``IN_FLIGHT`` at once: each begins as it is given, the last one awaits them all."""

    def __init__(self, models: Sequence[ov.CompiledModel], intakes: Sequence[Intake]) -> None:
        self._intakes = intakes
        self._queues = [ov.AsyncInferQueue(model, len(intakes)) for model in models]
        self._answers: list[Answers] = []
        for queue in self._queues:
            queue.set_callback(self._take)

    @staticmethod
    def _take(request: ov.InferRequest, answers: Answers) -> None:
        answers.update(answered(request))

    def __call__(self, frame: sb.Frame) -> list[Answers] | None:
        intake = self._intakes[len(self._answers)]
        self._answers.append({})
        picture = intake(frame)
        for queue in self._queues:
            queue.start_async({0: picture}, self._answers[-1], share_inputs=True)
        if len(self._answers) < len(self._intakes):
            return None
        for queue in self._queues:
            queue.wait_all()
        done, self._answers = self._answers, []
        return done


def in_flight(models: Models) -> Callable[[Work], Callable[[sb.Frame], Any]]:
    """Several frames in flight, for throughput."""

    def prepare(work: Work) -> Callable[[sb.Frame], Any]:
        return InFlight(compiled(models(work), "THROUGHPUT"), [work.intake() for _ in range(IN_FLIGHT)])

    return prepare


SETTINGS = ((separate, merged, ""), (separate_int8, whole_int8, " int8"))

OPENVINO = tuple(
    peer
    for apart, whole, said in SETTINGS
    for peer in (
        Peer(f"OpenVINO{said}, separate", LATENCY, one_by_one(apart)),
        Peer(f"OpenVINO{said}, separate, begun together", TOGETHER, one_by_one(apart, together=True)),
        Peer(f"OpenVINO{said}, separate, throughput", THROUGHPUT, in_flight(apart), at_once=IN_FLIGHT),
        Peer(f"OpenVINO{said}, merged by hand", LATENCY, one_by_one(whole)),
        Peer(f"OpenVINO{said}, merged by hand, throughput", THROUGHPUT, in_flight(whole), at_once=IN_FLIGHT),
    )
)
