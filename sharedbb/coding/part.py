"""The coded bytes: a header that says what every weight is, then the lanes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.coding.form import (
    AS_IT_IS,
    DTYPE_NAMES,
    DTYPES,
    FLOAT,
    MAX_DECODED_BYTES,
    MAX_RATIO,
    UNSUSPICIOUS_BYTES,
    Coding,
    Entry,
)
from sharedbb.coding.lanes import LaneReader, LaneWriter, deflated, inflated
from sharedbb.coding.symbols import from_codebook, from_grid, grid, places_behind, runs_before, to_grid
from sharedbb.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = b"sharedbb coding 1\n"
MAX_HEADER_BYTES = 4 * 2**20
_LENGTH_BYTES = 4
_BOOK_SIZE = 2**8
_Books = Mapping[str, NDArray[np.float32]]


def encode(tensors: Mapping[str, Tensor], coding: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Weights by state-dict name as one self-describing piece of bytes; equal weights and codings give equal bytes.

    A weight without a coding is stored as it is. Equal bytes hold for one build of zlib; what they decode to, for all.

    Raises ArtifactError for a coding that is none, a weight it does not fit (too many values for its codebook, too
    large for float16), one that is not finite, and a coding for a weight that is not there.
    """
    if absent := sorted(coding.keys() - tensors.keys()):
        raise ArtifactError(f"there is a coding for {absent[0]!r}, but no weight of that name")
    arrays = {name: _array(name, tensors[name]) for name in sorted(tensors)}
    forms = {name: Coding.parse(name, coding[name]) if name in coding else AS_IT_IS for name in arrays}
    for name, array in arrays.items():
        forms[name].check(name, array.shape, array.dtype)
    books = _codebooks(arrays, forms)
    lanes = LaneWriter()
    for book in books.values():
        lanes.put_numbers(book)
    entries = {name: _put(lanes, name, array, forms[name], books) for name, array in arrays.items()}
    packed = lanes.packed()
    header = {
        "tensors": {name: entry.to_dict() for name, entry in entries.items()},
        "codebooks": {group: book.size for group, book in books.items()},
        "lanes": {lane: [len(stream), size] for lane, (stream, size) in packed.items()},
    }
    text = deflated(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    length = len(text).to_bytes(_LENGTH_BYTES, "little")
    return b"".join((MAGIC, length, text, *(stream for stream, _ in packed.values())))


def decode(data: bytes) -> dict[str, Tensor]:
    """The weights of ``encode``, by name, on the CPU, in the types they had before.

    Encoded again with the same codings they give the same bytes. Raises ArtifactError for bytes that are damaged, cut
    off, of a newer version or made to exhaust the memory (more than ``MAX_DECODED_BYTES``, or far more than they are).
    """
    import torch

    header, body = _header(data)
    entries = _entries(header)
    try:
        sizes = {str(lane): (int(packed), int(size)) for lane, (packed, size) in header["lanes"].items()}
        lengths = {str(group): int(length) for group, length in header["codebooks"].items()}
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _faulty(error) from error
    if not all(0 <= length <= _BOOK_SIZE for length in lengths.values()):
        raise ArtifactError(f"coded weights: a codebook of more than {_BOOK_SIZE} values; do not trust this file")
    declared = sum(entry.bytes for entry in entries.values())
    most = min(MAX_DECODED_BYTES, max(UNSUSPICIOUS_BYTES, MAX_RATIO * len(data)))
    if declared > most:
        raise ArtifactError(f"coded weights: {declared} bytes when decoded, more than {most}; do not trust this file")
    lanes = LaneReader(body, sizes, 2 * declared + FLOAT.itemsize * sum(lengths.values()))
    books = {group: lanes.take_numbers(length, FLOAT) for group, length in lengths.items()}
    found = {name: _take(lanes, name, entry, books) for name, entry in entries.items()}
    lanes.finish()
    return {name: torch.from_numpy(array) for name, array in found.items()}


def codings(data: bytes) -> dict[str, dict[str, Any]]:
    """Weight name → the coding it was encoded with; weights that are stored as they are have none.

    Reads the header alone. Raises ArtifactError when that is damaged.
    """
    found = {name: entry.coding for name, entry in _entries(_header(data)[0]).items()}
    return {name: coding.to_dict() for name, coding in found.items() if coding != AS_IT_IS}


def _put(lanes: LaneWriter, name: str, array: NDArray[Any], coding: Coding, books: _Books) -> Entry:
    """Write one weight to its lanes; returns its entry in the header."""
    rows = array.reshape(_matrix(array.shape, coding))
    zero, runs = np.zeros((1, 1), array.dtype), None
    if coding.type == "uniform":
        scale, zero = grid(rows, coding)
        lanes.put_numbers(scale)
        lanes.put("zero points", zero)
        rows = to_grid(rows, scale, zero, coding)
    values = rows.ravel()
    if coding.sparse:
        kept = np.flatnonzero(rows != zero)
        gaps = runs_before(kept, values.size)
        lanes.put("runs", gaps)
        values, runs = values[kept], gaps.size
    match coding.type:
        case "uniform":
            lanes.put(f"uniform{coding.bits}", values)
        case "codebook":
            lanes.put(f"codebook{coding.bits}", np.searchsorted(books[coding.book(name)], values).astype(np.uint8))
        case _:
            lanes.put_numbers(_stored(name, values, coding))
    return Entry(array.shape, array.dtype, coding, runs)


def _take(lanes: LaneReader, name: str, entry: Entry, books: _Books) -> NDArray[Any]:
    """Read one weight from its lanes: ``_put`` the other way."""
    coding, matrix, count = entry.coding, _matrix(entry.shape, entry.coding), entry.size
    zero: NDArray[Any] = np.zeros((1, 1), entry.dtype)
    if coding.type == "uniform":
        scale = lanes.take_numbers(matrix[0], FLOAT)[:, None]
        zero = lanes.take("zero points", matrix[0])[:, None]
    if entry.runs is not None:
        kept = places_behind(name, lanes.take("runs", entry.runs), entry.size)
        count = kept.size
    values: NDArray[Any]
    match coding.type:
        case "uniform":
            values = lanes.take(f"uniform{coding.bits}", count)
        case "codebook":
            values = from_codebook(name, lanes.take(f"codebook{coding.bits}", count), books.get(coding.book(name)))
        case _:
            stored = entry.dtype if coding.dtype is None else DTYPES[coding.dtype]
            values = lanes.take_numbers(count, stored).astype(entry.dtype)
    if entry.runs is not None:
        dense = np.broadcast_to(zero, matrix).flatten()
        dense[kept] = values
        values = dense
    if coding.type == "uniform":
        values = from_grid(values.astype(np.uint8).reshape(matrix), scale, zero)
    return _finite(name, values).reshape(entry.shape)


def _matrix(shape: tuple[int, ...], coding: Coding) -> tuple[int, int]:
    """The weight as rows that have a scale each, where the coding has an axis; as one row otherwise."""
    if coding.type == "uniform" and coding.axis is not None:
        return shape[0], math.prod(shape[1:])
    return 1, math.prod(shape)


def _array(name: str, tensor: Tensor) -> NDArray[Any]:
    """A tensor as a finite array of a type that can be stored."""
    try:
        array = tensor.detach().cpu().contiguous().numpy()
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        known = array.dtype in DTYPE_NAMES
    except TypeError:  # NumPy does not have the type
        known = False
    if not known:
        raise ArtifactError(f"weight {name!r} is {tensor.dtype}; only {', '.join(DTYPES)} can be stored")
    return _finite(name, array)


def _stored(name: str, values: NDArray[Any], coding: Coding) -> NDArray[Any]:
    """``values`` in the type that a plain coding stores them in."""
    if coding.dtype is None:
        return values
    with np.errstate(over="ignore"):
        return _finite(name, values.astype(DTYPES[coding.dtype]))


def _finite(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(array).all():
        raise ArtifactError(f"weight {name!r} is not finite as {array.dtype}")
    return array


def _codebooks(arrays: Mapping[str, NDArray[Any]], forms: Mapping[str, Coding]) -> dict[str, NDArray[np.float32]]:
    """Group → the values of all its weights, in order; zero is left out where sparse coding leaves it out."""
    groups: dict[str, list[str]] = {}
    for name, form in forms.items():
        if form.type == "codebook":
            groups.setdefault(form.book(name), []).append(name)
    books = {}
    for group, names in sorted(groups.items()):
        found = [np.unique(arrays[name] + FLOAT.type(0)) for name in names]  # minus zero becomes zero
        found = [
            values[values != 0] if forms[name].sparse else values for name, values in zip(names, found, strict=True)
        ]
        books[group] = np.unique(np.concatenate(found))
        bits = min(forms[name].bits for name in names)
        if books[group].size > 2**bits:
            raise ArtifactError(
                f"the weights of codebook {group!r} (first {names[0]!r}) have {books[group].size} different values, "
                f"{bits} bits tell {2**bits} apart; cluster them first, or give more bits"
            )
    return books


def _entries(header: Mapping[str, Any]) -> dict[str, Entry]:
    """What the header says of each weight, checked."""
    try:
        return {str(name): Entry.parse(str(name), told) for name, told in header["tensors"].items()}
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _faulty(error) from error


def _faulty(error: Exception) -> ArtifactError:
    return ArtifactError(f"coded weights: the header lacks a field or has one of another type: {error}")


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header as told, and the bytes behind it."""
    start = len(MAGIC) + _LENGTH_BYTES
    if not data.startswith(MAGIC):
        kind = "of another version" if data.startswith(MAGIC.split()[0]) else "not coded weights"
        raise ArtifactError(f"coded weights: the bytes are {kind}; this sharedbb reads version 1")
    end = start + int.from_bytes(data[len(MAGIC) : start], "little")
    text = inflated(data[start:end], MAX_HEADER_BYTES) if end <= len(data) else b""
    if not text or len(text) > MAX_HEADER_BYTES:
        raise ArtifactError("coded weights: the header is damaged, cut off or too long")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"coded weights: the header is damaged: {error}") from error
    if not isinstance(header, dict):
        raise ArtifactError("coded weights: the header is no mapping")
    return header, data[end:]
