"""Pages for people: their links lead somewhere, and the page on reference models says what holds where."""

import re

import pytest

from tests.conftest import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "cluster").glob("*.md")),
]
REFERENCE = ROOT / "docs" / "reference-models.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_that_is_there(page):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_page_on_reference_models_covers_one_gpu_one_node_many_nodes_and_slurm():
    text = REFERENCE.read_text()
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    for part in ("One GPU", "One node", "Many nodes", "Slurm"):
        assert any(part in heading for heading in headings), part
    assert "(../cluster/README.md)" in text
    assert "(../docs/reference-models.md)" in (ROOT / "cluster" / "README.md").read_text()


def test_every_fault_says_what_holds_without_ray_and_under_it():
    section = REFERENCE.read_text().partition("## Faults")[2].partition("\n## ")[0]
    header, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line
    ]
    assert (len(header), "--local" in header[1], "Ray" in header[2]) == (3, True, True)
    assert len(rows) >= 7
    assert all(len(row) == 3 and all(row) for row in rows)


def test_both_pages_agree_that_no_compiler_is_needed():
    assert "compiler" not in (ROOT / "cluster" / "README.md").read_text()
    assert "none of raystudy's settings has any built" in REFERENCE.read_text()
