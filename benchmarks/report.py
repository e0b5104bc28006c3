"""Everything in ``results/`` as one HTML page, and as the README's table.

``python -m benchmarks.report [--results FOLDER] [--out FILE.html] [--readme README.md]`` measures nothing. A page needs
no other file; of the README, what stands between ``<!-- benchmarks: begin -->`` and ``<!-- benchmarks: end -->`` is
written anew.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from benchmarks.report_page import bound, fate, interval, is_former, measured, reason_mark, reasons, report_page
from benchmarks.schema import RESULTS, Number, Suite
from sharedbb.errors import SharedBBError
from sharedbb.profiling.files import write_text

ORDER = (
    *("headline", "dense", "peers", "reuse", "transforms", "compress", "quality", "overhead", "startup"),
    *("memory", "scaling", "gpu", "limits", "merge", "fuse", "compress_costs"),
)
"""Suites in the order in which a reader wants them; others follow by name."""
IN_README = ("headline", "dense", "overhead", "startup")
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


class ReportError(SharedBBError):
    """Results, or a README, that cannot be read as such."""


def read_all(folder: Path) -> dict[str, Suite]:
    """Every suite that a folder has, in the order of the report.

    Raises ReportError for a file that is not of the schema, and where there is none at all.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        if path.stem == "schema":
            continue
        try:
            suite = Suite.read(path.stem, folder)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise ReportError(f"{path} is no results file: {place}: {first['msg']}; measure it anew") from None
        if suite is not None:
            found[path.stem] = suite
    if not found:
        raise ReportError(f"no results in {folder}; measure some, as with: python -m benchmarks.dense")
    places = {name: place for place, name in enumerate(ORDER)}
    return {name: found[name] for name in sorted(found, key=lambda name: (places.get(name, len(ORDER)), name))}


def pictures(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SVG that a suite has drawn beside its results, where it has."""
    drawn = ((name, folder / f"{name}.svg") for name in names)
    return {name: path.read_text(encoding="utf-8") for name, path in drawn if path.is_file()}


def readme_table(suites: Mapping[str, Suite], where: str) -> str:
    """The goals as Markdown: a row each, and below them why some are missed.

    ``where`` is the folder of the results, seen from the README.
    """
    shown = {name: suites[name] for name in IN_README if name in suites}
    goals = [
        (f"[{name}]({where}/{name}.json): {number}", one)
        for name, suite in shown.items()
        for number, one in suite.numbers.items()
        if one.goal is not None
    ]
    known = reasons(one for _, one in goals)
    return "\n".join(
        [
            _lead(shown, suites),
            *("", "| | measured | 95 % interval | goal | |", "|---|---:|---:|---:|---|"),
            *(_markdown_row(name, one, reason_mark(one, known)) for name, one in goals),
            *("", *(f"{place}. {' '.join(why.split())}" for why, place in known.items())),
        ]
    ).rstrip()


def _lead(shown: Mapping[str, Suite], suites: Mapping[str, Suite]) -> str:
    """Where the table's numbers come from, how many goals are reached, and what not to believe without a thought."""
    machines = ", ".join(dict.fromkeys(suite.conditions.machine for suite in shown.values()))
    disturbed = ", ".join(name for name, suite in shown.items() if not suite.conditions.quiet)
    noise = f" The machine was not quiet while it measured {disturbed}." if disturbed else ""
    former = ", ".join(name for name, suite in shown.items() if is_former(suite))
    other = f" Measured with former networks, not those shipped: {former}." if former else ""
    return f"{machines}: {_reached(shown)} goals reached here, {_reached(suites)} in all suites.{noise}{other}"


def _reached(suites: Mapping[str, Suite]) -> str:
    goals = [one for suite in suites.values() for one in suite.numbers.values() if one.goal is not None]
    return f"{sum(one.is_met is True for one in goals)} of {len(goals)}"


def _markdown_row(name: str, number: Number, mark: str) -> str:
    cells = [name, measured(number), interval(number), bound(number), f"{fate(number)}{mark}"]
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def with_table(readme: str, table: str) -> str:
    """A README with the table between its two marks. Raises ReportError where they are not, once each and in order."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ReportError(f"the README needs one line {BEGIN} and, below it, one line {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    """Write the page, and the table where a README is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to read (default: benchmarks/results)")
    parser.add_argument("--out", type=Path, help="page to write (default: report.html beside the results)")
    parser.add_argument("--readme", type=Path, help="README whose table is written anew")
    options = parser.parse_args()
    page: Path = options.out or options.results / "report.html"
    try:
        suites = read_all(options.results)
        write_text(page, report_page(suites, pictures(options.results, suites)))
        print(f"{len(suites)} suites in {page}")
        if options.readme is not None:
            where = Path(os.path.relpath(options.results, options.readme.parent)).as_posix()
            old = options.readme.read_text(encoding="utf-8")
            write_text(options.readme, with_table(old, readme_table(suites, where)))
            print(f"table in {options.readme}")
    except (SharedBBError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
