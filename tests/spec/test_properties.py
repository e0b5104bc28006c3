"""What holds for every file: one error type, right places, and the way there and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from sharedbb.errors import Problem, SpecError
from sharedbb.registry import BACKBONES, BACKENDS
from sharedbb.spec import Pipeline, check, dump, loads

Keys = tuple[str, ...]

text = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8)
words = st.lists(text, min_size=2, max_size=4, unique=True)
whole = st.integers(1, 4096)
share = st.floats(0, 1)
fractions = {"score_threshold": share, "iou_threshold": share}


def _head(taps: list[int]) -> st.SearchStrategy[dict[str, Any]]:
    own: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "segmentation": ({"classes": words}, {"channels": whole}),
        "detection": ({"classes": words}, {"channels": whole, "max_detections": whole, **fractions}),
        "depth": ({}, {"channels": whole, "min_m": st.floats(1e-9, 50), "max_m": st.floats(51, 1e9)}),
        "tags": ({"labels": words}, {"threshold": share}),
        "keypoints": ({"points": words}, {"channels": whole}),
        "embedding": ({}, {"dim": whole}),
    }
    common = {"taps": st.lists(st.sampled_from(taps), min_size=1, unique=True).map(sorted)}
    return st.one_of(
        [
            st.fixed_dictionaries({"type": st.just(kind), **common, **must}, optional={"every": whole, **may})
            for kind, (must, may) in own.items()
        ]
    )


@st.composite
def pipelines(draw: st.DrawFn) -> dict[str, Any]:
    """A valid pipeline as plain values, most of its fields given."""
    strides = [4, 8, 16, 32]
    neck: dict[str, Any] | None = draw(
        st.none()
        | st.fixed_dictionaries(
            {"strides": st.lists(st.sampled_from(strides), min_size=1, unique=True).map(sorted)},
            optional={"type": st.just("fpn"), "channels": whole},
        )
    )
    side = st.integers(1, 256).map(lambda n: 32 * n)
    grey = st.lists(st.floats(1, 255), min_size=3, max_size=3)
    normalize = st.sampled_from(["imagenet", "unit", "none"]) | st.fixed_dictionaries({"mean": grey, "std": grey})
    fit = st.sampled_from(["letterbox", "stretch", "crop"])
    weights = st.sampled_from([None, "DEFAULT", "a/b.sbb", "c.pth", "ü.safetensors"])
    name = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
    runtime = {
        "device": st.sampled_from(["auto", "cpu", "cuda"]),
        "backend": st.sampled_from(["auto", *BACKENDS]),
        "precision": st.sampled_from(["auto", "f32", "bf16", "f16"]),
        "threads": st.none() | whole,
        "cache": st.booleans(),
    }
    fields: dict[str, st.SearchStrategy[Any]] = {
        "name": text,
        "input": st.fixed_dictionaries(
            {}, optional={"size": st.tuples(side, side), "fit": fit, "normalize": normalize}
        ),
        "backbone": st.fixed_dictionaries({"arch": st.sampled_from([*BACKBONES])}, optional={"weights": weights}),
        "heads": st.dictionaries(name, _head(neck["strides"] if neck else strides), min_size=1, max_size=3),
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "version": st.just(1),
        "neck": st.just(neck),
        "transform": st.sampled_from(
            [{}, {"type": "rgb"}, {"type": "auto"}, {"type": "haar", "levels": 2}, {"type": "yuv420", "range": "full"}]
        ),
        "reuse": st.just({"mode": "off"}),
        "schedule": st.fixed_dictionaries({"queue": whole, "when_late": st.sampled_from(["wait", "drop_oldest"])}),
        "runtime": st.fixed_dictionaries({}, optional=runtime),
    }
    if neck:
        fields["neck"] = optional.pop("neck")
    whole_pipeline: dict[str, Any] = draw(st.fixed_dictionaries(fields, optional=optional))
    return whole_pipeline


def _lines(fields: dict[str, Any], above: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """YAML of a mapping, a field on each line, beside the keys that lead to it."""
    for key, value in fields.items():
        indent = "  " * len(above)
        if isinstance(value, dict) and value:
            yield (*above, key), f"{indent}{key}:"
            yield from _lines(value, (*above, key))
        else:
            yield (*above, key), f"{indent}{key}: {json.dumps(value)}"


def _problems(source: str, overrides: Sequence[str] = ()) -> list[Problem]:
    try:
        loads(source, "p.yaml", overrides)
    except SpecError as error:
        return [*error.problems] or [pytest.fail("an error without a problem")]
    return []


@settings(max_examples=40, deadline=None)
@given(pipelines())
def test_a_valid_pipeline_survives_the_way_there_and_back(fields: dict[str, Any]) -> None:
    pipeline = loads("\n".join(line for _, line in _lines(fields)))
    assert pipeline == Pipeline.model_validate(fields)
    assert loads(dump(pipeline)) == pipeline
    assert loads(json.dumps(fields)) == pipeline


def _misspelt(word: str, kind: str, at: int, letter: str) -> str:
    at %= len(word)
    match kind:
        case "drop":
            return word[:at] + word[at + 1 :]
        case "double":
            return word[:at] + word[at] + word[at:]
        case "insert":
            return word[:at] + letter + word[at:]
        case "replace":
            return word[:at] + letter + word[at + 1 :]
        case "case":
            return word.upper()
    return word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :] if at else word[1] + word[0] + word[2:]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    pipelines(),
    st.integers(0, 10_000),
    st.sampled_from(["drop", "double", "insert", "replace", "swap", "case"]),
    st.integers(0, 20),
    st.sampled_from("aeioustrn_"),
)
def test_one_misspelt_field_is_reported_with_its_line_and_the_right_spelling(
    fields: dict[str, Any], pick: int, kind: str, at: int, letter: str
) -> None:
    rows = list(_lines(fields))
    candidates = [n for n, (keys, _) in enumerate(rows) if keys[:-1] != ("heads",)]
    number = candidates[pick % len(candidates)]
    keys, line = rows[number]
    wrong = _misspelt(keys[-1], kind, at, letter)
    siblings = {other[-1] for other, _ in rows if other[:-1] == keys[:-1]}
    assume(wrong != keys[-1] and wrong not in siblings and wrong not in ("min_m", "max_m"))
    lines = [row[1] for row in rows]
    lines[number] = line.replace(keys[-1], wrong, 1)

    problems = _problems("\n".join(lines))

    own = [problem for problem in problems if problem.field == ".".join((*keys[:-1], wrong))]
    assert len(own) == 1
    assert (own[0].line, own[0].column) == (number + 1, 2 * (len(keys) - 1) + 1)
    assert own[0].message.startswith(f"unknown field; did you mean {keys[-1]!r}?")
    assert not any(problem.field == ".".join(keys) for problem in problems)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@settings(max_examples=100, deadline=None)
@given(pipelines(), st.integers(0, 10_000), values)
def test_a_wrong_value_anywhere_is_reported_on_its_line(fields: dict[str, Any], pick: int, value: Any) -> None:
    rows = list(_lines(fields))
    number = pick % len(rows)
    keys, _ = rows[number]
    below = [n for n, (other, _) in enumerate(rows) if other[: len(keys)] == keys]
    lines = [row[1] for row in rows]
    new = json.dumps(value).replace("NaN", ".nan").replace("Infinity", ".inf")
    lines[below[0] : below[-1] + 1] = [f"{'  ' * (len(keys) - 1)}{keys[-1]}: {new}"]

    problems = _problems("\n".join(lines))

    for problem in problems:
        assert problem.message
        assert problem.line is not None
        assert problem.column is not None
    depends = keys[0] in ("neck", "backbone") or keys[-1] in ("type", "min_m")  # others may be wrong because of these
    if not depends:
        assert {problem.line for problem in problems} <= {number + 1}


yaml_alphabet = st.sampled_from(
    [*"abn01:,-?&*!|>%@`#[]{}'\"\\ \n\t~<=.", "heads", "name", "type", "taps", "\u2028", "\ud800"]
)
garbage = (
    st.text()
    | st.lists(yaml_alphabet, max_size=60).map("".join)
    | st.lists(st.sampled_from(["- ", "a: ", "&x ", "*x ", "!t ", "? ", "[", "{", "]", "}", "\n", "  "])).map("".join)
)


@settings(max_examples=400, deadline=None)
@given(garbage)
@example('name: "\\U00110000"')
@example("%YAML 1." + "9" * 5000)
@example("&a [*a]")
@example("a: &b\n  c: *b")
@example("? ? ? a")
@example("? &x [*x]\n: *x")
def test_garbage_raises_nothing_but_spec_errors(source: str) -> None:
    for problem in _problems(source):
        assert problem.file == "p.yaml"
        assert str(problem)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("abhnst.=[]{}:0 &*!'\"", max_size=12), min_size=1, max_size=3))
def test_garbage_overrides_raise_nothing_but_spec_errors(overrides: list[str]) -> None:
    good = "name: a\nbackbone: {arch: resnet18}\nheads: {a: {type: depth, taps: [4]}}"
    for problem in _problems(good, overrides):
        assert str(problem).startswith("p.yaml: ")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary() | garbage.map(lambda source: source.encode("utf-8", "surrogatepass")))
def test_garbage_files_are_checked_and_not_raised(content: bytes, tmp_path: Any) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    assert check(path)
