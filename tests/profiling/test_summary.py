"""``summary.json`` has the form that its schema says, and the documentation names every field."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sharedbb.profiling import SUMMARY_SCHEMA, Latency, Profiler, Recording, StageSummary, Summary
from sharedbb.profiling.files import write_text
from sharedbb.profiling.report import html_report
from sharedbb.profiling.table import reuse_line

PAGE = Path(__file__).parents[2] / "docs" / "profiling.md"
TYPES = {"object": dict, "number": (int, float), "integer": int, "string": str, "boolean": bool}


def faults(value: Any, schema: dict[str, Any], place: str = "summary") -> Iterator[str]:
    """Where a value is not of the schema's form, for the few words that this schema uses."""
    if "const" in schema and value != schema["const"]:
        yield f"{place} is {value!r}"
    kind = schema.get("type")
    if isinstance(kind, list):
        if value is None and "null" in kind:
            return
        (kind,) = (one for one in kind if one != "null")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{place} is no {kind}: {value!r}"
        return
    if kind in ("number", "integer") and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{place} is out of range: {value}"
    if kind == "object":
        known, more = schema.get("properties", {}), schema["additionalProperties"]
        yield from (f"{place} lacks {name}" for name in schema.get("required", ()) if name not in value)
        for name, part in value.items():
            if name not in known and not more:
                yield f"{place} has {name}"
            else:
                yield from faults(part, known.get(name, more), f"{place}.{name}")


def test_a_run_is_of_the_schemas_form(record: Callable[..., Recording]) -> None:
    summary = record(frames=9).summary
    plain = json.loads(summary.to_json())
    assert plain == summary.to_dict()
    assert list(faults(plain, SUMMARY_SCHEMA)) == []
    assert set(plain["stages"]) == {"transform", "network", "trunk", "head road", "draw"}
    assert plain["stages"]["draw"]["background"] is True


@pytest.mark.parametrize("summary", [Summary(), Profiler().summary()], ids=["empty", "no frames"])
def test_nothing_is_of_the_schemas_form_too(summary: Summary) -> None:
    assert list(faults(summary.to_dict(), SUMMARY_SCHEMA)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"frames": 1.5},
        {"frames": -1},
        {"device": None},
        {"extra": 1},
        {"schema": 2},
        {"stages": {"a": {"count": 1}}},
        {"heads": {"a": {"ran": True, "reused": 0, "dropped": 0}}},
    ],
    ids=str,
)
def test_another_form_is_noticed(change: dict[str, Any]) -> None:
    assert list(faults(Summary().to_dict() | change, SUMMARY_SCHEMA))


def test_the_schema_is_closed_and_describes_every_field() -> None:
    names = [field.name for field in dataclasses.fields(Summary)]
    assert list(SUMMARY_SCHEMA["properties"]) == ["schema", *names]
    for schema in _parts(SUMMARY_SCHEMA):
        assert schema["description"]
        if "properties" in schema:
            assert schema["required"] == list(schema["properties"])
            assert schema["additionalProperties"] is False


def _parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for part in schema.get("properties", {}).values():
        yield from _parts(part)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _parts(schema["additionalProperties"])


def test_the_documentation_names_every_field() -> None:
    section = PAGE.read_text().partition("## summary.json")[2]
    named = set(re.findall(r"`([a-z0-9_]+)`", section))
    keys = {key for part in _parts(SUMMARY_SCHEMA) for key in part.get("properties", ())}
    assert keys - named == set()


def test_numbers_are_rounded_to_four_places() -> None:
    summary = Summary(
        fps=29.970029,
        latency=Latency(p50_ms=1.23456),
        stages={"network": StageSummary(1, 1.23456, 1.0, 1.0, 1.0, 0.333333)},
    )
    plain = summary.to_dict()
    assert (plain["fps"], plain["latency"]["p50_ms"]) == (29.97, 1.2346)
    assert (plain["stages"]["network"]["p50_ms"], plain["stages"]["network"]["share"]) == (1.2346, 0.3333)


def test_it_says_what_measured() -> None:
    summary = Profiler().summary()
    assert re.search(r", \d+ cores, ", summary.machine)
    assert {"python", "numpy"} <= summary.versions.keys()


def test_what_reuse_did_is_summed_up() -> None:
    profiler = Profiler()
    assert profiler.summary().reuse is None
    for mode, work, refreshed in (("dense", 1.0, 0.0), ("still", 0.0, 0.0), ("still", 0.0, 0.25), ("audit", 1.2, 0.0)):
        profiler.computed(mode, work, refreshed, {"road": 0.01} if mode == "audit" else {})
    found = profiler.summary().reuse
    assert found is not None
    assert found.modes == {"dense": 1, "still": 2, "audit": 1}
    assert (found.work, found.refreshed) == pytest.approx((0.55, 0.0625))
    assert found.errors == {"road": 0.01}
    assert list(faults(profiler.summary().to_dict(), SUMMARY_SCHEMA)) == []
    page = html_report(profiler.recording())
    assert re.search(r"50\s%\sof the frames \(2\)", page)
    assert "frames: 2 still, 1 dense, 1 audit; 55% computed; differing: road 1.0%" in reuse_line(found)
    profiler.reset()
    assert profiler.summary().reuse is None


def test_files_of_one_folder_may_be_written_by_several_threads(tmp_path: Path) -> None:
    """Each whole, and with its own content."""
    errors: list[Exception] = []

    def write(name: str) -> None:
        try:
            for turn in range(60):
                write_text(tmp_path / f"{name}{turn}", name * 2000)
        except Exception as error:  # whatever it is
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}{turn}" for name in "abc" for turn in range(60)}
    assert all(path.read_text() == path.name[0] * 2000 for path in tmp_path.iterdir())
