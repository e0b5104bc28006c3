"""How the outputs of a network become answers: the registry of formats, and those of maps, tags, points and vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from sharedbb.errors import GraphError, RegistryError
from sharedbb.learn.teachers.heads import Arrays
from sharedbb.learn.teachers.imported import code_digest, imported
from sharedbb.outputs.depth import DepthDecoder
from sharedbb.outputs.embedding import Embedding
from sharedbb.outputs.keypoints import KeypointsDecoder
from sharedbb.outputs.raw import sigmoid
from sharedbb.outputs.segmentation import SegmentationDecoder
from sharedbb.outputs.tags import Tags
from sharedbb.registry import Lazy, Registry, resolve
from sharedbb.types import Geometry, Output

Activation = Literal["none", "sigmoid", "softmax"]

NEARLY = 1e-6
"""Probabilities of 0 and 1 are taken as this far from them where logits are wanted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a format: names in order, and thresholds, None for the format's own."""

    classes: tuple[str, ...] = ()
    score_threshold: float | None = None
    iou_threshold: float | None = None


@dataclass(frozen=True)
class Format(ABC):
    """Arrays to answers. Derive from it, as a dataclass whose fields are the options, for a format of your own."""

    wanted: Wanted

    USUAL_SCORE: ClassVar[float | None] = None

    @property
    def threshold(self) -> float | None:
        """The operating point of boxes and tags, as wanted or as usual."""
        asked = self.wanted.score_threshold
        return self.USUAL_SCORE if asked is None else asked

    @property
    def code(self) -> str:
        """The digest of the code that it is made of; empty for the formats of this package."""
        return code_digest(type(self))

    @abstractmethod
    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        """The answers by head, in source pixels; boxes of lower scores than the operating point may be among them.

        Raises GraphError, saying what is needed, for arrays that do not fit.
        """


_HERE, _BOXES = "sharedbb.learn.teachers.formats", "sharedbb.learn.teachers.boxes"

FORMATS = Registry(
    "output format",
    {
        "segmentation": Lazy(f"{_HERE}:SegmentationFormat"),
        "depth": Lazy(f"{_HERE}:DepthFormat"),
        "tags": Lazy(f"{_HERE}:TagsFormat"),
        "embedding": Lazy(f"{_HERE}:EmbeddingFormat"),
        "heatmaps": Lazy(f"{_HERE}:HeatmapsFormat"),
        "boxes": Lazy(f"{_BOXES}:BoxesFormat"),
        "yolo": Lazy(f"{_BOXES}:YoloFormat"),
        "ssd": Lazy(f"{_BOXES}:SsdFormat"),
        "ultraface": Lazy(f"{_BOXES}:UltraFaceFormat"),
        "fastestdet": Lazy(f"{_BOXES}:FastestDetFormat"),
        "fcos": Lazy(f"{_BOXES}:FcosFormat"),
        "yunet": Lazy("sharedbb.learn.teachers.yunet:YuNetFormat"),
    },
)


def register_format(name: str, make: Callable[..., Format]) -> None:
    """Make a format of your own known by name: ``make(wanted, **options)``. RegistryError when the name is taken."""
    FORMATS.register(name, make)


def made(name: str, wanted: Wanted, options: Mapping[str, Any]) -> Format:
    """The format of a name, or of ``"package.module:function"``, with its options.

    Raises GraphError for a name that is not there, and for options that it does not have or cannot take.
    """
    if ":" in name:
        return OwnFormat(wanted, imported(name), dict(options))
    try:
        make = resolve(FORMATS[name])
    except RegistryError as error:
        raise GraphError(str(error)) from error
    if not is_dataclass(make):
        return _checked(make(wanted, **options))
    there = [field.name for field in fields(make) if field.name != "wanted"]
    for option in options:
        if option not in there:
            raise GraphError(f"format {name!r} has no option {option!r}; it has {', '.join(there) or 'none'}")
    try:
        return _checked(TypeAdapter(make).validate_python({"wanted": wanted, **options}))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise GraphError(f"format {name!r}, option {where!r}: {fault['msg']}, got {fault['input']!r}") from error


def _checked(found: Any) -> Format:
    if not isinstance(found, Format):
        raise GraphError(f"a format is a Format, got {type(found).__name__}")
    return found


@dataclass(frozen=True)
class OwnFormat(Format):
    """A function of the user's, which takes the arrays, the geometry and the options by name."""

    function: Callable[..., Any]
    options: Mapping[str, Any]

    @property
    def code(self) -> str:
        """The digest of the file that defines the function."""
        return code_digest(self.function)

    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        """What it answers, under ``answer`` where it is not by head."""
        try:
            found = self.function(raw, geometry, **self.options)
        except Exception as error:
            raise GraphError(f"{self.function.__name__} raised {type(error).__name__}: {error}") from error
        return found if isinstance(found, Mapping) else {"answer": found}


@dataclass(frozen=True)
class SegmentationFormat(Format):
    """One array: logits [1, C, h, w] or [1, h, w, C], one channel a class.

    For two classes also one channel, the logit of the second; for any, class numbers [1, h, w] or [1, 1, h, w].
    """

    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        """``classes``; nothing is upsampled yet."""
        count = len(self.wanted.classes)
        needs = f"logits [1, {count}, h, w] or [1, h, w, {count}], a channel for each of {count} classes"
        array = only(raw, needs)
        if array.dtype.kind in "iu":
            logits = self._of_numbers(array)
        elif count == 2 and array.ndim == 4 and 1 in (array.shape[1], array.shape[3]):
            second = channels_last(array, 1, needs)
            logits = np.concatenate([np.zeros_like(second), second], axis=-1)
        else:
            logits = channels_last(array, count, needs)
        return {"classes": SegmentationDecoder(self.wanted.classes)({"logits": logits}, geometry)}

    def _of_numbers(self, array: NDArray[Any]) -> NDArray[np.float32]:
        count = len(self.wanted.classes)
        numbers = array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array
        if numbers.ndim != 3 or numbers.shape[0] != 1:
            raise GraphError("needs [1, h, w] of numbers of classes")
        if numbers.min() < 0 or numbers.max() >= count:
            raise GraphError(f"has classes numbered {numbers.min()} to {numbers.max()}, {count} are named")
        return np.asarray(np.eye(count, dtype=np.float32)[numbers])


@dataclass(frozen=True)
class DepthFormat(Format):
    """One array [1, h, w], [1, 1, h, w] or [1, h, w, 1]: ``metres = scale * x``, or with ``inverse`` ``scale / x``."""

    scale: float = 1.0
    inverse: bool = False

    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        """``depth`` in metres; infinite where an inverse is 0 or less."""
        needs = "distances [1, h, w], [1, 1, h, w] or [1, h, w, 1]"
        array = only(raw, needs)
        metres = channels_last(array[:, None] if array.ndim == 3 else array, 1, needs)
        if self.inverse:
            metres = np.divide(self.scale, metres, out=np.full_like(metres, np.inf), where=metres > 0)
        else:
            metres = metres * np.float32(self.scale)
        return {"depth": DepthDecoder()({"depth": metres}, geometry)}


@dataclass(frozen=True)
class TagsFormat(Format):
    """One array of K values, [1, K] or [1, K, 1, 1], a label each; ``activation`` makes probabilities of them."""

    activation: Activation = "sigmoid"

    USUAL_SCORE: ClassVar[float] = 0.5

    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        """``tags``, a probability for every label."""
        count = len(self.wanted.classes)
        needs = f"values [1, {count}], one for each of {count} labels"
        values = activated(_vector(only(raw, needs), count, needs), self.activation)
        if not ((values >= 0) & (values <= 1)).all():
            raise GraphError("needs probabilities 0–1 where no activation makes them so; choose sigmoid or softmax")
        threshold = self.threshold
        assert threshold is not None
        return {"tags": Tags(self.wanted.classes, values, threshold)}


@dataclass(frozen=True)
class EmbeddingFormat(Format):
    """One array of D values, [1, D] or [1, D, 1, 1]; made of length 1."""

    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        """``embedding``, the vector's direction; zeros stay zeros."""
        needs = "a vector [1, D]"
        vector = _vector(only(raw, needs), None, needs)
        length = float(np.linalg.norm(vector))
        return {"embedding": Embedding(vector / np.float32(length or 1.0))}


@dataclass(frozen=True)
class HeatmapsFormat(Format):
    """One array [1, K, h, w] or [1, h, w, K], a map a point: logits, or with ``activation: none`` probabilities."""

    activation: Literal["none", "sigmoid"] = "sigmoid"

    def __call__(self, raw: Arrays, geometry: Geometry) -> Mapping[str, Output]:
        """``points``, each map's peak."""
        count = len(self.wanted.classes)
        needs = f"heat maps [1, {count}, h, w] or [1, h, w, {count}], one for each of {count} points"
        heat = channels_last(only(raw, needs), count, needs)
        if self.activation == "none":
            heat = np.clip(heat, NEARLY, 1 - NEARLY)
            heat = np.log(heat / (1 - heat))
        return {"points": KeypointsDecoder(self.wanted.classes)({"heatmaps": heat}, geometry)}


def only(raw: Arrays, needs: str) -> NDArray[Any]:
    """The one array there is. Raises GraphError, with what is needed, when there are several."""
    if len(raw) != 1:
        raise GraphError(f"needs one array, {needs}; say which under 'outputs'")
    return next(iter(raw.values()))


def channels_last(array: NDArray[Any], channels: int, needs: str) -> NDArray[np.float32]:
    """A map [1, C, h, w] or [1, h, w, C] as float32 [1, h, w, C]; the first where both fit. Raises GraphError."""
    if array.ndim == 4 and array.shape[0] == 1:
        if array.shape[1] == channels:
            return np.ascontiguousarray(array.transpose(0, 2, 3, 1), np.float32)
        if array.shape[3] == channels:
            return np.asarray(array, np.float32)
    raise GraphError(f"needs {needs}")


def activated(values: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Values to probabilities, softmax over the last axis."""
    if activation == "sigmoid":
        return sigmoid(values)
    if activation == "softmax":
        powers = np.exp(values - values.max(axis=-1, keepdims=True))
        shares: NDArray[np.float32] = powers / powers.sum(axis=-1, keepdims=True)
        return shares
    return values


def _vector(array: NDArray[Any], size: int | None, needs: str) -> NDArray[np.float32]:
    """[1, D] or [1, D, 1, ...] as float32 [D]. Raises GraphError."""
    if array.ndim < 2 or array.size != array.shape[1] or size not in (None, array.size):
        raise GraphError(f"needs {needs}")
    return np.asarray(array.reshape(-1), np.float32)
