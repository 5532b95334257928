"""Verbs run in this process, which is quicker; what must be a process of its own, tests here start themselves."""

import contextlib
import io
from subprocess import CompletedProcess

import pytest

from raystudy.cli.main import main
from tests.conftest import run_cli


@pytest.fixture(scope="session")
def cli():
    """As everywhere: exit status, output and errors of a verb; with an environment of its own in its own process."""

    def call(*arguments: object, **environment: str) -> CompletedProcess[str]:
        if environment:
            return run_cli(*arguments, **environment)
        command, out, err = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(command)
        return CompletedProcess(command, status, out.getvalue(), err.getvalue())

    return call
