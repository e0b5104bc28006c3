"""Labelled pictures: CamVid from a folder, the synthetic street rendered once into a cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from street.labels import LabelMap

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Labelled:
    """One picture, HWC uint8 RGB, with its map of classes, HW uint8 (VOID where nobody knows)."""

    name: str
    rgb: Rgb
    labels: LabelMap


def camvid(folder: Path, split: str) -> list[Labelled]:
    """All pictures of ``train``, ``val`` or ``test``, sorted by name: ``split/*.jpg`` with ``splitannot/*.png``.

    Raises FileNotFoundError when there are none, or a picture has no labels.
    """
    return _folder(folder / split, folder / f"{split}annot")


def cached_synthetic(folder: Path) -> list[Labelled]:
    """The frames that ``render_synthetic`` left in ``folder``; none when it is absent."""
    return _folder(folder / "rgb", folder / "labels") if (folder / "done.json").is_file() else []


def _folder(pictures: Path, annotations: Path) -> list[Labelled]:
    files = sorted(path for path in pictures.glob("*") if path.suffix in (".jpg", ".png"))
    if not files:
        raise FileNotFoundError(f"no pictures in {pictures}")
    return [_read(path, annotations / f"{path.stem}.png") for path in files]


def _read(picture: Path, annotation: Path) -> Labelled:
    bgr, labels = cv2.imread(str(picture), cv2.IMREAD_COLOR), cv2.imread(str(annotation), cv2.IMREAD_UNCHANGED)
    if bgr is None or labels is None:
        raise FileNotFoundError(f"cannot read {picture if bgr is None else annotation}")
    return Labelled(picture.stem, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), labels)


def write_cache(folder: Path, samples: list[Labelled], recipe: dict[str, object]) -> None:
    """Store ``samples`` as JPEG pictures (quality 95) and PNG labels; ``done.json`` is written last."""
    for name in ("rgb", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for sample in samples:
        bgr = cv2.cvtColor(sample.rgb, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / "rgb" / f"{sample.name}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])
        cv2.imwrite(str(folder / "labels" / f"{sample.name}.png"), sample.labels)
    (folder / "done.json").write_text(json.dumps(recipe, indent=2) + "\n")
