"""The rule about skips on CI."""

import subprocess
import sys

from tests.conftest import ROOT
from tests.skips import not_allowed


def test_a_skip_needs_a_line_with_a_reason():
    lines = ["# comment", "tests/a.py::test_x | no GPU here", "tests/b.py |", ""]
    assert not_allowed(["tests/a.py::test_x[1]", "tests/b.py::test_y", "tests/c.py"], lines) == [
        "tests/b.py::test_y",
        "tests/c.py",
    ]


def test_on_ci_a_skip_fails_the_run(tmp_path):
    (tmp_path / "conftest.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\npytest_plugins = ['tests.skips']\n"
    )
    (tmp_path / "test_it.py").write_text("import pytest\ndef test_it(): pytest.skip('later')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    for ci, status in (("true", 1), ("", 0)):
        done = subprocess.run(command, cwd=tmp_path, env={"CI": ci, "PATH": ""}, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
