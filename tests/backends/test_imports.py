"""OpenVINO is imported without its converter, and whoever asks for the converter gets it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CONVERTER = "openvino.tools.ovc"


def printed(program: str) -> str:
    """What a program prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_running_imports_no_converter() -> None:
    program = f"import sys, sharedbb.backends.openvino; print({CONVERTER!r} in sys.modules)"
    assert printed(program) == "False"


@pytest.mark.parametrize("how", ["from openvino import convert_model", "convert_model = openvino.convert_model"])
def test_the_converter_comes_when_it_is_asked_for(how: str) -> None:
    program = (
        f"import sharedbb.backends.openvino, openvino\n{how}\n"
        f"import {CONVERTER} as ovc\nprint(convert_model is ovc.convert_model, hasattr(openvino, 'nothing'))"
    )
    assert printed(program) == "True False"


def test_an_openvino_that_is_there_already_stays_as_it_is() -> None:
    program = "import openvino\nimport sharedbb.backends.openvino\nprint('__getattr__' in vars(openvino))"
    assert printed(program) == "False"
