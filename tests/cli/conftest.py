"""A finished study of random-feature models, copied for each test that changes it; verbs run in this process."""

import shutil
from pathlib import Path

import pytest

from raystudy.cli.main import main


@pytest.fixture
def storage(features_source, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(features_source, tmp_path / "storage")


@pytest.fixture
def verb(capsys):
    """Run a verb in this process: exit status, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` by its relative path; what drivers write about themselves left out."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for name, path in files.items()
        if not any(part.startswith("driver") for part in name.parts)
    }
