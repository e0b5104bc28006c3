"""A compiled program in words and numbers: as plain values, as a tree for the terminal, as a graph for Graphviz."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sharedbb.profiling.forms import array, count, form, mapping, text
from sharedbb.program import Program, StageFacts
from sharedbb.types import Plane

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

DESCRIPTION_VERSION = 1

PICTURE = "input"
"""What segments that read the picture itself are said to read from."""


def describe(program: Program) -> dict[str, Any]:
    """Plain values, ready for JSON, in the form of ``DESCRIPTION_SCHEMA``."""
    facts = [stage.facts for stage in program.stages]
    maker = {feature: fact.name for fact in facts for feature in fact.outputs}
    heads = {
        name: {
            "every": head.every,
            "answers": {part: maker.get(feature, PICTURE) for part, feature in head.answers.items()},
            **_together([stage.facts for stage in program.segments_for(frozenset({name}))]),
        }
        for name, head in program.heads.items()
    }
    device = program.device
    return {
        "schema": DESCRIPTION_VERSION,
        "pipeline": program.name,
        "input": {"height": program.size.height, "width": program.size.width, "form": _form(program.planes)},
        "stem": list(program.stems),
        "device": device.device,
        "backend": device.name,
        "precision": device.precision,
        "choices": list(program.choices),
        "operators": {"merged": program.operators, "separate": program.separate},
        "segments": [_segment(fact, maker) for fact in facts],
        "heads": heads,
        "together": _together(facts),
        "fused": [_fused(program, due, stage.facts) for due, stage in program.fused.items()],
    }


def _form(planes: Sequence[Plane]) -> str:
    """The arrays that the picture is read as."""
    return "RGB" if len(planes) == 1 else "YUV 4:2:0"


def _fused(program: Program, due: frozenset[str], fact: StageFacts) -> dict[str, Any]:
    """One stage in place of the segments of heads that fall due together."""
    return {
        "name": fact.name,
        "heads": [name for name in program.heads if name in due],
        "replaces": [stage.facts.name for stage in program.segments_for(due)],
        "measured_ms": fact.measured_ms,
    }


def _segment(fact: StageFacts, maker: Mapping[str, str]) -> dict[str, Any]:
    reach = dict(text.split(": ", 1) for text in fact.reach)
    return {
        "name": fact.name,
        "heads": list(fact.heads),
        "inputs": [
            {"feature": feature, "segment": maker.get(feature, PICTURE), "reach": reach.get(feature)}
            for feature in fact.inputs
        ],
        "outputs": [
            {"feature": feature, "shape": list(shape)} for feature, shape in zip(fact.outputs, fact.shapes, strict=True)
        ],
        "stride": fact.stride,
        "local": fact.local,
        "operators": fact.operators,
        "macs": fact.macs,
        "parameters": fact.parameters,
        "measured_ms": fact.measured_ms,
    }


def _together(facts: Sequence[StageFacts]) -> dict[str, Any]:
    """What some segments take when they run one after another."""
    known = [fact.measured_ms for fact in facts if fact.measured_ms is not None]
    return {
        "segments": [fact.name for fact in facts],
        "macs": sum(fact.macs for fact in facts),
        "parameters": sum(fact.parameters for fact in facts),
        "measured_ms": round(sum(known), 4) if len(known) == len(facts) else None,
    }


def tree(description: Mapping[str, Any]) -> Tree:
    """A rich tree: the picture, below it the segments, each under the last one that it reads from."""
    from rich.text import Text
    from rich.tree import Tree

    heads, operators = list(description["heads"]), description["operators"]
    way = f"{description['backend']} {description['precision']} on {description['device']}"
    apart = f"{operators['merged']} operators, {operators['separate']} if every head ran alone"
    title = (description["pipeline"], "bold"), f": {', '.join(heads)} on one graph, {way}\n"
    root = Tree(
        Text.assemble(*title, (f"{apart} · {_costs(description['together'])}", "dim")),
        guide_style="dim",
    )
    size = f"  {description['input']['height']}×{description['input']['width']} {description['input']['form']}"
    branches = {PICTURE: root.add(Text.assemble((PICTURE, "bold"), size))}
    for segment in description["segments"]:
        parent = max(_read(segment), key=list(branches).index)
        branches[segment["name"]] = branches[parent].add(_in_tree(segment, heads))
    return root


def _read(segment: Mapping[str, Any]) -> list[str]:
    """The segments that a segment reads from, each once."""
    return list(dict.fromkeys(read["segment"] for read in segment["inputs"]))


def _in_tree(segment: Mapping[str, Any], heads: Sequence[str]) -> Text:
    """A segment's two lines: what it gives and costs; whom it serves and how far it reaches."""
    from rich.text import Text

    facts = [f"stride {segment['stride']}"] if segment["stride"] is not None else []
    facts += ["×".join(map(str, output["shape"])) for output in segment["outputs"]]
    served = "all heads" if len(segment["heads"]) == len(heads) > 1 else ", ".join(segment["heads"])
    return Text.assemble(
        (segment["name"], "bold"),
        f"  {' · '.join([*facts, _costs(segment)])}\n",
        (f"for {served} · {_reach(segment)}", "dim"),
    )


def _reach(segment: Mapping[str, Any]) -> str:
    """Local, with the window read of every input; or global, with the first reason."""
    reads = [
        (read["feature"] if read["segment"] == PICTURE else read["segment"], read["reach"])
        for read in segment["inputs"]
        if read["reach"] is not None
    ]
    if not segment["local"]:
        return next((reach for _, reach in reads if reach.startswith("global")), "global")
    if len(reads) == 1:
        return f"local, {reads[0][1]}"
    return "local, " + "; ".join(f"of {origin}: {reach}" for origin, reach in reads)


def head_rows(description: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """For each head: name, clock, multiply-adds, parameters and time if it ran alone, and its segments."""
    for name, head in description["heads"].items():
        clock = "every frame" if head["every"] == 1 else f"every {head['every']} frames"
        costs = amount(head["macs"]), amount(head["parameters"]), _milliseconds(head)
        yield name, clock, *costs, ", ".join(head["segments"])


def fused_lines(description: Mapping[str, Any]) -> Iterator[str]:
    """For each set of heads that runs as one stage: which heads, and what it takes."""
    for fused in description["fused"]:
        yield f"{', '.join(fused['heads'])}: {len(fused['replaces'])} segments as one, {_milliseconds(fused)}"


def _costs(costs: Mapping[str, Any]) -> str:
    return f"{amount(costs['macs'])} MACs · {amount(costs['parameters'])} parameters · {_milliseconds(costs)}"


def _milliseconds(costs: Mapping[str, Any]) -> str:
    return "not measured" if costs["measured_ms"] is None else f"{costs['measured_ms']:.2f} ms"


def amount(count: int) -> str:
    """A count in three digits: 512, 3.41 k, 312 M, 1.2 G."""
    for factor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= factor:
            return f"{count / factor:.{2 if count < 10 * factor else 1 if count < 100 * factor else 0}f} {unit}"
    return str(count)


def dot(description: Mapping[str, Any]) -> str:
    """The segments as a directed graph in Graphviz's DOT: boxes with their cost (dashed: global), heads as ellipses."""
    size = description["input"]
    nodes = [_node(PICTURE, f"input\n{size['height']}×{size['width']} {size['form']}", "note")]
    edges = []
    for segment in description["segments"]:
        label = f"{segment['name']}\n{amount(segment['macs'])} MACs, {_milliseconds(segment)}"
        nodes.append(_node(segment["name"], label, "box", dashed=not segment["local"]))
        edges += [(origin, segment["name"]) for origin in _read(segment)]
    for name, head in description["heads"].items():
        nodes.append(_node(f"head {name}", name, "ellipse"))
        edges += [(origin, f"head {name}") for origin in dict.fromkeys(head["answers"].values())]
    drawn = [f"  {_quoted(origin)} -> {_quoted(target)};" for origin, target in edges]
    lines = [f"digraph {_quoted(description['pipeline'])} {{", '  node [fontname="sans-serif"];', *nodes, *drawn, "}"]
    return "\n".join(lines) + "\n"


def _node(name: str, label: str, shape: str, *, dashed: bool = False) -> str:
    style = ", style=dashed" if dashed else ""
    return f"  {_quoted(name)} [label={_quoted(label)}, shape={shape}{style}];"


def _quoted(text: str) -> str:
    """A DOT string: quotes and backslashes escaped, line breaks as ``\\n``."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


_COSTS = {
    "macs": count("multiply-adds"),
    "parameters": count("elements of all weights"),
    "measured_ms": {"type": ["number", "null"], "description": "median when compiled; null where it was not timed"},
}

_SEGMENT = form(
    "one segment, in execution order",
    name=text("heads and stride, or trunk where all heads need it"),
    heads=array(text("head"), "the heads that need it"),
    inputs=array(
        form(
            "one feature read",
            feature=text("its name"),
            segment=text("the segment that makes it, or input for the picture"),
            reach={
                "type": ["string", "null"],
                "description": "stride and window of the last output in this feature, or global and why; "
                "null where the last output does not depend on it",
            },
        ),
        "what it reads",
    ),
    outputs=array(
        form(
            "one feature made",
            feature=text("its name"),
            shape=array(count("extent"), "channels, height, width; or the plain shape"),
        ),
        "what it makes",
    ),
    stride={"type": ["integer", "null"], "description": "picture pixels per cell of the last output; null for vectors"},
    local={"type": "boolean", "description": "whether a change of the picture stays within a bounded window"},
    operators=count("operator calls"),
    **_COSTS,
)

_HEAD = form(
    "one head, and what it would take alone",
    every=count("it runs on every n-th frame"),
    answers=mapping(text("segment"), "the segments that give its raw outputs, by part"),
    segments=array(text("segment"), "what it needs, in execution order"),
    **_COSTS,
)

_FUSED = form(
    "several segments compiled as one",
    name=text("its name among a run's stages"),
    heads=array(text("head"), "it runs on frames on which these heads, and no others, are due"),
    replaces=array(text("segment"), "the segments whose work it does"),
    measured_ms=_COSTS["measured_ms"],
)

DESCRIPTION_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "sharedbb description",
    **form(
        "a compiled pipeline",
        schema={"const": DESCRIPTION_VERSION, "description": "version of this form"},
        pipeline=text("the pipeline's name"),
        input=form(
            "the network's input in pixels",
            height=count("rows"),
            width=count("columns"),
            form=text("RGB, or YUV 4:2:0: the arrays that the picture is read as"),
        ),
        stem=array(text("one convolution"), "what a transform did to each convolution that reads the picture"),
        device=text("cpu or cuda"),
        backend=text("what runs the segments"),
        precision=text("f32, bf16 or f16"),
        choices=array(text("one candidate"), "what auto measured, and which it took"),
        operators=form(
            "operator calls",
            merged=count("of the one graph"),
            separate=count("of all heads' networks one by one"),
        ),
        segments=array(_SEGMENT, "the graph, cut"),
        heads=mapping(_HEAD, "heads by name"),
        together=form("all segments", segments=array(text("segment"), "in execution order"), **_COSTS),
        fused=array(_FUSED, "what runs as one when certain heads fall due together, because it is faster"),
    ),
}
"""JSON Schema of what ``describe`` gives and ``sharedbb explain --json`` writes."""
