"""Lanes: all symbols of one kind, from all weights, behind each other, so that one entropy code fits them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharedbb.coding.form import DTYPE_NAMES
from sharedbb.errors import ArtifactError


class LaneWriter:
    """Symbols by lane, each a byte; a lane appears when something is first put on it."""

    def __init__(self) -> None:
        self._symbols: dict[str, list[NDArray[np.uint8]]] = {}

    def put(self, lane: str, symbols: NDArray[np.uint8]) -> None:
        """Add symbols, of any shape, at the end of a lane."""
        self._symbols.setdefault(lane, []).append(symbols.ravel())

    def put_numbers(self, values: NDArray[Any]) -> None:
        """The n-th bytes of all values go on the n-th lane of their type."""
        for place, plane in enumerate(values.reshape(-1, 1).view(np.uint8).T):
            self.put(f"{DTYPE_NAMES[values.dtype]}.{place}", plane)

    def packed(self) -> dict[str, tuple[bytes, int]]:
        """Lane → its bytes as stored, and how many symbols they are, by name."""
        found = {lane: np.concatenate(symbols).tobytes() for lane, symbols in sorted(self._symbols.items())}
        return {lane: (deflated(symbols), len(symbols)) for lane, symbols in found.items()}


class LaneReader:
    """The lanes of ``body``, read from front to back; ``sizes`` gives each lane's packed bytes and its symbols.

    Raises ArtifactError when they do not agree, or when the lanes together declare more than ``limit`` symbols:
    nothing is inflated beyond what is declared.
    """

    def __init__(self, body: bytes, sizes: Mapping[str, tuple[int, int]], limit: int) -> None:
        if any(min(declared) < 0 for declared in sizes.values()):
            raise ArtifactError("coded weights: a lane of less than nothing; do not trust this file")
        if sum(packed for packed, _ in sizes.values()) != len(body):
            raise ArtifactError("coded weights: cut off, or longer than the header says")
        if sum(size for _, size in sizes.values()) > limit:
            raise ArtifactError("coded weights: more symbols than the weights can have; do not trust this file")
        self._lanes: dict[str, NDArray[np.uint8]] = {}
        self._at = dict.fromkeys(sizes, 0)
        start = 0
        for lane, (packed, size) in sizes.items():
            symbols = inflated(body[start : start + packed], size) if packed <= size else b""
            if len(symbols) != size:
                raise ArtifactError(f"coded weights: lane {lane!r} is damaged")
            self._lanes[lane] = np.frombuffer(symbols, np.uint8)
            start += packed

    def take(self, lane: str, count: int) -> NDArray[np.uint8]:
        """The next ``count`` symbols of a lane."""
        start = self._at.get(lane, 0)
        symbols = self._lanes.get(lane, np.zeros(0, np.uint8))[start : start + count]
        if symbols.size != count:
            raise ArtifactError(f"coded weights: lane {lane!r} ends too early; do not trust this file")
        if count:
            self._at[lane] = start + count
        return symbols

    def take_numbers(self, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The next ``count`` values of a type."""
        planes = [self.take(f"{DTYPE_NAMES[dtype]}.{place}", count) for place in range(dtype.itemsize)]
        return np.stack(planes, axis=1).view(dtype).ravel()

    def finish(self) -> None:
        """Raises ArtifactError when a lane has more than was taken."""
        for lane, symbols in self._lanes.items():
            if self._at[lane] != symbols.size:
                raise ArtifactError(f"coded weights: lane {lane!r} is longer than the weights on it")


def deflated(symbols: bytes) -> bytes:
    """Symbols, entropy coded: with Huffman codes alone, with repeats too, or not at all, whichever is shortest."""
    tried = [symbols]
    for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY):
        stream = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        tried.append(stream.compress(symbols) + stream.flush())
    return min(tried, key=len)


def inflated(packed: bytes, size: int) -> bytes:
    """``deflated`` the other way. Bytes that are ``size`` long are the symbols; a damaged stream gives none.

    Never gives more than ``size`` + 1 symbols, whatever the stream says.
    """
    if len(packed) == size:
        return packed
    stream = zlib.decompressobj(-15)
    try:
        symbols = stream.decompress(packed, size + 1)
    except zlib.error:
        return b""
    return symbols if stream.eof and not stream.unused_data else b""
