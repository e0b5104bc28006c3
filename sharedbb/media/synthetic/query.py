"""``street?motion=drive&frames=300``: synthetic videos by address."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from sharedbb.errors import SourceError
from sharedbb.media.synthetic.street import Lighting, Movement, StreetVideo
from sharedbb.types import Size


def _size(text: str) -> Size:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise ValueError("WIDTHxHEIGHT, such as 640x384")
    return Size(int(found[2]), int(found[1]))


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return text

    return parse


def _number(kind: Callable[[str], Any], what: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(what) from None

    return parse


FIELDS: Mapping[str, Callable[[str], Any]] = {
    "size": _size,
    "frames": _number(int, "a whole number"),
    "motion": _one_of(*Movement.__args__),  # type: ignore[attr-defined]
    "seed": _number(int, "a whole number"),
    "fps": _number(float, "a number"),
    "cuts": _number(int, "a whole number"),
    "noise": _number(float, "a number"),
    "lighting": _one_of(*Lighting.__args__),  # type: ignore[attr-defined]
}


def open_synthetic(query: str) -> StreetVideo:
    """The video that ``street?key=value&...`` describes; keys are StreetVideo's arguments, size is WIDTHxHEIGHT.

    Raises SourceError for unknown scenes, keys and values, saying what is known.
    """
    scene, _, rest = query.partition("?")
    if scene != "street":
        raise SourceError(f"no synthetic video {scene!r}; there is synthetic:street?motion=drive&frames=300")
    given: dict[str, Any] = {}
    for key, text in parse_qsl(rest, keep_blank_values=True):
        if key not in FIELDS:
            near = difflib.get_close_matches(key, FIELDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SourceError(f"synthetic:street knows no {key!r}{hint} (known: {', '.join(FIELDS)})")
        try:
            given[key] = FIELDS[key](text)
        except ValueError as error:
            raise SourceError(f"synthetic:street: {key} must be {error}, got {text!r}") from None
    return StreetVideo(**given)
