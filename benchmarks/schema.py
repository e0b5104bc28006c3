"""What a file in ``results/`` holds. ``results/schema.json`` is this, for readers in other languages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

RESULTS = Path(__file__).parent / "results"
VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Conditions(_Part):
    """The machine while it measured."""

    machine: str
    system: str
    python: str
    cores: list[int] = Field(description="that the process was pinned to")
    mhz: int | None = Field(description="clock of the processor, where it can be read")
    celsius: float | None = Field(description="of the hottest sensor, where one can be read")
    load: list[float] = Field(description="load averages over 1, 5 and 15 minutes at the beginning")
    others: float | None = Field(description="share of the cores' time that other processes took meanwhile")
    drift: float | None = Field(
        description="by how much a fixed piece of work took longer at the end than at the beginning"
    )
    quiet: bool = Field(description="whether both are known, and small enough to believe the numbers")
    seconds: int | None = Field(description="that the suite took")
    date: str
    versions: dict[str, str]
    weights: dict[str, str] = Field(default={}, description="first digits of the shipped artifacts' digests, by name")


class Case(_Part):
    """Milliseconds of one case: median, its 95 % confidence interval (by order statistics), 10th, 90th percentile.

    Fewer than six runs have no such interval: even their least and greatest cover the median less often.
    """

    median_ms: float
    low_ms: float | None
    high_ms: float | None
    p10_ms: float
    p90_ms: float
    runs: int


class Number(_Part):
    """One number that a reader decides by, beside its goal where there is one.

    ``low`` and ``high`` are its 95 % confidence interval. ``why``: for a goal that is missed, the reason, and the way.
    """

    measured: float | None
    goal: float | None = None
    better: Literal["higher", "lower"] = "higher"
    unit: str = "×"
    low: float | None = None
    high: float | None = None
    why: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached; None without a goal or a measurement."""
        if self.goal is None or self.measured is None:
            return None
        return self.measured >= self.goal if self.better == "higher" else self.measured <= self.goal


class Limit(_Part):
    """What no program on this machine could do better, measured."""

    value: float
    unit: str
    how: str = Field(description="how it was measured")


class Suite(_Part):
    """One suite's results."""

    version: Literal[1] = VERSION
    suite: str
    about: str = Field(description="what the suite asks, in a line")
    conditions: Conditions
    timings: dict[str, Case] = {}
    numbers: dict[str, Number] = {}
    limits: dict[str, Limit] = {}
    spent: dict[str, dict[str, float]] = Field(default={}, description="by case, where its milliseconds go")
    absent: dict[str, str] = Field(default={}, description="peers that could not run, and why")
    notes: list[str] = Field(default=[], description="how far from the limit, and where the rest goes")
    details: dict[str, Any] = Field(default={}, description="all else, in the suite's own form")

    @classmethod
    def read(cls, name: str, folder: Path = RESULTS) -> Suite | None:
        """The kept results of a suite, None where there are none. Raises ValidationError for another form."""
        path = folder / f"{name}.json"
        return cls.model_validate_json(path.read_text()) if path.is_file() else None

    def write(self, folder: Path = RESULTS) -> Path:
        """Keep it as ``<suite>.json``; returns the path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.suite}.json"
        path.write_text(json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
        return path


def schema_text() -> str:
    """The JSON schema of a results file, as ``results/schema.json`` has it."""
    return json.dumps(Suite.model_json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print((RESULTS / "schema.json").write_text(schema_text()), "characters of schema")
