"""What is known of a picture as bytes: compressed safetensors behind their own digest; reading them runs no code.

What is damaged, or does not fit the heads and the picture, counts as not there.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sharedbb.learn.known import Classes, Direction, Known, Metres, Objects, Points, Present, mirror_of
from sharedbb.learn.labels import VOID, Boxes
from sharedbb.learn.teachers.heads import TeacherHead

Size = tuple[int, int]
Arrays = dict[str, NDArray[Any]]

DIGEST_BYTES = 32
ANY = -1

MOST_BYTES = 1 << 28
"""Of one picture's answers, decompressed."""


def packed(known: Mapping[str, Known]) -> bytes:
    """What is known by head, as bytes; equal knowledge gives equal bytes. Distances are rounded to float16."""
    arrays = {
        f"{head}/{part}": np.ascontiguousarray(array)
        for head, one in sorted(known.items())
        for part, array in arrays_of(one).items()
    }
    content = zlib.compress(save(arrays))
    return hashlib.sha256(content).digest() + content


def unpacked(stored: bytes, heads: Mapping[str, TeacherHead], size: Size) -> dict[str, Known] | None:
    """What was packed for these heads and a picture of this size (height, width); None where it was not that."""
    content = stored[DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != stored[:DIGEST_BYTES]:
        return None
    try:
        arrays = load(zlib.decompressobj().decompress(content, MOST_BYTES))
    except (zlib.error, SafetensorError, ValueError, KeyError):
        return None
    found = {}
    for name, head in heads.items():
        start = f"{name}/"
        known = _known({key.removeprefix(start): a for key, a in arrays.items() if key.startswith(start)}, head, size)
        if known is None:
            return None
        found[name] = known
    return found


def arrays_of(known: Known) -> Arrays:
    """The arrays that something known is made of, by what they are, as they are stored."""
    match known:
        case Objects(boxes=boxes):
            return {"boxes": boxes.xyxy, "scores": boxes.certainty, "classes": boxes.classes}
        case Metres(map=metres):
            with np.errstate(over="ignore"):
                return {"metres": metres.astype(np.float16)}
        case Points(xy=xy, scores=scores):
            return {"points": xy, "scores": scores}
        case Present(shares=shares):
            return {"shares": shares}
        case Direction(vector=vector):
            return {"vector": vector}
    return {"classes": known.map}


def _known(arrays: Arrays, head: TeacherHead, size: Size) -> Known | None:
    """What arrays say for a head; None where they are not what they must be."""
    names = len(head.names)
    match head.type:
        case "segmentation" if _are(arrays, classes=(np.uint8, *size)):
            classes = arrays["classes"]
            return Classes(classes) if ((classes < names) | (classes == VOID)).all() else None
        case "detection" if _are(arrays, boxes=(np.float32, ANY, 4), scores=(np.float32, ANY), classes=(np.int64, ANY)):
            return _objects(arrays, names)
        case "depth" if _are(arrays, metres=(np.float16, *size)):
            metres = arrays["metres"].astype(np.float32)
            return Metres(np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(np.nan)))
        case "tags" if _are(arrays, shares=(np.float32, names)):
            return Present(arrays["shares"])
        case "keypoints" if _are(arrays, points=(np.float32, names, 2), scores=(np.float32, names)):
            return Points(arrays["points"], arrays["scores"], mirror_of(head.names))
        case "embedding" if _are(arrays, vector=(np.float32, ANY)):
            return Direction(arrays["vector"])
    return None


def _objects(arrays: Arrays, names: int) -> Objects | None:
    """Boxes, where all three arrays are about as many and the classes are among the names."""
    boxes, scores, classes = (arrays[part] for part in ("boxes", "scores", "classes"))
    if not len(boxes) == len(scores) == len(classes) or not ((classes >= 0) & (classes < names)).all():
        return None
    return Objects(Boxes(boxes, classes, np.zeros(len(boxes), np.bool_), scores))


def _are(arrays: Arrays, **forms: tuple[Any, ...]) -> bool:
    """Whether there are just these arrays: type and shape by name, ANY for a side of any length."""
    return arrays.keys() == forms.keys() and all(
        array.dtype == kind and _fits(sides, array.shape)
        for array, (kind, *sides) in ((arrays[name], form) for name, form in forms.items())
    )


def _fits(sides: Sequence[int], shape: tuple[int, ...]) -> bool:
    return len(sides) == len(shape) and all(side in (ANY, got) for side, got in zip(sides, shape, strict=True))
