"""Sets of pictures to learn from, each with its share of a batch. Never imports torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from sharedbb.spec.parts import Number, Text, unique
from sharedbb.spec.steps import Part


class Pictures(Part):
    """A set of pictures to learn from, and how much of it."""

    set: Text
    """The set, as `sharedbb.learn.open_data` takes it; paths are taken from the working directory."""

    share: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Its share of the batches, above 0 to 1; null: sets without a share have what is left, by their number of
    pictures."""


def _as_pictures(value: Any) -> Any:
    return {"set": value} if isinstance(value, str) else value


def _of_different_sets(pictures: tuple[Pictures, ...]) -> tuple[Pictures, ...]:
    unique(tuple(one.set for one in pictures))
    return pictures


Sets = Annotated[tuple[Annotated[Pictures, BeforeValidator(_as_pictures)], ...], AfterValidator(_of_different_sets)]
"""Each by its name, or as `{set: NAME, share: 0.25}`; none twice."""
