"""OpenVINO on the CPU: features stay NHWC in the inference precision, in buffers that the next segment reads."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sharedbb.backends.base import Picture
from sharedbb.backends.imports import without_converter
from sharedbb.backends.patches import ArrayPatches
from sharedbb.errors import BackendError
from sharedbb.types import Plane, Size

with without_converter():
    import openvino as ov
    from openvino import opset16 as opset
    from openvino.preprocess import PrePostProcessor

if TYPE_CHECKING:
    from sharedbb.graph.cut import Cut, Segment
    from sharedbb.graph.ir import Graph, Node

TYPES = {"f32": ov.Type.f32, "bf16": ov.Type.bf16, "f16": ov.Type.f16}

# NumPy has no bfloat16: buffers of that type are held as the 16-bit integers that they are in memory.
STORAGE = {ov.Type.f32: np.float32, ov.Type.bf16: np.uint16, ov.Type.f16: np.float16}


# Converted models of graphs that are still alive, and the features that are their outputs.
_models: WeakKeyDictionary[Graph, tuple[ov.Model, tuple[str, ...]]] = WeakKeyDictionary()


@cache
def core() -> ov.Core:
    """The process's one OpenVINO core."""
    return ov.Core()


class Feature:
    """A tensor of OpenVINO and the NumPy memory under it, which must live as long."""

    __slots__ = ("array", "tensor")

    def __init__(self, array: NDArray[Any], kind: ov.Type) -> None:
        self.array = array
        self.tensor = ov.Tensor(array, list(array.shape), kind)

    @classmethod
    def empty(cls, shape: Sequence[int], kind: ov.Type) -> Feature:
        """A new buffer of a shape and element type."""
        storage = STORAGE.get(kind) or kind.to_dtype()
        return cls(np.zeros(tuple(shape), storage), kind)


class OpenVINOSession:
    """One infer request whose outputs are bound once; inputs are bound again only when another buffer comes."""

    def __init__(self, model: ov.CompiledModel, into: Sequence[Feature] | None) -> None:
        self._request = model.create_infer_request()
        self._outputs = list(into or [Feature.empty(out.get_shape(), out.get_element_type()) for out in model.outputs])
        self._bound: list[Any] = [None] * len(model.inputs)
        for position, feature in enumerate(self._outputs):
            self._request.set_output_tensor(position, feature.tensor)

    def __call__(self, features: Sequence[Feature]) -> Sequence[Feature]:
        """Run the segment; the results are the session's buffers, overwritten by the next call."""
        bound = self._bound
        for position, feature in enumerate(features):
            if bound[position] is not feature:
                self._request.set_input_tensor(position, feature.tensor)
                bound[position] = feature
        # The request's own executor is faster here than running in the calling thread (6.9 against 7.6 ms for four
        # segments of a MobileNetV2 at 384×640 on two cores).
        self._request.start_async()
        self._request.wait()
        return self._outputs


class OpenVINOExecutable:
    """A compiled model of OpenVINO."""

    def __init__(self, model: ov.CompiledModel) -> None:
        self.model = model

    def session(self, into: Sequence[Feature] | None = None) -> OpenVINOSession:
        """A session that writes into the given features, or into buffers of its own."""
        return OpenVINOSession(self.model, into)


class OpenVINOBackend:
    """Compiles segments with OpenVINO's CPU plug-in.

    ``threads`` None means one on every core and kept there; so many as are given go where the system puts them, since
    OpenVINO would keep those of every engine to the same first cores.
    """

    name: ClassVar[str] = "openvino"

    def __init__(self, precision: str, device: str = "cpu", threads: int | None = None) -> None:
        if precision not in self.precisions(device):
            able = ", ".join(self.precisions(device)) or "nothing; use device cpu"
            raise BackendError(f"openvino cannot run {precision} on {device} here; it can run {able}")
        self.precision = precision
        self.device = device
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": TYPES[precision],
        }
        if threads:
            self._options |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        """What this CPU computes natively, the narrowest first."""
        if device != "cpu":
            return ()
        capable = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return tuple(name for name, flag in (("bf16", "BF16"), ("f32", "FP32")) if flag in capable)

    @staticmethod
    def version() -> str:
        """Version of OpenVINO, for cache keys and reports."""
        return str(ov.get_version())

    def compile(self, parts: Cut, planes: Sequence[Plane]) -> list[OpenVINOExecutable]:
        """Convert the whole graph through ``torch.export``, take it apart, compile every segment."""
        model, features = _converted(parts)
        answers, given = frozenset(parts.answers.values()), {plane.name: plane for plane in planes}
        return [
            self._compile(segment, _taken_out(segment, model, features, parts.graph.inputs), given, answers)
            for segment in parts.segments
        ]

    def _compile(
        self, segment: Segment, model: ov.Model, planes: Mapping[str, Plane], answers: frozenset[str]
    ) -> OpenVINOExecutable:
        """Put the planes' normalisation and the features' layouts in, and compile."""
        kind = TYPES[self.precision]
        try:
            steps = PrePostProcessor(model)
            for position, name in enumerate(segment.inputs):
                node = segment.graph.by_name[name]
                given = ov.Type.f32 if name in answers else kind
                _describe_input(steps.input(position), node, given, planes.get(name))
            for position, name in enumerate(segment.outputs):
                node = segment.graph.by_name[name]
                _describe_output(steps.output(position), node, ov.Type.f32 if name in answers else kind)
            return OpenVINOExecutable(core().compile_model(steps.build(), "CPU", self._options))
        except RuntimeError as error:
            raise BackendError(f"openvino cannot compile segment {segment.name}: {_first_line(error)}") from error

    def picture(self, size: Size, planes: Sequence[Plane]) -> Picture:
        """uint8 NHWC buffers that the first segment reads in place."""
        arrays = {plane.name: np.zeros(plane.shape(size), np.uint8) for plane in planes}
        return Picture(arrays, {name: Feature(array, ov.Type.u8) for name, array in arrays.items()})

    def upload(self, picture: Picture) -> None:
        """Nothing: the array is the tensor."""

    def answer(self, feature: Feature) -> NDArray[np.float32]:
        """The output buffer itself, a copy where the network answers with whole numbers."""
        return feature.array.astype(np.float32, copy=False)

    def patches(self, feature: Feature) -> ArrayPatches:
        """The feature's own memory, to be cut into tiles."""
        return ArrayPatches(feature.array, bfloat16=feature.tensor.get_element_type() == ov.Type.bf16)

    def batch(self, feature: Feature, count: int, height: int, width: int) -> Feature:
        """A new buffer like a feature map, for as many crops of a height and width in cells."""
        shape = (count, height, width, feature.array.shape[3])
        return Feature.empty(shape, feature.tensor.get_element_type())

    def save(self, executable: OpenVINOExecutable) -> bytes:
        """The compiled model as OpenVINO exports it."""
        return bytes(executable.model.export_model().getvalue())

    def load(self, stored: bytes) -> OpenVINOExecutable:
        """Import what ``save`` gave."""
        return OpenVINOExecutable(core().import_model(io.BytesIO(stored), "CPU", self._options))


def _converted(parts: Cut) -> tuple[ov.Model, tuple[str, ...]]:
    """The whole graph as an OpenVINO model of fixed shapes, and the features that its outputs are.

    Conversion takes far longer than compilation, so trying several precisions, or other segments, converts once.
    """
    known = _models.get(parts.graph)
    if known is None or not set(parts.features) <= set(known[1]):
        known = _models[parts.graph] = (_convert(parts), parts.features)
    return known


def _convert(parts: Cut) -> ov.Model:
    import torch

    from sharedbb.graph.lower import to_module
    from sharedbb.graph.quantization import unsigned

    graph = parts.graph if _multiplies_signed() else unsigned(parts.graph)
    inputs = [graph.by_name[name] for name in graph.inputs]
    example = tuple(torch.zeros(node.shape, dtype=node.dtype) for node in inputs)
    module = to_module(replace(graph, outputs={name: name for name in parts.features}))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = ov.convert_model(torch.export.export(module, example))
        model.reshape({port: list(node.shape) for port, node in zip(model.inputs, inputs, strict=True)})
    except Exception as error:
        said = f"{_first_line(error)}; backend inductor or eager can run it"
        raise BackendError(f"openvino cannot convert the network: {said}") from error
    return model


def _multiplies_signed() -> bool:
    """Whether OpenVINO multiplies signed activations of 8 bits exactly on this processor.

    It does with AMX. With AVX-512 VNNI what it answered was farther off than rounding itself, without VNNI twice as
    far; unsigned activations are exact on all.
    """
    import torch

    return bool(torch.cpu._is_amx_tile_supported())


def _taken_out(segment: Segment, model: ov.Model, features: Sequence[str], planes: Sequence[str]) -> ov.Model:
    """A model of one segment: its input features become parameters of the segment's shapes, its outputs results.

    ``planes``: what the whole model's parameters are called.
    """
    model = model.clone()
    sources = {name: port.get_node().input_value(0) for name, port in zip(features, model.outputs, strict=True)}
    parameters = []
    for name in segment.inputs:
        if name in planes:
            parameters.append(model.get_parameters()[planes.index(name)])
            continue
        parameter = opset.parameter(sources[name].get_shape(), sources[name].get_element_type())
        for reader in sources[name].get_target_inputs():
            reader.replace_source_output(parameter.output(0))
        parameters.append(parameter)
    results = [opset.result(sources[name]) for name in segment.outputs]
    part = ov.Model(results, parameters, segment.name)
    shapes = [list(segment.graph.by_name[name].shape) for name in segment.inputs]
    if shapes != [list(port.get_shape()) for port in part.inputs]:
        part.reshape(dict(zip(part.inputs, shapes, strict=True)))
    return part


def _describe_input(info: Any, node: Node, kind: ov.Type, plane: Plane | None) -> None:
    if len(node.shape) == 4:
        info.tensor().set_layout(ov.Layout("NHWC"))
        info.model().set_layout(ov.Layout("NCHW"))
    if plane is not None:
        info.tensor().set_element_type(ov.Type.u8)
        steps = info.preprocess().convert_element_type(ov.Type.f32)
        steps.mean(list(plane.mean)).scale(list(plane.std))
    elif node.dtype.is_floating_point:
        info.tensor().set_element_type(kind)


def _describe_output(info: Any, node: Node, kind: ov.Type) -> None:
    if node.dtype.is_floating_point:
        info.tensor().set_element_type(kind)
    if len(node.shape) == 4:
        info.model().set_layout(ov.Layout("NCHW"))
        info.tensor().set_layout(ov.Layout("NHWC"))


def _first_line(error: BaseException) -> str:
    """What is wrong; where OpenVINO sums it up, which operators it lacks."""
    lines = str(error).rpartition("Summary:")[2].splitlines()
    return next((line.strip("- ") for line in lines if line.strip()), type(error).__name__)
