"""Two studies run once without any defect; the mutation test shares their runs, so nothing trains twice."""

from pathlib import Path

import pytest

from tests.mutation.instrument import KNOWN_TRUTH, instrument
from tests.mutation.own_text import own_text


@pytest.fixture(scope="package")
def known(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("known-truth")
    instrument(KNOWN_TRUTH, root)
    return root


@pytest.fixture(scope="package")
def trained(tmp_path_factory) -> Path:
    """A folder with the text study, run without any defect."""
    folder = tmp_path_factory.mktemp("text")
    instrument(own_text(folder), folder / "storage")
    return folder
