"""SECURITY.md: every guarantee names tests that are there; whoever could do harm is named with what follows."""

import re

from tests.conftest import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_guarantee_of_the_page_on_security_names_tests_that_are_there():
    guarantees = PAGE.partition("## Guaranteed")[2].partition("\n## ")[0].split("\n\n**")[1:]
    assert len(guarantees) >= 9
    for guarantee in guarantees:
        named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", guarantee)
        assert named, guarantee
        for path, name in named:
            assert re.search(rf"^def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_everyone_who_may_write_something_is_named_with_what_they_can_do_and_what_follows():
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| ") and "**" in line]
    assert all(len(row) == 3 and all(cell.strip() for cell in row) for row in rows)
    for writer in ("the study file", "catalogue", "table", "the storage", "cache", "the Ray cluster", "export"):
        assert any(writer in row[0] for row in rows), writer
