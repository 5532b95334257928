"""On CI (`CI=true`) a skipped test fails the run unless `allowed_skips.txt` names it with its reason.

A line there is `node id or its beginning | reason`.
"""

import os
from pathlib import Path

import pytest

_ALLOWED = Path(__file__).with_name("allowed_skips.txt")
_skipped: list[str] = []


def allowed(lines: list[str]) -> dict[str, str]:
    """Beginnings of node ids with their reasons; blank lines and comments are left out."""
    pairs = (line.partition("|") for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): reason.strip() for name, _, reason in pairs}


def not_allowed(skipped: list[str], lines: list[str]) -> list[str]:
    """The skipped tests that no line with a reason names."""
    names = [name for name, reason in allowed(lines).items() if reason]
    return [test for test in skipped if not any(test.startswith(name) for name in names)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") == "true":
        surplus = not_allowed(_skipped, _ALLOWED.read_text(encoding="utf-8").splitlines())
        if surplus:
            print(f"\nskipped on CI without a reason in {_ALLOWED.name}: {', '.join(surplus)}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
