"""Components by name: duplicates raise, unknown names list the alternatives, naming costs no import."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict

import pytest

from sharedbb.errors import RegistryError
from sharedbb.registry import (
    BACKBONES,
    BACKENDS,
    HEADS,
    BackboneType,
    HeadType,
    Lazy,
    Registry,
    register_backbone,
    register_backend,
    register_head,
    resolve,
)


def _tools() -> Registry:
    return Registry("tool", {"hammer": 1, "saw": 2})


def test_it_is_a_mapping() -> None:
    tools = _tools()
    assert dict(tools) == {"hammer": 1, "saw": 2}
    assert tools["saw"] == 2
    assert len(tools) == 2
    assert "saw" in tools
    assert "file" not in tools


def test_registering_and_taking_out() -> None:
    tools = _tools()
    tools.register("file", 3)
    assert tools["file"] == 3
    tools.unregister("file")
    assert "file" not in tools


def test_registering_leaves_the_given_mapping_alone() -> None:
    given = {"hammer": 1}
    Registry("tool", given).register("saw", 2)
    assert given == {"hammer": 1}


def test_a_duplicate_raises_and_keeps_the_first() -> None:
    tools = _tools()
    with pytest.raises(RegistryError, match="a tool named 'saw' is registered already"):
        tools.register("saw", 3)
    assert tools["saw"] == 2


@pytest.mark.parametrize("ask", [lambda tools: tools["hamer"], lambda tools: tools.unregister("hamer")])
def test_an_unknown_name_lists_the_alternatives_and_the_nearest(ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RegistryError) as raised:
        ask(_tools())
    assert str(raised.value) == "no tool named 'hamer'; did you mean 'hammer'? (known: hammer, saw)"


def test_a_name_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(RegistryError, match=r"no tool named 'xyz' \(known: hammer, saw\)"):
        _tools()["xyz"]


def test_lazy_things_are_imported_when_resolved() -> None:
    assert resolve(Lazy("collections:OrderedDict")) is OrderedDict
    assert resolve(OrderedDict) is OrderedDict
    with pytest.raises(ModuleNotFoundError):
        resolve(Lazy("sharedbb.no_such_module:thing"))


def test_the_persisted_names_are_pinned() -> None:
    assert {*HEADS} >= {"segmentation", "detection", "depth", "tags", "keypoints", "embedding"}
    assert {*BACKENDS} >= {"eager", "openvino", "inductor", "cuda"}
    assert {*BACKBONES} >= {
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
        "resnet18",
        "resnet34",
        "resnet50",
        "efficientnet_b0",
        "regnet_x_400mf",
        "shufflenet_v2_x1_0",
        "convnext_tiny",
    }


def test_one_call_registers_a_component_of_each_kind() -> None:
    register_head("lines", spec=1, build=2, decoder=3)  # type: ignore[arg-type]
    register_backbone("tiny", build=dict, strides=(2, 4))
    register_backend("abacus", dict)
    try:
        assert HEADS["lines"] == HeadType(1, 2, 3)
        assert BACKBONES["tiny"] == BackboneType(dict, (2, 4))
        assert BACKENDS["abacus"] is dict
        with pytest.raises(RegistryError, match="head type named 'lines'"):
            register_head("lines", spec=1, build=2, decoder=3)  # type: ignore[arg-type]
    finally:
        HEADS.unregister("lines")
        BACKBONES.unregister("tiny")
        BACKENDS.unregister("abacus")


def test_the_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys, sharedbb.registry as r; [r.BACKBONES[n] for n in r.BACKBONES]; [r.HEADS[n] for n in r.HEADS]; "
        "print(*{'torch', 'torchvision', 'openvino', 'av', 'cv2', 'pydantic', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
