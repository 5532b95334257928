"""The audit of pinned packages, with a FAKE pip-audit named as such: where a database answers, and where none does."""

import json
import sys
from pathlib import Path

import pytest

from tests import audit
from tests.conftest import ROOT

PINS = "# pins\nabc==1.0\nrequests==2.0\nxyz==3.0\n"
CLEAN = [{"name": "requests", "version": "2.0", "vulns": []}]
BAD = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3.1"], "description": ""}
VULNERABLE = [*CLEAN, {"name": "xyz", "version": "3.0", "vulns": [BAD]}, {"name": "abc", "skip_reason": "unknown"}]


@pytest.fixture
def fake(tmp_path):
    """A FAKE pip-audit that gives `probe` for one pin and `rest` for all, and the file of pins."""
    (tmp_path / "pins.txt").write_text(PINS)

    def make(probe: str, rest: str = "") -> tuple[Path, Path]:
        program = tmp_path / "pip-audit"
        program.write_text(
            f"#!{sys.executable} -IS\nimport sys, time\npins = open(sys.argv[-1]).read()\n"
            f"if pins.count('==') == 1:\n assert pins == 'requests==2.0\\n'\n {probe}\n"
            f"else:\n {rest or 'raise SystemExit(9)'}\n"
        )
        program.chmod(0o755)
        return tmp_path / "pins.txt", program

    return make


def shown(answers: object, status: int = 0) -> str:
    return f"print({json.dumps({'dependencies': answers})!r}); sys.exit({status})"


def test_where_a_database_answers_what_is_vulnerable_is_named_and_what_was_skipped_is_told(fake, capsys, monkeypatch):
    at = fake(shown(CLEAN), shown(VULNERABLE, 1))
    assert audit.audit(*at) == ["xyz 3.0: PYSEC-1, mended in 3.1"]
    assert capsys.readouterr().out == ("not audited: 1 of 3 pins, unknown to the database: abc\naudited: 2 of 3 pins\n")
    monkeypatch.setitem(audit.ACCEPTED, "CVE-1", "not reachable here")
    assert audit.audit(*at) == []
    monkeypatch.undo()
    assert audit.audit(*fake(shown(CLEAN), shown(CLEAN))) == []


@pytest.mark.parametrize(
    ("probe", "why"),
    [
        (shown([{"name": "requests", "skip_reason": "not found"}]), "the database does not know requests==2.0"),
        (shown([]), "the database does not know"),
        ("print('ConnectionError: no route', file=sys.stderr); sys.exit(1)", "ConnectionError: no route"),
        ("sys.exit(1)", "pip-audit ended with 1 and no result"),
        ("time.sleep(30)", "no database answered within 0.5 s"),
    ],
)
def test_where_none_answers_it_says_so_and_goes_on(fake, probe, why, capsys):
    assert audit.main(*fake(probe), 0.5 if "sleep" in probe else 20.0) == 0
    assert capsys.readouterr().out.startswith(f"not audited: {why}")


def test_without_pip_audit_it_says_so(tmp_path):
    (tmp_path / "pins.txt").write_text(PINS)
    with pytest.raises(audit.NotAuditedError, match="pip-audit is not installed here"):
        audit.audit(tmp_path / "pins.txt", tmp_path / "none")


def test_a_finding_fails_the_check_and_make_check_runs_it(fake, capsys):
    assert audit.main(*fake(shown(CLEAN), shown(VULNERABLE, 1))) == 1
    assert "xyz 3.0: PYSEC-1" in capsys.readouterr().out
    check = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    assert "$(BIN)/python tests/audit.py" in check
    assert all(reason.strip() for reason in audit.ACCEPTED.values())
