"""``sharedbb search``: the free fields of a recipe, searched for what is fast and good."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sharedbb.cli.options import QuietOption

if TYPE_CHECKING:
    from rich.table import Table

    from sharedbb.compress.optuna_search import Trial
    from sharedbb.compress.record import Run
    from sharedbb.spec.recipe import Space

PICTURE, RECORD = "front.svg", "search.json"


def search(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe with {search: [low, high]} or {choose: [a, b]} in it.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where the results go, and what is needed to go on.")
    ],
    trials: Annotated[int, typer.Option("--trials", metavar="N", min=1, help="How many to try in all.")] = 40,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the recipe, such as steps.0.amount=0.3."),
    ] = None,
    by_macs: Annotated[
        bool, typer.Option("--macs", help="Count multiply-adds instead of measuring time: the same on every machine.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Search a recipe's free fields for what is fast and good.

    Two things count: the time of a frame against the untouched network's, and how much the worst head loses on the
    validation pictures. Nothing that is worse in both is kept; the others' artifacts, a picture and a record are
    written. Stopped at any moment, the same command goes on where it was.
    """
    from rich.console import Console
    from rich.text import Text

    from sharedbb.cli.compression import Stopwatch
    from sharedbb.compress.optuna_search import front
    from sharedbb.compress.optuna_search import search as searched
    from sharedbb.spec.recipe import load_space

    space = load_space(recipe, overrides or ())
    screen = Console(stderr=True, quiet=quiet)
    with screen.status("searching", spinner_style="dim") as status:
        sought = Sought(space, out / "work", None if by_macs else Stopwatch, lambda doing: status.update(Text(doing)))
        known: list[Trial] = []
        for trial in searched(space.free, sought, out, name=sought.name, trials=trials, seed=sought.seed):
            known.append(trial)
            screen.print(line(trial, trials), markup=False, highlight=False)
        best = front(known)
        files = write(sought, known, best, out)
    results = Console(highlight=False, quiet=quiet)
    results.print(_table(best, sought.cost))
    for path in files:
        results.print(f"wrote {path}", markup=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Sought:
    """What a trial is: the recipe with its free fields filled in, run, and judged by cost and loss.

    ``stopwatch`` makes what measures speed from the recipe's targets; None: multiply-adds are the cost. All trials
    share the folder ``work``, so that what several of them do alike is done once.
    """

    space: Space
    work: Path
    stopwatch: Callable[[Any], Any] | None
    tell: Callable[[str], None]

    def __call__(self, values: Mapping[str, Any]) -> tuple[float, float]:
        """Cost, of the untouched network's, and the worst head's loss, of what it reached."""
        found = self.run(values)
        return self._cost(found), worst_loss(found)

    def run(self, values: Mapping[str, Any]) -> Run:
        """The recipe run with these values, or what is kept of that."""
        from sharedbb.compress.recipe import run

        recipe = self.space.recipe(values)
        measure = self.stopwatch(recipe.measure) if self.stopwatch else None

        def watch(doing: str, share: float | None) -> None:
            self.tell(doing if share is None else f"{doing} ({share:.0%})")

        return run(recipe, self.work, measure=measure, watch=watch)

    def _cost(self, found: Run) -> float:
        if self.stopwatch and found.speeds:
            return round(1 / found.speeds[0].ratio, 4)
        after, before = (float(state.entry.facts["macs"]) for state in (found.result, found.start))
        return round(after / before, 4)

    @property
    def cost(self) -> str:
        """What the cost is, in words."""
        return "time of a frame" if self.stopwatch else "multiply-adds"

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return self.space.recipe(_first(self.space)).seed

    @property
    def name(self) -> str:
        """A digest of what is searched: another recipe, network or cost is another search."""
        from sharedbb.learn.journal import key
        from sharedbb.spec import load

        recipe = self.space.recipe(_first(self.space))
        pipeline = load(recipe.pipeline)
        return key(
            {
                "recipe": recipe.model_dump(mode="json"),
                "pipeline": pipeline.model_dump(mode="json"),
                "weights": _digest(pipeline.backbone.weights),
                "free": {name: repr(one) for name, one in self.space.free.items()},
                "cost": self.cost,
            }
        )


def _digest(weights: str | None) -> str | None:
    """SHA-256 of a weights file; None where there is none."""
    if weights is None or not Path(weights).is_file():
        return None
    with Path(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first(space: Space) -> dict[str, Any]:
    """One value for every free field."""
    from sharedbb.spec.recipe import Search

    return {name: one.low if isinstance(one, Search) else one.values[0] for name, one in space.free.items()}


def worst_loss(found: Run) -> float:
    """How much the head that loses most has lost on the validation pictures, of what it reached; below 0: gained."""
    from sharedbb.spec.recipe import HEADLINE

    before = found.rows[0].quality
    after = next(row.quality for row in reversed(found.rows) if row.state.digest == found.result.digest)
    return round(max(1 - after[head][HEADLINE] / max(before[head][HEADLINE], 1e-9) for head in before), 5)


def write(sought: Sought, known: Sequence[Trial], best: Sequence[Trial], out: Path) -> list[Path]:
    """Write the artifacts of the front, its picture and the record of all trials."""
    from sharedbb.cli.search_picture import picture
    from sharedbb.profiling.files import write_text

    files = [out / f"trial-{trial.place:03}.sbb" for trial in best]
    for trial, path in zip(best, files, strict=True):
        sought.run(trial.values).save(path)
    for beaten in {*out.glob("trial-*.sbb")} - {*files}:
        beaten.unlink()
        beaten.with_suffix(".yaml").unlink(missing_ok=True)
    told = {
        "cost": f"{sought.cost}, of the untouched network's",
        "loss": "of the worst head, of what it reached",
        "front": [{**trial.to_dict(), "artifact": path.name} for trial, path in zip(best, files, strict=True)],
        "trials": [trial.to_dict() for trial in known],
    }
    write_text(out / RECORD, json.dumps(told, indent=2) + "\n")
    titles = {trial.number: line(trial, len(known)) for trial in known}
    write_text(out / PICTURE, picture(known, best, titles, f"{sought.cost}, of the untouched network's"))
    return [*files, out / PICTURE, out / RECORD]


def line(trial: Trial, trials: int) -> str:
    """A trial in words; ``trials`` is how many there are."""
    values = ", ".join(f"{name}={value}" for name, value in trial.values.items())
    if trial.objectives is None:
        return f"trial {trial.place} of {trials}: {values}: failed: {trial.said}"
    cost, loss = trial.objectives
    return f"trial {trial.place} of {trials}: {values}: cost {cost:.3f}, worst head loses {loss:.2%}"


def _table(best: Sequence[Trial], cost: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="What nothing beats", title_justify="left", title_style="bold")
    for column in ("trial", cost, "worst head loses", "values"):
        table.add_column(column, justify="left" if column == "values" else "right", overflow="fold")
    for trial in best:
        assert trial.objectives is not None
        spent, loss = trial.objectives
        values = ", ".join(f"{name}={value}" for name, value in trial.values.items())
        table.add_row(str(trial.place), f"{spent:.3f}", f"{loss:.2%}", Text(values))
    return table
