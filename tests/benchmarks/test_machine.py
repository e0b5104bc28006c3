"""What a machine is said to be, and that a disturbed measurement is said to be one."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from benchmarks import machine
from benchmarks.machine import Watch, described, pin, probe, versions
from sharedbb import artifact

CAN_PIN = hasattr(os, "sched_setaffinity")
SPIN = "while True: pass"


@pytest.fixture
def cores() -> Iterator[list[int]]:
    """Those of this process, as they were, again afterwards."""
    if not CAN_PIN:
        pytest.skip("this system cannot pin")
    before = os.sched_getaffinity(0)
    yield sorted(before)
    os.sched_setaffinity(0, before)


def test_pin_keeps_to_the_cores_asked_for(cores: list[int]) -> None:
    assert pin([cores[-1], cores[-1]]) == [cores[-1]]
    assert os.sched_getaffinity(0) == {cores[-1]}


def test_pin_without_cores_keeps_those_there_are(cores: list[int]) -> None:
    assert pin() == cores
    assert os.sched_getaffinity(0) == set(cores)


def test_pin_refuses_a_core_that_is_not_ours_and_changes_nothing(cores: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"no core {cores[-1] + 1000} .*may use {cores[0]}"):
        pin([cores[0], cores[-1] + 1000])
    assert os.sched_getaffinity(0) == set(cores)


def test_a_system_that_cannot_pin_gives_all_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert pin([0]) == list(range(os.cpu_count() or 1))


def test_the_probe_takes_time() -> None:
    assert 0 < probe() < 10_000


def test_the_description_has_memory_and_versions_are_those_installed() -> None:
    assert "GiB" in described()
    found = versions()
    assert {"sharedbb", "torch", "numpy"} <= set(found)
    assert set(found) <= set(machine.PACKAGES)


def test_a_package_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("numpy", "no-such-package-at-all"))
    assert list(versions()) == ["numpy"]


def test_a_busy_other_process_is_noticed(cores: list[int]) -> None:
    core = pin([cores[0]])
    watch = Watch(core)
    with subprocess.Popen([sys.executable, "-c", SPIN]) as other:
        try:
            until = time.process_time() + 0.3  # both work on one core: each gets about half of it
            while time.process_time() < until:
                pass
            found = watch.conditions()
        finally:
            other.kill()
    assert found.others > machine.OTHERS
    assert not found.quiet
    assert found.cores == core


class Load:
    """Seconds of two cores that anybody and that this process has used, as psutil would tell them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cores, self.own, self.now = [0.0, 0.0], 0.0, 0.0
        told = SimpleNamespace(
            cpu_times=lambda percpu: [SimpleNamespace(user=busy, nice=0.0, system=0.0) for busy in self.cores],
            Process=lambda: SimpleNamespace(
                cpu_times=lambda: SimpleNamespace(user=self.own, system=0.0, children_user=0.0, children_system=0.0)
            ),
            cpu_freq=lambda: None,
            virtual_memory=lambda: SimpleNamespace(total=2**30),
        )
        monkeypatch.setattr(machine, "psutil", told)
        monkeypatch.setattr(machine, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(machine, "probe", lambda: 1.0)


def test_our_own_work_is_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(monkeypatch)
    watch = Watch([0, 1])
    load.now, load.cores, load.own = 10.0, [10.0, 8.0], 18.0
    found = watch.conditions()
    assert (found.others, found.drift, found.quiet, found.seconds) == (0.0, 0.0, True, 10)
    assert (found.mhz, found.celsius) == (None, None)


def test_others_are_a_share_of_the_cores_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Load(monkeypatch)
    both, first = Watch([0, 1]), Watch([0])
    load.now, load.cores, load.own = 10.0, [4.0, 9.0], 3.0
    assert both.conditions().others == 0.5
    assert first.conditions().others == 0.1
    assert [first.conditions().quiet, both.conditions().quiet] == [True, False]


@pytest.mark.parametrize(("after", "drift"), [(1.3, 0.3), (0.5, -0.5)])
def test_a_clock_that_drifted_is_noticed(monkeypatch: pytest.MonkeyPatch, after: float, drift: float) -> None:
    load = Load(monkeypatch)
    taken = itertools.chain([1.0, 1.1, 1.2], itertools.repeat(after))
    monkeypatch.setattr(machine, "probe", lambda: next(taken))
    watch = Watch([0, 1])
    load.now = 10.0
    found = watch.conditions()
    assert (found.drift, found.others, found.quiet) == (drift, 0.0, False)


def test_what_was_measured_with_is_named_by_its_digest() -> None:
    found = Watch([0]).conditions().weights
    assert set(found) == {"street", "street-half", "street-medium", "street-small"}
    for name, digits in found.items():
        assert artifact.digest(machine.PIPELINES / f"{name}.sbb").startswith(digits)
        assert len(digits) == machine.DIGITS
