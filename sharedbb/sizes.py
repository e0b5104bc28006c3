"""How large a picture is, how it is fitted and normalised: what a pipeline says of its input, without NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fit = Literal["letterbox", "stretch", "crop"]


@dataclass(frozen=True, slots=True)
class Size:
    """Height and width in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Normalization:
    """``(x - mean) / std`` per RGB channel, in grey levels 0–255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
