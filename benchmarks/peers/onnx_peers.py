"""ONNX Runtime's CPU provider: separate networks and the merged one, in float32 and in 8 bits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sharedbb as sb
from benchmarks.networks import Normalized
from benchmarks.peers.base import Absent, Answers, Peer, Picture, Work, cores, quietly
from benchmarks.peers.quantized import digest

FLOAT = (
    "https://onnxruntime.ai/docs/performance/tune-performance/threading.html: all graph optimizations, sequential "
    "execution, an intra-op thread a core"
)
INT8 = (
    "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html: pre-processed, then static QDQ, "
    "S8S8, weights by channel"
)
CALIBRATION = 32  # pictures: its MinMax calibration keeps every activation of every picture until the end


def separate(work: Work) -> dict[str, nn.Module]:
    """The four separate networks, by head."""
    return work.networks


def merged(work: Work) -> dict[str, nn.Module]:
    """The hand-merged network."""
    return {"merged": work.whole}


def sessions(networks: Callable[[Work], dict[str, nn.Module]], *, int8: bool) -> Callable[[Work], Any]:
    """A frame through all networks."""

    def prepare(work: Work) -> Callable[[sb.Frame], Answers]:
        intake = work.intake()
        made = [session_of(work, name, network, int8) for name, network in networks(work).items()]
        names = [[output.name for output in one.get_outputs()] for one in made]

        def run(frame: sb.Frame) -> Answers:
            given = {"picture": intake(frame)}
            found: Answers = {}
            for session, outputs in zip(made, names, strict=True):
                found.update(zip(outputs, session.run(outputs, given), strict=True))
            return found

        return run

    return prepare


def session_of(work: Work, name: str, network: nn.Module, int8: bool) -> Any:
    """One network, ready to run."""
    try:
        import onnxruntime
    except ImportError:
        raise Absent("onnxruntime is not installed: pip install 'sharedbb[bench]'") from None
    path = exported(work, name, network)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = cores()  # by default as many as the machine has, whatever it is pinned to
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between runs: here others want the cores
    options.log_severity_level = 3
    file = quantized(work, path) if int8 else path
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def exported(work: Work, name: str, network: nn.Module) -> Path:
    """The network as an ONNX file; takes ``picture``, uint8 RGB [1, H, W, 3]; normalization inside."""
    path = work.folder / f"{work.pipeline.name}-{name}-{digest(network)}.onnx"
    if not path.is_file():
        picture = torch.zeros(1, work.size.height, work.size.width, 3, dtype=torch.uint8)
        module = Normalized(network, work.normalization).eval()
        with quietly(), torch.inference_mode():
            outputs = list(module(picture))
            unfinished = path.with_suffix(".part")
            torch.onnx.export(
                module,
                (picture,),
                unfinished,
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["picture"],
                output_names=outputs,
            )
        unfinished.replace(path)
    return path


def onnx_files(work: Work) -> list[Path]:
    """Files of the four separate networks."""
    return [exported(work, head, network) for head, network in work.networks.items()]


def quantized(work: Work, path: Path) -> Path:
    """The file of the same network in 8 bits."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = path.with_name(f"{path.stem}-int8-{digest(None, work.calibration)}.onnx")
    if not target.is_file():
        logging.getLogger().setLevel(logging.ERROR)
        prepared, unfinished = path.with_suffix(".pre"), target.with_suffix(".part")
        with quietly():
            quant_pre_process(path, prepared, skip_symbolic_shape=True)  # which is for transformers, it says
            quantize_static(
                prepared,
                unfinished,
                _Pictures(work.calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )
        prepared.unlink()
        unfinished.replace(target)
    return target


class _Pictures:
    """Calibration pictures as ONNX Runtime reads them: one at a time, then None."""

    def __init__(self, pictures: list[Picture]) -> None:
        self._left: Iterator[Picture] = islice(pictures, CALIBRATION)

    def get_next(self) -> dict[str, Picture] | None:
        picture = next(self._left, None)
        return None if picture is None else {"picture": picture[None]}


ONNX = (
    Peer("ONNX Runtime f32, separate", FLOAT, sessions(separate, int8=False)),
    Peer("ONNX Runtime f32, merged by hand", FLOAT, sessions(merged, int8=False)),
    Peer("ONNX Runtime int8, separate", INT8, sessions(separate, int8=True)),
    Peer("ONNX Runtime int8, merged by hand", INT8, sessions(merged, int8=True)),
)
