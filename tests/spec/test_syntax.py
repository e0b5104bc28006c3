"""YAML text to nodes: what is refused, where, and in which words."""

from __future__ import annotations

import pytest
import yaml

from sharedbb.errors import SpecError
from sharedbb.spec import syntax
from sharedbb.spec.syntax import MAX_DEPTH, MAX_NODES, TAG, compose


def _fault(text: str) -> str:
    with pytest.raises(SpecError) as raised:
        compose(text, "p.yaml")
    (problem,) = raised.value.problems
    return str(problem)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [1, 2", "1:9: not valid YAML: expected ',' or ']', but got '<stream end>' while parsing a flow sequence"),
        ("a:\n\t- b\n", "2:1: not valid YAML: found a tab; indent with spaces"),
        ("a: b: c\n", "1:5: not valid YAML: mapping values are not allowed here; a ':' may be missing"),
        ("a\nb: c\n", "2:2: not valid YAML: mapping values are not allowed here; a ':' may be missing"),
        (
            'a: "b\n',
            "2:1: not valid YAML: found unexpected end of stream while scanning a quoted scalar that starts on",
        ),
        ("a: *b\n", "1:4: not valid YAML: found undefined alias 'b'"),
        ("--- a\n--- b\n", "2:1: not valid YAML: expected a single document in the stream, but found another document"),
        ("%YAML 9.1\n--- a\n", "1:1: not valid YAML: found incompatible YAML document"),
        (f"%YAML 1.{'9' * 5000}\n--- a\n", "1:9: not valid YAML: an escape sequence or a version number is out of"),
        ('a: "\\U00110000"\n', "1:7: not valid YAML: an escape sequence or a version number is out of range"),
        ('a: "\\q"\n', "1:6: not valid YAML: found unknown escape character 'q' while scanning a double-quoted scalar"),
        ("a: b\nc: \x00\n", "2:4: not valid YAML: the character U+0000 is not allowed"),
        ("\ud800", "1:1: not valid YAML: the character U+D800 is not allowed"),
        (
            "a: !x!y z\n",
            "1:4: not valid YAML: found undefined tag handle '!x!' while parsing a node that starts on line",
        ),
    ],
)
def test_what_is_no_yaml_says_where_and_why(text: str, fault: str) -> None:
    assert _fault(text).startswith(f"p.yaml:{fault}")


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "\ufeff"])
def test_empty_text_has_no_node(text: str) -> None:
    assert compose(text) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "{" * 100_000, "- " * 100_000, "? " * 100_000, "[" * 65])
def test_nesting_ends_at_a_limit(text: str) -> None:
    assert _fault(text).endswith(f"has more than {MAX_DEPTH} levels of nesting")


def test_as_deep_as_the_limit_is_read() -> None:
    assert compose("[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1)) is not None


def test_the_number_of_values_ends_at_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_NODES >= 50_000
    monkeypatch.setattr(syntax, "MAX_NODES", 100)
    assert compose("[" + "1," * 99 + "]") is not None
    assert _fault("[" + "1," * 100 + "]") == "p.yaml:1:200: has more than 100 values"


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("true", "bool"),
        ("False", "bool"),
        ("yes", "str"),
        ("no", "str"),
        ("on", "str"),
        ("off", "str"),
        ("y", "str"),
        ("null", "null"),
        ("~", "null"),
        ("nil", "str"),
        ("0", "int"),
        ("-12", "int"),
        ("007", "int"),
        ("0o17", "int"),
        ("0xfF", "int"),
        ("0b11", "str"),
        ("1_000", "str"),
        ("1:30", "str"),
        ("1e-3", "float"),
        ("1.", "float"),
        (".5", "float"),
        ("-1.5E+3", "float"),
        (".inf", "float"),
        ("-.Inf", "float"),
        (".NAN", "float"),
        ("inf", "str"),
        (".", "str"),
        ("-.", "str"),
        ("2024-01-01", "str"),
        ("<<", "str"),
        ("=", "str"),
        ("'5'", "str"),
        ('"true"', "str"),
        ("!!str 5", "str"),
    ],
)
def test_plain_words_follow_the_core_schema_of_yaml_1_2(text: str, tag: str) -> None:
    node = compose(text)
    assert node is not None
    assert node.tag == TAG + tag


def test_json_may_be_indented_with_tabs() -> None:
    node = compose('{\n\t"a": [\n\t\t1,\n\t\t2\n\t]\n}\n')
    assert yaml.serialize(node, Dumper=yaml.SafeDumper) == '{"a": [1, 2]}\n'


def test_marks_count_from_the_start_of_the_text() -> None:
    node = compose("# first\na:\n  b: c\n")
    assert isinstance(node, yaml.MappingNode)
    assert (node.value[0][1].start_mark.line, node.value[0][1].start_mark.column) == (2, 2)
