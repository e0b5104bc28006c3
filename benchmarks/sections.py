"""Suites in sections: one that is measured alone leaves what was kept of the others as it was."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from benchmarks.machine import Watch, pin
from benchmarks.schema import Case, Conditions, Number, Suite
from benchmarks.timing import Measurement

Work = TypeVar("Work")

NAMED = ("timings", "numbers", "spent")
"""Fields of a suite in which a section's names begin with the section's own: ``exact: static``."""

MEASURED = {"date", "load", "others", "drift", "quiet", "seconds", "weights"}
"""Of the conditions, what is kept with every section."""


@dataclass(frozen=True, slots=True)
class Section:
    """What one section found, in the fields of ``Suite``, by names of its own."""

    details: Mapping[str, Any]
    timings: Mapping[str, Case] = field(default_factory=dict)
    numbers: Mapping[str, Number] = field(default_factory=dict)
    spent: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def under(self, conditions: Conditions) -> Section:
        """The same with the conditions that it was measured under, and a note where these were not quiet."""
        details = {**self.details, "measured": conditions.model_dump(include=MEASURED)}
        notes = self.notes if conditions.quiet else (*self.notes, _disturbed(conditions))
        return replace(self, details=details, notes=notes)


def _disturbed(conditions: Conditions) -> str:
    return (
        f"measured while others took {conditions.others:.0%} of the cores and the clock drifted {conditions.drift:.0%}"
    )


def fields_of(sections: Mapping[str, Section]) -> dict[str, Any]:
    """The fields of the suite that consists of these sections."""
    fields: dict[str, Any] = {
        kind: {f"{name}: {key}": value for name, one in sections.items() for key, value in getattr(one, kind).items()}
        for kind in NAMED
    }
    notes = [f"{name}: {note}" for name, one in sections.items() for note in one.notes]
    return {**fields, "notes": notes, "details": {name: dict(one.details) for name, one in sections.items()}}


def sections_of(suite: Suite | None) -> dict[str, Section]:
    """The sections that a suite consists of: what ``fields_of`` was given."""
    return {} if suite is None else {name: _section(suite, name) for name in suite.details}


def _section(suite: Suite, name: str) -> Section:
    start = f"{name}: "
    named = {
        kind: {key.removeprefix(start): value for key, value in getattr(suite, kind).items() if key.startswith(start)}
        for kind in NAMED
    }
    notes = [note.removeprefix(start) for note in suite.notes if note.startswith(start)]
    return Section(details=suite.details[name], notes=notes, **named)


def measure(
    suite: str,
    about: str | None,
    options: argparse.Namespace,
    sections: Mapping[str, Callable[[Work], Section]],
    prepare: Callable[[], Work],
) -> None:
    """Measure the sections that ``options.only`` names, in their order, and keep the suite after each.

    ``prepare`` makes what every section is given, once the process is pinned. Sections that were kept before and are
    not named, or not reached, stay as they were.
    """
    measurement = Measurement(suite, about, options)
    kept, work = sections_of(None if options.out is None else Suite.read(suite, options.out)), prepare()
    for name in options.only:
        watch = Watch(pin())
        kept[name] = sections[name](work).under(watch.conditions())
        measurement.keep(**fields_of({known: kept[known] for known in sections if known in kept}))


def chosen(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Of an option such as ``--only``: the names given, parted by commas, in the order of ``names``."""
    known = list(names)

    def parse(text: str) -> list[str]:
        wanted = text.split(",")
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}; there are {', '.join(known)}")
        return [name for name in known if name in wanted]

    return parse
