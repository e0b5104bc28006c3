"""The room's front: which steps there are, and that they are functions."""

from __future__ import annotations

import inspect
from types import FunctionType

import sharedbb as sb
from sharedbb import compress

STEPS = ["cluster", "code", "distill", "factorize", "finetune", "prune", "quantize", "sensitivity"]


def test_the_front_has_these_names_in_order() -> None:
    assert compress.__all__ == ["Network", "StepReport", *STEPS, "student"]
    assert compress.__all__ == sorted(compress.__all__)
    assert sb.compress is compress


def test_every_step_is_a_function_of_a_network() -> None:
    for name in STEPS:
        step = getattr(compress, name)
        assert isinstance(step, FunctionType), name
        assert next(iter(inspect.signature(step).parameters)) == "network"
        assert step.__doc__
