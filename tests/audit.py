"""Asks a database of known vulnerabilities about every pin of constraints.txt, by pip-audit. Run by `make check`.

Exit status 1 if a pin is known to be vulnerable and the finding is not accepted below with its reason. Where no
database answers (no network, a mirror of the registry without advisories, no pip-audit) it says "not audited: ..." and
ends with 0: that is no clean bill. pip-audit alone would call it one: it prints "No known vulnerabilities found" for
packages it skipped.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parent.parent / "constraints.txt"
PROGRAM = Path(sys.executable).with_name("pip-audit")
# Advisory -> why it does not matter here, with the date of the decision.
ACCEPTED: dict[str, str] = {}
_OPTIONS = ["--format", "json", "--progress-spinner", "off", "--timeout", "5", "--no-deps", "--disable-pip"]
_PROBE_SECONDS, _AUDIT_SECONDS = 20.0, 120.0


class NotAuditedError(Exception):
    """No database answered; says why."""


def _ask(program: Path, pins: Path, seconds: float) -> list[dict[str, Any]]:
    """What pip-audit says of each pin in the file."""
    command = [str(program), *_OPTIONS, "--requirement", str(pins)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        return list(json.loads(done.stdout)["dependencies"])
    except FileNotFoundError:
        raise NotAuditedError("pip-audit is not installed here") from None
    except subprocess.TimeoutExpired:
        raise NotAuditedError(f"no database answered within {seconds:g} s") from None
    except (ValueError, KeyError, TypeError, OSError):
        lines = done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode} and no result"]
        raise NotAuditedError(lines[-1][:200]) from None


def _names_of_skipped(answers: list[dict[str, Any]]) -> list[str]:
    return [str(answer["name"]) for answer in answers if "skip_reason" in answer]


def audit(pins: Path, program: Path = PROGRAM, seconds: float = _AUDIT_SECONDS) -> list[str]:
    """Findings that are not accepted, one line each; prints what was not looked at.

    Raises:
        NotAuditedError: no database answered.
    """
    lines = [line for line in pins.read_text(encoding="utf-8").splitlines() if "==" in line]
    probe = [line for line in lines if line.startswith("requests==")] or lines[:1]  # known to every database
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "probe.txt"
        one.write_text("\n".join(probe) + "\n", encoding="utf-8")
        answers = _ask(program, one, min(seconds, _PROBE_SECONDS))
    if _names_of_skipped(answers) or not answers:
        raise NotAuditedError(f"the database does not know {probe[0]}: a registry without advisories")
    answers = _ask(program, pins, seconds)
    if skipped := _names_of_skipped(answers):
        print(f"not audited: {len(skipped)} of {len(lines)} pins, unknown to the database: {', '.join(skipped)}")
    print(f"audited: {len(answers) - len(skipped)} of {len(lines)} pins")
    return [
        f"{answer['name']} {answer['version']}: {found['id']}, mended in {' or '.join(found['fix_versions']) or 'none'}"
        for answer in answers
        for found in answer.get("vulns", [])
        if not {found["id"], *found.get("aliases", [])} & set(ACCEPTED)
    ]


def main(pins: Path = PINS, program: Path = PROGRAM, seconds: float = _AUDIT_SECONDS) -> int:
    """The exit status."""
    try:
        findings = audit(pins, program, seconds)
    except NotAuditedError as error:
        print(f"not audited: {error}")
        return 0
    print("\n".join(findings) or "no known vulnerability")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
