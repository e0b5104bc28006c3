"""Networks made of one or two operators, written as ONNX files, and modules of Python to import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Writer = Callable[..., str]


@pytest.fixture
def write_onnx(tmp_path: Path) -> Writer:
    """Writes a network that answers with constants, or with its picture where an output is None; returns the path."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def write(
        name: str = "net.onnx", inputs: dict[str, Any] | None = None, kind: int = TensorProto.FLOAT, **outputs: Any
    ) -> str:
        given = inputs or {"picture": [1, 3, 8, 12]}
        nodes, constants, answers = [], [], []
        first = next(iter(given))
        for output, array in outputs.items():
            if array is None:
                nodes.append(helper.make_node("Identity", [first], [output]))
                answers.append(helper.make_tensor_value_info(output, kind, given[first]))
                continue
            constants.append(numpy_helper.from_array(array, f"{output}_constant"))
            nodes.append(helper.make_node("Identity", [f"{output}_constant"], [output]))
            answers.append(helper.make_tensor_value_info(output, constants[-1].data_type, array.shape))
        takes = [helper.make_tensor_value_info(key, kind, shape) for key, shape in given.items()]
        graph = helper.make_graph(nodes, "net", takes, answers, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path = tmp_path / name
        onnx.save(model, str(path))
        return str(path)

    return write


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Writes a module of Python that can be imported as long as the test runs; returns its name."""

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
        return name

    return write


@pytest.fixture
def rgb() -> np.ndarray:
    """A picture of noise, 8 x 12."""
    return np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
