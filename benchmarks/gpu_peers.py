"""The street networks on a GPU as others run them: recorded CUDA graphs, torch.compile, TensorRT, ONNX Runtime.

Everything takes a uint8 NHWC tensor of one or more pictures on the device and gives float32 answers there, as the
engine does. Batch normalisation is folded into the convolutions for all, weights and activations are in half precision,
convolutions in channels_last memory. OpenVINO is not imported, so that the suite runs where it is absent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import sharedbb as sb
from sharedbb.compiler import build_network
from sharedbb.graph.capture import capture
from sharedbb.graph.lower import to_module
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.types import Normalization

WARM_CALLS = 3  # before a graph is recorded, as torch's notes on CUDA graphs have it

Answers = tuple[Tensor, ...]
Call = Callable[[], list[Answers]]
"""One run of networks on the pictures that it was made for; the answers of each are valid until the next run."""


class AbsentError(Exception):
    """Why a peer cannot run here, in one line."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run networks, as ``source`` recommends; ``prepare`` raises AbsentError where it cannot be."""

    source: str
    prepare: Callable[[Sequence[nn.Module], Tensor], Call]


class Answering(nn.Module):
    """A network with the boundary that the engine has: uint8 NHWC pictures in, float32 answers out."""

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, normalization: Normalization, shape: Sequence[int], dtype: torch.dtype):
        """``shape``: (pictures, height, width); the network is captured for just these."""
        super().__init__()
        count, height, width = shape
        graph = fold_batch_norms(capture(network.eval(), torch.zeros(count, 3, height, width), ""))
        self.network = to_module(graph).to(dtype)
        self.dtype = dtype
        self.names = tuple(graph.outputs)
        self.register_buffer("mean", torch.tensor(normalization.mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(normalization.std).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> Answers:
        levels = ((pictures.permute(0, 3, 1, 2).float() - self.mean) * self.scale).to(self.dtype)
        answers = self.network(levels)
        return tuple(answers[name].float() for name in self.names)


def answering(networks: Sequence[nn.Module], pipeline: sb.Pipeline, pictures: Tensor, dtype: torch.dtype) -> list[Any]:
    """Networks with the engine's boundary, for as many pictures, on their device."""
    found = (Answering(one, pipeline.input.normalization, pictures.shape[:3], dtype) for one in networks)
    return [one.eval().to(pictures.device, memory_format=torch.channels_last) for one in found]


def apart(pipeline: sb.Pipeline) -> list[nn.Module]:
    """Every head as a network of its own, with its own trunk and neck."""
    return [build_network(pipeline.model_copy(update={"heads": {name: head}})) for name, head in pipeline.heads.items()]


@contextmanager
def tuned() -> Iterator[None]:
    """Meanwhile cuDNN measures which of its kernels is fastest, as torch's tuning guide recommends.

    Only around peers: what the engine sets by itself is what it is measured with.
    """
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32):
        yield


def recorded(module: Callable[[Tensor], Answers], pictures: Tensor) -> Callable[[], Answers]:
    """A module's work on these pictures as a CUDA graph; on a CPU, which has none, the module's plain call."""

    @torch.inference_mode()
    def plain() -> Answers:
        return module(pictures)

    if pictures.device.type != "cuda":
        return plain
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_CALLS):
            plain()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = plain()

    def replay() -> Answers:
        graph.replay()
        return answers

    return replay


def graphs(modules: Sequence[nn.Module], pictures: Tensor) -> Call:
    """Every network as a CUDA graph, one after another."""
    with tuned():
        replays = [recorded(module, pictures) for module in modules]
    return lambda: [replay() for replay in replays]


def graphs_at_once(modules: Sequence[nn.Module], pictures: Tensor) -> Call:
    """Every network as a CUDA graph, each on a stream of its own: they may share the GPU."""
    if pictures.device.type != "cuda":
        raise AbsentError("there are no streams to run them on at once outside of CUDA")
    with tuned():
        replays = [recorded(module, pictures) for module in modules]
    streams = [torch.cuda.Stream() for _ in replays]

    def call() -> list[Answers]:
        now, answers = torch.cuda.current_stream(), []
        for replay, stream in zip(replays, streams, strict=True):
            stream.wait_stream(now)
            with torch.cuda.stream(stream):
                answers.append(replay())
        for stream in streams:
            now.wait_stream(stream)
        return answers

    return call


def compiled(mode: str) -> Callable[[Sequence[nn.Module], Tensor], Call]:
    """Every network by torch.compile in a mode; both modes used here record CUDA graphs by themselves."""

    def prepare(modules: Sequence[nn.Module], pictures: Tensor) -> Call:
        if pictures.device.type != "cuda":
            raise AbsentError(f"torch.compile's mode {mode} is made for CUDA")
        kernels = [torch.compile(module, mode=mode, dynamic=False, fullgraph=True) for module in modules]

        @torch.inference_mode()
        def call() -> list[Answers]:
            torch.compiler.cudagraph_mark_step_begin()
            return [kernel(pictures) for kernel in kernels]

        with tuned(), warnings.catch_warnings(action="ignore"):
            for _ in range(WARM_CALLS):
                call()
        return call

    return prepare


def tensorrt(modules: Sequence[nn.Module], pictures: Tensor) -> Call:
    """Every network as a TensorRT engine in the types that it has, with its CUDA graphs."""
    try:
        import torch_tensorrt
    except ImportError as error:
        raise AbsentError(f"torch-tensorrt is not installed ({error})") from error
    with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
        made = [
            torch_tensorrt.dynamo.compile(
                torch.export.export(module, (pictures,)), inputs=[pictures], use_explicit_typing=True, min_block_size=1
            )
            for module in modules
        ]
    torch_tensorrt.runtime.set_cudagraphs_mode(True)

    @torch.inference_mode()
    def call() -> list[Answers]:
        return [engine(pictures) for engine in made]

    return call


def onnx_runtime(modules: Sequence[nn.Module], pictures: Tensor) -> Call:
    """Every network in ONNX Runtime's CUDA provider, on bound buffers of the device, recorded as a CUDA graph."""
    try:
        import onnxruntime
    except ImportError as error:
        raise AbsentError(f"ONNX Runtime is not installed ({error})") from error
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise AbsentError("the ONNX Runtime that is installed has no CUDA provider (onnxruntime-gpu has)")
    options = {"enable_cuda_graph": "1", "cudnn_conv_algo_search": "EXHAUSTIVE", "prefer_nhwc": "1"}
    bound = []
    for module in modules:
        providers = [("CUDAExecutionProvider", options)]
        session = onnxruntime.InferenceSession(_onnx_of(module, pictures), providers=providers)
        binding = session.io_binding()
        (given,) = session.get_inputs()
        answers = tuple(torch.empty(one.shape, device=pictures.device) for one in session.get_outputs())
        binding.bind_input(given.name, "cuda", 0, "uint8", tuple(pictures.shape), pictures.data_ptr())
        for place, answer in zip(session.get_outputs(), answers, strict=True):
            binding.bind_output(place.name, "cuda", 0, "float32", tuple(answer.shape), answer.data_ptr())
        bound.append((session, binding, answers))
        torch.cuda.synchronize()

    def call() -> list[Answers]:
        for session, binding, _ in bound:
            session.run_with_iobinding(binding)
        return [answers for *_, answers in bound]

    return call


def _onnx_of(module: nn.Module, pictures: Tensor) -> bytes:
    with warnings.catch_warnings(action="ignore"), torch.inference_mode():
        program = torch.onnx.export(module, (pictures,), dynamo=True, verbose=False)
    assert program is not None
    return program.model_proto.SerializeToString()


NOTES_ON_GRAPHS = "https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs"

SEPARATE: Mapping[str, Peer] = {
    "CUDA graphs": Peer(NOTES_ON_GRAPHS, graphs),
    "CUDA graphs at once": Peer(NOTES_ON_GRAPHS, graphs_at_once),
    "torch.compile reduce-overhead": Peer(
        "https://docs.pytorch.org/docs/stable/generated/torch.compile.html", compiled("reduce-overhead")
    ),
    "torch.compile max-autotune": Peer(
        "https://docs.pytorch.org/docs/stable/generated/torch.compile.html", compiled("max-autotune")
    ),
    "torch-tensorrt": Peer("https://docs.pytorch.org/TensorRT/user_guide/compilation/dynamo_export.html", tensorrt),
    "ONNX Runtime CUDA": Peer(
        "https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html", onnx_runtime
    ),
}
"""By name: the four networks one by one, each as the documentation at ``source`` recommends."""


def prepared(
    peers: Mapping[str, Peer], modules: Sequence[nn.Module], pictures: Tensor
) -> tuple[dict[str, Call], dict[str, str]]:
    """Those that can run on these pictures, ready and run once, and why the others cannot."""
    ready, absent = {}, {}
    for name, peer in peers.items():
        try:
            call = peer.prepare(modules, pictures)
            call()
            if pictures.device.type == "cuda":
                torch.cuda.synchronize()
            ready[name] = call
        except AbsentError as error:
            absent[name] = str(error)
        except Exception as error:  # other people's code may fail in any way; it is listed with what it said
            absent[name] = f"{type(error).__name__}: {_last_line(error)}"
    return ready, absent


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
