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
from sharedbb.types import Normalization

PIPELINE = Path(__file__).parent.parent / "pipelines" / "street.yaml"


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


def openvino_call(model: ov.Model, precision: ov.Type, picture: np.ndarray) -> Callable[[], Any]:
    """One latency-bound inference on a bound picture."""
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()
    request.set_input_tensor(ov.Tensor(picture, shared_memory=True))

    def call() -> None:
        request.start_async()
        request.wait()

    return call


def openvino_throughput(models: list[ov.Model], precision: ov.Type, picture: np.ndarray) -> Callable[[], Any]:
    """Every network once on each of two frames, two streams each, the frames in flight together."""
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": 2, "INFERENCE_PRECISION_HINT": precision}
    core, tensor = ov.Core(), ov.Tensor(picture, shared_memory=True)
    pools = []
    for model in models:
        compiled = core.compile_model(model, "CPU", options)
        requests = [compiled.create_infer_request() for _ in range(2)]
        for request in requests:
            request.set_input_tensor(tensor)
        pools.append(requests)

    def call() -> None:
        for requests in pools:
            for request in requests:
                request.start_async()
        for requests in pools:
            for request in requests:
                request.wait()

    return call


def onnx_call(network: nn.Module, normalization: Normalization, picture: np.ndarray) -> Callable[[], Any]:
    """The whole network in ONNX Runtime's CPU provider."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = f"{folder}/network.onnx"
        module = Normalized(network, normalization).eval()
        torch.onnx.export(module, (torch.from_numpy(picture),), path, dynamo=True, external_data=False, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
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
