"""What a report says, as HTML, Markdown and JSON, and what it never says."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from holdfast.drills.report.content import Bound, Report
from holdfast.drills.report.document import SCHEMA, json_document
from holdfast.drills.report.html import html_page
from holdfast.drills.report.markdown import markdown_text
from holdfast.drills.report.redaction import redacted, without_secrets
from holdfast.drills.report.wording import count, duration, headline, measure, percentage
from holdfast.drills.verdict import Validity
from tests.drills.reports import EVIL, evil_report, run_named, verdict

ONE = Report((run_named(),), "holdfast drill --seed 7", {"Holdfast": "drill/holdfast"})
BAD = verdict("no-double-apply", Validity.INVALID, "3 of 9 writes are there more than once")
COMPARED = Report((run_named(), run_named("Plain", verdict(), BAD)), "holdfast drill --seed 7")

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """The elements of a page, its text, and whether every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    def said(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


# -- HTML ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [ONE, COMPARED, evil_report()], ids=["one", "compared", "evil"])
def test_the_page_is_well_formed(report: Report) -> None:
    """Every element is closed in order, ids are unique, and what refers to an id finds it."""
    page = Page(html_page(report))
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("aria-labelledby")) <= set(ids)


@pytest.mark.parametrize("report", [ONE, COMPARED, evil_report()], ids=["one", "compared", "evil"])
def test_the_page_loads_nothing(report: Report) -> None:
    """No script, no link, no picture, no address: one file that works where there is no network."""
    text = html_page(report)
    page = Page(text)
    assert not page.tags.keys() & {"script", "link", "img", "iframe", "object", "a", "form"}
    assert not {name for _, name, _ in page.attributes} & {"src", "href", "xlink:href", "srcset"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import", text)
    assert "default-src 'none'" in page.values("content")[-1]


def test_planted_script_is_shown_and_not_executed() -> None:
    """What a run says of itself appears as text, wherever it appears."""
    page = Page(html_page(evil_report()))
    assert page.tags["script"] == 0
    assert page.said().count("<script>alert('x')</script>") >= 10


def test_the_page_says_what_matters() -> None:
    """Verdict, sentence, figures, reasons, bounds, latencies, settings and the command to replay are there."""
    said = Page(html_page(ONE)).said()
    for words in (
        "Every promise held",
        "990 of 1,000 operations were acknowledged under 3 faults.",
        "none was lost",
        "all 9 writes are there",
        "at most 0.75 %",
        "holdfast drill --seed 7",
        "drill/holdfast",
        "12.3.2",
        "kill-server",
    ):
        assert words in said


def test_the_page_can_be_heard() -> None:
    """It has a language, one first heading, a named drawing, and tables with captions and headed rows."""
    page = Page(html_page(ONE))
    assert page.values("lang") == ["en"]
    assert (page.tags["h1"], page.tags["main"]) == (1, 1)
    assert page.tags["caption"] == page.tags["table"]
    assert set(page.values("scope")) == {"col", "row"}
    drawings = [attribute for attribute in page.attributes if attribute[0] == "svg" and attribute[1] == "role"]
    assert drawings == [("svg", "role", "img")]


def test_an_answer_is_a_word_and_a_sign() -> None:
    """Nobody has to tell colours apart."""
    said = Page(html_page(COMPARED)).said()
    assert "✓ valid" in said
    assert "✕ invalid" in said


def test_runs_stand_side_by_side() -> None:
    """Each run has its column and its time line."""
    page = Page(html_page(COMPARED))
    assert page.tags["svg"] == 2
    assert "Side by side" in page.said()
    assert "Every promise held with Holdfast" in page.said()


def test_colours_can_be_read() -> None:
    """Text on its background has a contrast of at least 4.5 to 1, in light and in dark (WCAG 2.2, 1.4.3)."""
    text = html_page(ONE)
    themes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", block))
        for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    ]
    assert len(themes) == 2
    for theme in themes:
        for name in ("ink", "soft", "valid", "invalid", "unknown"):
            assert contrast(theme[name], theme["paper"]) >= 4.5, name
        for name in ("valid", "invalid", "unknown"):
            assert contrast(theme[name], theme[f"{name}-wash"]) >= 4.5, name
        for name in ("goodput", "latency", "failed", "doubt", "fault"):
            assert contrast(theme[name], theme["paper"]) >= 3, name


def contrast(one: str, other: str) -> float:
    """The ratio of two colours' relative luminances, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# -- Markdown and JSON -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [ONE, COMPARED, evil_report()], ids=["one", "compared", "evil"])
def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head(report: Report) -> None:
    """What a run says breaks no table."""
    tables = re.findall(r"(?:^\|.*\n)+", markdown_text(report), flags=re.MULTILINE)
    assert len(tables) >= 3
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_planted_html_is_text_in_markdown() -> None:
    """No element, link or heading comes from a run; only the command stands as it is, in a block of code."""
    text = markdown_text(evil_report())
    outside = re.sub(r"```sh\n.*?\n```", "", text, flags=re.DOTALL)
    assert "<script" not in outside
    assert not re.search(r"(?<!\\)\[link", outside)
    assert not re.search(r"^# heading", outside, flags=re.MULTILINE)


def test_markdown_says_what_matters() -> None:
    """The same as the page."""
    text = markdown_text(COMPARED)
    for words in (
        "# ✓ Every promise held with Holdfast",
        "| No double apply |",
        "0.75 %",
        "holdfast drill --seed 7",
        "- server: 12.3.2",
    ):
        assert words in text


SHAPE = {
    "schema": "str",
    "verdict": "str",
    "title": "str",
    "sentence": "str",
    "command": "str",
    "histories": {"Holdfast": "str"},
    "runs": [
        {
            "verdict": "str",
            "name": "str",
            "meta": {},
            "verdicts": [
                {
                    "checker": "str",
                    "valid": "str",
                    "reason": "str",
                    "counts": {"lost": "int", "overshoot_s": "float"},
                    "examples": ["str"],
                }
            ],
            "figures": {
                "operations": "int",
                "ok": "int",
                "failed": "int",
                "unknown": "int",
                "faults": "int",
                "ambiguous": "int",
                "ambiguous_applied": "int",
                "attempts_per_operation": {"before": "float", "during": "float"},
                "recovery_s": "float",
                "overshoot_s": "float",
                "unsent": "int",
                "overload": "NoneType",
            },
            "seconds": [
                {
                    "start_s": "float",
                    "length_s": "float",
                    "ok": "int",
                    "failed": "int",
                    "unknown": "int",
                    "p50_s": "float",
                    "p99_s": "float",
                }
            ],
            "faults": [{"name": "str", "start_s": "float", "end_s": "float"}],
            "phases": [{"name": "str", "start_s": "float", "end_s": "float"}],
            "bounds": [{"name": "str", "events": "int", "trials": "int", "of": "str", "upper": "float"}],
            "latencies": [
                {
                    "phase": "str",
                    "operations": "int",
                    "p50_s": "float",
                    "p99_s": "float",
                    "p99_9_s": "float",
                    "max_s": "float",
                }
            ],
            "offered_per_s": "float",
            "deadline_s": "float",
        }
    ],
}
"""What programs may rely on."""


def test_the_shape_of_the_document_is_stable() -> None:
    """A field that goes or changes its place breaks programs: then the version has to change."""

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {name: shape(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [shape(value[0])] if value else []
        return type(value).__name__

    found = json.loads(json.dumps(json_document(ONE)))
    found["runs"][0]["meta"] = {}
    assert SCHEMA == "holdfast.drill.report/1"
    assert shape(found) == SHAPE


# -- secrets ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://app:hunter2@db1/shop", "mysql://app:***@db1/shop"),
        (
            "--database postgresql+psycopg://a:p@ss:w/rd@h:5432/x --seed 7",
            "--database postgresql+psycopg://a:***@h:5432/x --seed 7",
        ),
        (
            "postgresql:///x?user=a&password=hunter2&sslmode=require",
            "postgresql:///x?user=a&password=***&sslmode=require",
        ),
        ("mysql://app:hunter 2/x@db1/my shop", "mysql://app:***@db1/my shop"),
        ("mysql://app:hunter 2@3@db1/my shop", "mysql://app:***@db1/my shop"),
        (
            "postgresql://db1/x?sslpassword=hunter2&ssl_key_password=hunter3",
            "postgresql://db1/x?sslpassword=***&ssl_key_password=***",
        ),
        ("mysql://app@db1/shop", "mysql://app@db1/shop"),
        ("no secret here: 12:30", "no secret here: 12:30"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    """The password of a URL is replaced, and nothing else."""
    assert redacted(text) == shown


def test_secrets_are_found_wherever_they_are() -> None:
    """Within lists and mappings, by their place in a URL or by their name."""
    meta = {"urls": ["mysql://a:hunter2@h/x"], "server": {"password": "hunter2", "port": 3306}, "seed": 7}
    assert without_secrets(meta) == {
        "urls": ["mysql://a:***@h/x"],
        "server": {"password": "***", "port": 3306},
        "seed": 7,
    }


# -- words -----------------------------------------------------------------------------------------------------------------


def test_a_figure_keeps_the_digits_that_mean_something() -> None:
    """Durations, counts and shares are short."""
    assert [duration(s) for s in (None, 0, 2e-6, 0.00123, 0.9996, 1.25, 99.96, 3600)] == [
        "\N{EN DASH}",
        "0 s",
        "2 µs",
        "1.23 ms",
        "1 s",
        "1.25 s",
        "100 s",
        "3,600 s",
    ]
    assert [count(value) for value in (None, 0, 1.04, 12.0, 12345.6)] == ["\N{EN DASH}", "0", "1.04", "12", "12,346"]
    assert [percentage(value) for value in (None, 0, 0.57, 0.042, 0.00075, 0.000003)] == [
        "\N{EN DASH}",
        "0 %",
        "57 %",
        "4.2 %",
        "0.075 %",
        "0.0003 %",
    ]
    assert [measure("overshoot_max_s", 0.83), measure("too_few", 2)] == ["overshoot max 830 ms", "too few 2"]


def test_the_headline_says_what_broke() -> None:
    """An invalid run is named by its broken promises, with the reason."""
    broken = Report((run_named("Plain", verdict(), BAD, verdict("coverage", Validity.UNKNOWN, "3 faults")),), "x")
    said = headline(broken)
    assert said.title == "Broken: no double apply"
    assert said.sentence.endswith("3 of 9 writes are there more than once.")


def test_the_headline_does_not_claim_what_it_does_not_know() -> None:
    """An unknown run says so, with the reason."""
    said = headline(
        Report((run_named("Holdfast", verdict(), verdict("coverage", Validity.UNKNOWN, "3 faults are too few")),), "x")
    )
    assert said.title == "Nothing wrong was seen, but too little happened to be sure"
    assert "3 faults are too few." in said.sentence


def test_the_headline_counts_what_was_seen() -> None:
    """What was doubled is counted; what was not seen is not mentioned beside it."""
    bounds = (Bound("lost", 0, 10, "commits in doubt", 0.3), Bound("doubled", 4, 10, "commits in doubt", 0.7))
    said = headline(Report((run_named("Plain", BAD, bounds=bounds),), "x"))
    assert "after the server had applied it: 4 doubled." in said.sentence


def test_an_unnamed_moment_is_left_out() -> None:
    """A run that says little of itself is still reported."""
    report = Report((dataclasses.replace(run_named(), meta={}),), "holdfast drill")
    assert "None" not in html_page(report) + markdown_text(report)
    assert EVIL not in html_page(evil_report())
