"""Input, backbone, neck, reuse, schedule and runtime: defaults, ranges, and what they compute."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from sharedbb.registry import BACKENDS
from sharedbb.spec import (
    NORMALIZATIONS,
    Backbone,
    Fpn,
    Input,
    MeanStd,
    Reuse,
    RgbTransform,
    Runtime,
    Schedule,
)
from sharedbb.spec.parts import names_file
from sharedbb.types import Normalization, Size


def test_the_defaults_are_pinned() -> None:
    assert Input().model_dump() == {"size": (384, 640), "fit": "letterbox", "normalize": "imagenet"}
    assert RgbTransform().model_dump() == {"type": "rgb"}
    assert Backbone(arch="resnet18").model_dump() == {"arch": "resnet18", "weights": None, "decomposition": "none"}
    assert Fpn().model_dump() == {"type": "fpn", "channels": 64, "strides": (4, 8, 16, 32)}
    assert Reuse().model_dump() == {
        "mode": "off",
        "budget": 0.02,
        "max_age_ms": None,
        "refresh": 0.005,
        "audit": 0.02,
        "key_every": 4,
        "fresh": 0,
        "motion": "optical",
    }
    assert Schedule().model_dump() == {"queue": 4, "when_late": "drop_oldest", "deadline_ms": None}
    assert Runtime().model_dump() == {
        "device": "auto",
        "backend": "auto",
        "precision": "auto",
        "threads": None,
        "cache": True,
    }


def test_imagenet_is_the_mean_and_deviation_of_the_literature_in_grey_levels() -> None:
    imagenet = NORMALIZATIONS["imagenet"]
    assert imagenet.mean == pytest.approx([255 * mean for mean in (0.485, 0.456, 0.406)])
    assert imagenet.std == pytest.approx([255 * std for std in (0.229, 0.224, 0.225)])


@pytest.mark.parametrize(("name", "black", "white"), [("unit", 0.0, 1.0), ("none", 0.0, 255.0)])
def test_plain_normalisations_map_black_and_white(name: str, black: float, white: float) -> None:
    normalization = Input(normalize=name).normalization  # type: ignore[arg-type]
    for mean, std in zip(normalization.mean, normalization.std, strict=True):
        assert (0 - mean) / std == black
        assert (255 - mean) / std == white


def test_a_normalisation_of_your_own() -> None:
    own = MeanStd(mean=(1, 2, 3), std=(4, 5, 6.5))
    assert Input(normalize=own).normalization == Normalization((1.0, 2.0, 3.0), (4.0, 5.0, 6.5))
    given: Any = {"mean": [1, 2, 3], "std": [4, 5, 6.5]}
    assert Input(normalize=given) == Input(normalize=own)


def test_the_network_size_is_height_then_width() -> None:
    assert Input(size=(352, 480)).network_size == Size(height=352, width=480)


def test_parts_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Input().fit = "crop"


@pytest.mark.parametrize(
    ("weights", "is_file"),
    [
        ("street.sbb", True),
        ("folder/a.safetensors", True),
        ("../a.pth", True),
        ("DEFAULT", False),
        ("IMAGENET1K_V1", False),
    ],
)
def test_weights_are_files_or_torchvision_names(weights: str, is_file: bool) -> None:
    assert Backbone(arch="resnet18", weights=weights).weights == weights
    assert names_file(weights) == is_file


WRONG: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (Input, {"size": (384, 641)}),
    (Input, {"size": (0, 640)}),
    (Input, {"size": (8224, 640)}),
    (Input, {"size": (384,)}),
    (Input, {"size": (384, 640, 3)}),
    (Input, {"size": (384.0, 640)}),
    (Input, {"size": ("384", 640)}),
    (Input, {"size": "384x640"}),
    (Input, {"fit": "pad"}),
    (Input, {"normalize": "torch"}),
    (Input, {"normalize": 5}),
    (Input, {"normalize": {"mean": [0, 0, 0]}}),
    (Input, {"normalize": {"mean": [0, 0, 256], "std": [1, 1, 1]}}),
    (Input, {"normalize": {"mean": [0, 0, 0], "std": [1, 0, 1]}}),
    (Input, {"normalize": {"mean": [0, 0, float("nan")], "std": [1, 1, 1]}}),
    (Input, {"normalize": {"mean": [0, 0], "std": [1, 1, 1]}}),
    (Input, {"normalize": {"mean": [True, 0, 0], "std": [1, 1, 1]}}),
    (Input, {"colour": "rgb"}),
    (RgbTransform, {"type": "bgr"}),
    (Backbone, {}),
    (Backbone, {"arch": "resnet19"}),
    (Backbone, {"arch": 18}),
    (Backbone, {"arch": "resnet18", "weights": "street.onnx"}),
    (Backbone, {"arch": "resnet18", "weights": "default"}),
    (Backbone, {"arch": "resnet18", "weights": ""}),
    (Backbone, {"arch": "resnet18", "weights": "a\0.sbb"}),
    (Backbone, {"arch": "resnet18", "weights": True}),
    (Backbone, {"arch": "resnet18", "decomposition": "two"}),
    (Backbone, {"arch": "resnet18", "decomposition": None}),
    (Fpn, {"type": "bifpn"}),
    (Fpn, {"channels": 0}),
    (Fpn, {"channels": 4097}),
    (Fpn, {"channels": 64.0}),
    (Fpn, {"strides": ()}),
    (Fpn, {"strides": (8, 4)}),
    (Fpn, {"strides": (4, 4)}),
    (Fpn, {"strides": (0, 4)}),
    (Reuse, {"mode": "fast"}),
    (Reuse, {"mode": False}),
    (Reuse, {"budget": 0}),
    (Reuse, {"budget": 1.01}),
    (Reuse, {"max_age_ms": 0}),
    (Reuse, {"refresh": -0.01}),
    (Reuse, {"refresh": 1.01}),
    (Reuse, {"audit": -0.01}),
    (Reuse, {"audit": 1.01}),
    (Reuse, {"key_every": 0}),
    (Reuse, {"key_every": 241}),
    (Reuse, {"key_every": 4.0}),
    (Reuse, {"fresh": 32}),
    (Reuse, {"fresh": "4"}),
    (Reuse, {"seed": 1}),
    (Schedule, {"queue": 0}),
    (Schedule, {"queue": True}),
    (Schedule, {"when_late": "drop"}),
    (Runtime, {"device": "gpu"}),
    (Runtime, {"backend": "tensorrt"}),
    (Runtime, {"precision": "int8"}),
    (Runtime, {"threads": 0}),
    (Runtime, {"cache": "yes"}),
    (Runtime, {"cache": 1}),
]


@pytest.mark.parametrize(("part", "fields"), WRONG, ids=lambda value: getattr(value, "__name__", repr(value)))
def test_what_is_out_of_range_is_refused(part: type[BaseModel], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        part.model_validate(fields)
    assert raised.value.error_count() == 1


def test_a_backend_registered_later_may_be_named() -> None:
    with pytest.raises(ValidationError, match="must be 'auto', 'eager'"):
        Runtime(backend="abacus")
    BACKENDS.register("abacus", object())
    try:
        assert Runtime(backend="abacus").backend == "abacus"
    finally:
        BACKENDS.unregister("abacus")
