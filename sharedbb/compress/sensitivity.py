"""Sensitivity: each layer alone is pruned, quantized or clustered, and what that does to every head is measured."""

from __future__ import annotations

import difflib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sharedbb.compress.probes import Layer, Site, changed, sites
from sharedbb.compress.replay import Call, Replay
from sharedbb.errors import CompressionError, DataError
from sharedbb.graph.cut import head_of
from sharedbb.learn.data import Data, Sample
from sharedbb.learn.judge import AGREEMENT, LOWEST_SCORE, AgreementMeasure, Predictor
from sharedbb.learn.network import Network
from sharedbb.spec import Pipeline
from sharedbb.types import Output

VERSION = 1

STRENGTHS: Mapping[str, tuple[float, ...]] = {"prune": (0.25, 0.5, 0.75), "quantize": (8, 4), "cluster": (4, 2)}
"""What is tried by default, gentlest first: the share of channels taken away; bits of weights and of the values that
the layer reads; bits of a codebook's indices."""

SMALLEST_FALL = 0.005
"""Falls below this are noise of a few pictures: layers are told apart by what is above."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One layer changed by one method: each head's agreement with the unchanged network, 0–1."""

    layer: str
    method: str
    strength: float
    quality: Mapping[str, float]

    @property
    def fall(self) -> float:
        """How far the head that falls furthest falls, 0–1."""
        return 1 - min(self.quality.values(), default=1.0)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How far every head falls when one layer is changed and all others are left alone.

    ``layers`` are in the order in which they run; ``trials`` hold every layer, method and strength, gentlest first.
    """

    pipeline: str
    pictures: int
    layers: tuple[Layer, ...]
    trials: tuple[Trial, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that were tried."""
        return tuple(dict.fromkeys(trial.method for trial in self.trials))

    def of(self, layer: str, method: str | None = None) -> tuple[Trial, ...]:
        """What one method, or all of them, did to one layer, gentlest first; nothing for a layer that was not tried."""
        return tuple(trial for trial in self.trials if trial.layer == layer and method in (None, trial.method))

    def tolerated(self, method: str, fall: float) -> dict[str, float | None]:
        """By layer, the largest strength up to which no head falls by more than ``fall``; None for not even the first.

        For ``quantize`` and ``cluster`` that is the fewest bits.
        """
        found: dict[str, float | None] = {}
        for layer in self.layers:
            found[layer.name] = None
            for trial in self.of(layer.name, method):
                if trial.fall > fall:
                    break
                found[layer.name] = trial.strength
        return found

    def bits(self, fall: float) -> dict[str, int]:
        """By layer, the fewest bits of ``quantize`` that are tolerated, as ``tolerated`` says; else the most tried.

        Raises CompressionError where ``quantize`` was not tried.
        """
        tried = [trial.strength for trial in self.trials if trial.method == "quantize"]
        if not tried:
            raise self._unknown("quantize")
        most = max(tried)
        return {name: int(bits or most) for name, bits in self.tolerated("quantize", fall).items()}

    def cautions(self, method: str = "prune") -> dict[str, float]:
        """By layer, how much more it matters than the median layer, above 0: the ratio of mean falls over all heads."""
        falls = {
            layer.name: [1 - share for trial in self.of(layer.name, method) for share in trial.quality.values()]
            for layer in self.layers
        }
        means = {name: statistics.fmean(found) + SMALLEST_FALL for name, found in falls.items() if found}
        if not means:
            raise self._unknown(method)
        middle = statistics.median(means.values())
        return {name: mean / middle for name, mean in means.items()}

    def _unknown(self, method: str) -> CompressionError:
        return CompressionError(f"nothing is known of {method}: measured was {', '.join(self.methods) or 'nothing'}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, layer by layer."""
        layers = [
            {**asdict(layer), "methods": {method: _told(self.of(layer.name, method)) for method in self.methods}}
            for layer in self.layers
        ]
        return {"version": VERSION, "pipeline": self.pipeline, "pictures": self.pictures, "layers": layers}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Sensitivity:
        """What ``to_dict`` gave. Raises CompressionError for anything else."""
        try:
            if told["version"] != VERSION:
                raise CompressionError(f"sensitivity of version {told['version']}; this sharedbb reads {VERSION}")
            layers = tuple(Layer(*(one[key] for key in Layer.__slots__)) for one in told["layers"])
            trials = tuple(
                Trial(one["name"], method, float(trial["strength"]), dict(trial["quality"]))
                for one in told["layers"]
                for method, found in one["methods"].items()
                for trial in found
            )
            return cls(str(told["pipeline"]), int(told["pictures"]), layers, trials)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CompressionError(f"no sensitivity of a network: {error} is missing or of another form") from error

    @classmethod
    def load(cls, path: str | Path) -> Sensitivity:
        """What ``sharedbb sensitivity --json`` wrote. Raises CompressionError."""
        try:
            told = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls.from_dict(told)
        except (OSError, ValueError) as error:
            raise CompressionError(f"{path} cannot be read as JSON: {error}") from error
        except CompressionError as error:
            raise CompressionError(f"{path}: {error}") from error


def _told(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    return [
        {"strength": trial.strength, "quality": {head: round(share, 6) for head, share in trial.quality.items()}}
        for trial in trials
    ]


def sensitivity(
    network: Network,
    data: Data,
    *,
    strengths: Mapping[str, Sequence[float]] = STRENGTHS,
    layers: Sequence[str] = (),
    progress: Progress | None = None,
) -> Sensitivity:
    """Change one layer after another and measure every head's agreement with the unchanged, unquantized network.

    ``strengths``: method to what is tried, gentlest first (see STRENGTHS). ``prune``: outputs of the least L2 norm
    become 0, as Li et al. 2017 do. ``quantize``: weights are rounded symmetrically by output channel, and what the
    layer reads to a grid over its range on that picture. ``cluster``: weights become the means of k clusters.
    ``layers``: paths of the modules to try, by default all convolutions and linear layers. ``progress`` is told how
    many trials are done and how many there are. Agreement is that of ``sharedbb.outputs.agreement``.

    Raises CompressionError for an unknown method or layer, DataError without pictures.
    """
    if not len(data):
        raise DataError(f"{data.name} has no pictures to measure sensitivity on")
    if unknown := [name for name in strengths if name not in STRENGTHS]:
        raise CompressionError(f"no method {unknown[0]!r} to measure (there are: {', '.join(STRENGTHS)})")
    graph = replace(network, scheme=None).graph()
    chosen = _chosen(sites(graph), layers)
    asked = [(site, method, strength) for site in chosen for method, tried in strengths.items() for strength in tried]
    replay = Replay(graph)
    runs = [_Changed(replay, network.pipeline, changed(graph, *one)) for one in asked]
    for number, sample in enumerate(data):
        reference = Predictor(replay.whole, network.pipeline)(sample.rgb)
        for position, run in enumerate(runs, 1):
            run.add(sample, reference)
            if progress is not None:
                progress(number * len(runs) + position, len(data) * len(runs))
    trials = (
        Trial(site.layer.name, method, strength, run.quality())
        for (site, method, strength), run in zip(asked, runs, strict=True)
    )
    return Sensitivity(network.pipeline.name, len(data), tuple(site.layer for site in chosen), tuple(trials))


def _chosen(found: Mapping[str, Site], names: Sequence[str]) -> list[Site]:
    for name in names:
        if name not in found:
            near = difflib.get_close_matches(name, found, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise CompressionError(f"the network has no layer {name!r} with weights{hint}")
    return [site for name, site in found.items() if not names or name in names]


class _Changed:
    """The network with some calls replaced, compared with the unchanged one picture by picture.

    Only heads that depend on those calls are computed; the others cannot differ.
    """

    def __init__(self, replay: Replay, pipeline: Pipeline, calls: Mapping[str, Call]) -> None:
        reached = replay.following(calls)
        heads = {head_of(answer) for answer, node in replay.graph.outputs.items() if node in reached}
        self._run = partial(replay.again, calls)
        self._heads = tuple(pipeline.heads)
        self._pipeline = pipeline.model_copy(
            update={"heads": {name: head for name, head in pipeline.heads.items() if name in heads}}
        )
        self._measures = {name: AgreementMeasure(head) for name, head in self._pipeline.heads.items()}

    def add(self, sample: Sample, reference: Mapping[str, Output]) -> None:
        """Compare on one more picture, the one that the replay ran last."""
        ours = Predictor(lambda _: self._run(), self._pipeline, LOWEST_SCORE)(sample.rgb)
        for name, measure in self._measures.items():
            measure.add(sample, ours[name], reference[name])

    def quality(self) -> dict[str, float]:
        """Every head's agreement over the pictures so far."""
        return {
            name: self._measures[name].metrics()[AGREEMENT] if name in self._measures else 1.0 for name in self._heads
        }
