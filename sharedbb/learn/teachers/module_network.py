"""Torch modules as networks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharedbb.errors import CompressionError, GraphError
from sharedbb.learn.judge import normalized
from sharedbb.learn.teachers.heads import Arrays
from sharedbb.learn.teachers.imported import code_digest, imported
from sharedbb.spec.fuse import TeacherInput
from sharedbb.types import Normalization


class ModuleNetwork:
    """The module that ``package.module:function`` returns, in eval mode, on the device it is on.

    It takes float32 [1, 3, H, W] and returns a tensor, several, or several by name; detectors of torchvision, a list of
    one such mapping. Raises CompressionError where the function fails or returns something else.
    """

    def __init__(self, target: str, given: TeacherInput) -> None:
        function = imported(target)
        try:
            module = function()
        except Exception as error:
            raise CompressionError(f"{target}() raised {type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise CompressionError(f"{target}() must return a torch module, got {type(module).__name__}")
        self._code = code_digest(function) + code_digest(type(module))
        self._input, self._module = given, module.eval()

    @property
    def parameters(self) -> int:
        """Elements of its weights."""
        return sum(weight.numel() for weight in self._module.parameters())

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of its weights and of the files that define the function and the module's class."""
        found = hashlib.sha256(self._code.encode())
        for name, value in self._module.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    @torch.no_grad()
    def __call__(self, picture: NDArray[np.uint8]) -> Arrays:
        """What it computes, float32 or int64, by name or by position, for [1, H, W, 3] uint8 RGB."""
        device = next((weight.device for weight in self._module.parameters()), torch.device("cpu"))
        images = torch.from_numpy(picture).to(device).permute(0, 3, 1, 2)
        if self._input.order == "bgr":
            images = images.flip(1)
        try:
            found = self._module(normalized(images, Normalization(self._input.mean, self._input.std)))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise GraphError(f"the module cannot take float32 {list(images.shape)}: {reason}") from error
        return _named(found)


def _named(value: Any) -> dict[str, NDArray[Any]]:
    """Tensors by name. Raises GraphError for anything else."""
    if isinstance(value, Tensor):
        value = {"0": value}
    elif isinstance(value, list | tuple):
        value = value[0] if len(value) == 1 and isinstance(value[0], Mapping) else dict(enumerate(value))
    if not isinstance(value, Mapping) or not all(isinstance(one, Tensor) for one in value.values()):
        raise GraphError(f"the module returns {type(value).__name__}, not a tensor or tensors by name")
    return {
        str(name): (one.float() if one.is_floating_point() else one.long()).cpu().numpy() for name, one in value.items()
    }
