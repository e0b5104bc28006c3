"""Search over a recipe's free fields with Optuna: two objectives, both smaller is better; the one module that knows it.

Every trial is written to a file before the next begins, and proposals depend only on the seed and the trials before:
a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharedbb.errors import CompressionError, SharedBBError
from sharedbb.spec.recipe import Choose, Search

FILE = "trials.log"
"""Where trials are kept, in the work folder."""

DIGITS = 3
"""Significant digits of a proposed number."""

WIDE = 100.0
"""A range whose ends differ by this factor is searched by its logarithm."""

RANDOM = 10
"""Trials before proposals follow from what was found."""

Values = Mapping[str, Any]
Evaluate = Callable[[Values], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice of the free fields and its objectives, ``(cost, loss)``; None, and why, where it failed."""

    number: int
    values: Values
    objectives: tuple[float, float] | None
    said: str = ""

    @property
    def place(self) -> int:
        """Which of the trials it is, from 1: what people, files and records call it."""
        return self.number + 1

    def beats(self, other: Trial) -> bool:
        """Whether it is at least as good in both objectives, and better in one."""
        if self.objectives is None or other.objectives is None:
            return False
        pairs = tuple(zip(self.objectives, other.objectives, strict=True))
        return all(mine <= theirs for mine, theirs in pairs) and self.objectives != other.objectives

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        cost, loss = self.objectives or (None, None)
        return {"trial": self.place, "values": dict(self.values), "cost": cost, "loss": loss, "said": self.said}


def front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The trials that no other beats (the Pareto front), the cheapest first; of equal ones the first."""
    best: dict[tuple[float, float], Trial] = {}
    for trial in trials:
        if trial.objectives is not None and not any(other.beats(trial) for other in trials):
            best.setdefault(trial.objectives, trial)
    return tuple(best[objectives] for objectives in sorted(best))


def search(
    free: Mapping[str, Search | Choose],
    evaluate: Evaluate,
    folder: str | Path,
    *,
    name: str,
    trials: int,
    seed: int = 0,
) -> Iterator[Trial]:
    """Every trial of the search called ``name``, those of earlier runs first, until there are ``trials``.

    ``free``: the fields by name. ``evaluate`` gives the objectives of their values; a SharedBBError of it makes the
    trial a failed one. Proposals are those of a tree-structured Parzen estimator (Bergstra et al., 2011) for several
    objectives (Ozaki et al., 2020).

    Raises CompressionError where nothing is free, Optuna is not installed, or the folder cannot be written.
    """
    if not free:
        raise CompressionError("nothing to search: mark a field {search: [low, high]} or {choose: [a, b, ...]}")
    study, optuna = _study(folder, name)
    distributions = {field: _distribution(optuna, found) for field, found in free.items()}
    _propose_unfinished(study, optuna)
    done = [trial for trial in study.trials if trial.values or trial.user_attrs.get("said")]
    for number, trial in enumerate(done[:trials]):
        yield _trial(number, free, trial.params, trial.values, trial.user_attrs["said"])
    for number in range(len(done), trials):
        study.sampler = optuna.samplers.TPESampler(seed=seed * 100_003 + number, n_startup_trials=RANDOM)
        asked = study.ask(distributions)
        values, objectives, said = _values(free, asked.params), None, ""
        try:
            objectives = evaluate(values)
        except SharedBBError as error:
            said = " ".join(str(error).split())
        asked.set_user_attr("said", said)
        study.tell(asked, objectives, state=None if objectives else optuna.trial.TrialState.FAIL)
        yield Trial(number, values, objectives, said)


def _study(folder: str | Path, name: str) -> tuple[Any, Any]:
    """Optuna's study in the folder's file, and Optuna."""
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise CompressionError("searching needs optuna: pip install 'sharedbb[compress]'") from error
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with _quiet(optuna):
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(Path(folder) / FILE)))
            study = optuna.create_study(
                storage=storage, study_name=name, directions=["minimize", "minimize"], load_if_exists=True
            )
    except (OSError, ValueError) as error:
        raise CompressionError(f"cannot keep trials in {folder}: {error}; name another work folder") from error
    return study, optuna


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna without messages on the terminal."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _propose_unfinished(study: Any, optuna: Any) -> None:
    """Have what a killed run was at tried first."""
    states = optuna.trial.TrialState
    for trial in study.trials:
        if trial.state == states.RUNNING:
            study.tell(trial.number, state=states.FAIL)
            if not trial.user_attrs.get("said"):
                study.enqueue_trial(trial.params)


def _distribution(optuna: Any, found: Search | Choose) -> Any:
    distributions = optuna.distributions
    if isinstance(found, Choose):
        return distributions.CategoricalDistribution(range(len(found.values)))
    if found.whole:
        return distributions.IntDistribution(int(found.low), int(found.high))
    wide = found.low > 0 and found.high >= WIDE * found.low
    return distributions.FloatDistribution(found.low, found.high, log=wide)


def _values(free: Mapping[str, Search | Choose], params: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the free fields that Optuna's parameters stand for."""
    return {field: _value(found, params[field]) for field, found in free.items()}


def _value(found: Search | Choose, param: Any) -> Any:
    if isinstance(found, Choose):
        return found.values[param]
    return param if found.whole else min(max(float(f"{param:.{DIGITS}g}"), found.low), found.high)


def _trial(number: int, free: Mapping[str, Any], params: Mapping[str, Any], values: Any, said: str) -> Trial:
    return Trial(number, _values(free, params), (values[0], values[1]) if values else None, said)
