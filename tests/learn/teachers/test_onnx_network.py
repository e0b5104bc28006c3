"""ONNX files: the picture arrives as the contract says, names stay, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from sharedbb.errors import CompressionError
from sharedbb.learn.teachers.onnx_network import OnnxNetwork
from sharedbb.spec.fuse import TeacherInput

GIVEN = TeacherInput(size=(8, 12))
HALVES = np.array([0.5, 0.25], np.float32)


class TestPicture:
    def test_order_mean_and_deviation(self, write_onnx: Any, rgb: np.ndarray) -> None:
        mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
        given = TeacherInput(size=(8, 12), order="bgr", mean=mean, std=std)
        found = OnnxNetwork(write_onnx(seen=None), given)(rgb[None])["seen"]
        expected = (rgb[..., ::-1].astype(np.float32) - mean) / std
        assert found.dtype == np.float32
        assert np.allclose(found, expected.transpose(2, 0, 1)[None], atol=1e-5)

    @pytest.mark.parametrize("shape", [["n", 3, "h", "w"], [1, 3, 8, 12]])
    def test_sides_of_any_length_become_the_size(self, write_onnx: Any, rgb: np.ndarray, shape: list[Any]) -> None:
        network = OnnxNetwork(write_onnx(inputs={"x": shape}, seen=None), GIVEN)
        assert np.array_equal(network(rgb[None])["seen"], rgb.transpose(2, 0, 1)[None])

    def test_channels_last_and_whole_numbers(self, write_onnx: Any, rgb: np.ndarray) -> None:
        path = write_onnx(inputs={"x": [1, 8, 12, 3]}, kind=2, seen=None)  # uint8
        found = OnnxNetwork(path, GIVEN)(rgb[None])["seen"]
        assert found.dtype == np.uint8
        assert np.array_equal(found[0], rgb)


class TestOutputs:
    def test_names_types_and_weights(self, write_onnx: Any, rgb: np.ndarray) -> None:
        network = OnnxNetwork(write_onnx(halves=HALVES, labels=np.array([3, 1]), seen=None), GIVEN)
        first = network(rgb[None])
        assert {name: array.dtype.name for name, array in first.items()} == {
            "halves": "float32",
            "labels": "int64",
            "seen": "float32",
        }
        assert first["labels"].tolist() == [3, 1]
        assert network.parameters == 2
        kept = first["seen"].copy()
        network(np.zeros_like(rgb)[None])
        assert np.array_equal(first["seen"], kept)

    def test_half_precision_comes_out_as_float32(self, write_onnx: Any, rgb: np.ndarray) -> None:
        found = OnnxNetwork(write_onnx(halves=HALVES.astype(np.float16), seen=None), GIVEN)(rgb[None])
        assert (found["halves"].dtype, found["halves"].tolist()) == (np.float32, [0.5, 0.25])

    def test_the_digest_is_that_of_the_content(self, write_onnx: Any, tmp_path: Path) -> None:
        first, second = write_onnx("a.onnx", halves=HALVES, seen=None), write_onnx("b.onnx", halves=HALVES, seen=None)
        same = OnnxNetwork(first, GIVEN).digest
        assert OnnxNetwork(second, GIVEN).digest == same
        (tmp_path / "b.onnx.data").write_bytes(b"weights beside it")
        assert OnnxNetwork(second, GIVEN).digest != same
        assert OnnxNetwork(write_onnx("a.onnx", halves=2 * HALVES, seen=None), GIVEN).digest != same


class TestPrecision:
    @pytest.fixture
    def network(self, tmp_path: Path) -> OnnxNetwork:
        """A convolution, a ReLU and another."""
        onnx = pytest.importorskip("onnx")
        from onnx import helper, numpy_helper

        rng = np.random.default_rng(7)
        weights = [rng.normal(0, 0.3, (8, 3, 3, 3)), rng.normal(0, 0.3, (4, 8, 3, 3))]
        given = [numpy_helper.from_array(w.astype(np.float32), f"w{i}") for i, w in enumerate(weights)]
        nodes = [
            helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "w1"], ["y"], pads=[1, 1, 1, 1]),
        ]
        takes, gives = (helper.make_tensor_value_info(n, 1, [1, c, 8, 12]) for n, c in (("x", 3), ("y", 4)))
        graph = helper.make_graph(nodes, "net", [takes], [gives], given)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "c.onnx"
        )
        return OnnxNetwork(str(tmp_path / "c.onnx"), TeacherInput(size=(8, 12), std=(255.0, 255.0, 255.0)))

    def test_in_16_bits_it_answers_nearly_alike(self, network: OnnxNetwork, rgb: np.ndarray) -> None:
        exact = network(rgb[None])["y"]
        able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in able:
            with pytest.raises(CompressionError, match="openvino cannot compute bf16 on this processor"):
                network.compile("bf16")
            return
        network.compile("bf16")
        assert np.allclose(network(rgb[None])["y"], exact, atol=0.03 * np.abs(exact).max())

    def test_in_integers_it_needs_pictures_and_answers_nearly_alike(
        self, network: OnnxNetwork, rgb: np.ndarray
    ) -> None:
        with pytest.raises(CompressionError, match="in int8 needs pictures to calibrate on"):
            network.compile("int8")
        pytest.importorskip("nncf")
        exact = network(rgb[None])["y"]
        network.compile("int8", [rgb[None], rgb[None, ::-1].copy()])
        rounded = network(rgb[None])["y"]
        assert not np.array_equal(rounded, exact)
        assert np.allclose(rounded, exact, atol=0.05 * np.abs(exact).max())


class TestRefused:
    def test_files_that_are_not_there_or_no_networks(self, tmp_path: Path) -> None:
        with pytest.raises(CompressionError, match=r"there is no file .*absent\.onnx"):
            OnnxNetwork(str(tmp_path / "absent.onnx"), GIVEN)
        (tmp_path / "bad.onnx").write_bytes(b"no network")
        with pytest.raises(CompressionError, match=r"cannot read .*bad\.onnx as an ONNX file") as caught:
            OnnxNetwork(str(tmp_path / "bad.onnx"), GIVEN)
        assert "\n" not in str(caught.value)

    def test_another_size(self, write_onnx: Any) -> None:
        with pytest.raises(CompressionError, match=r"takes \[1,3,16,12\], its input is said to be \[1, 3, 8, 12\]"):
            OnnxNetwork(write_onnx(inputs={"x": [1, 3, 16, 12]}, seen=None), GIVEN)
        with pytest.raises(CompressionError, match="its input is said to be"):
            OnnxNetwork(write_onnx(inputs={"x": [1, 4, 8, 12]}, seen=None), GIVEN)

    def test_several_inputs(self, write_onnx: Any) -> None:
        with pytest.raises(CompressionError, match=r"takes a \[1,3,8,12\], b \[1,2\]; a teacher takes one picture"):
            OnnxNetwork(write_onnx(inputs={"a": [1, 3, 8, 12], "b": [1, 2]}, seen=None), GIVEN)
