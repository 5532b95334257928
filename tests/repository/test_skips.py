"""The rule about skips on CI, and what `make gpu` runs."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.gpu.__main__ import SELECTION
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


class Collection:
    """A pytest plugin that keeps which tests are marked `gpu`, and which are left to run."""

    marked: set[str]
    chosen: set[str]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.marked = {item.nodeid for item in items if item.get_closest_marker("gpu")}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.chosen = {item.nodeid for item in session.items}


def test_make_gpu_runs_all_tests_that_are_marked_for_it_wherever_they_lie():
    own = Collection()
    found = pytest.main([*SELECTION, "--collect-only", "-qqq", "-p", "no:faulthandler"], plugins=[own])
    assert found == pytest.ExitCode.OK
    assert own.chosen == own.marked
    assert {test.partition("::")[0] for test in own.chosen} > {"tests/gpu/test_training_on_cuda.py"}
