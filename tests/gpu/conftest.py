"""Tests here need a CUDA device; where there is none they are skipped, and say so."""

import pytest
import torch

from tests.train.conftest import data as data


@pytest.fixture(scope="session", autouse=True)
def _cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no CUDA device here")
