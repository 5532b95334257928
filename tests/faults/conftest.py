"""The study that is never disturbed: its storage and its comparison."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.faults.trials import comparison, launch


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    storage = tmp_path_factory.mktemp("undisturbed") / "storage"
    done = launch(storage)
    assert done.returncode == 0, done.stderr
    return storage


@pytest.fixture(scope="session")
def reference(undisturbed) -> Any:
    return comparison(undisturbed)


@pytest.fixture
def storage(undisturbed, tmp_path) -> Path:
    """A copy of the undisturbed storage, times of files included."""
    shutil.copytree(undisturbed, tmp_path / "storage")
    return tmp_path / "storage"
