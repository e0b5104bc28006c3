"""The record of a compression as tables for the terminal, and the words and numbers that its page has, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

Told = Mapping[str, Any]
"""What ``Run.to_dict`` gave, or a part of it."""

FATES = {
    "kept": "kept",
    "broken": "refused: breaks a floor",
    "slower": "refused: not faster",
    "replaced": "holds; a stronger one does, too",
}

_TELLING = ("method", "amount", "bits", "weight_bits", "energy", "steps", "minutes", "student")


def step_name(row: Told) -> str:
    """A step with what tells it from others: ``prune structured 0.5``."""
    settings = (row["settings"].get(name) for name in _TELLING)
    return " ".join([row["step"], *(_short(value) for value in settings if value is not None)])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def size(count: int) -> str:
    """Bytes: ``5.4 MB``, ``310 kB``."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def macs(count: int) -> str:
    """Multiply-adds: ``5.31 G``, ``310 M``."""
    return f"{count / 1e9:.2f} G" if count >= 1e9 else f"{count / 1e6:.1f} M"


def times(speedup: float | None) -> str:
    """How many times as fast: ``1.52×``; a dash where it was not measured."""
    return "–" if speedup is None else f"{speedup:.2f}×"


def worst(relative: Mapping[str, float]) -> tuple[str, float]:
    """The head that keeps the smallest share of its quality, and the share."""
    return min(relative.items(), key=lambda item: item[1])


def speeds(told: Told) -> str:
    """Milliseconds before and after on every target: ``openvino bf16 9.9 → 4.1 ms``."""
    return ", ".join(f"{one['target']} {one['before_ms']:.2f} → {one['after_ms']:.2f} ms" for one in told["speed"])


def predicted(row: Told) -> str:
    """Predicted milliseconds and how far they are off, on every target: ``4.30 ms (+5 %)``."""
    return ", ".join(f"{one['milliseconds']:.2f} ms ({one['error'] * 100:+.0f} %)" for one in row["predicted"])


def about_predictions(told: Told) -> str:
    """Where predicted times come from, or what would give some."""
    if told["cost_model"] is None:
        command = f"sharedbb plan {told['recipe']['pipeline']}"
        return f"No times are predicted: this machine has no cost model yet. `{command}` fits one, in a few minutes."
    return (
        "Predicted are times after a step, by this machine's cost model from the time before it; in brackets, how far "
        "that is off what was measured. From floats to integers, it knows no time before."
    )


def sentences(rows: Sequence[Told]) -> list[tuple[str, str]]:
    """What the steps say, each with its name; what several say is there once."""
    return list(dict.fromkeys((step_name(row), sentence) for row in rows for sentence in row["said"]))


def compression_table(told: Told) -> Group:
    """The steps as they were taken, what they say, then each head on the test set."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    steps = Table(title=Text(f"{told['pipeline']}: steps"), title_style="bold", title_justify="left")
    steps.add_column("step", overflow="fold")
    foreseen = told["cost_model"] is not None
    for name in ("size", "multiply-adds", "speed", "worst head", *(["predicted"] if foreseen else [])):
        steps.add_column(name, justify="right", no_wrap=name != "predicted")
    steps.add_column("", overflow="fold")
    for row in told["rows"]:
        head, share = worst(row["relative"])
        numbers = [size(row["bytes"]), macs(row["macs"]), times(row["speedup"]), f"{head} {share:.1%}"]
        numbers += [predicted(row)] if foreseen else []
        steps.add_row(Text(step_name(row)), *numbers, FATES[row["fate"]], style="" if row["fate"] == "kept" else "dim")
    steps.caption = Text(speeds(told))

    heads = Table(title="on the test set", title_style="bold", title_justify="left")
    for name in ("head", "before", "after", "kept"):
        heads.add_column(name, justify="left" if name == "head" else "right")
    for head, before, after, share in on_test_set(told):
        heads.add_row(Text(head), f"{before:.4f}", f"{after:.4f}", f"{share:.1%}")
    said = [f"{name}: {sentence}" for name, sentence in sentences(told["rows"])]
    return Group(steps, *map(Text, [about_predictions(told), *said]), heads)


def on_test_set(told: Told) -> list[tuple[str, float, float, float]]:
    """Each head on the test set: its headline before and after, and the share that is left."""
    before, after = (told["test"][side] for side in ("before", "after"))
    pairs = [(head, before[head]["headline"], after[head]["headline"]) for head in before]
    return [(head, was, now, now / was if was else 1.0) for head, was, now in pairs]
