"""What is there and cannot be read is no damage: it is told with a way out, nothing is moved, nothing is left out."""

import errno
import os
from pathlib import Path

import pytest

from raystudy.artifacts.records import RunLedger
from raystudy.artifacts.storage import Storage
from raystudy.artifacts.verification import verify
from raystudy.errors import UnreadableError
from tests.cli.test_export import NAME

EVALUATION = {"validation": "v", "step": 3, "loss_sum": [1.0], "num_tokens": [1], "num_bytes": [1], "unigram_loss": 2.0}
RUN = "0123456789abcdef" * 2


@pytest.fixture
def refuse(monkeypatch):
    """Call it with the end of a path: that file cannot be read, or that folder cannot be listed, from then on."""
    ends: list[str] = []

    def refusing(real):
        def call(path, *arguments, **options):
            if any(str(path).endswith(end) for end in ends):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *arguments, **options)

        return call

    for place, name in ((Path, "read_bytes"), (Path, "read_text"), (os, "listdir"), (os, "scandir")):
        monkeypatch.setattr(place, name, refusing(getattr(place, name)))
    return ends.append


@pytest.fixture
def ledger(tmp_path):
    """A ledger that mends, with a curve, an evaluation and an attempt."""
    ledger = RunLedger(tmp_path)
    ledger.mends = True
    ledger.write_curve(RUN, [{"step": 0, "loss": 1.0}])
    ledger.write_evaluation(RUN, EVALUATION)
    ledger.write_attempt(RUN, {"cause": "planted"})
    return ledger


READERS = {
    "curve.jsonl": RunLedger.read_curve,
    ".json": RunLedger.read_evaluations,
    "1.json": RunLedger.read_attempts,
}


@pytest.mark.parametrize("end", list(READERS))
def test_a_curve_an_evaluation_or_an_attempt_that_cannot_be_read_stays_and_is_told(ledger, refuse, end):
    before = sorted(ledger.root.rglob("*"))
    assert READERS[end](ledger, RUN) != []
    refuse(end)
    with pytest.raises(UnreadableError, match="cannot be read: Permission denied"):
        READERS[end](ledger, RUN)
    assert sorted(ledger.root.rglob("*")) == before
    assert ledger.damage == []


def test_an_export_with_a_curve_that_cannot_be_read_is_refused(storage, tmp_path, verb, refuse):
    run = min((storage / "runs").iterdir()).name
    refuse(f"{run}/curve.jsonl")
    status, _, told = verb("export", NAME, "--storage", storage, "--out", tmp_path / "x.parquet")
    assert (status, f"{run}/curve.jsonl cannot be read" in told) == (3, True), told
    assert not (tmp_path / "x.parquet").exists()
    (problem,) = verify(Storage(storage)).problems
    assert f"{run}/curve.jsonl cannot be read" in problem
