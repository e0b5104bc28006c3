"""A training on disk: named tensors, and what they are of as JSON values, in one file without pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sharedbb.errors import CompressionError

ABOUT = "about"
"""The one entry of the file's own metadata: several would stand in any order, and equal states have equal bytes."""

SHOWN = 8
"""Differences that are told one by one."""

Parts = dict[str, dict[str, Tensor]]


def write(path: Path, parts: Mapping[str, Mapping[str, Tensor]], about: Mapping[str, Any]) -> None:
    """Put the tensors, by part and name, and ``about`` into a file; until it is complete, the old one stays.

    Equal contents give equal bytes.
    Raises CompressionError where it cannot be written.
    """
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    fresh = path.with_name(f"{path.name}.tmp")
    try:
        save_file(tensors, fresh, {ABOUT: json.dumps(about)})
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except (OSError, SafetensorError) as error:
        fresh.unlink(missing_ok=True)
        kept = "the checkpoint before it is whole; " if path.exists() else ""
        raise CompressionError(
            f"cannot write {path}: {_reason(error)}; {kept}make room and run the same again"
        ) from error


def read(path: Path, device: torch.device) -> tuple[Parts, dict[str, Any]]:
    """What ``write`` put into a file. Raises CompressionError for one that is damaged or something else."""
    parts: Parts = {}
    try:
        with safe_open(path, "pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {})[ABOUT])
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                part, _, name = key.partition(".")
                parts.setdefault(part, {})[name] = file.get_tensor(key)
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
        raise unfit(path, error) from error
    return parts, about


def unfit(path: Path, error: Exception) -> CompressionError:
    """The error for a file that holds no checkpoint, or one of something else."""
    return CompressionError(f"{path} is no checkpoint of this training ({_reason(error)}); delete it to begin anew")


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two nested mappings of JSON values, field by field: ``heads.road: 1.0 -> 2.0``."""
    before, after = _flat(was), _flat(now)
    return [
        f"{name}: {before.get(name, 'nothing')} -> {after.get(name, 'nothing')}"
        for name in dict.fromkeys((*after, *before))
        if (name in before, before.get(name)) != (name in after, after.get(name))
    ]


def check_same(path: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Make sure that a checkpoint is of the training at hand. Raises CompressionError saying what differs."""
    found = differences(was, now)
    if found:
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        raise CompressionError(
            f"{path} is of a training with other settings: {'; '.join(found[:SHOWN] + more)}; "
            "go on with what was set before, or delete it to begin anew"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _reason(error: Exception) -> str:
    told = getattr(error, "strerror", None) or str(error)
    return told.strip().splitlines()[0] if told.strip() else type(error).__name__
