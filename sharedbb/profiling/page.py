"""The pieces of a report: a page, sections, figures, tables, all in one file that needs nothing else."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from string import Template

from sharedbb.errors import SinkError
from sharedbb.profiling.markup import escaped, percent


def page(title: str, heading: str, subtitle: str, numbers: str, body: Iterable[str], footer: str) -> str:
    """A whole page as text; ``numbers`` (what ``headline`` gave) and the parts of ``body`` go in as they are."""
    template = Template(resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escaped(title),
        heading=escaped(heading),
        subtitle=escaped(subtitle),
        headline=numbers,
        body="\n".join(part for part in body if part),
        footer=escaped(footer),
    )


def headline(numbers: Iterable[tuple[str, str]]) -> str:
    """The large numbers on top: name and value, six of them fill a row."""
    return "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in numbers)


def section(title: str, content: str, note: str = "") -> str:
    """A card with a title; ``content`` is HTML, without any there is no card."""
    if not content:
        return ""
    lead = f'<p class="note">{escaped(note)}</p>' if note else ""
    return f"<section><h2>{escaped(title)}</h2>{lead}{content}</section>"


def figures(pictures: Sequence[tuple[str, bytes]]) -> str:
    """Pictures in a row, as many as fit: (caption, JPEG or PNG bytes). Raises SinkError for another format."""
    shown = "".join(
        f'<figure><img src="{_data_uri(data, number)}" alt="{escaped(caption)}">'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
        for number, (caption, data) in enumerate(pictures, 1)
    )
    return f'<div class="figures">{shown}</div>' if shown else ""


def pairs(pictures: Sequence[tuple[str, bytes]]) -> str:
    """Two pictures side by side in every row; the rest as ``figures``."""
    return "".join(figures(pictures[at : at + 2]) for at in range(0, len(pictures), 2))


def listed(sentences: Iterable[str]) -> str:
    """Sentences as a list; nothing without any."""
    lines = "".join(f"<li>{escaped(sentence)}</li>" for sentence in sentences)
    return f"<ul>{lines}</ul>" if lines else ""


def scale_of(shares: Sequence[float]) -> tuple[float, float]:
    """Round ends of a scale of shares that has them all, and 100 %."""
    return max(0.0, math.floor(min(*shares, 0.99) * 20) / 20), max(1.0, math.ceil(max(shares) * 20) / 20)


def _data_uri(data: bytes, number: int) -> str:
    if data.startswith(b"\xff\xd8\xff"):
        kind = "jpeg"
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "png"
    else:
        raise SinkError(f"picture {number} of the report is neither JPEG nor PNG; encode it as one of them")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def legend(keys: Iterable[tuple[str, str]]) -> str:
    """Patches of colour with words: (style class, text)."""
    items = "".join(f'<li><i class="{style}"></i>{escaped(text)}</li>' for style, text in keys)
    return f'<ul class="legend">{items}</ul>'


def share_cell(share: float, bar: str, written: str = "") -> str:
    """A table's cell with a share (0–1) and its bar; ``written`` is how the share reads, by default in percent."""
    return f'<td class="share"><div><span>{escaped(written or percent(share))}</span>{bar}</div></td>'


def facts(rows: Mapping[str, str]) -> str:
    """A table of names and values; empty values are left out."""
    shown = "".join(
        f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>'
        for name, value in rows.items()
        if value
    )
    return f'<table class="facts"><tbody>{shown}</tbody></table>'
