"""Calibration by NNCF: the one module that imports it.

NNCF places roundings for OpenVINO's integer kernels and corrects biases (Nagel et al., Data-Free Quantization Through
Weight Equalization and Bias Correction, 2019); https://github.com/openvinotoolkit/nncf.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from torch import Tensor

from sharedbb.compress.calibration import calls_of, exported, read_back
from sharedbb.errors import CompressionError
from sharedbb.graph.ir import Graph
from sharedbb.graph.quantization import Grid


def calibrated(
    graph: Graph, images: Sequence[Tensor], alone: frozenset[str], *, symmetric: bool
) -> tuple[dict[str, Grid], dict[str, Tensor]]:
    """Grids of the activations, and corrected biases, by edge of a ``prepared`` graph.

    ``images``: normalised float32 [1, 3, H, W]. ``alone``: calls that stay in floating point. ``symmetric``: whether
    values of both signs get a zero point of 0.
    """
    try:
        import nncf
    except ImportError:
        raise CompressionError("tool 'nncf' needs nncf: pip install 'sharedbb[compress]'") from None
    module = exported(graph)
    ours = [node.name for node in graph.nodes if node.op != "input"]
    floating = [call.name for call, name in zip(calls_of(module), ours, strict=True) if name in alone]
    preset = nncf.QuantizationPreset.PERFORMANCE if symmetric else nncf.QuantizationPreset.MIXED
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # its progress bars are not ours
        warnings.simplefilter("ignore")
        rounded: Any = nncf.quantize(
            module,
            nncf.Dataset(images),
            preset=preset,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=floating) if floating else None,
        )
    grids, biases = read_back(graph, rounded)
    return grids, biases
