"""Fields set from outside the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sharedbb.errors import SpecError
from sharedbb.spec import Pipeline, loads
from sharedbb.spec.document import read
from sharedbb.spec.overrides import override

TEXT = """\
name: street
backbone: {arch: resnet18}
heads:
  road: {type: segmentation, taps: [4, 16], classes: [road, sky]}
"""


def _problems(*overrides: str) -> list[str]:
    with pytest.raises(SpecError) as raised:
        loads(TEXT, "p.yaml", overrides)
    return [str(problem) for problem in raised.value.problems]


@pytest.mark.parametrize(
    ("text", "look", "value"),
    [
        ("name=other", lambda p: p.name, "other"),
        ("heads.road.every=2", lambda p: p.heads["road"].every, 2),
        ("heads.road.taps=[8]", lambda p: p.heads["road"].taps, (8,)),
        ("heads.road.taps.1=32", lambda p: p.heads["road"].taps, (4, 32)),
        ("heads.road.classes.0=off", lambda p: p.heads["road"].classes, ("off", "sky")),
        ("reuse.mode=off", lambda p: p.reuse.mode, "off"),
        ("runtime.threads=3", lambda p: p.runtime.threads, 3),
        ("runtime.threads=", lambda p: p.runtime.threads, None),
        (" runtime.threads =3", lambda p: p.runtime.threads, 3),
        ("neck={strides: [4, 16]}", lambda p: p.strides, (4, 16)),
        ("neck.channels=32", lambda p: p.neck and p.neck.channels, 32),
        ("name='a=b'", lambda p: p.name, "a=b"),
        ("heads.sky={type: depth, taps: [4]}", lambda p: [*p.heads], ["road", "sky"]),
    ],
)
def test_a_field_is_set(text: str, look: Callable[[Pipeline], Any], value: Any) -> None:
    assert look(loads(TEXT)) != value or text.endswith(("off", "="))
    assert look(loads(TEXT, overrides=[text])) == value


def test_a_section_left_empty_is_filled() -> None:
    assert loads(TEXT + "runtime:\n", overrides=["runtime.threads=3"]).runtime.threads == 3


def test_the_last_one_wins() -> None:
    overrides = ["runtime={threads: 1}", "runtime.threads=2", "runtime.threads=3"]
    assert loads(TEXT, overrides=overrides).runtime.threads == 3


def test_an_override_repairs_a_broken_field() -> None:
    assert loads(TEXT.replace("resnet18", "resnet19"), overrides=["backbone.arch=resnet34"]).backbone.arch == "resnet34"


def test_what_the_file_says_elsewhere_keeps_its_place() -> None:
    with pytest.raises(SpecError, match=r"^p\.yaml:1:7: name: must be text, got 5"):
        loads(TEXT.replace("street", "5"), "p.yaml", ["heads.road.every=2", "input.fit=crop"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("heads.road.every=0", "heads.road.every: must be 1 or more, got 0"),
        (
            "heads.road.evry=2",
            "heads.road.evry: unknown field; did you mean 'every'? (known: type, taps, every, max_age_ms, priority, classes",  # noqa: E501
        ),
        ("input.size=[350, 640]", "input.size.0: must be a multiple of 32, got 350; the nearest is 352"),
        ("schdule.queue=2", "schdule: unknown field; did you mean 'schedule'?"),
        ("neck.strides.0=4", "neck.strides: must be a list, got a mapping"),
        ("heads.raod.every=2", "there is no head 'raod'; the heads are road; did you mean 'road'?"),
        ("heads.road.taps.2=32", "heads.road.taps has no item '2', only 0 to 1"),
        ("heads.road.taps.-1=32", "heads.road.taps has no item '-1', only 0 to 1"),
        ("heads.road.taps.²=32", "heads.road.taps has no item '²', only 0 to 1"),
        ("name.first=x", "name is 'street' and has no field 'first'"),
        ("name", "must be written field=value, for example heads.road.every=2"),
        ("=5", "must be written field=value, for example heads.road.every=2"),
        ("", "must be written field=value, for example heads.road.every=2"),
        ("name=[", "the value: not valid YAML: expected the node content"),
        ("name=!!python/name:os.system", "the value: the tag '!!python/name:os.system' is not allowed"),
        ("name=&a [*a]", "the value: an alias (*name) that contains itself"),
    ],
)
def test_a_wrong_override_is_named(text: str, problem: str) -> None:
    (found,) = _problems(text)
    assert found.startswith(f"p.yaml: {problem}")
    assert found.endswith(f"(from the override {text!r})")


def test_all_wrong_overrides_are_named_at_once() -> None:
    assert len(_problems("name=5", "heads.road.every=0", "neck.channels=0", "what")) == 4


def test_the_document_is_changed_in_place() -> None:
    document = read("a: {b: 1, c: 2}")
    override(document, ["a.b=3", "d.e.f=4"])
    assert document.value == {"a": {"b": 3, "c": 2}, "d": {"e": {"f": 4}}}
    assert document.place(("d", "e", "f"))[0].override == "d.e.f=4"
    assert document.place(("a", "c"))[0].value == (1, 14)
