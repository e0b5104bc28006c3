"""ONNX files as networks, run by OpenVINO on the CPU; the one module here that imports it."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import CompressionError
from sharedbb.learn.teachers.heads import Arrays, Precision
from sharedbb.spec.fuse import TeacherInput

if TYPE_CHECKING:
    import openvino as ov

BESIDE = (".data", ".bin")
"""Endings of files in which weights lie beside the network: NAME.onnx.data and NAME.bin."""

CAPABILITIES = {"bf16": "BF16", "f16": "FP16"}
"""What OpenVINO calls them where a processor computes in them."""


class OnnxNetwork:
    """An ONNX file that takes [1, H, W, 3] uint8 RGB pictures of the input's size; the conversion is part of it.

    Computes in float32 until ``compile`` says otherwise; integers, where the file has them, are computed as such.
    Raises CompressionError for a file that cannot be read, or whose input is not one picture of that size.
    """

    def __init__(self, file: str, given: TeacherInput) -> None:
        self.file, self._input = file, given
        model = self._read()
        self._names = [min(port.names, default=str(index)) for index, port in enumerate(model.outputs)]
        constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
        self.parameters = sum(int(np.prod(op.shape)) for op in constants if op.get_element_type().is_real())
        self._model = _with_conversion(model, self._fixed(model), given)
        self.compile("f32")

    @property
    def digest(self) -> str:
        """SHA-256 of the file and of those with its weights, in hex."""
        path, found = Path(self.file), hashlib.sha256()
        for one in (path, path.with_name(path.name + BESIDE[0]), path.with_suffix(BESIDE[1])):
            if one.is_file():
                found.update(hashlib.sha256(one.read_bytes()).digest())
        return found.hexdigest()

    def __call__(self, picture: NDArray[np.uint8]) -> Arrays:
        """What it computes, by the outputs' names; the arrays are the caller's."""
        self._request.infer([picture])
        return {name: self._request.get_output_tensor(i).data.copy() for i, name in enumerate(self._names)}

    def compile(self, precision: Precision, pictures: Sequence[NDArray[np.uint8]] = ()) -> None:
        """Compute in this precision from now on; int8 is calibrated on ``pictures``, each as the network takes it.

        Raises CompressionError where this processor cannot, or without pictures or NNCF for int8.
        """
        able = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision not in ("f32", "int8") and CAPABILITIES[precision] not in able:
            raise CompressionError(f"openvino cannot compute {precision} on this processor; f32 runs everywhere")
        model = self._quantized(pictures) if precision == "int8" else self._model
        hints = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else precision,
        }
        try:
            self._request = _core().compile_model(model, "CPU", hints).create_infer_request()
        except RuntimeError as error:
            raise CompressionError(f"openvino cannot compile {self.file} in {precision}: {_last(error)}") from error

    def _read(self) -> ov.Model:
        if not Path(self.file).is_file():
            raise CompressionError(f"there is no file {self.file}")
        try:
            return _core().read_model(self.file)
        except RuntimeError as error:
            raise CompressionError(f"cannot read {self.file} as an ONNX file: {_last(error)}") from error

    def _fixed(self, model: ov.Model) -> str:
        """Fix the input's shape to one picture of the size; returns its layout."""
        ports, size = model.inputs, self._input.size
        if len(ports) != 1 or ports[0].partial_shape.rank.is_dynamic or len(ports[0].partial_shape) != 4:
            found = ", ".join(f"{port.any_name} {port.partial_shape}" for port in ports)
            raise CompressionError(
                f"{self.file} takes {found}; a teacher takes one picture, [1, 3, H, W] or [1, H, W, 3]"
            )
        sides = [None if side.is_dynamic else side.get_length() for side in ports[0].partial_shape]
        layout = "NHWC" if sides[3] == 3 and sides[1] != 3 else "NCHW"
        wanted = [1, 3, *size] if layout == "NCHW" else [1, *size, 3]
        if any(side not in (None, asked) for side, asked in zip(sides, wanted, strict=True)):
            raise CompressionError(f"{self.file} takes {ports[0].partial_shape}, its input is said to be {wanted}")
        try:
            model.reshape(wanted)
        except RuntimeError as error:
            raise CompressionError(f"{self.file} cannot take pictures {wanted}: {_last(error)}") from error
        return layout

    def _quantized(self, pictures: Sequence[NDArray[np.uint8]]) -> ov.Model:
        """The model with 8-bit weights and activations, calibrated by NNCF."""
        if not pictures:
            raise CompressionError(f"{self.file} in int8 needs pictures to calibrate on")
        try:
            import nncf
        except ImportError as error:
            raise CompressionError("a teacher in int8 needs nncf: pip install 'sharedbb[compress]'") from error
        logging.getLogger("nncf").setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # its progress bars are not ours
            warnings.simplefilter("ignore")
            rounded: ov.Model = nncf.quantize(self._model, nncf.Dataset(list(pictures)), subset_size=len(pictures))
        return rounded


@cache
def _core() -> ov.Core:
    """OpenVINO, begun once. Raises CompressionError where it is not installed."""
    try:
        import openvino as ov
    except ImportError as error:
        raise CompressionError("a teacher in an ONNX file needs openvino: pip install openvino") from error
    return ov.Core()


def _with_conversion(model: ov.Model, layout: str, given: TeacherInput) -> ov.Model:
    """The model from [1, H, W, 3] uint8 RGB on; what it computes in floating point comes out as float32."""
    import openvino as ov
    from openvino.preprocess import ColorFormat, PrePostProcessor

    steps = PrePostProcessor(model)
    picture = steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    picture.set_color_format(ColorFormat.RGB)
    steps.input().model().set_layout(ov.Layout(layout))
    conversion = steps.input().preprocess()
    if given.order == "bgr":
        conversion.convert_color(ColorFormat.BGR)
    if (*given.mean, *given.std) != (0, 0, 0, 1, 1, 1):
        conversion.convert_element_type(ov.Type.f32).mean(list(given.mean)).scale(list(given.std))
    for index, port in enumerate(model.outputs):
        if port.element_type.is_real():
            steps.output(index).tensor().set_element_type(ov.Type.f32)
    built: Any = steps.build()
    return built


def _last(error: Exception) -> str:
    """The last line of an error of OpenVINO, which says what happened; those before say where."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
