"""What is said about a wrong value: how it is shown, what it may have meant, and the error that carries it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

SAID = "said"
UNKNOWN_FIELD = "unknown_field"
MISSING_FIELD = "missing_field"

Fault = tuple[tuple[int | str, ...], str, Any]
"""Where (relative to the value being validated), what to say, and the value that was given."""


def said(message: str, kind: str = SAID) -> PydanticCustomError:
    """A pydantic error whose message is shown as it stands, to raise inside a validator."""
    return PydanticCustomError(kind, "{said}", {"said": message})


def said_at(title: str, faults: Iterable[Fault], kind: str = SAID) -> ValidationError:
    """Several such errors, each at its own place below the value being validated."""
    details = [InitErrorDetails(type=said(message, kind), loc=place, input=given) for place, message, given in faults]
    return ValidationError.from_exception_data(title, details)


_SYNONYMS = {
    "gpu": "cuda",
    "bfloat16": "bf16",
    "float16": "f16",
    "float32": "f32",
    "fp16": "f16",
    "fp32": "f32",
    "half": "f16",
}
"""Words that others use for ours."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` means or most resembles, whatever the case; None where none is near."""
    by_folded = {name.lower(): name for name in known}
    if _SYNONYMS.get(word.lower()) in by_folded:
        return by_folded[_SYNONYMS[word.lower()]]
    near = difflib.get_close_matches(word.lower(), by_folded, n=1)
    return by_folded[near[0]] if near else None


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """``"; did you mean 'letterbox'?"``, or nothing where no known word is near (or ``given`` is not text)."""
    near = nearest(given, known) if isinstance(given, str) else None
    return f"; did you mean {near!r}?" if near else ""


def alternatives(known: Sequence[str]) -> str:
    """``'a', 'b' or 'c'``."""
    quoted = [repr(word) for word in known]
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def must_be_one_of(given: object, known: Sequence[str]) -> str:
    """The message for a value outside a closed set of words."""
    return f"must be {alternatives(known)}, got {shown(given)}{did_you_mean(given, known)}"


def shown(value: object, limit: int = 60) -> str:
    """A given value in a message: as YAML would write it, shortened to about ``limit`` characters."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return repr(value if len(value) <= limit else f"{value[: limit - 1]}…")
        case int() | float():
            text = repr(value)
        case list() | tuple():
            text = f"[{', '.join(shown(item, limit) for item in value[:limit])}]"
        case Mapping():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
