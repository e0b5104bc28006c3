"""The separate networks, and the merged one, as OpenVINO models, in 8 bits by NNCF's post-training quantization.

As https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/quantizing-models-post-training/basic-quantization-flow.html
says: ``nncf.quantize`` on some hundred representative pictures. Its preset ``mixed`` is for activations that take both
signs (PReLU, GELU, SiLU); these networks have ReLU and ReLU6 only, for which ``performance``, the default, is faster.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import openvino as ov
import torch
from torch import nn

from benchmarks import networks
from benchmarks.peers.base import Absent, Picture, Work, quietly

RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Identity)


def int8_models(work: Work) -> dict[str, Path]:
    """Files of the four separate networks in 8 bits, by head; made once in ``work.folder``.

    Each takes uint8 RGB [1, H, W, 3]; the normalization is inside. Raises Absent without NNCF.
    """
    return {head: _int8(work, head, network) for head, network in work.networks.items()}


def merged_int8(work: Work) -> Path:
    """The file of the hand-merged network in 8 bits. As above."""
    return _int8(work, "merged", work.whole)


def float_models(work: Work) -> dict[str, Path]:
    """Files of the four separate networks as they are, by head. As above."""
    return {head: _float(work, head, network) for head, network in work.networks.items()}


def merged_float(work: Work) -> Path:
    """The file of the hand-merged network as it is. As above."""
    return _float(work, "merged", work.whole)


def _float(work: Work, name: str, network: nn.Module) -> Path:
    """One network, its outputs named as they are in torch."""

    def make() -> ov.Model:
        shape = (1, 3, work.size.height, work.size.width)
        model = networks.openvino_model(network, work.normalization, shape)
        with torch.inference_mode():
            names = list(network(torch.zeros(shape)))
        for output, own in zip(model.outputs, names, strict=True):
            output.get_tensor().set_names({own})
        return model

    return _kept(work, f"{name}-float-{digest(network)}", make)


def _int8(work: Work, name: str, network: nn.Module) -> Path:
    """One network in 8 bits."""
    given, preset = _float(work, name, network), preset_of(network)
    return _kept(
        work,
        f"{name}-int8-{digest(network, work.calibration)}",
        lambda: quantized(ov.Core().read_model(given), work.calibration, preset),
    )


def _kept(work: Work, name: str, make: Callable[[], ov.Model]) -> Path:
    """The model's file of this name, made where it is not there; one that was not finished is not taken for one."""
    path = work.folder / f"{work.pipeline.name}-{name}.xml"
    if not path.is_file():
        unfinished = path.with_name(f"unfinished-{path.name}")
        ov.save_model(make(), unfinished, compress_to_fp16=False)
        unfinished.with_suffix(".bin").replace(path.with_suffix(".bin"))
        unfinished.replace(path)
    return path


def quantized(model: ov.Model, pictures: Sequence[Picture], preset: str) -> ov.Model:
    """The model with 8-bit weights and activations, calibrated on uint8 [H, W, 3] pictures."""
    try:
        import nncf
    except ImportError:
        raise Absent("nncf is not installed: pip install 'sharedbb[compress]'") from None
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with quietly(), redirect_stdout(io.StringIO()):  # its progress bars would run into the table
        rounded: Any = nncf.quantize(
            model,
            nncf.Dataset([picture[None] for picture in pictures]),
            preset=nncf.QuantizationPreset(preset),
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(pictures),
        )
    return rounded


def preset_of(network: nn.Module) -> str:
    """What NNCF recommends for the network's activation functions."""
    kinds = [type(module) for module in network.modules() if type(module).__module__ == "torch.nn.modules.activation"]
    return "performance" if all(kind in RECTIFIERS for kind in kinds) else "mixed"


def digest(network: nn.Module | None, pictures: Sequence[Picture] = ()) -> str:
    """Of the weights and the pictures: in a file's name, it says what the file was made of."""
    found = hashlib.sha256()
    for name, tensor in ({} if network is None else network.state_dict()).items():
        found.update(name.encode() + tensor.numpy().tobytes())
    for picture in pictures:
        found.update(picture.tobytes())
    return found.hexdigest()[:12]
