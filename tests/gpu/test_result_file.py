"""The result file of `make gpu`, from a run of pytest in which checks pass, fail and are skipped."""

import json

import pytest

from tests.gpu.__main__ import Outcomes, write

CHECKS = """
import pytest

def test_fast(record_property):
    record_property("MFU", 0.412345)

def test_slow(record_property):
    record_property("MFU", 0.2)
    assert False

def test_elsewhere():
    pytest.skip("the peak of a Tesla T4 is not known")
"""


def test_the_result_file_has_figures_of_failures_too_and_why_a_check_was_skipped(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_checks.py").write_text(CHECKS)
    outcomes = Outcomes()
    pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", str(tmp_path)], plugins=[outcomes])
    write(outcomes.rows, tmp_path, {"date": "2026-01-01"})
    rows = json.loads((tmp_path / "gpu-2026-01-01.json").read_text())["tests"]
    assert [row["outcome"] for row in rows] == ["passed", "failed", "skipped"]
    assert rows[1]["figures"] == {"MFU": 0.2}
    assert rows[2]["reason"] == "the peak of a Tesla T4 is not known"
    page = (tmp_path / "gpu-2026-01-01.md").read_text()
    assert "| MFU 0.4123 |" in page
    assert "| the peak of a Tesla T4 is not known |" in page
