"""The ``.sbb`` artifact: a manifest and weights in one file, digest-checked; reading one runs no code.

A ``.sbb`` file is a ZIP archive without compression: ``manifest.json``, ``weights.safetensors`` and whatever other
parts the manifest lists by name, size and SHA-256. There is nothing else in it, and nothing in it is ever unpickled.
The archive's comment is the seal: the SHA-256 of every byte before it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sharedbb.errors import ArtifactError, GraphError, WeightsError

if TYPE_CHECKING:
    import torch

    from sharedbb.graph.quantization import Scheme

Read = TypeVar("Read")

FORMAT = "sharedbb"
VERSION = 2
PLAIN_VERSION = 1  # what artifacts need that have no structure, quantization or coded weights of their own
SUFFIX = ".sbb"
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
CODED_WEIGHTS = "weights.coded"
QUANTIZATION = "quantization.safetensors"

MAX_MANIFEST_BYTES = 4 * 2**20
MAX_PARTS = 64
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz")
_NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*"
_SEAL = b"sharedbb:sha256:"
_SEAL_PATTERN = re.escape(_SEAL) + rb"[0-9a-f]{64}"
_SEAL_BYTES = len(_SEAL) + 64
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Part:
    """One file inside an artifact: its SHA-256 in hex and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an artifact says of itself, all of it plain JSON values.

    ``kind``: what the weights are of, ``"network"`` for a whole pipeline. ``pipeline``: the pipeline as its spec dumps
    it. ``classes``: head name to the names it answers with, in order. ``input``: the contract of the network's input.
    ``report``: measured quality. ``recipe``: how it was made. ``structure``: the layers that are not as the pipeline
    builds them (``nets.structure``). ``quantization``: the grids that values are rounded to (``graph.scheme``).
    ``parts``: every other member of the file.
    """

    kind: str
    pipeline: Mapping[str, Any]
    classes: Mapping[str, tuple[str, ...]]
    input: Mapping[str, Any]
    report: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    structure: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    version: int = PLAIN_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as ``manifest.json`` holds them."""
        further = {"structure": dict(self.structure), "quantization": dict(self.quantization)}
        return {name: value for name, value in further.items() if value} | {
            "format": FORMAT,
            "version": self.version,
            "kind": self.kind,
            "pipeline": dict(self.pipeline),
            "classes": {head: list(names) for head, names in self.classes.items()},
            "input": dict(self.input),
            "report": dict(self.report),
            "recipe": dict(self.recipe),
            "parts": {name: {"sha256": part.sha256, "bytes": part.bytes} for name, part in self.parts.items()},
        }


class Artifact:
    """An artifact read from a file: every part verified, tensors decoded when first asked for."""

    def __init__(self, path: Path, manifest: Manifest, parts: Mapping[str, bytes]) -> None:
        self.path = path
        self.manifest = manifest
        self.parts = dict(parts)

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """State-dict name to tensor, by name, on the CPU, in the type they are stored in (coded ones decoded).

        Raises ArtifactError when the part is not what its name says.
        """
        if CODED_WEIGHTS in self.parts:
            from sharedbb.coding import decode

            return dict(sorted(self._read(decode).items()))
        return self._tensors(WEIGHTS)

    @cached_property
    def coding(self) -> dict[str, dict[str, Any]]:
        """How the weights are coded, by state-dict name; empty when they are stored as they are."""
        if CODED_WEIGHTS not in self.parts:
            return {}
        from sharedbb.coding import codings

        return self._read(codings)

    @cached_property
    def scheme(self) -> Scheme | None:
        """How the network is quantized; None when it is not. Raises ArtifactError when the part is damaged."""
        if not self.manifest.quantization:
            return None
        from sharedbb.graph.scheme import restored

        try:
            return restored(self.manifest.quantization, self._tensors(QUANTIZATION))
        except GraphError as error:
            raise ArtifactError(f"{self.path}: {error}") from error

    def scheme_for(self, heads: Collection[str]) -> Scheme | None:
        """The scheme for a network with these heads alone. Raises ArtifactError as ``scheme`` does."""
        found = self.scheme
        return found and replace(found, partial=not self.manifest.classes.keys() <= set(heads))

    def _read(self, reader: Callable[[bytes], Read]) -> Read:
        """What ``reader`` finds in the coded weights, its errors with the file's name."""
        try:
            return reader(self.parts[CODED_WEIGHTS])
        except ArtifactError as error:
            raise ArtifactError(f"{self.path}: {error}") from error

    def _tensors(self, part: str) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load as decode

        try:
            tensors = decode(self.parts[part])
        except (SafetensorError, ValueError, KeyError) as error:
            raise ArtifactError(f"{self.path}: {part} is not safetensors: {error}") from error
        return dict(sorted(tensors.items()))

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {part.bytes} bytes" for name, part in self.manifest.parts.items())
        return f"Artifact({str(self.path)!r}, kind={self.manifest.kind!r}, parts: {parts})"


def save(
    path: str | Path,
    manifest: Manifest,
    weights: Mapping[str, torch.Tensor],
    *,
    parts: Mapping[str, bytes] | None = None,
    half: bool = False,
    coding: Mapping[str, Mapping[str, Any]] | None = None,
    scheme: Scheme | None = None,
) -> Manifest:
    """Write an artifact; returns the manifest as written, its ``parts`` filled in.

    ``weights``: state-dict name to tensor. With ``half``, floating-point tensors of two dimensions or more are stored
    as float16 (norms and biases stay as they are). ``coding``: how weights are coded instead, by name (see
    ``sharedbb.coding``). ``scheme``: how the network is quantized. ``parts``: further members by name, letters,
    digits, ``._-`` and ``/`` only. Equal contents give equal bytes. The file appears whole or not at all.

    Raises ArtifactError for a name that may not be stored, a weight that is not finite (in float16, where ``half``),
    and a file that cannot be written.
    """
    path = Path(path)
    members = {**_weights(path, weights, half, coding), **(parts or {})}
    if scheme is not None:
        from sharedbb.graph.scheme import described

        quantization, tensors = described(scheme)
        manifest = replace(manifest, quantization=quantization)
        members[QUANTIZATION] = _encode(path, tensors, half=False)
    for name in members:
        _allow(path, name)
    version = VERSION if coding or manifest.structure or manifest.quantization else PLAIN_VERSION
    written = replace(manifest, parts={name: _part(data) for name, data in sorted(members.items())}, version=version)
    try:
        text = json.dumps(written.to_dict(), indent=1, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: the manifest must be plain JSON values: {error}") from error
    _replace(path, _zipped({MANIFEST: text.encode(), **members}))
    return written


def load(path: str | Path) -> Artifact:
    """Read an artifact and verify every byte of it; tensors are decoded when first asked for.

    Raises ArtifactError when the file is missing, is no ``.sbb``, is cut off, is of a newer version, lacks a part,
    holds something that its manifest does not list (a pickle above all), or differs by a byte from what was written.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read the artifact: {error.strerror or error}") from error
    members = _unzipped(path, data)
    if MANIFEST not in members:
        raise ArtifactError(f"{path}: no {MANIFEST} in it, so it is not a sharedbb artifact")
    manifest = _manifest(path, members.pop(MANIFEST))
    for name in sorted(members.keys() - manifest.parts.keys()):
        raise ArtifactError(f"{path}: holds {name!r}, which its manifest does not list; do not trust this file")
    for name, part in manifest.parts.items():
        if name not in members:
            raise ArtifactError(f"{path}: part {name!r} is missing; the file is incomplete")
        if _part(members[name]) != part:
            raise ArtifactError(f"{path}: part {name!r} is damaged (its SHA-256 is not the one in the manifest)")
    if _sealed(data[:-_SEAL_BYTES]) != data:
        raise ArtifactError(f"{path}: damaged, or changed after it was written (its seal does not fit)")
    return Artifact(path, manifest, members)


def digest(path: str | Path) -> str:
    """SHA-256 in hex of an artifact's content, for cache keys: read from the file's last bytes, not verified.

    Raises ArtifactError when the file cannot be read or has no seal.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SEAL_BYTES))
            seal = file.read()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read the artifact: {error.strerror or error}") from error
    if not re.fullmatch(_SEAL_PATTERN, seal):
        raise ArtifactError(f"{path}: not a sharedbb artifact, or cut off (no seal at its end)")
    return seal[len(_SEAL) :].decode()


def class_names(head: Any) -> tuple[str, ...]:
    """What a head answers with, in order: its spec's ``classes``, ``labels`` or ``points``; empty for other heads."""
    for name in ("classes", "labels", "points"):
        if (found := getattr(head, name, None)) is not None:
            return tuple(found)
    return ()


def check_heads(artifact: Artifact, heads: Mapping[str, Any]) -> None:
    """Make sure that the weights were trained for these heads; ``heads`` maps names to head specs.

    Type, taps and names must agree; the artifact may have further heads. Raises WeightsError saying which head, what is
    asked for and what the artifact has.
    """
    trained = artifact.manifest.pipeline.get("heads", {})
    for name, head in heads.items():
        if name not in artifact.manifest.classes:
            known = ", ".join(artifact.manifest.classes)
            raise WeightsError(f"head {name!r}: {artifact.path} has no weights for it (it has: {known})")
        asked, has = class_names(head), artifact.manifest.classes[name]
        if asked != has:
            raise WeightsError(f"head {name!r} asks for {list(asked)}, but {artifact.path} was trained for {list(has)}")
        for attribute in ("type", "taps"):
            want, got = getattr(head, attribute, None), trained.get(name, {}).get(attribute)
            if want is not None and got is not None and _plain(want) != _plain(got):
                raise WeightsError(
                    f"head {name!r} has {attribute} {_plain(want)}, but {artifact.path} was trained with {_plain(got)}"
                )


def load_weights(module: torch.nn.Module, artifact: Artifact, heads: Mapping[str, Any]) -> None:
    """Copy an artifact's weights into a network, converted to the network's own types.

    ``heads`` maps names to the network's head specs (see ``check_heads``). Weights of heads that the network does not
    have are left aside; everything else must fit exactly. Layers that the artifact has in another form (narrower,
    factorised, left out) are given that form first. Raises WeightsError naming the first fault.
    """
    from sharedbb.nets.structure import apply

    check_heads(artifact, heads)
    stored = artifact.weights
    edits, shapes = dict(artifact.manifest.structure), {name: tuple(each.shape) for name, each in stored.items()}
    if not _branches(artifact.manifest):  # branches begin like the trunk
        for branch in _branches_of(module):
            edits |= {f"branches.{branch}.{path}": told for path, told in artifact.manifest.structure.items()}
            shapes |= {f"branches.{branch}.{name}": tuple(each.shape) for name, each in stored.items()}
    apply(module, edits, shapes)
    own = module.state_dict()
    completed = getattr(module, "completed", None)
    if completed is not None:  # a network that can begin with the weights of a plainer one
        stored = completed(stored)
    missing = [name for name in own if name not in stored]
    if missing:
        raise WeightsError(
            f"{artifact.path} lacks {missing[0]!r} ({len(missing)} of {len(own)} weights); another network?"
        )
    for name, tensor in own.items():
        if stored[name].shape != tensor.shape:
            found = f"{tuple(stored[name].shape)}, the network needs {tuple(tensor.shape)}"
            raise WeightsError(f"{artifact.path} has {name!r} of shape {found}; do arch, channels and classes agree?")
    aside = tuple(f"heads.{name}." for name in artifact.manifest.classes if name not in heads)
    aside += tuple(f"branches.{name}." for name in _branches(artifact.manifest) if name not in _branches_of(module))
    left_over = [name for name in stored if name not in own and not name.startswith(aside)]
    if left_over:
        raise WeightsError(
            f"{artifact.path} has {left_over[0]!r}, which the network does not ({len(left_over)} in all)"
        )
    module.load_state_dict({name: stored[name] for name in own})


def _branches(manifest: Manifest) -> Collection[str]:
    """The names of the branches that the artifact's pipeline has."""
    told = manifest.pipeline.get("branches")
    return told if isinstance(told, Mapping) else ()


def _branches_of(module: torch.nn.Module) -> Collection[str]:
    """The names of the branches that a network has."""
    found: Any = getattr(module, "branches", None)
    return set() if found is None else set(found.keys())


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def _part(data: bytes) -> Part:
    return Part(hashlib.sha256(data).hexdigest(), len(data))


def _weights(
    path: Path, weights: Mapping[str, torch.Tensor], half: bool, coding: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, bytes]:
    """The one part that holds the weights."""
    if not coding:
        return {WEIGHTS: _encode(path, weights, half)}
    from sharedbb.coding import encode

    return {CODED_WEIGHTS: encode({name: weights[name] for name in sorted(weights)}, coding)}


def _encode(path: Path, weights: Mapping[str, torch.Tensor], half: bool) -> bytes:
    import torch
    from safetensors.torch import save as encode

    stored = {}
    for name, tensor in weights.items():
        value = tensor.detach().cpu()
        if half and value.is_floating_point() and value.ndim > 1:
            value = value.half()
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ArtifactError(f"{path}: weight {name!r} is not finite{' as float16' if half else ''}")
        stored[name] = value.contiguous().clone()
    return bytes(encode(stored))


def _zipped(members: Mapping[str, bytes]) -> bytes:
    """The archive of ``members``, manifest first, then by name, sealed: the same bytes for the same members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members, key=lambda name: (name != MANIFEST, name)):
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, members[name])
        archive.comment = b" " * _SEAL_BYTES
    return _sealed(buffer.getvalue()[:-_SEAL_BYTES])


def _sealed(content: bytes) -> bytes:
    """The archive with the SHA-256 of all that goes before as its comment."""
    return content + _SEAL + hashlib.sha256(content).hexdigest().encode()


def _unzipped(path: Path, data: bytes) -> dict[str, bytes]:
    """Member name → content. Nothing is inflated, so that a small file can never fill the memory."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_PARTS or sum(entry.file_size for entry in entries) > len(data):
                raise ArtifactError(f"{path}: more in it than the file can hold; do not trust this file")
            for entry in entries:
                _allow(path, entry.filename)
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    raise ArtifactError(f"{path}: {entry.filename!r} is compressed or encrypted; artifacts never are")
            if len({entry.filename for entry in entries}) < len(entries):
                raise ArtifactError(f"{path}: the same part twice; do not trust this file")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError, struct.error) as error:
        fault = "damaged or cut off" if data[:2] == b"PK" else "not a sharedbb artifact (no .sbb archive)"
        raise ArtifactError(f"{path}: {fault}: {str(error) or 'unexpected end'}") from error


def _allow(path: Path, name: str) -> None:
    if name.lower().endswith(_PICKLES):
        raise ArtifactError(f"{path}: {name!r} may be a pickle, which could run code; artifacts hold none")
    if not re.fullmatch(_NAME_PATTERN, name):
        raise ArtifactError(f"{path}: {name!r} is no name for a part (letters, digits, '._-', folders by '/')")


def _manifest(path: Path, text: bytes) -> Manifest:
    """The manifest of ``manifest.json``, every field of the right type."""
    if len(text) > MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{path}: {MANIFEST} of {len(text)} bytes is longer than {MAX_MANIFEST_BYTES}")
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: {MANIFEST} is damaged: {error}") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ArtifactError(f'{path}: {MANIFEST} does not say "format": "{FORMAT}", so it is another kind of file')
    version = told.get("version")
    if type(version) is not int or version < 1:
        raise ArtifactError(f"{path}: {MANIFEST} has no format version")
    if version > VERSION:
        raise ArtifactError(f"{path}: format version {version}, this sharedbb reads up to {VERSION}; upgrade sharedbb")
    try:
        parts = {str(name): Part(str(part["sha256"]), int(part["bytes"])) for name, part in told["parts"].items()}
        classes = {str(head): tuple(str(name) for name in names) for head, names in told["classes"].items()}
        plain = {name: dict(told[name]) for name in ("pipeline", "input", "report", "recipe")}
        plain |= {name: dict(told.get(name, {})) for name in ("structure", "quantization")}
        made = Manifest(str(told["kind"]), classes=classes, parts=parts, version=version, **plain)
        if not all(isinstance(head, Mapping) for head in dict(plain["pipeline"].get("heads", {})).values()):
            raise TypeError("a head of the pipeline is not a mapping")
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ArtifactError(f"{path}: {MANIFEST} lacks a field or has one of another type: {error}") from error
    if len({WEIGHTS, CODED_WEIGHTS} & parts.keys()) != 1:
        raise ArtifactError(f"{path}: {MANIFEST} lists no {WEIGHTS} (or {CODED_WEIGHTS}); the file is incomplete")
    return made


def _replace(path: Path, data: bytes) -> None:
    """Write beside ``path``, then rename over it."""
    fresh: str | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            fresh = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(fresh, 0o644)
        os.replace(fresh, path)
    except OSError as error:
        if fresh is not None:
            Path(fresh).unlink(missing_ok=True)
        raise ArtifactError(f"{path}: cannot write the artifact: {error.strerror or error}") from error
