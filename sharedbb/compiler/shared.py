"""Networks that people already have, as one: ``sharedbb.merge``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from sharedbb.compiler import cache, compiled
from sharedbb.compiler.assemble import assemble, bargain_of, engine_of, taken_apart
from sharedbb.compiler.choose import candidates, machine
from sharedbb.compiler.form import Given
from sharedbb.compiler.formed import formed
from sharedbb.compiler.lower import lower
from sharedbb.errors import GraphError, Problem, SpecError
from sharedbb.graph.capture import capture
from sharedbb.graph.cut import head_of
from sharedbb.graph.ir import Graph
from sharedbb.graph.lower import to_module
from sharedbb.graph.merge import Merged
from sharedbb.graph.merge import merge as merge_graphs
from sharedbb.outputs import raw_decoder
from sharedbb.outputs.raw import owning
from sharedbb.program import Decoder, HeadPlan
from sharedbb.reuse.regions import CELL
from sharedbb.runtime import Engine
from sharedbb.spec import Input, Reuse, Runtime, Schedule
from sharedbb.spec.transforms import AnyTransform, LowResolutionTransform, Transform
from sharedbb.types import Fit, Size

Settings = TypeVar("Settings", Input, Reuse, Runtime, Schedule)


def merge(networks: Mapping[str, nn.Module], example: Tensor) -> Shared:
    """Make several networks one: what they compute alike from the same input is computed once.

    ``networks``: any modules that ``torch.export`` can follow, each taking one tensor like ``example`` (NCHW float) and
    returning a tensor or a nest of tuples and dicts of tensors. They are captured in eval mode and left as they were.

    Raises GraphError naming the network that cannot be captured, and for names that are no identifiers.
    """
    if not networks or not isinstance(networks, Mapping):
        raise GraphError("nothing to merge: give at least one network, by name")
    for name in networks:
        if not isinstance(name, str) or not name.isidentifier():
            raise GraphError(f"{name!r} cannot name a network; use letters, digits and underscores")
    return Shared(merge_graphs({name: capture(net, example, name) for name, net in networks.items()}))


class Shared(nn.Module):
    """Several networks as one graph: call it like a network, ask it what is shared, or compile it for video.

    ``shared(x)`` returns each network's answer by name: a bare tensor for a network with one output, otherwise a dict
    of its output names (``"boxes"``, ``"0"`` of a tuple, ``"boxes.0"`` of a tuple in a dict). In eager torch every
    answer equals the network's own, bit for bit.
    """

    def __init__(self, merged: Merged) -> None:
        super().__init__()
        self.merged = merged
        self._module = to_module(merged.graph)

    @property
    def graph(self) -> Graph:
        """The merged graph."""
        return self.merged.graph

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Run all networks on one input, of the example's shape. Raises GraphError for another one."""
        expected = self.graph.by_name[self.graph.inputs[0]].shape
        if tuple(x.shape) != expected:
            raise GraphError(f"these networks were merged on an example of shape {expected}, got {tuple(x.shape)}")
        answers: dict[str, Any] = {}
        for name, value in self._module(x).items():
            head, _, part = name.partition(".")
            if part:
                answers.setdefault(head, {})[part] = value
            else:
                answers[head] = value
        return answers

    def explain(self) -> str:
        """What is shared, where the networks part and why, as text."""
        graph, networks = self.merged.graph, self.merged.networks
        calls = {node.name for node in graph.nodes if node.op not in ("input", "getitem")}
        everyone = frozenset.intersection(*networks.values()) & calls
        lines = [
            f"{len(networks)} networks, {self.merged.separate} operators apart, {graph.operators} merged; "
            f"{len(everyone)} serve all"
        ]
        for name, nodes in networks.items():
            others = [other for other in networks if other != name]
            alone = (nodes & calls).difference(*(networks[other] for other in others))
            lines.append(f"  {name}: {len(nodes & calls)} operators, {len(alone)} of its own")
        for parting in self.merged.partings:
            where = f" (where {parting.other_network} has {parting.other})" if parting.other else ""
            lines.append(
                f"  {parting.network} leaves {parting.other_network} at {parting.origin}{where}: {parting.reason}"
            )
        return "\n".join(lines)

    def compile(  # type: ignore[override]
        self,
        *,
        normalize: Any = "imagenet",
        fit: Fit = "letterbox",
        decoders: Mapping[str, Decoder] | None = None,
        every: Mapping[str, int] | None = None,
        max_age_ms: Mapping[str, float] | None = None,
        priority: Mapping[str, int] | None = None,
        schedule: Mapping[str, Any] | None = None,
        transform: Mapping[str, Any] | None = None,
        reuse: Mapping[str, Any] | None = None,
        source: Any = None,
        name: str = "shared",
        profile: bool = True,
        use_cache: bool = True,
        **runtime: Any,
    ) -> Engine:
        """An engine that runs the networks on video like any pipeline.

        The picture is resized to the example's size (``fit``) and normalised (``normalize``: ``imagenet``, ``unit``
        for 0–1, ``none`` for 0–255, or ``{"mean": ..., "std": ...}`` in grey levels). ``decoders`` turn a network's raw
        arrays into an answer (see ``sharedbb.outputs``); without one it answers with a ``RawOutput``. ``every``,
        ``max_age_ms`` and ``priority`` give clocks by network; ``schedule``, ``transform`` (but for ``low_resolution``)
        and ``reuse`` are the fields of these parts of a pipeline, ``runtime``: ``device``, ``backend``, ``precision``,
        ``threads``. ``source`` is what ``transform`` may look at, as in ``sharedbb.compile``.

        Raises SharedBBError as ``sharedbb.compile`` does.
        """
        height, width = self._picture_size()
        asked = _checked(Input, fit=fit, normalize=normalize)
        picture = asked.model_copy(update={"size": (height, width)})  # the networks' own, whatever it is a multiple of
        settings = _checked(Runtime, **runtime)
        _require_mappings(
            decoders=decoders, every=every, max_age_ms=max_age_ms, priority=priority, schedule=schedule, reuse=reuse
        )
        planned = _checked(Schedule, **(schedule or {}))
        form, bargain = self._transform(transform), self._reuse(reuse, picture.network_size)
        given = Given.of(source, form)
        clocks, ages, ranks, known = every or {}, max_age_ms or {}, priority or {}, decoders or {}
        heads = tuple(dict.fromkeys(head_of(answer) for answer in self.graph.outputs))
        self._require_real()
        _require_known(heads, every=clocks, max_age_ms=ages, priority=ranks, decoders=known)
        cached = use_cache and settings.cache
        ways = candidates(settings)
        key = cache.key(
            {
                "graph": self.graph.digest,
                "ways": [str(way) for way in ways],
                "input": picture.model_dump(mode="json"),
                "every": dict(clocks),
                "transform": form.model_dump(mode="json"),
                "reuse": taken_apart(bargain),
                "source": given.decides,
                "threads": settings.threads,
                "machine": machine(),
            }
        )
        found = compiled.load(key, settings.threads, bargain.mode) if cached else None
        if found is None:
            graph, made, said = formed(self.graph, form, picture, ways, settings.threads, given)
            found = lower(
                graph,
                made.planes,
                ways,
                settings.threads,
                clocks,
                self.merged.separate,
                **taken_apart(bargain),
            )
            found = replace(found, form=made, choices=(*said, *found.choices))
            if cached:
                compiled.store(key, found)
        plans = {
            head: HeadPlan(
                head,
                {},
                owning(known.get(head) or raw_decoder()),
                clocks.get(head, 1),
                ages.get(head),
                ranks.get(head, 0),
            )
            for head in heads
        }
        certify = getattr(form, "certify", False)
        program = assemble(name, picture, planned, found, plans, certify=certify)
        return engine_of(replace(program, bargain=bargain_of(bargain)), profile)

    def _transform(self, given: Mapping[str, Any] | None) -> AnyTransform:
        """The transform asked for. Raises SpecError."""
        try:
            form = TypeAdapter[AnyTransform](Transform).validate_python(given or {})
        except ValidationError as error:
            faults = [(".".join(map(str, ("transform", *fault["loc"][1:]))), fault["msg"]) for fault in error.errors()]
            raise SpecError([Problem(*fault) for fault in faults]) from None
        if isinstance(form, LowResolutionTransform):
            message = "merged networks have one size; low_resolution needs a pipeline"
            raise SpecError([Problem("transform", message)])
        return form

    def _reuse(self, given: Mapping[str, Any] | None, size: Size) -> Reuse:
        """What is asked for between frames. Raises SpecError."""
        asked = _checked(Reuse, **(given or {}))
        if asked.mode != "off" and (size.height % CELL or size.width % CELL):
            message = f"needs networks of sides that are multiples of {CELL}, these read {size}"
            raise SpecError([Problem("reuse", message)])
        return asked

    def _require_real(self) -> None:
        """Refuse answers of complex numbers, of which an engine would hand on the real part alone."""
        for answer, value in self.graph.outputs.items():
            if self.graph.by_name[value].dtype.is_complex:
                raise GraphError(f"{answer} is of complex numbers; let the network return torch.view_as_real of it")

    def _picture_size(self) -> tuple[int, int]:
        node = self.graph.by_name[self.graph.inputs[0]]
        if len(node.shape) != 4 or node.shape[:2] != (1, 3) or not node.dtype.is_floating_point:
            got = f"{node.shape} {node.dtype}"
            raise GraphError(f"video needs networks that read one RGB picture, (1, 3, height, width) float, not {got}")
        return node.shape[2], node.shape[3]


def _checked(model: type[Settings], **given: Any) -> Settings:
    """A part of a pipeline from keyword arguments. Raises SpecError."""
    try:
        return model(**given)
    except ValidationError as error:
        faults = [Problem(".".join(map(str, fault["loc"])), fault["msg"]) for fault in error.errors()]
        raise SpecError(faults) from None


def _require_mappings(**fields: Any) -> None:
    """Refuse what is no mapping."""
    faults = [
        Problem(field, f"must be a mapping, got {given!r}")
        for field, given in fields.items()
        if given is not None and not isinstance(given, Mapping)
    ]
    if faults:
        raise SpecError(faults)


def _require_known(heads: Sequence[str], **fields: Mapping[str, Any]) -> None:
    """Refuse fields of networks that there are not, and clocks that do not tick."""
    faults = [
        Problem(f"{field}.{name}", f"there is no network {name!r}; the networks are {', '.join(heads)}")
        for field, given in fields.items()
        for name in given
        if name not in heads
    ]
    for name, count in fields["every"].items():
        if type(count) is not int or count < 1:
            faults.append(Problem(f"every.{name}", f"must be a whole number, at least 1, got {count!r}"))
    for name, age in fields["max_age_ms"].items():
        if type(age) not in (int, float) or not 0 < age < math.inf:
            faults.append(Problem(f"max_age_ms.{name}", f"must be a number above 0, got {age!r}"))
    for name, rank in fields["priority"].items():
        if type(rank) is not int:
            faults.append(Problem(f"priority.{name}", f"must be a whole number, got {rank!r}"))
    for name, decoder in fields["decoders"].items():
        if not callable(decoder):
            faults.append(
                Problem(f"decoders.{name}", f"must be a function of raw arrays and geometry, got {decoder!r}")
            )
    if faults:
        raise SpecError(faults)
