"""The street network whole, hand-merged and in four pieces, in every runtime that it is compared in."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino.preprocess import PrePostProcessor
from torch import Tensor, nn

import sharedbb as sb
from sharedbb.compiler import build_network
from sharedbb.runtime.schedule import Moment, plan
from sharedbb.types import Normalization, Size

PIPELINE = Path(__file__).parent.parent / "pipelines" / "street.yaml"
TYPES = {"f32": ov.Type.f32, "bf16": ov.Type.bf16, "f16": ov.Type.f16}


def street() -> sb.Pipeline:
    """The shipped pipeline."""
    return sb.load(PIPELINE)


def separate(pipeline: sb.Pipeline) -> dict[str, nn.Module]:
    """Every head as a network of its own: its own copy of trunk and neck, nothing that it does not need."""
    return {
        name: build_network(pipeline.model_copy(update={"heads": {name: head}}))
        for name, head in pipeline.heads.items()
    }


class Normalized(nn.Module):
    """A network that takes the uint8 NHWC picture, as everything here does."""

    def __init__(self, network: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(normalization.mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(normalization.std).view(1, 3, 1, 1))

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        return self.network((picture.permute(0, 3, 1, 2).float() - self.mean) * self.scale)


def openvino_model(network: nn.Module, normalization: Normalization, shape: tuple[int, ...]) -> ov.Model:
    """The whole network as one OpenVINO model that takes uint8 NHWC pictures, made as its documentation says."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = ov.convert_model(torch.export.export(network.eval(), (torch.zeros(shape),)))
    model.reshape({model.inputs[0]: list(shape)})
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    convert = steps.input().preprocess().convert_element_type(ov.Type.f32)
    convert.mean(list(normalization.mean)).scale(list(normalization.std))
    return steps.build()


def openvino_compiled(
    model: ov.Model, precision: ov.Type, hint: str = "LATENCY", threads: int | None = None, *, counted: bool = False
) -> ov.CompiledModel:
    """A model compiled under a performance hint, which sets streams and threads, as the documentation recommends.

    https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/high-level-performance-hints.html.
    ``threads``: no more than these; ``counted``: with the times of its operators.
    """
    options = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": precision, "PERF_COUNT": counted}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    return ov.Core().compile_model(model, "CPU", options)


def openvino_call(
    model: ov.Model, precision: ov.Type, picture: np.ndarray, threads: int | None = None
) -> Callable[[], Any]:
    """One latency-bound inference on a bound picture."""
    return openvino_run(openvino_compiled(model, precision, threads=threads), picture)


def openvino_run(compiled: ov.CompiledModel, picture: np.ndarray) -> Callable[[], Any]:
    """One inference of a compiled model on a bound picture."""
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(picture, shared_memory=True))

    def call() -> None:
        request.start_async()
        request.wait()

    return call


def openvino_in_flight(models: list[ov.Model], precision: ov.Type) -> int:
    """How many frames in flight together the plug-in asks for under the throughput hint: the most of any network."""
    compiled = (openvino_compiled(model, precision, "THROUGHPUT") for model in models)
    return max(model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") for model in compiled)


def openvino_throughput(
    models: list[ov.Model], precision: ov.Type, picture: np.ndarray, frames: int
) -> Callable[..., Any]:
    """Every network once on each of some frames, at most ``frames``, all of them in flight together.

    The call returns the requests, which hold the answers: frame after frame, of each network in turn.
    """
    compiled = [openvino_compiled(model, precision, "THROUGHPUT") for model in models]
    requests = [[model.create_infer_request() for model in compiled] for _ in range(frames)]
    tensor = ov.Tensor(picture, shared_memory=True)
    for request in (one for of_frame in requests for one in of_frame):
        request.set_input_tensor(tensor)

    def call(count: int = frames) -> list[ov.InferRequest]:
        started = [request for of_frame in requests[:count] for request in of_frame]
        for request in started:
            request.start_async()
        for request in started:
            request.wait()
        return started

    return call


def engine_call(engine: sb.Engine, picture: np.ndarray, stream: str = "main") -> Callable[[], Any]:
    """All heads of an engine on a uint8 NHWC picture in its input: the network alone, as the others here run it."""
    state, everything = engine.state(stream), plan(engine.program, Moment(0, 0.0, {}))
    state.reading.picture.planes["input"][...] = picture
    return lambda: engine._execute(everything, state)


def picture_of(size: Size) -> np.ndarray:
    """A picture of noise, uint8 NHWC."""
    return np.random.default_rng(0).integers(0, 256, (1, size.height, size.width, 3), np.uint8)


def onnx_call(network: nn.Module, normalization: Normalization, picture: np.ndarray) -> Callable[[], Any]:
    """The whole network in ONNX Runtime's CPU provider, whose threads sleep between two runs."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = f"{folder}/network.onnx"
        module = Normalized(network, normalization).eval()
        torch.onnx.export(module, (torch.from_numpy(picture),), path, dynamo=True, external_data=False, verbose=False)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: picture})


def torch_call(
    network: nn.Module, normalization: Normalization, picture: np.ndarray, *, compiled: bool = False
) -> Callable[[], Any]:
    """The whole network in torch: eager float32, or Inductor with frozen weights in bfloat16."""
    module: Any = Normalized(network, normalization).eval().to(memory_format=torch.channels_last)
    if compiled:
        module = torch.compile(module, dynamic=False, options={"freezing": True})
    tensor = torch.from_numpy(picture)

    @torch.inference_mode()
    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=compiled):
            module(tensor)

    return call
