"""Importing OpenVINO to run networks only, in a third of the time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

CONVERTER = "openvino.tools.ovc"


@contextmanager
def without_converter() -> Iterator[None]:
    """``import openvino`` inside leaves its converter out, two thirds of the time, unless it is there already.

    A start from the cache never converts. OpenVINO copes with an installation that lacks the converter, so it is told
    that this one does; afterwards ``openvino.convert_model`` imports it on first use, whoever asks.
    """
    if "openvino" in sys.modules or CONVERTER in sys.modules:
        yield
        return
    sys.modules[CONVERTER] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        yield
    finally:
        del sys.modules[CONVERTER]
    vars(import_module("openvino")).setdefault("__getattr__", _late)


def _late(name: str) -> Any:
    """What the module ``openvino`` lacks, if it is the converter."""
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute {name!r}")
    return import_module(CONVERTER).convert_model
