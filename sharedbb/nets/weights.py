"""Where a network's weights come from: torchvision by name, or a local file; and putting them in, strictly."""

from __future__ import annotations

import difflib
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from sharedbb.errors import WeightsError

State = Mapping[str, Tensor]

FILE_SUFFIXES = (".safetensors", ".pth", ".pt")
_ARTIFACT = ".sbb"


def is_file(weights: str) -> bool:
    """Whether ``weights`` names a file, by its suffix or a path separator, and not torchvision weights."""
    path = Path(weights)
    return path.suffix.lower() in (*FILE_SUFFIXES, _ARTIFACT) or len(path.parts) > 1


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The flat state dict in a ``.safetensors`` or ``.pth`` file, on the CPU; nothing but tensors is unpickled.

    Raises WeightsError when the file is missing, damaged, of another kind, or holds anything else than named tensors.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == _ARTIFACT:
        raise WeightsError(f"{path} is an artifact of a whole network: read it first and build with state=")
    if suffix not in FILE_SUFFIXES:
        raise WeightsError(f"cannot read weights from {path}: the name must end in {', '.join(FILE_SUFFIXES)}")
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    try:
        state = load_file(path) if suffix == ".safetensors" else _unpickled_tensors(path)
    except Exception as error:  # what a damaged pickle raises has no limits
        raise WeightsError(f"cannot read weights from {path}: {_first_line(error)}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} does not hold a flat state dict (names to tensors); save model.state_dict() alone")
    return state


def torchvision_state(arch: str, name: str) -> dict[str, Tensor]:
    """The state dict of torchvision's weights ``name`` for ``arch``, downloaded or from torch's cache, hash-checked.

    Raises WeightsError for an unknown name, listing what there is, and when the download fails.
    """
    enum = get_model_weights(arch)
    known = sorted(enum.__members__)
    if name not in known:
        near = difflib.get_close_matches(name.upper(), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise WeightsError(f"{arch} has no weights {name!r}{hint} (known: {', '.join(known)}, or a local .pth file)")
    url = enum[name].url
    try:
        state: dict[str, Any] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"cannot download weights {name} of {arch} ({_first_line(error)}); fetch {url} where there is a network "
            f"and give the path of that file as weights"
        ) from error
    return state


def put(state: State, module: nn.Module, what: str, *, exact: bool = False) -> None:
    """Copy ``state`` into ``module``: every weight of the module must be there in its shape.

    Names that the module does not have are ignored unless ``exact``. ``what`` names the weights in errors. Batch
    counters (``num_batches_tracked``), which old files lack and nothing reads, may be missing.

    Raises WeightsError naming the first weight that is missing, of another shape or (``exact``) left over.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(f"{what} lack {missing[0]!r} and {len(missing) - 1} more of {len(own)}; another network?")
    for name, value in own.items():
        if name in state and state[name].shape != value.shape:
            raise WeightsError(
                f"{what} have {name!r} of shape {tuple(state[name].shape)}, the network needs {tuple(value.shape)}; "
                f"do classes, channels and taps agree?"
            )
    left_over = [name for name in state if name not in own]
    if exact and left_over:
        raise WeightsError(f"{what} hold {left_over[0]!r} and {len(left_over) - 1} more that the network does not have")
    module.load_state_dict({name: state[name] for name in own if name in state}, strict=False)


def _unpickled_tensors(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle protocols: what cannot be read is an error all the same
        return torch.load(path, map_location="cpu", weights_only=True)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
