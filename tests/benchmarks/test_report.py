"""The benchmark report: every number that was kept is in it, losses too; one page that needs nothing else."""

from __future__ import annotations

import base64
import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import weights
from benchmarks.report import BEGIN, END, IN_README, ReportError, main, pictures, read_all, readme_table, with_table
from benchmarks.report_charts import curves, goal_bar, measure, stacks, times, top_of, written
from benchmarks.report_page import bound, fate, interval, is_former, measured, reason_mark, reasons, report_page
from benchmarks.report_tables import crossed, details
from benchmarks.schema import RESULTS, Case, Conditions, Limit, Number, Suite, schema_text

VOID = {"meta", "img", "br", "hr", "link", "input"}
HOSTILE = "</style></head><script>alert(1)</script>\"'><img src=http://x onerror=alert(1)>&amp; $body | x\x00"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><style>.line{stroke:red}</style></svg>'


def _conditions(**changed: Any) -> Conditions:
    known = {
        "machine": "a processor, 2 cores",
        "system": "Linux 6",
        "python": "3.11.7",
        "cores": [0, 1],
        "mhz": 2700,
        "celsius": None,
        "load": [0.25, 0.5, 0.75],
        "others": 0.01,
        "drift": -0.02,
        "quiet": True,
        "seconds": 90,
        "date": "2026-11-22",
        "versions": {"torch": "2.15.0"},
        "weights": weights(),
    }
    return Conditions.model_validate(known | changed)


def _case(ms: float) -> Case:
    return Case(median_ms=ms, low_ms=ms * 0.97, high_ms=ms * 1.05, p10_ms=ms * 0.9, p90_ms=ms * 1.4, runs=60)


NUMBERS = {
    "static clips": Number(measured=12.345, goal=10, low=11.7, high=12.9),
    "moving": Number(measured=4.37, goal=5, low=4.25, high=4.5, why="most tiles change; a lighter trunk would do"),
    "loss": Number(measured=0.21, goal=1, better="lower", unit="points", why="met, no reason needed"),
    "memory": Number(measured=None, goal=300, better="lower", unit="MiB", why="not built here"),
    "agreement": Number(measured=0.978, unit=""),
}


def _suite(name: str, **parts: Any) -> Suite:
    return Suite(suite=name, about=f"What {name} asks.", conditions=parts.pop("conditions", _conditions()), **parts)


def _suites() -> dict[str, Suite]:
    timings = {"lobby: sharedbb": _case(2.5), "lobby: four networks": _case(26.0), "road: sharedbb": _case(6.25)}
    series = {
        "heads": {"x": [1, 2, 4], "lines": {"separate": [8.5, None, 34.25], "sharedbb": [8, 9, 11.5]}, "unit": "ms"}
    }
    return {
        "headline": _suite(
            "headline",
            timings=timings,
            numbers=NUMBERS,
            limits={"decoding": Limit(value=1.25, unit="ms", how="the decoder alone")},
            spent={"lobby: sharedbb": {"decoding": 1.5, "network": 0.75}},
            absent={"another engine": "needs a compiler that is not here"},
            notes=["The engine takes twice what decoding takes."],
            details={
                "clips": {"lobby": {"auto": {"speedup": 9.125, "agreement": {"surface": 0.9712}}}},
                "precision": "bf16",
            },
        ),
        "scaling": _suite("scaling", details={"series": series}, conditions=_conditions(quiet=False, others=0.34)),
        "never_heard_of": _suite("never_heard_of", numbers={"thing": Number(measured=7.125, unit="GB/s")}),
    }


class Page(HTMLParser):
    """Checks that every tag is closed in its turn; keeps tags, attributes and words, those of the style aside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("\n".join(self.words).split())


def _everything(suite: Suite) -> set[str]:
    """What a reader must find of a suite, as the page writes it."""
    found = {suite.about, *suite.notes, *suite.absent, *suite.absent.values()}
    for name, case in suite.timings.items():
        low_high = f"{written(case.low_ms)}–{written(case.high_ms)}"
        found |= {*name.split(": ", 1), measure(case.median_ms, "ms"), low_high}
    for name, one in suite.numbers.items():
        found |= {name, measured(one), interval(one), bound(one), fate(one), "" if one.is_met else one.why}
    for name, limit in suite.limits.items():
        found |= {name, measure(limit.value, limit.unit), limit.how}
    for name, parts in suite.spent.items():
        found |= {name} | {f"{part} {written(ms)}" for part, ms in parts.items()}
    return {" ".join(text.split()) for text in found if text}


def test_everything_that_was_kept_is_on_the_page() -> None:
    suites = _suites()
    text = Page(report_page(suites, {})).text
    for suite in suites.values():
        assert [what for what in _everything(suite) if what not in text] == []
    for number in ("9.12\xa0× surface 0.971", "bf16", "34.2", "11.5"):  # of details: cases, plain values, series
        assert " ".join(number.split()) in text


def test_what_is_committed_is_on_the_page_and_in_the_readme() -> None:
    suites = read_all(RESULTS)
    text = Page(report_page(suites, pictures(RESULTS, suites))).text
    for suite in suites.values():
        assert [what for what in _everything(suite) if what not in text] == []
    readme = RESULTS.parent.parent.joinpath("README.md").read_text(encoding="utf-8")
    if BEGIN in readme:
        assert with_table(readme, readme_table(suites, "benchmarks/results")) == readme


def test_the_page_needs_nothing_else_and_names_are_only_text() -> None:
    number = Number(measured=1, goal=2, why=HOSTILE, unit=HOSTILE)
    suite = _suite(
        HOSTILE.replace("/", ""),
        timings={HOSTILE: _case(1.0), f"{HOSTILE}: {HOSTILE}": _case(2.0)},
        numbers={HOSTILE: number},
        limits={HOSTILE: Limit(value=1, unit="ms", how=HOSTILE)},
        spent={HOSTILE: {HOSTILE: 1.0}},
        absent={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        details={
            HOSTILE: {HOSTILE: {HOSTILE: HOSTILE}},
            "series": {HOSTILE: {"x": [HOSTILE], "lines": {HOSTILE: [1]}}},
        },
        conditions=_conditions(machine=HOSTILE, versions={HOSTILE: HOSTILE}),
    )
    page = Page(report_page({suite.suite: suite}, {suite.suite: SVG}))
    assert not {"script", "link", "iframe", "object"} & {*page.tags}
    assert page.tags.count("img") == 1
    outside = [
        value for name, value in page.attributes if name in ("src", "href") and not value.startswith(("#", "data:"))
    ]
    assert outside == []
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_a_suites_picture_is_the_file_beside_it(tmp_path: Path) -> None:
    _suite("quality").write(tmp_path)
    (tmp_path / "quality.svg").write_text(SVG)
    suites = read_all(tmp_path)
    page = report_page(suites, pictures(tmp_path, suites))
    (data,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert base64.b64decode(data).decode() == SVG


def test_what_is_missing_has_every_open_goal_and_every_absent_peer_and_no_other() -> None:
    page = report_page(_suites(), {})
    missing = page.rpartition("What is missing")[2].partition("<h2>Machine")[0]
    for text in ("moving", "a lighter trunk would do", "memory", "not built here", "headline: another engine"):
        assert text in missing
    assert re.findall(r'href="#(\w+)"', missing) == ["headline"]
    card = page.partition('id="headline"')[2].partition("</section>")[0]
    for text in ("another engine", "a lighter trunk would do", "not built here"):
        assert text in card
    assert "static clips" not in missing
    assert "loss" not in missing
    reached = {"one": _suite("one", numbers={"loss": NUMBERS["loss"]})}
    assert "Every goal is reached." in Page(report_page(reached, {})).text


def test_a_noisy_machine_is_said_where_it_was_noisy() -> None:
    page = report_page(_suites(), {})
    assert page.count("Not quiet:") == 1
    assert "other processes took 34 % of the cores" in page.partition('id="scaling"')[2].partition("</section>")[0]
    assert "2 of 3" in Page(page).text


@pytest.mark.parametrize(
    ("value", "goal", "text"),
    [
        (3.4331, None, "3.43"),
        (0.0, None, "0"),
        (0.000123, None, "0.000123"),
        (9496.8, None, "9497"),
        (-0.25, None, "-0.250"),
        (4.9972, 5.0, "4.997"),
        (5.0003, 5.0, "5.0003"),
        (5.0, 5.0, "5.00"),
        (10.04, 10.0, "10.04"),
    ],
)
def test_a_number_never_reads_as_on_the_other_side_of_its_goal(value: float, goal: float | None, text: str) -> None:
    assert written(value, goal) == text


def test_a_reason_is_given_once_and_only_for_what_is_not_met() -> None:
    known = reasons([*NUMBERS.values(), NUMBERS["moving"]])
    assert known == {NUMBERS["moving"].why: 1, NUMBERS["memory"].why: 2}
    assert [reason_mark(one, known) for one in NUMBERS.values()] == ["", "<sup>1</sup>", "", "<sup>2</sup>", ""]
    assert reason_mark(Number(measured=2, goal=1, why="not built here"), known) == ""


def test_goals_in_words() -> None:
    assert {name: (bound(one).replace("\xa0", " "), fate(one)) for name, one in NUMBERS.items()} == {
        "static clips": ("≥ 10 ×", "met"),
        "moving": ("≥ 5 ×", "missed"),
        "loss": ("≤ 1 points", "met"),
        "memory": ("≤ 300 MiB", "not measured"),
        "agreement": ("", ""),
    }


def _places(picture: str, tag: str, style: str) -> list[dict[str, float]]:
    """Percentages and pixels of the elements of a style, or of what they hold, in order."""
    found = re.findall(rf'<{tag} class="{style}"[^>]*>(?:<line[^>]*>)?', picture)
    return [{name: float(at) for name, at in re.findall(r'(\w+)="([\d.]+)%"', one) if name != "y"} for one in found]


def test_a_bar_its_interval_and_its_goal_stand_where_the_numbers_are() -> None:
    drawn = goal_bar(NUMBERS["moving"], 10.0)
    assert _places(drawn, "rect", "missed")[0] == {
        "x": 0.0,
        "width": 43.7,
    }
    assert _places(drawn, "line", "interval")[0] == {"x1": 42.5, "x2": 45.0, "y1": 50.0, "y2": 50.0}
    assert _places(drawn, "g", "goal")[0] == {"x1": 50.0, "x2": 50.0, "y2": 100.0}
    assert goal_bar(NUMBERS["memory"], 10.0) == ""
    assert _places(goal_bar(NUMBERS["static clips"], 100.0), "rect", "met")[0]["width"] == 12.345
    assert top_of(NUMBERS.values()) == pytest.approx(1.06 * 300)
    assert top_of([]) == 1.0


def test_times_have_one_scale_until_they_are_far_apart() -> None:
    near = times({"a: sharedbb": _case(10), "a: other": _case(40), "b: sharedbb": _case(20)}, {})
    assert near.count("<ol") == 1
    ours = [at["width"] for at in _places(near, "rect", "ours")]
    assert ours[1] == pytest.approx(2 * ours[0], rel=1e-3)
    assert _places(near, "rect", "peer")[0]["width"] == pytest.approx(4 * ours[0], rel=1e-3)
    far = times({"a: sharedbb": _case(10), "b: sharedbb": _case(1000)}, {})
    assert far.count("<ol") == 2
    assert len({at["width"] for at in _places(far, "rect", "ours")}) == 1


def test_a_limit_is_a_line_in_its_own_group_or_in_all() -> None:
    cases = {"a: sharedbb": _case(10), "b: sharedbb": _case(20)}
    limits = {"b: kernels": Limit(value=8, unit="ms", how=""), "bandwidth": Limit(value=20, unit="GB/s", how="")}
    drawn = times(cases, limits)
    (line,), (ours, _) = _places(drawn, "g", "limit s1"), _places(drawn, "rect", "ours")
    assert line["x1"] == pytest.approx(0.8 * ours["width"], rel=1e-3)
    assert drawn.index("limit s1") > drawn.index("<h4>b</h4>")
    assert "bandwidth" not in drawn
    assert times(cases, {"roofline": Limit(value=1, unit="ms a frame", how="")}).count('"limit s1"') == 2


def test_parts_of_a_stack_follow_each_other_and_keep_their_colours() -> None:
    drawn = stacks({"one": {"small": 1.0, "large": 3.0, "middle": 2.0}, "two": {"large": 2.0}})
    large, (middle,), (small,) = (_places(drawn, "rect", style) for style in ("s0", "s1", "s2"))
    unit = small["width"]
    assert [large[0]["x"], middle["x"], small["x"]] == pytest.approx([unit, 4 * unit, 0.0], abs=0.01)
    assert [one["width"] for one in (*large, middle)] == pytest.approx([3 * unit, 2 * unit, 2 * unit], abs=0.01)
    assert measure(6.0, "ms") in drawn
    many = stacks({"one": {f"part {number}": 1.0 + number for number in range(12)}})
    assert len(_places(many, "rect", "s7")) == 5


def test_a_line_goes_through_its_numbers_and_leaves_out_what_is_none() -> None:
    series = {"x": [1, 2, 4], "lines": {"separate": [10.0, None, 40.0], "sharedbb": [5.0, 6.0, 8.0]}, "unit": "ms"}
    drawn = curves("heads", series)
    corners = {
        style: [tuple(map(float, place.split(","))) for place in points.split()]
        for style, points in re.findall(r'<polyline class="mean (s\d)" points="([^"]*)"', drawn)
    }
    assert [x for x, _ in corners["s0"]] == pytest.approx([40, 40 + 920 / 3, 960], abs=0.1)
    heights = [100 - y for _, y in corners["s0"]]
    assert heights == pytest.approx([heights[0], heights[0] * 6 / 5, heights[0] * 8 / 5], abs=0.02)
    assert len(corners["s1"]) == 2
    assert "100.00" in curves("heads", {"x": [1, 2], "lines": {"sharedbb": [0.0, 1.0]}, "unit": "ms"})
    assert "<td>–</td>" in drawn
    named = curves("resolution", {"x": ["256×448", "384×640", "big"], "lines": {"sharedbb": [1, 2, 3]}, "unit": "ms"})
    assert 'points="40.0,' in named
    assert " 500.0," in named


def _cells(text: str) -> list[list[str]]:
    """The tables' rows as words."""
    return [
        [
            html.unescape(re.sub(r"<[^>]+>", " ", cell)).replace("\xa0", " ").strip()
            for cell in re.findall(r"<t[hd].*?</t[hd]>", row)
        ]
        for row in re.findall(r"<tr>.*?</tr>", text)
    ]


def test_cases_by_clip_and_mode_show_speed_and_the_head_that_agrees_least() -> None:
    def cell(speedup: float, **agreement: float | None) -> dict[str, Any]:
        return {"speedup": speedup, "frames": 80, "agreement": agreement}

    clips = {
        "lobby": {"exact": cell(1.52, surface=1.0, objects=None), "auto": cell(12.25, surface=0.97, objects=0.915)},
        "road": {"auto": cell(0.97)},
    }
    kept = {"clips": {"input": "384x640", "clips": clips}, "other": {"a": {"speedup": 2}}}
    assert _cells(crossed(kept)) == [
        ["", "exact", "auto"],
        ["lobby", "1.52 × surface 1.00", "12.2 × objects 0.915"],
        ["road", "", "0.970 ×"],
    ]
    assert crossed({"clips": {"lobby": {"frames": 3}}}) == ""


def test_details_become_values_and_tables_and_what_is_too_large_is_named() -> None:
    clips = {f"clip {number}": {"ms": number} for number in range(30)}
    kept = {
        "precision": "bf16",
        "load": [0.5, 1.25],
        "is_quick": False,
        "operators": {"merged": 217, "separate": 528},
        "networks": {"street": {"bytes": 4144198, "quality": {"surface": 0.53639}}, "small": {"bytes": 657438}},
        "rows": [{"ms": 1.23456}, {"ms": None}],
        "sections": {"first": {"size": "384x640", "modes": {"on": clips, "off": clips}}},
        "wide": {"row": {f"column {number}": number for number in range(999)}},
        "deep": {"a": {"b": {"c": [[1]]}}},
        "series": {"heads": {}},
        "empty": {},
    }
    text = details("name", kept)
    rows = _cells(text)
    for row in (
        *(["precision", "bf16"], ["load", "0.500, 1.25"], ["is quick", "no"], ["merged", "217"]),
        *(["", "bytes", "quality surface"], ["street", "4144198", "0.536"], ["small", "657438", ""]),
        *(["1", "1.23"], ["2", "–"], ["sections, first, size", "384x640"]),
        *(["on, clip 7", "7"], ["off, clip 29", "29"]),
    ):
        assert row in rows
    assert "Only in name.json: wide, row; deep, a, b." in text
    assert "series" not in text
    assert details("name", {"series": {}}) == ""


def test_suites_come_in_the_readers_order(tmp_path: Path) -> None:
    for name in ("zebra", "startup", "adder", "headline", "dense"):
        _suite(name).write(tmp_path)
    (tmp_path / "schema.json").write_text(schema_text())
    assert [*read_all(tmp_path)] == ["headline", "dense", "startup", "adder", "zebra"]


def test_what_is_no_results_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no results in"):
        read_all(tmp_path)
    (tmp_path / "dense.json").write_text('{"suite": "dense"}')
    with pytest.raises(ReportError, match=r"dense\.json is no results file: about: Field required"):
        read_all(tmp_path)
    (tmp_path / "dense.json").write_text("nothing")
    with pytest.raises(ReportError, match=r"dense\.json is no results file: the file: Invalid JSON"):
        read_all(tmp_path)


def test_the_readmes_own_tables_say_what_was_measured() -> None:
    readme = RESULTS.parent.parent.joinpath("README.md").read_text(encoding="utf-8")
    suites = read_all(RESULTS)
    dense = {name: case.median_ms for name, case in suites["dense"].timings.items()}
    rows = {
        "**sharedbb, all segments and heads**": "engine, segments and heads",
        "merged by hand into one OpenVINO model": "hand-merged, one OpenVINO model",
        "four OpenVINO models, latency hint": "four OpenVINO models",
        "four OpenVINO models, throughput hint": "four OpenVINO models, throughput hint, per frame",
        "merged by hand, throughput hint": "hand-merged, throughput hint, per frame",
        "merged by hand, ONNX Runtime (float32)": "hand-merged, ONNX Runtime f32",
        "merged by hand, torch Inductor (bfloat16)": "hand-merged, torch Inductor bf16",
        "merged by hand, torch eager (float32)": "hand-merged, torch eager f32",
    }
    for row, case in rows.items():
        told = re.search(rf"^\| {re.escape(row)} \| \**([\d.]+)\** \|", readme, re.MULTILINE)
        assert told, row
        assert told[1] == f"{dense[case]:.1f}", row
    compress = suites["compress"]
    for row, name in (
        ("[street](pipelines/street.yaml), bf16", "street, bf16"),
        ("the same in int8", "street, int8"),
        ("[street-medium](pipelines/street-medium.yaml), bf16", "street-medium, bf16"),
        ("[street-small](pipelines/street-small.yaml), bf16", "street-small, bf16"),
    ):
        line = next(line for line in readme.splitlines() if line.startswith(f"| {row}"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        quality = compress.details["networks"][name]["quality"]
        assert cells[1] == f"{compress.timings[name].median_ms:.1f} ms"
        assert cells[4:] == [f"{quality[head]:.3f}" for head in ("surface", "objects", "edges", "scene")]


def test_the_readmes_table_has_every_goal_of_its_suites_and_its_interval() -> None:
    suites = {
        **_suites(),
        "dense": _suite("dense", numbers={"a|b": Number(measured=1.5, goal=1)}, conditions=_conditions(quiet=False)),
        "startup": _suite("startup", conditions=_conditions(weights={"street": "0123"})),
        "other": _suite("other", numbers={"c": Number(measured=1.5, goal=2, why="so")}),
    }
    text = readme_table(suites, "results")
    lead, _, _, _, *rows = text.splitlines()
    assert lead == (
        "a processor, 2 cores: 3 of 5 goals reached here, 3 of 6 in all suites. The machine was not quiet while it "
        "measured dense. Measured with former networks, not those shipped: startup."
    )
    assert [row.replace("\xa0", " ") for row in rows] == [
        "| [headline](results/headline.json): static clips | 12.3 × | 11.7–12.9 | ≥ 10 × | met |",
        "| [headline](results/headline.json): moving | 4.37 × | 4.25–4.50 | ≥ 5 × | missed<sup>1</sup> |",
        "| [headline](results/headline.json): loss | 0.210 points |  | ≤ 1 points | met |",
        "| [headline](results/headline.json): memory | – |  | ≤ 300 MiB | not measured<sup>2</sup> |",
        r"| [dense](results/dense.json): a\|b | 1.50 × |  | ≥ 1 × | met |",
        "",
        "1. most tiles change; a lighter trunk would do",
        "2. not built here",
    ]
    assert "never_heard_of" not in IN_README


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    readme = f"# Name\n\n{BEGIN}\nold\n{END}\n\nrest\n"
    assert with_table(readme, "| new |") == f"# Name\n\n{BEGIN}\n| new |\n{END}\n\nrest\n"
    assert with_table(with_table(readme, "a"), "| new |") == with_table(readme, "| new |")
    for wrong in ("nothing", f"{END}\n{BEGIN}", BEGIN, f"{readme}{BEGIN}{END}", f"{END}{readme}"):
        with pytest.raises(ReportError, match="needs one line"):
            with_table(wrong, "")


def test_the_command_writes_page_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, readme = tmp_path / "bench" / "results", tmp_path / "README.md"
    for suite in _suites().values():
        suite.write(results)
    readme.write_text(f"top\n{BEGIN}\n{END}\nend\n")
    monkeypatch.setattr(sys, "argv", ["report", "--results", str(results), "--readme", str(readme)])
    main()
    assert (results / "report.html").read_text(encoding="utf-8") == report_page(read_all(results), {})
    assert "| [headline](bench/results/headline.json): static clips |" in readme.read_text(encoding="utf-8")


def test_the_command_says_in_a_line_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "--results", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: no results in {tmp_path}; measure some, as with: python -m benchmarks.dense"
    ]


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_leaves_the_page(tmp_path: Path, width: int) -> None:
    long = "x" * 90
    suite = _suite(
        "long",
        timings={f"{long}: {long} sharedbb": _case(1.0), f"{long}: {long}": _case(20000.0)},
        numbers={long: Number(measured=123456.0, goal=234567, low=100000, high=200000, unit="frames", why=long * 3)},
        limits={long: Limit(value=1, unit="ms", how=long)},
        spent={long: {f"{long} {number}": 1.0 for number in range(9)}},
        absent={long: long},
        notes=[long * 3],
        details={"m": {long: {f"{long}{number}": long for number in range(9)}}},
    )
    text = report_page({**_suites(), "long": suite}, {"long": SVG}).replace("<details>", "<details open>")
    assert _rendered(text, tmp_path, width) == {"inner": width, "scroll": width, "cards": 0}


MEASURE = """<script>addEventListener("load", () => {
  const wide = [...document.querySelectorAll("section")].filter(card => card.scrollWidth > card.clientWidth);
  const scroll = document.documentElement.scrollWidth;
  parent.document.title = `inner=${innerWidth} scroll=${scroll} cards=${wide.length}`;
});</script></body>"""

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-sync", "--hide-scrollbars", "--window-size=1400,2000", "--dump-dom",
)  # fmt: skip


def _rendered(page: str, folder: Path, width: int) -> dict[str, int]:
    """Widths of the window and its content in CSS pixels, and how many cards are too narrow for theirs."""
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


def test_a_suite_is_former_when_one_of_its_sections_is() -> None:
    now, before = {"measured": {"weights": weights()}}, {"measured": {"weights": {"street": "0123"}}}
    assert not is_former(_suite("reuse", details={"a": now, "b": {"plain": 1}}))
    assert is_former(_suite("reuse", details={"a": now, "b": before}))
    assert is_former(_suite("reuse", details={"a": now, "b": {"measured": {}}}))
    assert is_former(_suite("dense", conditions=_conditions(weights={})))
