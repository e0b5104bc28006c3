"""How a network differs from the one that its pipeline builds: other widths, layers replaced by others.

Pruning narrows layers, factorising puts two in the place of one, block pruning leaves one out. All of it is told as
plain values: the path of a layer and what is there now. Only the kinds of layers in ``KINDS`` can be told, and building
them runs no code but their constructors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from reprlib import repr as short
from typing import Any

import torch
from torch import Tensor, nn

from sharedbb.errors import WeightsError

Edits = dict[str, dict[str, Any]]

WIDEST = 65_536
"""Most channels, features or kernel cells that a layer may have."""

DEEPEST = 4
"""Most Sequentials inside each other."""

MOST_GROWTH, MOST_REACH, MOST_STRIDE = 16, 128, 32
"""Pixels that a convolution may add to a side, and that a transposed one may spread a pixel over, and its stride."""

GROWING = ("Conv2d", "ConvTranspose2d")
_SIDES = (("kernel_size", 1), ("dilation", 1), ("padding", 0), ("stride", 1))

_WORDS = ("same", "valid", "zeros", "reflect", "replicate", "circular")
"""Paddings and padding modes that are words."""

_CONVOLUTION = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
_TRANSPOSED = (*_CONVOLUTION, "output_padding")


def _convolution(layer: Any) -> dict[str, Any]:
    return {name: _plain(getattr(layer, name)) for name in _CONVOLUTION} | {"bias": layer.bias is not None}


def _transposed(layer: Any) -> dict[str, Any]:
    return {name: _plain(getattr(layer, name)) for name in _TRANSPOSED} | {"bias": layer.bias is not None}


def _linear(layer: Any) -> dict[str, Any]:
    return {"in_features": layer.in_features, "out_features": layer.out_features, "bias": layer.bias is not None}


def _batch_norm(layer: Any) -> dict[str, Any]:
    settings = {"num_features": layer.num_features, "eps": layer.eps, "affine": layer.affine}
    return settings if layer.momentum is None else settings | {"momentum": layer.momentum}


def _layer_norm(layer: Any) -> dict[str, Any]:
    settings = {"normalized_shape": list(layer.normalized_shape), "eps": layer.eps}
    return settings | {"elementwise_affine": layer.elementwise_affine, "bias": layer.bias is not None}


KINDS: Mapping[str, tuple[type[nn.Module], Callable[[Any], dict[str, Any]]]] = {
    "Conv2d": (nn.Conv2d, _convolution),
    "ConvTranspose2d": (nn.ConvTranspose2d, _transposed),
    "Linear": (nn.Linear, _linear),
    "BatchNorm2d": (nn.BatchNorm2d, _batch_norm),
    "LayerNorm": (nn.LayerNorm, _layer_norm),
    "Identity": (nn.Identity, lambda layer: {}),
}


def differences(plain: nn.Module, module: nn.Module) -> Edits:
    """What must be done to ``plain`` to get the layers of ``module``: path to description, ``{}`` when nothing.

    Raises WeightsError for a layer of a kind that cannot be told.
    """
    edits: Edits = {}
    _compare("", plain, module, edits)
    return edits


def _compare(path: str, plain: nn.Module, module: nn.Module, edits: Edits) -> None:
    kind = _kind(module)
    if kind is not None:
        described = _describe(path, module)
        if _kind(plain) != kind or _describe(path, plain) != described:
            edits[path] = described
        return
    if type(plain) is not type(module):
        edits[path] = _describe(path, module)
        return
    mine, theirs = dict(plain.named_children()), dict(module.named_children())
    if mine.keys() != theirs.keys():
        edits[path] = _describe(path, module)
        return
    shapes = {name: list(tensor.shape) for name, tensor in _own_tensors(module).items()}
    if shapes != {name: list(tensor.shape) for name, tensor in _own_tensors(plain).items()}:
        edits[path] = {"type": "tensors", "shapes": shapes}
    channels = getattr(module, "channels", None)
    if isinstance(channels, dict) and channels != getattr(plain, "channels", None):
        edits[f"{path}.channels"] = {"type": "channels", "channels": {str(k): int(v) for k, v in channels.items()}}
    for name, child in theirs.items():
        _compare(f"{path}.{name}" if path else name, mine[name], child, edits)


def _describe(path: str, module: nn.Module) -> dict[str, Any]:
    kind = _kind(module)
    if kind is not None:
        return {"type": kind, **KINDS[kind][1](module)}
    if type(module) is nn.Sequential:
        return {"type": "Sequential", "layers": [_describe(path, child) for child in module]}
    raise WeightsError(
        f"{path}: a {type(module).__name__} cannot be stored where the pipeline has another layer; "
        f"use {', '.join(KINDS)} or a Sequential of them"
    )


def _kind(module: nn.Module) -> str | None:
    return next((name for name, (cls, _) in KINDS.items() if isinstance(module, cls)), None)


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """What the state dict has of a module itself."""
    found = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    return {name: tensor for name, tensor in found.items() if name not in module._non_persistent_buffers_set}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def apply(module: nn.Module, edits: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Change ``module`` in place as ``differences`` told; the new layers' weights are not set.

    ``shapes``: the weights that are there, by state-dict name. A layer is only made where its weights have just those
    shapes, so that a description can never ask for more memory than the weights take. Descriptions of layers that the
    module does not have (of a head that was left out) are passed over.

    Raises WeightsError for descriptions that are damaged or do not fit.
    """
    for path, described in edits.items():
        if not isinstance(described, Mapping):
            raise WeightsError(f"the description of layer {path!r} is damaged: {short(described)}")
        if described.get("type") == "channels":
            _set_channels(module, path, described)
            continue
        if not _has(module, path):
            continue
        if described.get("type") == "tensors":
            _set_tensors(module.get_submodule(path), path, described, shapes)
            continue
        if not path:
            raise WeightsError("the description of the whole network as one layer is damaged")
        with torch.device("meta"):
            layer = _build(path, described)
        for name, tensor in layer.state_dict().items():
            stored = shapes.get(f"{path}.{name}")
            if stored != tuple(tensor.shape):
                told = tuple(tensor.shape)
                raise WeightsError(f"layer {path!r} is told with {name} of shape {told}, stored: {stored}")
        layer = layer.to_empty(device="cpu")
        _fill(layer)
        old = module.get_submodule(path)
        if _kind(old) is not None and isinstance(old, type(layer)):
            layer.__class__ = type(old)  # torchvision's own variants keep their forward
        layer.train(old.training)
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, layer)


def _build(path: str, described: Any, depth: int = 0) -> nn.Module:
    if not isinstance(described, Mapping) or depth > DEEPEST:
        raise WeightsError(f"the description of layer {path!r} is damaged, or nested more than {DEEPEST} deep")
    settings = {name: value for name, value in described.items() if name != "type"}
    kind = described.get("type")
    if kind == "Sequential" and isinstance(layers := settings.get("layers"), list) and 0 < len(layers) <= 8:
        return nn.Sequential(*(_build(path, layer, depth + 1) for layer in layers))
    if not isinstance(kind, str) or kind not in KINDS:
        raise WeightsError(f"layer {path!r} is described as {short(kind)}; known are {', '.join(KINDS)}, Sequential")
    if not all(_is_small(value) for value in settings.values()):
        raise WeightsError(f"layer {path!r} is described with impossible values: {short(settings)}")
    if kind in GROWING and not _is_sensible(settings, transposed=kind == "ConvTranspose2d"):
        raise WeightsError(f"layer {path!r} answers far beyond its picture: {short(settings)}; do not trust this file")
    try:
        return KINDS[kind][0](**settings)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise WeightsError(f"layer {path!r} cannot be a {kind} of {short(settings)}: {error}") from error


def _is_sensible(settings: Mapping[str, Any], *, transposed: bool) -> bool:
    """Whether the picture that a convolution answers has a size in proportion to the one that it reads."""

    def pair(name: str, usual: int) -> list[int]:
        value = settings.get(name, usual)
        return value if isinstance(value, list) else [value] * 2 if isinstance(value, int) else [usual] * 2

    kernel, dilation, padding, stride = (pair(*one) for one in _SIDES)
    reach = [(side - 1) * step for side, step in zip(kernel, dilation, strict=False)]
    if transposed:
        return max(reach, default=0) <= MOST_REACH and max(stride, default=1) <= MOST_STRIDE
    return all(2 * most - own <= MOST_GROWTH for most, own in zip(padding, reach, strict=False))


def _is_small(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 4 and all(type(one) is int and _is_small(one) for one in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value in _WORDS if isinstance(value, str) else isinstance(value, bool | int) and 0 <= value <= WIDEST


def _fill(layer: nn.Module) -> None:
    """Weights that stay as they are when nothing is loaded: zeros and ones, not chance."""
    with torch.no_grad():
        for name, tensor in layer.state_dict(keep_vars=True).items():
            tensor.fill_(1 if name.endswith("running_var") else 0)


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _set_tensors(
    module: nn.Module, path: str, described: Mapping[str, Any], stored: Mapping[str, tuple[int, ...]]
) -> None:
    own, shapes = _own_tensors(module), described.get("shapes")
    if not isinstance(shapes, Mapping) or shapes.keys() != own.keys():
        raise WeightsError(f"layer {path!r} is described with tensors {short(shapes)}; it has {sorted(own)}")
    for name, tensor in own.items():
        shape = stored.get(f"{path}.{name}" if path else name)
        if shape is None or list(shape) != shapes[name]:
            raise WeightsError(f"layer {path!r} is told with {name} of shape {short(shapes[name])}, stored: {shape}")
        fresh = torch.zeros(shape, dtype=tensor.dtype)
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(fresh, requires_grad=tensor.requires_grad))
        else:
            setattr(module, name, fresh)


def _set_channels(module: nn.Module, path: str, described: Mapping[str, Any]) -> None:
    owner = path.removesuffix(".channels")
    if not _has(module, owner):
        return
    owning: Any = module.get_submodule(owner)
    channels: Any = described.get("channels")
    known: Any = getattr(owning, "channels", None)
    sound = (
        isinstance(channels, Mapping)
        and isinstance(known, dict)
        and channels.keys() == {str(stride) for stride in known}
        and all(type(width) is int and 0 < width <= WIDEST for width in channels.values())
    )
    if not sound:
        raise WeightsError(f"the channels of {owner!r} are damaged: {short(channels)}")
    owning.channels = {stride: channels[str(stride)] for stride in known}
