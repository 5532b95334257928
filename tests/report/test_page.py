"""The page says what the comparison says, and no more."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from raystudy.errors import DataError
from raystudy.report.page import render_page
from raystudy.report.remarks import provenance_rows
from tests.report.example_comparison import make_null_comparison


class Outline(HTMLParser):
    """Headings, ids, references and tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.ids += [value for key, value in attrs if key == "id" and value]
        for key, value in attrs:
            if key in ("href", "xlink:href") and value and value.startswith("#"):
                self.references.append(value[1:])
            self.references += re.findall(r"url\(#([^)]+)\)", value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_the_verdict_is_printed_as_it_is_given(comparison: dict[str, Any], provenance: dict[str, Any]) -> None:
    undecided = render_page(comparison, provenance)
    assert comparison["verdict"]["sentence"] in Outline(undecided).words()
    assert 'class="verdict undecided"' in undecided
    comparison["verdict"] = {"outcome": "reduced", "sentence": "'reduced' recovers the order better."}
    decided = render_page(comparison, provenance)
    assert "'reduced' recovers the order better." in Outline(decided).words()
    assert 'class="verdict decided"' in decided
    assert 'class="badge"><bdi>reduced</bdi>' in decided


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("reorders", "Yes: tuning reorders"),
        ("does-not-reorder", "No: tuning does not reorder"),
        ("undecided", "Undecided:"),
    ],
)
def test_the_premise_follows_its_outcome(comparison: dict[str, Any], outcome: str, words: str) -> None:
    comparison["premise"]["outcome"] = outcome
    text = Outline(render_page(comparison, {})).words()
    assert words in text
    assert "2 of 21 pairs of recipes change places, 1 of them beyond seed noise." in text
    assert "F(18, 28) = 3.10, p = 0.004" in text


def test_a_comparison_without_premise_and_contrast_says_not_assessed(comparison: dict[str, Any]) -> None:
    comparison |= {"premise": None, "contrast": None, "tuned_losses": []}
    text = Outline(render_page(comparison, {})).words()
    assert "Not assessed" in text
    assert "The truth of this comparison has no sweep." in text


def test_intervals_and_reasons_of_nulls_stand_beside_their_figures(comparison: dict[str, Any]) -> None:
    html = render_page(comparison, {})
    text = Outline(html).words()
    assert "[0.66, 0.97]" in text
    assert "1 of the candidate's runs diverged" in text
    assert re.search(r'title="1 of the candidate&#39;s runs diverged"', html)
    assert "14 pairs same-seeds" in text


def test_all_that_may_be_null_may_be_null() -> None:
    text = Outline(render_page(make_null_comparison(), {})).words()
    assert "No verdict: 16 wanted run(s) have no result." in text
    assert not re.search(r"\b(None|nan|inf|null)\b", text.replace("Figures that are null", ""))


def test_an_empty_comparison_renders(comparison: dict[str, Any]) -> None:
    comparison |= {"comparisons": [], "tuned_losses": [], "recipes": [], "premise": None, "contrast": None}
    assert "No candidate has scores." in Outline(render_page(comparison, {})).words()


def test_every_key_of_provenance_may_be_missing(comparison: dict[str, Any], provenance: dict[str, Any]) -> None:
    for key in provenance:
        labels = [label for label, _ in provenance_rows({k: v for k, v in provenance.items() if k != key})]
        assert len(labels) == len(provenance) - (1 if key == "study_file" else 2)
    assert "Not recorded." in render_page(comparison, {})
    only_file = render_page(comparison, {"study_file": "study: demo"})
    assert "<summary>Study file</summary>" in only_file


def test_provenance_and_conventions_are_printed(comparison: dict[str, Any], provenance: dict[str, Any]) -> None:
    text = Outline(render_page(comparison, provenance)).words()
    for expected in ("143 finished, 1 diverged", "numpy 2.4.6, torch 2.13.0", "protocols: truth: {kind: tuned}"):
        assert expected in text
    for name, sentence in comparison["conventions"].items():
        assert f"{name} {sentence}" in text


def test_two_renderings_are_the_same_bytes(comparison: dict[str, Any], provenance: dict[str, Any]) -> None:
    before = copy.deepcopy(comparison)
    assert render_page(comparison, provenance) == render_page(comparison, provenance)
    assert comparison == before


def test_ids_are_unique_references_resolve_and_headings_are_in_order(comparison: dict[str, Any]) -> None:
    outline = Outline(render_page(comparison, {}))
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.references) <= set(outline.ids)
    assert outline.headings[0] == 1
    assert all(after - before <= 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))


def test_the_page_is_self_contained_and_accessible(comparison: dict[str, Any], provenance: dict[str, Any]) -> None:
    outline = Outline(render_page(comparison, provenance))
    names = {tag for tag, _ in outline.tags}
    assert not names & {"script", "img", "iframe", "object", "form"}
    assert ("html", {"lang": "en"}) in outline.tags
    assert all("scope" in attributes for tag, attributes in outline.tags if tag == "th")
    charts = [attributes for tag, attributes in outline.tags if tag == "svg"]
    assert len(charts) == 8
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    links = [attributes["href"] for _, attributes in outline.tags if "href" in attributes]
    assert all(link is not None and link.startswith(("#", "data:")) for link in links)


@pytest.mark.parametrize(
    ("winners", "words"),
    [
        (("reduced", "reduced", "reduced"), "reduced has the highest Spearman correlation on each of the 3"),
        (("reduced", "standard", "reduced"), "It does here: the highest Spearman correlation is that of reduced"),
    ],
)
def test_whether_the_winner_depends_on_the_validation_set_follows_from_the_figures(
    comparison: dict[str, Any], winners: tuple[str, ...], words: str
) -> None:
    highest = dict(zip(("loss/prose", "loss/source", "loss/tables"), winners, strict=True))
    for entry in comparison["comparisons"]:
        entry["spearman"]["value"] = 0.99 if highest.get(entry["metric"]) == entry["candidate"] else 0.5
    assert words in Outline(render_page(comparison, {})).words()


def test_missing_runs_are_listed_and_counted(comparison: dict[str, Any]) -> None:
    row = {"protocol": "truth", "recipe": "mix-even", "reason": "no result for run 17"}
    comparison["missing"] = [row] * 130
    text = Outline(render_page(comparison, {})).words()
    assert "(the first 100 of 130)" in text
    assert text.count("no result for run 17") == 100


def test_another_format_is_refused_with_the_way_out(comparison: dict[str, Any]) -> None:
    comparison["format"] = "raystudy-comparison/9"
    with pytest.raises(DataError, match="raystudy compare"):
        render_page(comparison, {})
