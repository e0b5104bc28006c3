"""A network as one file for another engine: the whole graph, a uint8 picture in, the heads' answers by name out."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharedbb.compress.onnx_rounding import translations, with_integer_weights
from sharedbb.errors import CompressionError
from sharedbb.graph.ir import Graph
from sharedbb.graph.lower import to_module
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.graph.quantization import unrounded, unsigned
from sharedbb.learn.network import Network

PICTURE = "picture"
"""What an exported network's input is called."""

Answers = dict[str, NDArray[np.float32]]
Prepare = Callable[[Graph], Graph]
Run = Callable[[NDArray[np.uint8]], Answers]


def as_it_is(graph: Graph) -> Graph:
    """The graph itself: a target that takes all that it has."""
    return graph


class Standalone(nn.Module):
    """A pipeline's network with its normalisation inside, batch norms folded.

    Takes uint8 RGB [1, height, width, 3] at the pipeline's input size; gives float32 answers by name, ``"head.part"``,
    feature maps NCHW. ``prepare`` brings the graph into the form that a target takes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, prepare: Prepare = as_it_is) -> None:
        super().__init__()
        graph = fold_batch_norms(prepare(network.graph()))
        normalization = network.pipeline.input.normalization
        self.names = tuple(graph.outputs)
        self.network = to_module(graph)
        self.register_buffer("mean", torch.tensor(normalization.mean).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor(normalization.std).reshape(3, 1, 1))

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        """The answers to one picture."""
        image = (picture.permute(0, 3, 1, 2).float() - self.mean) / self.std
        answers: dict[str, Tensor] = self.network(image)
        return answers


@dataclass(frozen=True, slots=True)
class Target:
    """A form that a network can be exported to.

    ``suffix``: of its files. ``write``: from a network, an example of its picture and a file. ``open``: from the file
    and the answers' names, in order. ``written_with`` and ``run_with``: the modules that these import; ``needs``: the
    environment that has them. ``prepare``: the graph as the target takes it, ``unrounded`` where activations cannot be
    rounded, ``unsigned`` where signed ones are not multiplied exactly on all processors. ``beside``: suffixes of what
    is written beside the file.
    """

    suffix: str
    write: Callable[[Standalone, Tensor, Path], None]
    open: Callable[[Path, Sequence[str]], Run]
    written_with: tuple[str, ...]
    run_with: tuple[str, ...]
    needs: str
    prepare: Prepare = as_it_is
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the target's name, the file, the answers by name with their shapes, in the file's order.

    ``said``: what of the network the target cannot hold, a sentence each.
    """

    target: str
    path: Path
    answers: Mapping[str, tuple[int, ...]]
    said: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All that was written: the file, and what lies beside it."""
        beside = (self.path.with_suffix(suffix) for suffix in TARGETS[self.target].beside)
        return (self.path, *beside)

    def open(self) -> Run:
        """The file in its own engine: uint8 [1, height, width, 3] RGB in, float32 answers by name out.

        Raises CompressionError when that engine is not installed.
        """
        target = TARGETS[self.target]
        _require(target, target.run_with)
        return target.open(self.path, tuple(self.answers))


def export(network: Network, target: str, path: str | Path) -> Exported:
    """Write a network for another engine: ``target`` is one of TARGETS, ``path`` ends in that target's suffix.

    The file holds the network at the pipeline's input size with normalisation inside (see ``Standalone``); placing the
    picture before and decoding the answers after are the caller's. OpenVINO's weights go into a file beside it. Files
    of these names stay as they are until all is written.

    Raises CompressionError for an unknown target or suffix, a package that is missing, and a network that the target
    cannot hold.
    """
    path = Path(path)
    if target not in TARGETS:
        raise CompressionError(f"cannot export to {target!r}; there are: {', '.join(TARGETS)}")
    known = TARGETS[target]
    if path.suffix != known.suffix:
        raise CompressionError(f"cannot export to {path}: files for {target} end in {known.suffix}")
    _require(known, known.written_with)
    standalone = Standalone(network, known.prepare).eval()
    size = network.pipeline.input.network_size
    picture = torch.zeros(1, size.height, size.width, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        shapes = {name: tuple(answer.shape) for name, answer in standalone(picture).items()}
        try:
            with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
                known.write(standalone, picture, Path(folder) / path.name)
                for written in Path(folder).iterdir():
                    written.replace(path.parent / written.name)
        except Exception as error:  # of whatever kind the target's package raises
            raise CompressionError(f"cannot export {network.pipeline.name} to {target}: {_reason(error)}") from error
    said: tuple[str, ...] = ()
    if network.scheme is not None and known.prepare is unrounded:
        said = (f"{target} holds no rounding of activations: weights are the rounded ones, arithmetic is float32",)
    return Exported(target, path, shapes, said)


def _require(target: Target, modules: Sequence[str]) -> None:
    """Import modules. Raises CompressionError naming the environment that has them, and what is here instead."""
    for module in modules:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        except Exception as error:  # a package for another torch fails in its own way
            raise CompressionError(
                f"this needs {target.needs}; here, with torch {torch.__version__}, {module} cannot be imported "
                f"({_reason(error)})"
            ) from error


def _reason(error: BaseException) -> str:
    """What an error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _program(standalone: Standalone, picture: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(standalone, (picture,))


def _named(names: Sequence[str], answers: Sequence[Any]) -> Answers:
    return {name: np.asarray(answer, np.float32) for name, answer in zip(names, answers, strict=True)}


def _write_torch(standalone: Standalone, picture: Tensor, path: Path) -> None:
    torch.export.save(_program(standalone, picture), path)


def _open_torch(path: Path, names: Sequence[str]) -> Run:
    module = torch.export.load(path).module()

    def run(picture: NDArray[np.uint8]) -> Answers:
        with torch.no_grad():
            answers = module(torch.from_numpy(picture))
        return _named(names, [answers[name] for name in names])

    return run


def _write_openvino(standalone: Standalone, picture: Tensor, path: Path) -> None:
    import openvino as ov

    model = ov.convert_model(_program(standalone, picture))
    model.inputs[0].get_tensor().set_names({PICTURE})
    model.reshape(list(picture.shape))
    for port, name in zip(model.outputs, standalone.names, strict=True):
        port.get_tensor().set_names({name})
    ov.save_model(model, path, compress_to_fp16=False)


def _open_openvino(path: Path, names: Sequence[str]) -> Run:
    import openvino as ov

    model = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(picture: NDArray[np.uint8]) -> Answers:
        answers = model(picture)
        return _named(names, [answers[name] for name in names])

    return run


def _write_onnx(standalone: Standalone, picture: Tensor, path: Path) -> None:
    program = torch.onnx.export(
        _program(standalone, picture),
        dynamo=True,
        verbose=False,
        input_names=[PICTURE],
        output_names=list(standalone.names),
        custom_translation_table=translations(),
    )
    assert program is not None
    program.save(path)


def _open_onnx(path: Path, names: Sequence[str]) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(picture: NDArray[np.uint8]) -> Answers:
        return _named(names, session.run(list(names), {PICTURE: picture}))

    return run


def _write_executorch(standalone: Standalone, picture: Tensor, path: Path) -> None:
    exir = importlib.import_module("executorch.exir")
    xnnpack = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    program = _program(standalone, picture)
    lowered = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def _open_executorch(path: Path, names: Sequence[str]) -> Run:
    runtime = importlib.import_module("executorch.runtime").Runtime.get()
    method = runtime.load_program(path).load_method("forward")

    def run(picture: NDArray[np.uint8]) -> Answers:
        return _named(names, method.execute([torch.from_numpy(picture)]))

    return run


def _write_litert(standalone: Standalone, picture: Tensor, path: Path) -> None:
    converter = importlib.import_module("litert_torch")
    converter.convert(standalone, sample_kwargs={PICTURE: picture}).export(str(path))


def _open_litert(path: Path, names: Sequence[str]) -> Run:
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(str(path))
    signature = interpreter.get_signature_runner()

    def run(picture: NDArray[np.uint8]) -> Answers:
        answers = signature(**{PICTURE: picture})
        return _named(names, [answers[name] for name in names])

    return run


TARGETS: Mapping[str, Target] = {
    "onnx": Target(
        ".onnx",
        _write_onnx,
        _open_onnx,
        ("onnx", "onnxscript"),
        ("onnxruntime",),
        "onnx, onnxscript and onnxruntime: pip install onnx onnxscript onnxruntime",
        prepare=with_integer_weights,
    ),
    "openvino": Target(
        ".xml",
        _write_openvino,
        _open_openvino,
        ("openvino",),
        ("openvino",),
        "openvino: pip install openvino",
        prepare=unsigned,
        beside=(".bin",),
    ),
    "torch-export": Target(".pt2", _write_torch, _open_torch, (), (), "torch"),
    "executorch": Target(
        ".pte",
        _write_executorch,
        _open_executorch,
        ("executorch.exir",),
        ("executorch.runtime",),
        "ExecuTorch built for the torch it runs with (1.5 for torch 2.15): pip install executorch",
        prepare=unrounded,
    ),
    "litert": Target(
        ".tflite",
        _write_litert,
        _open_litert,
        ("litert_torch",),
        ("ai_edge_litert",),
        "litert-torch, which wants torch below 2.15, in an environment of its own: "
        "pip install sharedbb litert-torch 'torch<2.15'",
        prepare=unrounded,
    ),
}
"""Forms that a network can be exported to, by name."""
