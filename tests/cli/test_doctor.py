"""``sharedbb doctor``: facts about this machine, and a report even where packages are broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharedbb import compiler
from sharedbb.cli import doctor, machine
from sharedbb.cli.machine import Fact
from sharedbb.compiler import compile_pipeline
from sharedbb.registry import BACKENDS, Lazy, register_backend
from sharedbb.runtime import Engine
from sharedbb.spec import Pipeline, load


@pytest.fixture
def tiny_probe(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is the tiny pipeline, which is in the cache already."""

    def from_cache(pipeline: Pipeline, *, use_cache: bool, profile: bool) -> Engine:
        assert not use_cache
        return compile_pipeline(pipeline, profile=profile)

    monkeypatch.setattr(doctor, "probe", lambda: load(tiny))
    monkeypatch.setattr(compiler, "compile_pipeline", from_cache)


def test_the_report(sharedbb: Callable[..., Any], tiny_probe: None, cache: Path) -> None:
    ended = sharedbb("doctor")
    assert ended.code == 0
    assert f"numpy       {np.__version__}" in ended.out
    assert "chosen openvino f32 on cpu" in ended.out
    assert "tried  openvino f32 on cpu: " in ended.out
    assert "the first backend that runs, of openvino, inductor, eager" in " ".join(ended.out.split())
    for title in ("Packages", "Machine", "Backends", "What auto would choose", "Disk"):
        assert title in ended.out


def test_nothing_that_runs_is_said_and_exits_with_1(
    sharedbb: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("libtorch.so: cannot open shared object file\nmore")

    monkeypatch.setattr(compiler, "compile_pipeline", broken)
    ended = sharedbb("doctor")
    assert ended.code == 1
    assert "nothing can run: libtorch.so: cannot open shared object file" in ended.out


def test_what_is_measured_is_small() -> None:
    probe = doctor.probe()
    assert isinstance(probe, Pipeline)
    assert probe.runtime.backend == "auto"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three importable things: one that is whole, one without a version, one that breaks when imported."""
    (tmp_path / "whole_thing.py").write_text("__version__ = '1.2'")
    (tmp_path / "nameless_thing.py").write_text("")
    (tmp_path / "broken_thing.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("modules")
def test_packages_are_imported_to_see_whether_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("whole_thing", "nameless_thing", "broken_thing", "absent_thing")
    monkeypatch.setattr(machine, "PACKAGES", {name.partition("_")[0]: name for name in names})
    assert machine.packages()[1:] == (
        Fact("whole", "1.2"),
        Fact("nameless", "of unknown version"),
        Fact("broken", "installed, but cannot be imported: operator torchvision::nms does not exist", "broken"),
        Fact("absent", "not installed", "absent"),
    )


class Nowhere:
    """A backend without a device."""

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        return ()


class Torn(Nowhere):
    """A backend that breaks when it is asked."""

    @staticmethod
    def precisions(device: str) -> tuple[str, ...]:
        raise RuntimeError("driver too old")


def test_every_backend_says_where_it_runs_or_why_not() -> None:
    for name, backend in {"nowhere": Nowhere, "torn": Torn, "gone": Lazy("no_such_package:Backend")}.items():
        register_backend(name, backend)
    try:
        facts = {fact.name: fact for fact in machine.backends()}
    finally:
        for name in ("nowhere", "torn", "gone"):
            BACKENDS.unregister(name)
    assert facts["eager"].state == "good"
    assert facts["eager"].value.startswith("f32 on cpu")
    assert facts["nowhere"] == Fact("nowhere", "cannot run here: it finds no device", "absent")
    assert facts["torn"] == Fact("torn", "broken: driver too old", "broken")
    assert facts["gone"] == Fact("gone", "cannot run here: No module named 'no_such_package'", "absent")


def test_features_are_read_from_the_processors_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"model name": "A CPU", "flags": "fpu avx2 avx512f amx_bf16"}
    monkeypatch.setattr(machine, "_cpuinfo", lambda: told)
    cpu, cores, features = machine.processor()
    assert cpu.value == "A CPU"
    assert "usable of" in cores.value
    assert features.value == "AVX2, AVX-512, AMX bf16"


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", dict)
    assert machine.processor()[2].value == "not told by this system"


def test_the_cache_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDBB_CACHE", str(tmp_path / "c"))
    assert machine.cache().value == f"{tmp_path / 'c'}: 0 compiled pipelines, 0.0 MB"
    (tmp_path / "c" / "a").mkdir(parents=True)
    (tmp_path / "c" / "a" / "program.json").write_bytes(b"x" * 300_000)
    assert machine.cache().value.endswith(": 1 compiled pipelines, 0.3 MB")
