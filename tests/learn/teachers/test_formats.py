"""Formats of maps, tags, points and vectors, and how formats are found and made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from sharedbb.errors import GraphError, RegistryError
from sharedbb.learn.teachers.boxes import SsdFormat
from sharedbb.learn.teachers.formats import (
    FORMATS,
    DepthFormat,
    EmbeddingFormat,
    Format,
    HeatmapsFormat,
    SegmentationFormat,
    TagsFormat,
    Wanted,
    made,
    register_format,
)
from sharedbb.learn.teachers.heads import Arrays
from sharedbb.outputs.embedding import Embedding
from sharedbb.outputs.keypoints import KeypointsDecoder
from sharedbb.outputs.segmentation import SegmentationDecoder
from sharedbb.types import Geometry, Output, Size

GEOMETRY = Geometry.fit(Size(24, 40), Size(32, 48))
ABC = Wanted(("a", "b", "c"))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 2, shape).astype(np.float32)


def answer(decode: Format, array: np.ndarray) -> Any:
    (found,) = decode({"any": array}, GEOMETRY).values()
    return found


class TestSegmentation:
    def test_channels_first_and_last_are_as_a_pipeline_decodes_them(self) -> None:
        logits = noise(1, 4, 6, 3)
        expected = SegmentationDecoder(ABC.classes)({"logits": logits}, GEOMETRY).classes
        assert len(np.unique(expected)) == 3
        assert np.array_equal(answer(SegmentationFormat(ABC), logits).classes, expected)
        assert np.array_equal(answer(SegmentationFormat(ABC), logits.transpose(0, 3, 1, 2)).classes, expected)

    def test_one_channel_is_the_second_class(self) -> None:
        second = noise(1, 1, 4, 6)
        both = np.concatenate([np.zeros_like(second), second], axis=1)
        wanted = Wanted(("inside", "edge"))
        assert np.array_equal(
            answer(SegmentationFormat(wanted), second).classes, answer(SegmentationFormat(wanted), both).classes
        )

    @pytest.mark.parametrize("channel", [False, True])
    def test_numbers_of_classes(self, channel: bool) -> None:
        numbers = np.random.default_rng(6).integers(0, 3, (1, 32, 48))
        found = answer(SegmentationFormat(ABC), numbers[:, None] if channel else numbers)
        assert np.array_equal(found.cells, numbers[0])
        with pytest.raises(GraphError, match="has classes numbered 0 to 3, 3 are named"):
            answer(SegmentationFormat(ABC), np.arange(4).reshape(1, 2, 2))


class TestDepth:
    def test_scale_and_inverse(self) -> None:
        cells = np.abs(noise(1, 4, 6)) + 1
        metres = answer(DepthFormat(Wanted()), cells).cells
        assert np.array_equal(metres, cells[0])
        for layout in (cells[:, None], cells[..., None]):
            assert np.array_equal(answer(DepthFormat(Wanted()), layout).cells, metres)
        assert np.allclose(answer(DepthFormat(Wanted(), scale=100), cells).cells, 100 * metres)
        assert np.allclose(answer(DepthFormat(Wanted(), scale=8, inverse=True), cells).cells, 8 / metres)

    def test_where_an_inverse_is_not_above_0_it_is_infinitely_far(self) -> None:
        found = answer(DepthFormat(Wanted(), inverse=True), np.array([[[2.0, 0.0, -1.0]]], np.float32))
        assert found.cells.tolist() == [[0.5, np.inf, np.inf]]


class TestTags:
    def test_activations(self) -> None:
        logits = noise(1, 3)
        sigmoid = answer(TagsFormat(ABC), logits)
        assert np.allclose(sigmoid.probabilities, 1 / (1 + np.exp(-logits[0])), atol=1e-6)
        assert (sigmoid.names, sigmoid.threshold) == (ABC.classes, 0.5)
        softmax = answer(TagsFormat(Wanted(ABC.classes, 0.2), activation="softmax"), logits[..., None, None])
        assert np.allclose(softmax.probabilities, np.exp(logits[0]) / np.exp(logits[0]).sum(), atol=1e-6)
        assert softmax.threshold == 0.2
        plain = answer(TagsFormat(ABC, activation="none"), np.array([[0.0, 0.5, 1.0]], np.float32))
        assert plain.answers.tolist() == [False, True, True]

    def test_what_is_no_probability_is_refused(self) -> None:
        with pytest.raises(GraphError, match="choose sigmoid or softmax"):
            answer(TagsFormat(ABC, activation="none"), np.array([[0.0, 0.5, 1.5]], np.float32))


class TestEmbedding:
    def test_the_length_is_one(self) -> None:
        vector = noise(1, 5)
        found = answer(EmbeddingFormat(Wanted()), vector[..., None, None])
        assert np.allclose(found.vector, vector[0] / np.sqrt((vector**2).sum()))
        assert not answer(EmbeddingFormat(Wanted()), np.zeros((1, 3), np.float32)).vector.any()


class TestHeatmaps:
    def test_logits_and_probabilities_peak_alike(self) -> None:
        logits = noise(1, 8, 12, 3)
        expected = KeypointsDecoder(ABC.classes)({"heatmaps": logits}, GEOMETRY)
        for found in (
            answer(HeatmapsFormat(ABC), logits.transpose(0, 3, 1, 2)),
            answer(HeatmapsFormat(ABC, activation="none"), 1 / (1 + np.exp(-logits))),
        ):
            assert np.allclose(found.points, expected.points)
            assert np.allclose(found.scores, expected.scores, atol=1e-5)


MISFITS = {
    "segmentation": (SegmentationFormat(ABC), (1, 4, 8, 12), r"needs logits \[1, 3, h, w\] or \[1, h, w, 3\]"),
    "depth": (DepthFormat(Wanted()), (1, 2, 8, 12), "needs distances"),
    "tags": (TagsFormat(ABC), (1, 4), r"needs values \[1, 3\], one for each of 3 labels"),
    "embedding": (EmbeddingFormat(Wanted()), (1, 8, 2, 2), r"needs a vector \[1, D\]"),
    "heatmaps": (HeatmapsFormat(ABC), (1, 5, 8, 12), r"needs heat maps \[1, 3, h, w\]"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_arrays_that_do_not_fit_are_refused_with_what_is_needed(case: str) -> None:
    decode, shape, message = MISFITS[case]
    with pytest.raises(GraphError, match=message):
        answer(decode, np.zeros(shape, np.float32))
    with pytest.raises(GraphError, match=r"needs one array, .*; say which under 'outputs'"):
        decode({"a": np.zeros(shape, np.float32), "b": np.zeros(1)}, GEOMETRY)


class Doubled(Format):
    """Answers with twice the array."""

    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        return {"vector": Embedding(2 * raw["any"])}


class TestMade:
    @pytest.fixture
    def doubled(self) -> Iterator[str]:
        register_format("doubled", Doubled)
        yield "doubled"
        FORMATS.unregister("doubled")

    def test_every_format_there_is(self) -> None:
        assert {*FORMATS} == {
            *("segmentation", "depth", "tags", "embedding", "heatmaps", "boxes", "yolo", "ssd", "ultraface"),
            *("fastestdet", "yunet", "fcos"),
        }
        assert all(made(name, Wanted(("a",)), {}).wanted == Wanted(("a",)) for name in FORMATS)

    def test_lists_of_a_file_become_options(self) -> None:
        found = made("ssd", ABC, {"strides": [8, 16], "sizes": [[10, 16.5], [32]], "variances": [0.1, 0.3]})
        assert found == SsdFormat(ABC, (8, 16), ((10, 16.5), (32,)), (0.1, 0.3))

    def test_a_format_of_ones_own_by_name(self, doubled: str) -> None:
        assert answer(made(doubled, ABC, {}), np.ones(2)).vector.tolist() == [2, 2]
        with pytest.raises(RegistryError, match="registered already"):
            register_format(doubled, Doubled)

    def test_a_function_of_ones_own(self, write_module: Callable[[str, str], str]) -> None:
        module = write_module(
            "own_format",
            "from sharedbb.outputs import Embedding\n"
            "def vector(raw, geometry, times=1):\n    return Embedding(times * raw['any'])\n"
            "def both(raw, geometry):\n    return {'a': vector(raw, geometry), 'b': vector(raw, geometry, 3)}\n",
        )
        assert made(f"{module}:vector", ABC, {"times": 2})({"any": np.ones(1)}, GEOMETRY)["answer"].vector == [2]
        assert made(f"{module}:both", ABC, {})({"any": np.ones(1)}, GEOMETRY)["b"].vector == [3]
        with pytest.raises(GraphError, match="vector raised KeyError: 'any'"):
            made(f"{module}:vector", ABC, {})({}, GEOMETRY)

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("yolov", {}, "no output format named 'yolov'; did you mean 'yolo'?"),
            ("yolo", {"grid": 8}, "format 'yolo' has no option 'grid'; it has normalised, activation"),
            ("embedding", {"dim": 8}, "format 'embedding' has no option 'dim'; it has none"),
            ("tags", {"activation": "relu"}, "format 'tags', option 'activation': .*'sigmoid'.*, got 'relu'"),
            ("ssd", {"strides": ["x"]}, "format 'ssd', option 'strides.0': .*, got 'x'"),
        ],
    )
    def test_what_cannot_be_made_is_said_in_one_line(self, name: str, options: dict[str, Any], message: str) -> None:
        with pytest.raises(GraphError, match=message) as caught:
            made(name, ABC, options)
        assert "\n" not in str(caught.value)
