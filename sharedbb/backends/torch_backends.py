"""Torch itself as a backend: eager (the reference), Inductor on the CPU, CUDA graphs on NVIDIA GPUs.

Features are NCHW tensors in channels_last memory, which is NHWC as the other backends have it.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharedbb.backends.base import Picture
from sharedbb.backends.torch_patches import TensorPatches
from sharedbb.errors import BackendError
from sharedbb.graph.lower import to_module
from sharedbb.types import Plane, Size

if TYPE_CHECKING:
    from sharedbb.graph.cut import Cut, Segment

# A segment's module, plain or compiled.
Module = Callable[..., tuple[Tensor, ...]]

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class Levels(nn.Module):
    """A plane's uint8 NHWC grey levels as the network reads them, NCHW."""

    mean: Tensor
    scale: Tensor

    def __init__(self, plane: Plane, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("mean", torch.tensor(plane.mean).view(1, -1, 1, 1))
        self.register_buffer("scale", 1.0 / torch.tensor(plane.std).view(1, -1, 1, 1))

    def forward(self, levels: Tensor) -> Tensor:
        """``(x - mean) / std``."""
        return ((levels.permute(0, 3, 1, 2).float() - self.mean) * self.scale).to(self.dtype)


def _attribute(name: str) -> str:
    """An input's name as one that a module's part may have."""
    return name.replace(".", "_")


class SegmentModule(nn.Module):
    """A segment with the backends' boundary around it: the uint8 picture in, float32 answers out."""

    def __init__(self, segment: Segment, planes: Sequence[Plane], answers: frozenset[str], precision: str) -> None:
        super().__init__()
        self.body = to_module(segment.graph)
        self.inputs = segment.inputs
        self.outputs = segment.outputs
        self.answers = answers
        self.dtype = DTYPES[precision]
        self.levels = nn.ModuleDict()
        for plane in planes:
            if plane.name in segment.inputs:
                self.levels[_attribute(plane.name)] = Levels(plane, segment.graph.by_name[plane.name].dtype)

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Features in the order of the segment's inputs, results in that of its outputs."""
        ready = [
            self.levels[_attribute(name)](x) if _attribute(name) in self.levels else x
            for name, x in zip(self.inputs, features, strict=True)
        ]
        with torch.autocast(features[0].device.type, self.dtype, enabled=self.dtype is not torch.float32):
            results = self.body(*ready)
        return tuple(
            results[name].float() if name in self.answers and results[name].is_floating_point() else results[name]
            for name in self.outputs
        )


class TorchSession:
    """Calls the module; every call gives new tensors, or fills the ones given."""

    def __init__(self, module: Module, into: Sequence[Tensor] | None = None) -> None:
        self._module = module
        self._into = into

    @torch.inference_mode()
    def __call__(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Run the segment."""
        return _filled(self._into, self._module(*features))


def _filled(into: Sequence[Tensor] | None, results: Sequence[Tensor]) -> Sequence[Tensor]:
    """The results, in the tensors that they should be in."""
    if into is None:
        return results
    for tensor, result in zip(into, results, strict=True):
        tensor.copy_(result)
    return into


class TorchExecutable:
    """A module that runs segments for any number of streams."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def session(self, into: Sequence[Tensor] | None = None) -> TorchSession:
        """A session that fills the given tensors; without them, torch allocates its results anew at every call."""
        return TorchSession(self.module, into)


class EagerBackend:
    """Torch without compilation: slow, plain, and what every other backend is held against."""

    name: ClassVar[str] = "eager"

    def __init__(self, precision: str, device: str = "cpu", threads: int | None = None) -> None:
        if precision not in DTYPES:
            raise BackendError(f"{self.name} knows the precisions {', '.join(DTYPES)}, not {precision!r}")
        if not self.precisions(device):
            raise BackendError(f"{self.name} cannot run on {device} here; `sharedbb doctor` says what can")
        self.precision = precision
        self.device = device
        if threads and device == "cpu":
            torch.set_num_threads(threads)

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        """Plain float32, on whatever device torch has."""
        return ("f32",) if device == "cpu" or torch.cuda.is_available() else ()

    @staticmethod
    def version() -> str:
        """Version of torch."""
        return str(torch.__version__)

    def compile(self, parts: Cut, planes: Sequence[Plane]) -> Sequence[TorchExecutable]:
        """Every segment as a module with channels_last weights on the device."""
        answers = frozenset(parts.answers.values())
        executables = []
        for segment in parts.segments:
            module = SegmentModule(segment, planes, answers, self.precision).eval().to(self.device)
            executables.append(self._compiled(segment, module._apply(_channels_last)))  # type: ignore[no-untyped-call]
        return executables

    def _compiled(self, segment: Segment, module: SegmentModule) -> TorchExecutable:
        """What runs a segment's module; here the module itself."""
        return TorchExecutable(module)

    @torch.inference_mode()
    def picture(self, size: Size, planes: Sequence[Plane]) -> Picture:
        """uint8 NHWC buffers; on a GPU page-locked ones and their copies there."""
        pinned = self.device != "cpu"
        host = {plane.name: torch.zeros(plane.shape(size), dtype=torch.uint8, pin_memory=pinned) for plane in planes}
        arrays = {name: tensor.numpy() for name, tensor in host.items()}
        return Picture(
            arrays, {name: tensor.to(self.device) for name, tensor in host.items()} if pinned else dict(host)
        )

    @torch.inference_mode()
    def upload(self, picture: Picture) -> None:
        """Copy the page-locked buffers to the GPU without waiting."""
        if self.device != "cpu":
            for name, array in picture.planes.items():
                picture.features[name].copy_(torch.from_numpy(array), non_blocking=True)

    def answer(self, feature: Tensor) -> NDArray[np.float32]:
        """The result on the host, NHWC when it has four dimensions."""
        placed = feature.permute(0, 2, 3, 1) if feature.dim() == 4 else feature
        array: NDArray[np.float32] = placed.float().cpu().numpy()
        return array

    def patches(self, feature: Tensor) -> TensorPatches:
        """The feature's own memory as [N, H, W, C], to be cut into tiles; pictures are stored like that already."""
        return TensorPatches(feature if feature.dtype is torch.uint8 else feature.permute(0, 2, 3, 1))

    @torch.inference_mode()
    def batch(self, feature: Tensor, count: int, height: int, width: int) -> Tensor:
        """A new buffer like a feature map, for as many crops of a height and width in cells."""
        if feature.dtype is torch.uint8:
            return feature.new_zeros((count, height, width, feature.shape[3]))
        made = feature.new_zeros((count, feature.shape[1], height, width))
        return made.to(memory_format=torch.channels_last)

    def save(self, executable: TorchExecutable) -> bytes | None:
        """Nothing to store: a module is rebuilt from the graph."""
        return None

    def load(self, stored: bytes) -> TorchExecutable:
        """Never called, since nothing is stored."""
        raise BackendError(f"{self.name} stores nothing")


def _channels_last(weight: Tensor) -> Tensor:
    """In channels_last where that exists: for four dimensions."""
    return weight.contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else weight


class InductorBackend(EagerBackend):
    """torch.compile with frozen weights. Needs a C++ compiler on the machine."""

    name: ClassVar[str] = "inductor"

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        """bfloat16 where the CPU multiplies it in hardware, float32 anywhere with a compiler."""
        if device != "cpu" or not any(shutil.which(compiler) for compiler in ("g++", "c++", "clang++", "cl")):
            return ()
        narrow = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return ("bf16", "f32") if narrow else ("f32",)

    def _compiled(self, segment: Segment, module: SegmentModule) -> TorchExecutable:
        """Compile now, at the segment's shapes, so that nothing is left for the first frame."""
        module.forward = MethodType(_code_of_its_own(module), module)  # type: ignore[method-assign]
        compiled = torch.compile(module, fullgraph=True, dynamic=False, options={"freezing": True})
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                compiled(*self._example(segment, module))
        except Exception as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise BackendError(f"{self.name} cannot compile segment {segment.name}: {reason}") from error
        return TorchExecutable(compiled)

    def _example(self, segment: Segment, module: SegmentModule) -> list[Tensor]:
        features = []
        for name in segment.inputs:
            node = segment.graph.by_name[name]
            if _attribute(name) in module.levels:
                batch, channels, height, width = node.shape
                features.append(torch.zeros((batch, height, width, channels), dtype=torch.uint8, device=self.device))
                continue
            dtype = DTYPES[self.precision] if node.dtype.is_floating_point else node.dtype
            feature = torch.zeros(node.shape, dtype=dtype, device=self.device)
            features.append(feature.to(memory_format=torch.channels_last) if feature.dim() == 4 else feature)
        return features


def _code_of_its_own(module: SegmentModule) -> FunctionType:
    """``forward`` as another function of the same code.

    torch.compile keeps what it compiled at the code object, tries all of it at every call, and gives up when one code
    object has more than eight.
    """
    forward = type(module).forward
    code = forward.__code__.replace(co_name=f"forward_of_{id(module)}")
    return FunctionType(code, forward.__globals__, code.co_name)


class CudaGraphSession:
    """Replays a CUDA graph, recorded at the first call.

    Pictures are copied into the graph's own buffer; features are read where they were at the first call, or copied
    there from where they are now. So nothing is ever recorded again.
    """

    def __init__(self, module: Module, into: Sequence[Tensor] | None = None) -> None:
        self._module = module
        self._into = into
        self._inputs: tuple[Tensor, ...] = ()
        self._results: Sequence[Tensor] = ()
        self._graph: torch.cuda.CUDAGraph | None = None

    @torch.inference_mode()
    def __call__(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Run the segment; the results are this session's buffers, overwritten by the next call."""
        if self._graph is None:
            self._record(features)
        assert self._graph is not None
        for own, given in zip(self._inputs, features, strict=True):
            if own is not given:
                own.copy_(given)
        self._graph.replay()
        return self._results

    def _record(self, features: Sequence[Tensor]) -> None:
        """Record the graph; meanwhile cuDNN measures which of its kernels is fastest at these shapes."""
        self._inputs = tuple(x.clone() if x.dtype is torch.uint8 else x for x in features)
        tf32 = torch.backends.cudnn.allow_tf32
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._module(*self._inputs)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._results = _filled(self._into, self._module(*self._inputs))
        self._graph = graph


class CudaExecutable(TorchExecutable):
    """A compiled module on a GPU."""

    def session(self, into: Sequence[Tensor] | None = None) -> CudaGraphSession:  # type: ignore[override]
        """A session with a CUDA graph, and with buffers of its own where none are given."""
        return CudaGraphSession(self.module, into)


class CudaBackend(InductorBackend):
    """NVIDIA GPUs: Inductor's kernels in half precision, channels_last, replayed as CUDA graphs."""

    name: ClassVar[str] = "cuda"

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        """Half precisions first, float32 on request."""
        if device != "cuda" or not torch.cuda.is_available():
            return ()
        return ("bf16", "f16", "f32") if torch.cuda.is_bf16_supported() else ("f16", "f32")

    def _compiled(self, segment: Segment, module: SegmentModule) -> CudaExecutable:
        """Inductor's kernels, to be recorded by every session."""
        return CudaExecutable(super()._compiled(segment, module).module)
