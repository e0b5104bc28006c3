"""From a step as a recipe writes it to the function that takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharedbb.errors import CompressionError
from sharedbb.learn.distillation import Distill
from sharedbb.spec.steps import (
    AnyStep,
    ClusterStep,
    CodeStep,
    Course,
    Distillation,
    DistillStep,
    FactorizeStep,
    FinetuneStep,
    PruneStep,
    QuantizeStep,
)

if TYPE_CHECKING:
    from sharedbb.learn.data import Data
    from sharedbb.learn.network import Network

Watch = Callable[[str, float | None], None]
"""Is told what is going on, and which share of it is done (0 to 1) where that is known."""

CHECKPOINT = "training.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """What a step works with, beside the network.

    ``train``: pictures to learn from; ``footage``: further ones that only a teacher answers, with their shares of a
    batch; ``calibrate``: the few to calibrate with. ``teacher``: the network before the
    first step. ``folder``: where trainings keep their checkpoints, so that a killed one goes on.
    """

    train: Data
    footage: Sequence[tuple[Data, float]]
    calibrate: Data
    teacher: Network
    folder: Path
    seed: int
    watch: Watch

    def few(self, count: int | None) -> Data | None:
        """So many pictures, evenly spread over those to learn from; None for none (0, or no number)."""
        return self.train.spread(count) if count else None


MODULES = ("keep", "layers", "exclude", "ignore")
"""Fields of steps that name modules."""


def check_names(steps: Sequence[AnyStep], network: Network) -> None:
    """Raise CompressionError for heads and modules that steps name, and files of sensitivity, that do not fit.

    ``network`` is the untouched one. Modules of a step behind one that puts others in their place are not looked for:
    who knows their names.
    """
    heads, modules = network.pipeline.heads, {name for name, _ in network.module.named_modules()}
    for number, step in enumerate(steps):
        if strange := [name for name in getattr(step, "head_weights", ()) if name not in heads]:
            raise CompressionError(
                f"step {number} weighs {strange[0]!r}; the heads of {network.pipeline.name} are {', '.join(heads)}"
            )
        measured = _measured(number, step)
        if modules:
            for field in MODULES:
                if absent := [name for name in getattr(step, field, ()) if name not in modules]:
                    raise CompressionError(
                        f"step {number} names {absent[0]!r} in {field!r}, no module of {network.pipeline.name}"
                    )
            if measured and not modules & measured.keys():
                raise CompressionError(
                    f"step {number}: {network.pipeline.name} has none of the layers of its file of sensitivity, such "
                    f"as {next(iter(measured))!r}"
                )
        if isinstance(step, FactorizeStep) or (isinstance(step, DistillStep) and step.student):
            modules = set()


def _measured(number: int, step: AnyStep) -> Mapping[str, float]:
    """What a step's file of sensitivity says of each layer, as the step will read it; nothing without a file."""
    from sharedbb.compress.sensitivity import Sensitivity

    if not isinstance(step, PruneStep | QuantizeStep) or not step.sensitivity:
        return {}
    found = Sensitivity.load(step.sensitivity)
    try:
        return found.cautions() if isinstance(step, PruneStep) else found.bits(step.fall)
    except CompressionError as error:
        raise CompressionError(f"step {number}: {step.sensitivity}: {error}") from error


def take(step: AnyStep, network: Network, bench: Bench) -> Network:
    """The network after a step of a recipe. Raises SharedBBError where it cannot be taken."""
    match step:
        case PruneStep():
            return _prune(step, network, bench)
        case FinetuneStep():
            return _train(step, network, bench, CHECKPOINT)
        case DistillStep():
            return _distill(step, network, bench)
        case ClusterStep():
            return _cluster(step, network, bench)
        case FactorizeStep():
            return _factorize(step, network, bench)
        case QuantizeStep():
            return _quantize(step, network, bench)
        case CodeStep():
            from sharedbb.compress.code import code

            return code(network, bits=step.bits, norms=step.norms)[0]


def _prune(step: PruneStep, network: Network, bench: Bench) -> Network:
    """Pruning, with training between its rounds where the recipe wants some."""
    from sharedbb.compress.prune import prune
    from sharedbb.compress.sensitivity import Sensitivity

    rounds = 0

    def between(pruned: Network) -> Network:
        nonlocal rounds
        rounds += 1
        assert step.finetune is not None
        return _train(step.finetune, pruned, bench, f"round-{rounds}-{CHECKPOINT}")

    return prune(
        network,
        method=step.method,
        amount=step.amount,
        target=step.target,
        importance=step.importance,
        head_weights=step.head_weights or None,
        round_to=step.round_to,
        keep=step.keep,
        sensitivity=Sensitivity.load(step.sensitivity) if step.sensitivity else None,
        iterations=step.iterations,
        between=between if step.finetune else None,
        data=bench.calibrate,
        seed=bench.seed,
    )[0]


def _cluster(step: ClusterStep, network: Network, bench: Bench) -> Network:
    from sharedbb.compress.cluster import cluster

    return cluster(
        network,
        bits=step.bits,
        group=step.group,
        exclude=step.exclude,
        data=bench.few(step.pictures),
        seed=bench.seed,
    )[0]


def _factorize(step: FactorizeStep, network: Network, bench: Bench) -> Network:
    from sharedbb.compress.factorize import factorize

    return factorize(
        network,
        method=step.method,
        energy=step.energy,
        layers=step.layers or None,
        data=bench.calibrate if step.pictures is None else bench.few(step.pictures),
    )[0]


def _quantize(step: QuantizeStep, network: Network, bench: Bench) -> Network:
    """Quantization, with training where it is aware of rounding; the teacher then is the network before all steps."""
    from sharedbb.compress.quantize import quantize

    training: dict[str, Any] = {}
    if step.finetune:
        training = {"teacher": bench.teacher, "footage": bench.footage, **_course(step.finetune, bench, CHECKPOINT)}
    return quantize(
        network,
        bench.train if step.finetune else bench.calibrate,
        method=step.method,
        bits=step.bits,
        weight_bits=step.weight_bits,
        layers=_bits_of_layers(step, network),
        symmetric=step.symmetric,
        per_channel=step.per_channel,
        pictures=len(bench.calibrate),
        tool=step.tool,
        ignore=step.ignore,
        **training,
    )[0]


def _bits_of_layers(step: QuantizeStep, network: Network) -> dict[str, int]:
    """Bits of weights by module: what is measured to be tolerated, then what the step says, inner modules last.

    Measured layers that a step before has taken away or replaced are left out, names that the step gives never are.
    """
    from sharedbb.compress.sensitivity import Sensitivity

    measured = Sensitivity.load(step.sensitivity).bits(step.fall) if step.sensitivity else {}
    known = {name for name, _ in network.module.named_modules()}
    found = {name: bits for name, bits in measured.items() if name in known} | step.layers
    for name in sorted(step.layers, key=len):
        found |= {inner: step.layers[name] for inner in known if inner == name or inner.startswith(f"{name}.")}
    return found


def _train(course: Course, network: Network, bench: Bench, checkpoint: str) -> Network:
    """Training on, weights of one value staying one; the teacher is the network before the first step."""
    from sharedbb.compress.finetune import finetune
    from sharedbb.compress.ties import ties

    distillation = course.distill if isinstance(course, FinetuneStep) else Distillation()
    return finetune(
        network,
        bench.train,
        distill=Distill(**distillation.model_dump()) if distillation else None,
        teacher=bench.teacher if distillation else None,
        footage=bench.footage if distillation else (),
        constrain=ties(network),
        **_course(course, bench, checkpoint),
    )[0]


def _distill(step: DistillStep, network: Network, bench: Bench) -> Network:
    """Training by a teacher, of this network or of one on another backbone that takes its place."""
    from sharedbb.compress.distill import distill, student
    from sharedbb.learn.network import Network

    teacher = Network.of(step.teacher) if step.teacher else bench.teacher
    if step.student:
        made = student(network, step.student.arch, weights=step.student.weights, teacher=teacher)
        network = replace(made, steps=network.steps)
    settings = step.distill.model_dump() | _course(step, bench, CHECKPOINT)
    return distill(network, teacher, bench.train, footage=bench.footage, **settings)[0]


def _course(course: Course, bench: Bench, checkpoint: str) -> dict[str, Any]:
    """Length and rate of a training, where it keeps its checkpoint, and whom it tells."""
    return {
        **{name: getattr(course, name) for name in Course.model_fields},
        "seed": bench.seed,
        "checkpoint": bench.folder / checkpoint,
        "progress": lambda told: bench.watch(_told(told), told["progress"]),
    }


def _told(told: Mapping[str, Any]) -> str:
    return f"training, step {told['step']}, loss {told['loss']:.3f}"
