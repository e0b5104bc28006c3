"""A graph brought into the form in which it will read its picture; ``auto`` measures which is fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sharedbb.compiler.choose import Candidate
from sharedbb.compiler.form import Form, Given
from sharedbb.compiler.measure import Call, interleaved
from sharedbb.compiler.stem import Transformed, colour_of, exact_transforms, transformed
from sharedbb.errors import BackendError
from sharedbb.graph.cut import cut, fold_constants, head_of, whole
from sharedbb.graph.ir import Graph
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.spec import Input
from sharedbb.spec.transforms import AnyTransform, AutoTransform, RgbTransform, Yuv420Transform

CLEARLY = 0.97  # of the time of plain RGB: what does not stay below that is not chosen


def formed(
    graph: Graph, transform: AnyTransform, picture: Input, ways: Sequence[Candidate], threads: int | None, given: Given
) -> tuple[Graph, Form, tuple[str, ...]]:
    """The graph as it reads the picture's form, the form, and what ``auto`` measured in words.

    Raises TransformError where the graph cannot read the form that is asked for.
    """
    said: tuple[str, ...] = ()
    if isinstance(transform, AutoTransform):
        transform, said = _fastest(graph, picture, ways, threads, given)
    made = transformed(graph, transform, picture.normalization, given.colour)
    return made.graph, _form(made, transform, given), said


def _form(made: Transformed, transform: AnyTransform, given: Given) -> Form:
    colour = colour_of(transform, given.colour) if isinstance(transform, Yuv420Transform) else None
    certificates = tuple(stem.certificate for stem in made.stems if stem.certificate is not None)
    return Form(made.planes, colour, tuple(map(str, made.stems)), certificates)


def _fastest(
    graph: Graph, picture: Input, ways: Sequence[Candidate], threads: int | None, given: Given
) -> tuple[AnyTransform, tuple[str, ...]]:
    """The exact form in which picture and network take the least time, in the way that is likeliest to be chosen."""
    plain = RgbTransform()
    possible = exact_transforms(graph, planes=given.planes)
    cases: dict[str, Call] = {}
    for transform in possible:
        made = transformed(graph, transform, picture.normalization, given.colour)
        try:
            cases[_name(transform)] = _call(made, _form(made, transform, given), picture, ways[0], threads, given)
        except (BackendError, RuntimeError):
            continue
    if plain.type not in cases:
        return plain, ()
    times = interleaved(cases, ways[0].device)
    best = min(times, key=lambda name: times[name])
    chosen = best if times[best] < CLEARLY * times[plain.type] else plain.type
    what = "intake and network" if given.frame is not None else "network"
    measured = ", ".join(f"{name} {ms:.2f} ms{' (chosen)' if name == chosen else ''}" for name, ms in times.items())
    return next(one for one in possible if _name(one) == chosen), (f"{what} by form: {measured}",)


def _name(transform: AnyTransform) -> str:
    return transform.type if transform.type != "space_to_depth" else f"{transform.type} {transform.block}"


def _call(made: Transformed, form: Form, picture: Input, way: Candidate, threads: int | None, given: Given) -> Call:
    """Takes the source's frame in, if there is one, and runs all of the network."""
    backend = way.make(threads)
    parts = cut(fold_constants(fold_batch_norms(made.graph)))
    segment = whole(parts, frozenset(map(head_of, parts.answers)))
    (executable,) = backend.compile(replace(parts, segments=(segment,)), made.planes)
    buffers, session = backend.picture(picture.network_size, made.planes), executable.session()
    intake, inputs = form.intake(picture)(buffers.planes), [buffers.features[name] for name in segment.inputs]

    def run() -> None:
        if given.frame is not None:
            intake(given.frame)
        backend.upload(buffers)
        session(inputs)

    return run
