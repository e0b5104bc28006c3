"""The steps of a recipe of compression, and how each is weakened where it breaks a floor. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from sharedbb.spec.faults import (
    MISSING_FIELD,
    UNKNOWN_FIELD,
    Fault,
    alternatives,
    did_you_mean,
    must_be_one_of,
    said,
    said_at,
    shown,
)
from sharedbb.spec.meanings import meaning
from sharedbb.spec.parts import Above, Backbone, Count, Flag, Number, Share, Side, Spec, Text, Whole, exactly

Amount = Annotated[Number, Field(gt=0, lt=1)]
Bits = Annotated[Whole, Field(ge=2, le=8)]
Weights = Annotated[dict[Text, Annotated[Number, Field(ge=0)]], Field(default_factory=dict)]


class Part(Spec):
    """A part of a recipe; says which fields it knows where one is unknown, and what a missing one means."""

    @model_validator(mode="before")
    @classmethod
    def _of_known_fields(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        known = list(cls.model_fields)
        unknown: list[Fault] = [
            ((name,), f"unknown field{did_you_mean(name, known)} (known: {', '.join(known)})", value[name])
            for name in value
            if name not in known
        ]
        if unknown:
            raise said_at(cls.__name__, unknown, UNKNOWN_FIELD)
        missing: list[Fault] = [
            ((name,), f"is missing ({meaning(cls, name)})", value)
            for name, field in cls.model_fields.items()
            if field.is_required() and name not in value
        ]
        if missing:
            raise said_at(cls.__name__, missing, MISSING_FIELD)
        return value


class Distillation(Part):
    """What a network in training learns from its teacher, beside what it learns from labels."""

    alpha: Share = 0.5
    """Weight of the teacher's answers, 0 to 1; the labels have the rest."""

    temperature: Above = 2.0
    """By how much the teacher's answers are softened, above 0 (Hinton et al., 2015)."""

    features: Annotated[Number, Field(ge=0)] = 0.0
    """Weight of the distance between the features that heads tap (Romero et al., 2015)."""

    attention: Annotated[Number, Field(ge=0)] = 0.0
    """Weight of the distance between their attention maps (Zagoruyko and Komodakis, 2017)."""


class Course(Part):
    """How long and how fast a network is trained."""

    steps: Count | None = None
    """Optimizer steps; with them, equal recipes give equal weights. Either these or `minutes`."""

    minutes: Above | None = None
    """Minutes of work, however many steps that makes. Either these or `steps`."""

    lr: Above = 1e-3
    """The highest learning rate."""

    batch: Count = 8
    """Pictures in a step."""

    crop: Annotated[tuple[Side, Side], exactly("height", "width")] | None = None
    """Height and width of the crops to train on, in multiples of 32; null for crops that grow with the training, from
    0.6 by way of 0.75 to 0.93 of what the network sees of a picture."""

    overlap: Annotated[Number, Field(ge=0)] = 0.0
    """Weight of 1 − IoU beside the cross-entropy of labelled segmentation (Berman et al., 2018): rare classes count as
    much as common ones."""

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        if (self.steps is None) == (self.minutes is None):
            raise said("needs either steps or minutes, got " + ("neither" if self.steps is None else "both"))
        return self


class FinetuneStep(Course):
    """Training goes on, so that the heads get back what the step before took from them."""

    type: Literal["finetune"] = "finetune"
    """`finetune`: training goes on."""

    distill: Distillation | None = Distillation()
    """What is learnt from the network as it was before the first step; null for labels alone."""


class DistillStep(Course):
    """Training by a teacher; with `student`, of another network that takes the place of the first."""

    type: Literal["distill"] = "distill"
    """`distill`: training by a teacher."""

    distill: Distillation = Distillation(alpha=0.9)
    """What is learnt from the teacher."""

    teacher: Text | None = None
    """Pipeline file of the teacher, relative to the recipe; null for the network as it was before the first step."""

    student: Backbone | None = None
    """The backbone of another network, with the same heads, that is trained and takes the place of this one; null for
    this one itself."""


class Shrinking(Part):
    """A step that makes the network smaller; where a floor breaks it is tried again, weaker."""

    tries: Count = 3
    """How often it is tried at most, by bisection between nothing and what is asked, before it is left out."""

    faster: Flag | None = None
    """Whether it is left out where the network is not measured faster; null: where the step claims to be."""

    @property
    def claims_speed(self) -> bool:
        """Whether the step is there for speed, not for storage alone."""
        return False

    def at(self, strength: float) -> Self:
        """The same step with so much of its strength, above 0 to 1; equal to this one where it has no strength."""
        return self


class PruneStep(Shrinking):
    """Weights, channels or blocks that matter least are taken away."""

    type: Literal["prune"] = "prune"
    """`prune`: what matters least is taken away."""

    method: Literal["structured", "magnitude", "threshold", "neuron", "block"] = "structured"
    """`structured`: channels, with all that depends on them. `neuron`: hidden units of linear layers alone. `block`:
    whole blocks. `threshold`: the weights below one magnitude for all layers become 0. `magnitude`: those of the least
    magnitude in relation to what their layer keeps."""

    amount: Amount = 0.5
    """The share that goes, above 0 and below 1: of what `target` counts for `structured` and `block`, of the hidden
    units for `neuron`, else of the weights."""

    target: Literal["macs", "latency", "parameters"] = "macs"
    """What is counted: multiply-adds, an estimate of time, or weights."""

    importance: Literal["l2", "bn", "taylor"] = "l2"
    """By what channels are ranked: size of their weights, of the batch norm's scale, or effect on the heads' losses."""

    head_weights: Weights
    """How much each head counts in the importance, by name; 1 for those not named."""

    round_to: Annotated[Whole, Field(ge=1, le=64)] = 8
    """Channels stay a multiple of this."""

    keep: tuple[Text, ...] = ()
    """Names of modules that are left alone."""

    sensitivity: Text | None = None
    """File that `sharedbb sensitivity --json` wrote, relative to the recipe: sensitive layers are spared."""

    iterations: Count = 1
    """In how many rounds the amount is reached."""

    finetune: Course | None = None
    """Training between the rounds; null for none."""

    @property
    def claims_speed(self) -> bool:
        """Whether whole channels or blocks go."""
        return self.method in ("structured", "block", "neuron")

    def at(self, strength: float) -> Self:
        """Less goes."""
        return self.model_copy(update={"amount": self.amount * strength})


class ClusterStep(Shrinking):
    """Weights share few values: indices into a codebook."""

    type: Literal["cluster"] = "cluster"
    """`cluster`: weights share few values."""

    bits: Annotated[Whole, Field(ge=1, le=8)] = 4
    """Bits of an index: 2 to their power is the number of values."""

    group: Literal["layer", "shape", "all"] = "layer"
    """Who shares a codebook: the weights of a layer, of layers of one shape, or all."""

    pictures: Count | None = None
    """Pictures by which is known how much each weight counts; null: all count alike."""

    exclude: tuple[Text, ...] = ()
    """Names of modules that are left alone."""

    def at(self, strength: float) -> Self:
        """More bits."""
        return self.model_copy(update={"bits": _bits(self.bits, strength)})


class FactorizeStep(Shrinking):
    """Convolutions become products of thinner ones, where that saves multiply-adds."""

    type: Literal["factorize"] = "factorize"
    """`factorize`: convolutions become products of thinner ones."""

    method: Literal["svd", "cp", "tucker"] = "svd"
    """The decomposition."""

    energy: Amount = 0.99
    """Share that must stay: for `svd` of the variance of a layer's outputs, else of its kernel's squared norm."""

    pictures: Annotated[Whole, Field(ge=0)] | None = None
    """Pictures on which `svd` looks at outputs; 0: at the kernel alone; null: those to calibrate with."""

    layers: tuple[Text, ...] = ()
    """Names of the modules to factorise; empty for all that gain."""

    @property
    def claims_speed(self) -> bool:
        """Always."""
        return True

    def at(self, strength: float) -> Self:
        """More energy stays."""
        return self.model_copy(update={"energy": 1 - (1 - self.energy) * strength})


class QuantizeStep(Shrinking):
    """Weights, and with most methods activations, become whole numbers of few bits."""

    type: Literal["quantize"] = "quantize"
    """`quantize`: whole numbers of few bits."""

    method: Literal["static", "dynamic", "qat", "weights"] = "static"
    """`static`: calibrated on pictures. `dynamic`: ranges by picture. `qat`: trained with rounding. `weights`: weights
    alone."""

    bits: Bits = 8
    """Bits of activations, 2 to 8."""

    weight_bits: Bits | None = None
    """Bits of weights, 2 to 8; null for those of activations."""

    layers: Annotated[dict[Text, Bits], Field(default_factory=dict)]
    """Bits of the weights of some modules and of all inside them, by name: mixed precision."""

    sensitivity: Text | None = None
    """File that `sharedbb sensitivity --json` wrote, relative to the recipe: weights get the fewest bits that it found
    to be tolerated, save where `layers` says otherwise."""

    fall: Above = 0.01
    """How much of its agreement a head may lose by one layer's rounding, where `sensitivity` chooses the bits."""

    symmetric: Flag = True
    """Whether the range of a weight is the same on both sides of 0."""

    per_channel: Flag = True
    """Whether each output channel of a weight has a scale of its own."""

    tool: Annotated[Literal["nncf", "pt2e", "own"], Field(validate_default=True)] = "nncf"
    """What calibrates: NNCF for OpenVINO, torchao's PT2E for torch backends, both to 8 bits, or neither."""

    ignore: tuple[Text, ...] = ()
    """Names of modules that are left alone."""

    finetune: Course | None = Field(default=None, validate_default=True)
    """Training for `qat`, which needs it; null for the other methods."""

    @field_validator("tool")
    @classmethod
    def _to_these_bits(cls, tool: str, info: ValidationInfo) -> str:
        bits, method = info.data.get("bits", 8), info.data.get("method")
        if bits != 8 and tool != "own" and method in ("static", "qat"):
            raise said(f"{tool} calibrates 8 bits; for {bits} write `own`")
        return tool

    @field_validator("finetune")
    @classmethod
    def _for_qat(cls, course: Course | None, info: ValidationInfo) -> Course | None:
        if "method" in info.data and (info.data["method"] == "qat") != (course is not None):
            raise said("goes with method 'qat' alone") if course else said("is needed by method 'qat'", MISSING_FIELD)
        return course

    @property
    def claims_speed(self) -> bool:
        """Whether activations are quantized, too."""
        return self.method != "weights"

    def at(self, strength: float) -> Self:
        """More bits."""
        changes = {
            "bits": _bits(self.bits, strength),
            "weight_bits": None if self.weight_bits is None else _bits(self.weight_bits, strength),
            "layers": {name: _bits(bits, strength) for name, bits in self.layers.items()},
            "fall": self.fall * strength if self.sensitivity else self.fall,
        }
        return self.model_copy(update=changes)


class CodeStep(Shrinking):
    """How the artifact stores weights that no step before has given a coding; all are entropy-coded."""

    type: Literal["code"] = "code"
    """`code`: how the artifact stores the remaining weights."""

    bits: Literal[2, 3, 4, 5, 6, 7, 8, 16, 32] = 16
    """`32`: as they are. `16`: as float16. 2 to 8: evenly spaced values, per output channel."""

    norms: Literal[16, 32] = 32
    """The same for weights of norms and for biases."""


def _bits(asked: int, strength: float) -> int:
    return round(8 - (8 - asked) * strength)


AnyStep = PruneStep | FinetuneStep | DistillStep | ClusterStep | FactorizeStep | QuantizeStep | CodeStep

STEPS: dict[str, type[Part]] = {
    "prune": PruneStep,
    "finetune": FinetuneStep,
    "distill": DistillStep,
    "cluster": ClusterStep,
    "factorize": FactorizeStep,
    "quantize": QuantizeStep,
    "code": CodeStep,
}
"""The steps by type."""


def _typed(value: Any) -> Any:
    """A mapping whose type is known, or a model."""
    if isinstance(value, Spec):
        return value
    if not isinstance(value, Mapping):
        raise said(f"must be a mapping with a type, such as {{type: prune, amount: 0.5}}, got {shown(value)}")
    if "type" not in value:
        missing = f"is missing; it must be {alternatives([*STEPS])}"
        raise said_at("step", [(("type",), missing, value)], MISSING_FIELD)
    if not isinstance(value["type"], str) or value["type"] not in STEPS:
        raise said_at("step", [(("type",), must_be_one_of(value["type"], [*STEPS]), value["type"])])
    return value


Step = Annotated[AnyStep, Field(discriminator="type"), BeforeValidator(_typed)]
