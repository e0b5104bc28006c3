"""Opening teachers: what is wrong is said before any work, and an artifact answers as its pipeline does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from sharedbb.errors import CompressionError
from sharedbb.learn.network import Network
from sharedbb.learn.teachers import open_teacher
from sharedbb.media.sources import open_source
from sharedbb.nets.backbones import seeded
from sharedbb.outputs import Detections
from sharedbb.outputs.detections import intersection_over_union
from sharedbb.registry import BACKBONES, HEADS, register_backbone, register_head, resolve
from sharedbb.spec import Pipeline
from sharedbb.spec.fuse import FuseTeacher
from sharedbb.spec.heads import TagsHead

INPUT = {"size": [8, 12], "fit": "stretch"}
SCORES = np.array([[[0.1, 0.9], [0.6, 0.4], [0.95, 0.05]]], np.float32)
BOXES = np.array([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.5, 0, 1, 0.5]]], np.float32)


def spec(**fields: Any) -> FuseTeacher:
    given = {"input": INPUT, "format": "ssd", "classes": ["face"], "heads": {"boxes": "faces"}}
    return FuseTeacher.model_validate({**given, **fields})


class Steps(nn.Module):
    """Features at strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = {4: 8, 8: 12}
        self.first, self.second = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 12, 3, 2, 1)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        first = self.first(image).relu()
        return {4: first, 8: self.second(first).relu()}


class TestOnnx:
    def test_answers_in_source_pixels_at_the_operating_point(self, write_onnx: Any) -> None:
        teacher = open_teacher("f", spec(onnx=write_onnx(scores=SCORES, boxes=BOXES, seen=None)))
        picture = np.zeros((80, 240, 3), np.uint8)
        found, soft = teacher(picture)["faces"], teacher.soft(picture)["faces"]
        assert isinstance(found, Detections)
        assert isinstance(soft, Detections)
        assert found.boxes.tolist() == [[0, 0, 120, 40]]
        assert soft.scores.tolist() == pytest.approx([0.9, 0.4])
        assert soft.boxes[1].tolist() == [120, 40, 240, 80]
        assert {name: (head.type, head.names, head.threshold) for name, head in teacher.heads.items()} == {
            "faces": ("detection", ("face",), 0.7)
        }

    def test_outputs_of_other_names(self, write_onnx: Any) -> None:
        path = write_onnx(a=SCORES, b=BOXES, seen=None)
        teacher = open_teacher("f", spec(onnx=path, outputs={"scores": "a", "boxes": "b"}))
        assert len(teacher(np.zeros((8, 12, 3), np.uint8))["faces"]) == 1  # type: ignore[arg-type]
        with pytest.raises(CompressionError, match=r"the network has no output 'c'; it computes a \(1, 3, 2\), b"):
            open_teacher("f", spec(onnx=path, outputs={"scores": "c"}))

    def test_the_picture_is_seen_as_the_contract_says(self, write_onnx: Any) -> None:
        path = write_onnx(seen=None)
        given = {"size": [8, 12], "fit": "letterbox", "order": "bgr", "mean": [10, 20, 30]}
        teacher = open_teacher(
            "f",
            spec(onnx=path, format="segmentation", input=given, classes=["b", "g", "r"], heads={"classes": "largest"}),
        )
        picture = np.zeros((4, 12, 3), np.uint8)
        picture[:, :4, 0], picture[:, 4:8, 1], picture[:, 8:, 2] = 200, 200, 200
        answer: Any = teacher(picture)["largest"]
        assert [answer.names[index] for index in answer.classes[1, [1, 6, 10]]] == ["r", "g", "b"]
        assert not answer.logits[[0, 1, 6, 7]].any()  # the bars are the mean

    def test_outputs_that_do_not_fit_are_said_at_once_with_their_shapes(self, write_onnx: Any) -> None:
        path = write_onnx(scores=SCORES, boxes=BOXES[..., :3], seen=None)
        with pytest.raises(CompressionError) as caught:
            open_teacher("faces", spec(onnx=path))
        assert str(caught.value) == (
            "teacher faces, format 'ssd': needs scores [1, n, 2], the background first, and boxes [1, n, 4]; "
            "the network computes scores (1, 3, 2), boxes (1, 3, 3), seen (1, 3, 8, 12)"
        )
        with pytest.raises(
            CompressionError, match="teacher faces, format 'sdd': no output format named 'sdd'; did you"
        ):
            open_teacher("faces", spec(onnx=path, format="sdd"))

    def test_a_head_that_the_teacher_does_not_have(self, write_onnx: Any) -> None:
        path = write_onnx(scores=SCORES, boxes=BOXES, seen=None)
        with pytest.raises(CompressionError, match=r"teacher f has no head 'box'; it has boxes \(detection\)"):
            open_teacher("f", spec(onnx=path, heads={"box": "faces"}))

    def test_what_decides_the_answers_decides_the_digest(self, write_onnx: Any) -> None:
        path = write_onnx(scores=SCORES, boxes=BOXES, seen=None)
        first = open_teacher("f", spec(onnx=path))
        assert open_teacher("g", spec(onnx=write_onnx("b.onnx", scores=SCORES, boxes=BOXES, seen=None))).digest == (
            first.digest
        )
        others = [
            {"score_threshold": 0.6},
            {"iou_threshold": 0.6},
            {"classes": ["head"]},
            {"heads": {"boxes": "heads"}},
            {"options": {"variances": [0.1, 0.3]}},
            {"input": {**INPUT, "order": "bgr"}},
        ]
        digests = {open_teacher("f", spec(onnx=path, **other)).digest for other in others}
        assert len(digests | {first.digest}) == 1 + len(others)

    def test_the_operating_point_decides_landmarks_too(self, write_onnx: Any) -> None:
        widths = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
        cells = {8: 16, 16: 4, 32: 1}
        arrays = {f"{n}_{s}": np.zeros((1, c, w), np.float32) for n, w in widths.items() for s, c in cells.items()}
        path = write_onnx(inputs={"x": [1, 3, 32, 32]}, seen=None, **arrays)
        given = {"onnx": path, "format": "yunet", "input": {"size": [32, 32]}, "heads": {"landmarks": "points"}}
        first, second = (open_teacher("y", spec(score_threshold=score, **given)) for score in (0.5, 0.6))
        assert first.heads == second.heads
        assert first.digest != second.digest


class TestModule:
    def test_a_module_with_a_format_of_ones_own(self, write_module: Callable[[str, str], str]) -> None:
        name = write_module(
            "looks_module",
            "from torch import nn\nfrom sharedbb.outputs import Embedding\n"
            "def make():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
            "def read(raw, geometry):\n    return Embedding(raw['0'][0] / 255)\n"
            "def nothing(raw, geometry):\n    return 3\n",
        )
        given = {"module": f"{name}:make", "classes": None, "heads": {"answer": "looks"}}
        teacher = open_teacher("l", spec(format=f"{name}:read", **given))
        answer: Any = teacher(np.full((8, 12, 3), (255, 51, 0), np.uint8))["looks"]
        assert answer.vector.tolist() == pytest.approx([1, 0.2, 0])
        assert teacher.describe()["kind"] == "module"
        with pytest.raises(CompressionError, match="'answer' answers with int; what can be learnt is"):
            open_teacher("l", spec(format=f"{name}:nothing", **given))

    def test_other_code_of_a_format_is_another_teacher(
        self, write_onnx: Any, write_module: Callable[[str, str], str]
    ) -> None:
        def digest(times: int) -> str:
            name = write_module(
                "times_format",
                "from sharedbb.outputs import Embedding\n"
                f"def read(raw, geometry): return Embedding({times} * raw['v'])\n",
            )
            given = {"onnx": path, "classes": None, "heads": {"answer": "looks"}}
            return open_teacher("t", spec(format=f"{name}:read", **given)).digest

        path = write_onnx(v=np.ones(3, np.float32), seen=None)
        assert digest(1) == digest(1) != digest(2)


class TestArtifact:
    @pytest.fixture
    def network(self) -> Iterator[Network]:
        register_backbone("steps", lambda _weights: seeded(0, Steps), strides=(4, 8))
        heads = {
            "surface": {"type": "segmentation", "taps": [4], "classes": ["road", "sky"], "channels": 8},
            "objects": {"type": "detection", "taps": [8], "classes": ["car"], "channels": 8, "iou_threshold": 0.9},
            "others": {"type": "detection", "taps": [8], "classes": ["bus"], "channels": 8, "score_threshold": 0.002},
            "scene": {"type": "tags", "taps": [8], "labels": ["day"], "threshold": 0.3},
        }
        pipeline = {"name": "tiny", "input": {"size": [64, 96]}, "backbone": {"arch": "steps"}, "heads": heads}
        found = Network.of(Pipeline.model_validate(pipeline))
        for name in ("objects", "others"):
            weight: Any = found.module.get_submodule(f"heads.{name}.scores").weight
            weight.data.normal_(0, 3, generator=torch.Generator().manual_seed(0))  # so that scores differ
        found.module.half().float()  # as an artifact stores them
        yield found
        BACKBONES.unregister("steps")

    def test_it_answers_as_its_pipeline_and_more_softly(self, network: Network, tmp_path: Path) -> None:
        picture = np.random.default_rng(8).integers(0, 256, (60, 100, 3), np.uint8)
        every: Any = network.predictor(lowest_score=0.0)(picture)["objects"]
        threshold = float(every.scores[19:21].mean())
        objects = network.pipeline.heads["objects"].model_copy(update={"score_threshold": threshold})
        pipeline = network.pipeline.model_copy(update={"heads": {**network.pipeline.heads, "objects": objects}})
        network = Network(pipeline, network.module)
        network.save(tmp_path / "t.sbb")
        same: dict[str, Any] = network.predictor()(picture)
        heads = {"surface": "ground", "objects": "cars", "others": "buses", "scene": "scene"}
        teacher = open_teacher("street", FuseTeacher(artifact=str(tmp_path / "t.sbb"), heads=heads))
        found: dict[str, Any] = teacher(picture)
        soft: dict[str, Any] = teacher.soft(picture)
        assert np.array_equal(found["ground"].classes, same["surface"].classes)
        assert np.array_equal(found["cars"].boxes, same["objects"].boxes)
        assert np.array_equal(soft["cars"].scores, every.scores[every.scores >= threshold / 2])
        assert len(every) > len(soft["cars"]) > len(found["cars"]) > 10
        assert {name: (head.type, head.names, head.threshold) for name, head in teacher.heads.items()} == {
            "ground": ("segmentation", ("road", "sky"), None),
            "cars": ("detection", ("car",), threshold),
            "buses": ("detection", ("bus",), 0.002),
            "scene": ("tags", ("day",), 0.3),
        }

    def test_heads_of_other_types_are_refused(self, network: Network, tmp_path: Path) -> None:
        class Mood(TagsHead):
            type: Literal["mood"] = "mood"  # type: ignore[assignment]

        tags = HEADS["tags"]
        register_head("mood", spec=Mood, build=resolve(tags.build), decoder=resolve(tags.decoder))
        try:
            heads = {"mood": Mood(taps=(8,), labels=("glad",))}
            pipeline = Pipeline.model_validate({**network.pipeline.model_dump(exclude={"heads"}), "heads": heads})
            Network.of(pipeline).save(tmp_path / "m.sbb")
            with pytest.raises(CompressionError, match="head 'mood' of teacher m is of type 'mood', which no one can"):
                open_teacher("m", FuseTeacher(artifact=str(tmp_path / "m.sbb"), heads={"mood": "mood"}))
        finally:
            HEADS.unregister("mood")

    def test_the_digest_is_that_of_the_network(self, network: Network, tmp_path: Path) -> None:
        first, second, third = (tmp_path / name for name in ("a.sbb", "b.sbb", "c.yaml"))
        network.save(first)
        network.save(second, report={"judged": "later"})
        told = network.pipeline.model_dump(mode="json", exclude_none=True)
        told["backbone"]["weights"] = str(first)
        third.write_text(yaml.safe_dump(told))
        heads = {"scene": "scene"}
        digest = open_teacher("a", FuseTeacher(artifact=str(first), heads=heads)).digest
        assert open_teacher("b", FuseTeacher(artifact=str(second), heads=heads)).digest == digest
        assert open_teacher("c", FuseTeacher(artifact=str(third), heads=heads)).digest == digest
        weights = next(iter(network.module.parameters()))
        weights.data.mul_(2)
        network.save(first)
        assert open_teacher("a", FuseTeacher(artifact=str(first), heads=heads)).digest != digest


def bedroom(data: Path) -> list[np.ndarray]:
    """Three pictures of a child that jumps on a bed, 384 x 640."""
    with open_source(data / "clips" / "moving-bedroom.mp4") as source:
        return [cv2.resize(frame.rgb(), (640, 384)) for frame in islice(source, 30, 61, 15)]


@pytest.mark.real
class TestRealFiles:
    def test_the_face_detector_with_landmarks_is_that_of_opencv(self, data: Path) -> None:
        file = str(data / "models" / "yunet-face-landmarks.onnx")
        given = {"size": [384, 640], "fit": "stretch", "order": "bgr"}
        heads = {"boxes": "faces", "landmarks": "points"}
        teacher = open_teacher("yunet", spec(onnx=file, format="yunet", input=given, heads=heads, iou_threshold=0.45))
        reference = cv2.FaceDetectorYN.create(file, "", (640, 384), 0.6, 0.45, 5000)
        for picture in bedroom(data):
            _, faces = reference.detect(np.ascontiguousarray(picture[..., ::-1]))
            found: dict[str, Any] = teacher(picture)
            assert len(faces) == len(found["faces"]) > 0
            corners = np.concatenate([faces[:, :2], faces[:, :2] + faces[:, 2:4]], axis=1)
            assert np.allclose(found["faces"].boxes, corners.clip(0, (640, 384, 640, 384)), atol=0.05)
            assert np.allclose(found["points"].points.reshape(-1), faces[0, 4:14], atol=0.05)

    @pytest.mark.parametrize(
        ("file", "fields", "label", "place"),
        [
            (
                "fastestdet-coco80.onnx",
                {
                    "format": "fastestdet",
                    "classes": "coco80",
                    "input": {"size": [352, 352], "fit": "stretch", "order": "bgr", "std": [255, 255, 255]},
                },
                "person",
                (108, 36, 321, 312),
            ),
            (
                "rfb320-face.onnx",
                {
                    "format": "ultraface",
                    "input": {"size": [240, 320], "fit": "stretch", "mean": [127] * 3, "std": [128] * 3},
                },
                "face",
                (210, 61, 244, 106),
            ),
        ],
    )
    def test_detectors_find_what_is_there(
        self, data: Path, file: str, fields: dict[str, Any], label: str, place: tuple[int, ...]
    ) -> None:
        teacher = open_teacher("t", spec(onnx=str(data / "models" / file), **fields))
        found = teacher(bedroom(data)[0])["faces"]
        assert isinstance(found, Detections)
        there = found.only(label)
        assert intersection_over_union(there.boxes, np.array([place], np.float32)).max() > 0.7
