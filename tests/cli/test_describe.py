"""A program as values, tree and graph: numbers that add up, text that can be read back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from rich.console import Console

from sharedbb.cli.describe import DESCRIPTION_SCHEMA, amount, describe, dot, fused_lines, head_rows, tree
from sharedbb.program import Program

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}


def faults(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """What of ``value`` is not as the schema says; knows the keywords that the schema uses."""
    if "const" in schema:
        return [] if value == schema["const"] else [f"{where} is not {schema['const']}"]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if value is None and "null" in kinds:
        return []
    if not any(isinstance(value, TYPES[kind]) for kind in kinds if kind != "null"):
        return [f"{where} is no {kinds}"]
    found = []
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema["additionalProperties"]
        found += [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        for name, item in value.items():
            inner = properties.get(name, others)
            found += [f"{where}.{name} is not foreseen"] if inner is False else faults(item, inner, f"{where}.{name}")
    if isinstance(value, list):
        found += [fault for at, item in enumerate(value) for fault in faults(item, schema["items"], f"{where}[{at}]")]
    return found


def rendered(program: Program, width: int = 120) -> str:
    console = Console(width=width, file=None)
    with console.capture() as capture:
        console.print(tree(describe(program)))
    return capture.get()


def test_the_values_are_plain_and_as_the_schema_says(program: Program) -> None:
    description = describe(program)
    assert json.loads(json.dumps(description)) == description
    assert faults(description, DESCRIPTION_SCHEMA) == []


def test_the_schema_notices_a_change(program: Program) -> None:
    description = describe(program)
    description["segments"][0]["macs"] = "many"
    description["heads"]["a"]["new"] = 1
    del description["together"]["macs"]
    assert faults(description, DESCRIPTION_SCHEMA) == [
        "$.segments[0].macs is no ['integer']",
        "$.heads.a.new is not foreseen",
        "$.together.macs is missing",
    ]


def test_a_head_alone_takes_the_segments_that_it_needs(program: Program) -> None:
    heads = describe(program)["heads"]
    assert heads["a"]["segments"] == ["trunk/4", "trunk/8", "a"]
    assert heads["a"]["measured_ms"] == 1.75
    assert heads["b"]["segments"] == ["trunk/4", "trunk/8", "b"]
    assert heads["b"]["macs"] == 2_000_000 + 1000 + 1000
    assert heads["b"]["every"] == 3
    assert heads["b"]["answers"] == {"scores": "b", "distances": "b"}


def test_together_is_every_segment_once(program: Program) -> None:
    together = describe(program)["together"]
    assert together["segments"] == ["trunk/4", "trunk/8", "a", "b"]
    assert together["measured_ms"] == 2.75
    assert together["parameters"] == 40


def test_heads_that_run_as_one_are_told(program: Program) -> None:
    description = describe(program)
    assert description["fused"] == [
        {"name": "a+b", "heads": ["a", "b"], "replaces": ["trunk/4", "trunk/8", "a", "b"], "measured_ms": 2.5}
    ]
    assert list(fused_lines(description)) == ["a, b: 4 segments as one, 2.50 ms"]


def test_a_time_that_is_not_known_is_not_made_up(program: Program) -> None:
    stage = program.stages[1]
    object.__setattr__(stage.facts, "measured_ms", None)
    description = describe(program)
    assert description["together"]["measured_ms"] is None
    assert next(iter(head_rows(description)))[4] == "not measured"


def test_inputs_name_the_segment_that_made_them_and_their_reach(program: Program) -> None:
    first, _, _, last = describe(program)["segments"]
    assert first["inputs"] == [{"feature": "input", "segment": "input", "reach": "stride 4, reach -1..+1"}]
    assert [(read["segment"], read["reach"]) for read in last["inputs"]] == [
        ("trunk/4", "global: mean (b.pool) works along an axis"),
        ("trunk/8", None),
    ]


def test_the_tree_shows_each_segment_below_the_last_that_it_reads(program: Program) -> None:
    lines = rendered(program).splitlines()
    depth = {name: next(line.index(f" {name} ") for line in lines if f"─ {name} " in line) for name in ("a", "b")}
    assert depth["a"] == depth["b"]
    text = "\n".join(lines)
    assert "12 operators, 18 if every head ran alone" in text
    assert "trunk/4  stride 4 · 8×24×40 · 2.00 M MACs · 10 parameters · 1.00 ms" in text
    assert "for all heads · local, stride 4, reach -1..+1" in text
    assert "for b · global: mean (b.pool) works along an axis" in text


def test_names_are_no_markup(program: Program) -> None:
    object.__setattr__(program, "name", "[red]x[/red]")
    assert "[red]x[/red]: a, b" in rendered(program)


def parsed(text: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Nodes with their labels, and edges, of the DOT that ``dot`` writes. Fails on anything else."""
    string = r'"((?:[^"\\]|\\.)*)"'
    head, font, *body, tail = text.splitlines()
    assert re.fullmatch(rf"digraph {string} \{{", head)
    assert re.fullmatch(rf"  node \[fontname={string}\];", font)
    assert tail == "}"
    nodes, edges = {}, []
    for line in body:
        if node := re.fullmatch(
            rf"  {string} \[label={string}, shape=(?:box|ellipse|note)(?:, style=dashed)?\];", line
        ):
            nodes[node[1]] = node[2]
        else:
            edge = re.fullmatch(rf"  {string} -> {string};", line)
            assert edge, line
            edges.append((edge[1], edge[2]))
    return nodes, edges


def test_the_graph_is_dot_with_an_edge_for_everything_read(program: Program) -> None:
    nodes, edges = parsed(dot(describe(program)))
    assert nodes.keys() == {"input", "trunk/4", "trunk/8", "a", "b", "head a", "head b"}
    assert set(edges) == {
        ("input", "trunk/4"),
        ("trunk/4", "trunk/8"),
        ("trunk/8", "a"),
        ("trunk/4", "b"),
        ("trunk/8", "b"),
        ("a", "head a"),
        ("b", "head b"),
    }
    assert len(edges) == len(set(edges))
    assert nodes["trunk/4"] == r"trunk/4\n2.00 M MACs, 1.00 ms"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (3412, "3.41 k"), (47_600, "47.6 k"), (312_400_000, "312 M"), (10**10, "10.0 G")],
)
def test_amounts_have_three_digits(count: int, text: str) -> None:
    assert amount(count) == text
