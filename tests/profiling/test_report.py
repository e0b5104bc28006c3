"""The report: one well-formed page with everything in it, whatever the names, on a phone as on a desk."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from sharedbb.errors import SinkError
from sharedbb.profiling import Profiler, Recording, Section, chrome_trace, html_report, write_report

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "</title><script>alert(1)</script>\"'><img src=http://x onerror=alert(1)>&amp; $body ${title}\x00\ud800"


class Page(HTMLParser):
    """Checks that every tag is closed in its turn; keeps tags, attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All words of the page."""
        return " ".join("\n".join(self.texts).split())


def _picture(kind: str) -> bytes:
    _, data = cv2.imencode(kind, np.full((36, 64, 3), 90, np.uint8))
    return data.tobytes()


PICTURES = [("first frame", _picture(".jpg")), ("busiest frame", _picture(".png")), ("last frame", _picture(".jpg"))]


def _self_contained(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "srcset", "xlink:href"):
            assert value.startswith("data:")
    assert not re.search(r"url\(|@import", page.text)


@pytest.mark.parametrize("frames", [1, 2, 40])
@pytest.mark.parametrize("pictures", range(4))
def test_it_is_well_formed_and_self_contained(record: Callable[..., Recording], frames: int, pictures: int) -> None:
    page = Page(html_report(record(frames), PICTURES[:pictures]))
    _self_contained(page)
    assert page.tags.count("img") == pictures
    for caption, _ in PICTURES[:pictures]:
        assert caption in page.text
    assert "nan" not in page.text.split()


def test_it_tells_the_numbers(record: Callable[..., Recording]) -> None:
    recording = record(frames=9)
    page = Page(html_report(recording))
    for said in (
        "street", "clip.mp4", "9.75 ms", "A typical frame", "Latency over the run", "transform", "head road",
        "partial 12 % ×8, full ×1", "ran 33 % · reused 67 %", "outside of frames", "2 · 0", "9 frames in",
    ):  # fmt: skip
        assert said in page.text
    assert recording.summary.machine in page.text


def test_without_frames_it_is_a_page_still() -> None:
    page = Page(html_report(Profiler().recording()))
    _self_contained(page)
    assert "A typical frame" not in page.text


def test_names_are_text_and_nothing_else(record: Callable[..., Recording]) -> None:
    facts = dict.fromkeys(("pipeline", "source", "device", "backend", "precision"), HOSTILE)
    recording = record(4, network=HOSTILE, head=HOSTILE, **facts)
    text = html_report(recording, [(HOSTILE, PICTURES[0][1])], [Section(HOSTILE, "<p>own words</p>")])
    page = Page(text)
    _self_contained(page)
    assert page.tags.count("img") == 1
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert "$body ${title}" in page.text
    assert "own words" in page.text
    text.encode("utf-8")
    assert "\x00" not in text
    assert chrome_trace(recording)["traceEvents"]


def test_a_picture_of_another_format_is_refused(record: Callable[..., Recording]) -> None:
    with pytest.raises(SinkError, match="picture 2 of the report is neither JPEG nor PNG"):
        html_report(record(1), [PICTURES[0], ("moving", b"GIF89a")])


def test_an_old_report_is_replaced_only_by_a_whole_one(record: Callable[..., Recording], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(SinkError):
        write_report(path, record(1), [("moving", b"GIF89a")])
    assert path.read_text() == "old"
    write_report(path, record(1))
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_leaves_the_page(record: Callable[..., Recording], tmp_path: Path, width: int) -> None:
    names = {"network": "segment." + "x" * 80, "head": "y" * 80, "source": "z" * 200}
    text = html_report(record(40, **names), [(caption * 9, data) for caption, data in PICTURES])
    measured = _measured(text, tmp_path, width)
    assert measured["inner"] == width
    assert measured["scroll"] <= width
    assert measured["cards"] == 0


MEASURE = """<script>addEventListener("load", () => {
  const wide = [...document.querySelectorAll("section")].filter(card => card.scrollWidth > card.clientWidth);
  const scroll = document.documentElement.scrollWidth;
  parent.document.title = `inner=${innerWidth} scroll=${scroll} cards=${wide.length}`;
});</script></body>"""

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-sync", "--window-size=1400,2000", "--dump-dom",
)  # fmt: skip


def _measured(page: str, folder: Path, width: int) -> dict[str, int]:
    """Widths of the window and of its content in CSS pixels, and how many cards are too narrow for theirs.

    The page is shown in a frame of that width: a window of the browser itself is never narrower than 500 pixels.
    """
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium to render with")
    inner = html.escape(page.replace("</body>", MEASURE))
    frame = f'<iframe style="border:0;width:{width}px;height:1900px" srcdoc="{inner}"></iframe>'
    shown = folder / "shown.html"
    shown.write_text(f"<!DOCTYPE html><title></title><body>{frame}</body>", encoding="utf-8")
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'browser'}", shown.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", dumped.partition("</title>")[0])}
