"""The ledger: whole or absent, first result wins, a torn or foreign result is put aside and told."""

import json
import multiprocessing
import os

import numpy as np
import pytest

from raystudy.artifacts.files import write_json
from raystudy.artifacts.records import RunLedger
from raystudy.artifacts.storage import folder_name, open_storage
from raystudy.artifacts.weights import read_weights, weights_path, write_weights
from raystudy.errors import StorageError

RESULT = {
    "status": "finished",
    "spec": {"settings": {"steps": 3}},
    "metrics": [{"name": "loss", "dataset": "v", "value": 2.5}],
    "seconds": {"total": 1.0},
}


def test_the_first_result_wins(tmp_path):
    ledger = RunLedger(tmp_path)
    assert ledger.write_result("r", RESULT)
    assert not ledger.write_result("r", {**RESULT, "status": "diverged"})
    assert ledger.read("r").status == "finished"
    assert ledger.read("r").metric("loss", "v") == 2.5
    assert [path.name for path in ledger.folder("r").iterdir()] == ["result.json"]


def _race(arguments):
    path, number = arguments
    return write_json(path, {"writer": number}, exclusive=True)


def test_of_many_writers_at_once_exactly_one_wins(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        for round_number in range(10):
            path = tmp_path / f"{round_number}.json"
            assert sum(pool.map(_race, [(path, number) for number in range(8)])) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "torn or foreign"),
        ('{"format": "raystudy-run/1", "run_', "torn or foreign"),
        ("[]", "must be a result of format"),
        ('{"format": "other/1"}', "must be a result of format raystudy-run/1, but is 'other/1'"),
        (json.dumps({"format": "raystudy-run/1", "run_id": "other", **RESULT}), "but holds that of 'other'"),
        (json.dumps({"format": "raystudy-run/1", "run_id": "r", **RESULT, "status": "?"}), "must have a status of"),
        (json.dumps({"format": "raystudy-run/1", "run_id": "r", "status": "finished"}), "is damaged"),
    ],
)
def test_a_torn_or_foreign_result_is_put_aside_and_told(tmp_path, content, told):
    ledger = RunLedger(tmp_path)
    path = ledger.folder("r") / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert ledger.read("r") is None
    assert path.read_text() == content, "what only reads leaves everything as it is"
    ledger.mends = True
    assert ledger.read("r") is None
    assert told in ledger.damage[0]
    assert path.with_name("result.json.bad-0").read_text() == content
    assert ledger.write_result("r", RESULT)
    assert ledger.read("r").status == "finished"


def test_attempts_are_numbered_in_order(tmp_path):
    ledger = RunLedger(tmp_path)
    for cause in ("first", "second"):
        ledger.write_attempt("r", {"cause": cause})
    assert [attempt["cause"] for attempt in ledger.read_attempts("r")] == ["first", "second"]


def test_evaluations_made_later_join_the_record(tmp_path):
    ledger = RunLedger(tmp_path)
    ledger.write_result("r", RESULT)
    evaluation = {"validation": "w", "step": 3, "loss_sum": [6.0, 2.0], "num_tokens": [3, 1], "num_bytes": [8, 8]}
    ledger.write_evaluation("r", {**evaluation, "unigram_loss": 3.0})
    record = ledger.read("r", ["v", "w"])
    assert record.metric("loss", "w") == 2.0
    assert record.metric("bits-per-byte", "w") == pytest.approx(0.5 / np.log(2))


def test_a_torn_evaluation_counts_as_missing_and_is_put_aside_by_a_launch(tmp_path):
    ledger = RunLedger(tmp_path)
    ledger.mends = True
    ledger.write_result("r", RESULT)
    ledger.write_evaluation("r", {"validation": "w", "step": 3})
    (path,) = (ledger.folder("r") / "eval").iterdir()
    path.write_text("{")
    assert ledger.read("r", ["w"]).metric("loss", "w") is None
    assert not path.exists()
    assert "torn or foreign" in ledger.damage[0]


def test_files_are_readable_as_the_users_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        write_json(tmp_path / "x.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o644


def test_a_curve_with_infinities_is_strict_json(tmp_path):
    ledger = RunLedger(tmp_path)
    ledger.write_curve("r", [{"step": 0, "loss": float("nan")}, {"step": 1, "loss": 2.0}])
    assert [row["loss"] for row in ledger.read_curve("r")] == [None, 2.0]
    assert "NaN" not in (ledger.folder("r") / "curve.jsonl").read_text()


def test_weights_are_kept_up_to_a_size_and_read_back_bit_for_bit(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert write_weights(tmp_path, 7, arrays)
    np.testing.assert_array_equal(read_weights(tmp_path, 7)["a"], arrays["a"])
    assert read_weights(tmp_path, 8) is None
    assert not write_weights(tmp_path, 9, {"a": np.zeros(20_000_000, dtype=np.float32)})
    weights_path(tmp_path, 7).write_bytes(b"torn")
    with pytest.raises(StorageError, match="torn"):
        read_weights(tmp_path, 7)


def test_a_storage_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="the storage must be writable"):
        open_storage(tmp_path / "file" / "below").prepare()
    with pytest.raises(StorageError, match="the storage must be writable"):
        open_storage(tmp_path / "file").prepare()
    with pytest.raises(StorageError, match="ftp://"):
        open_storage("ftp://host/x")


@pytest.mark.parametrize("name", ["数据", "a b", ".hidden", "x" * 200, "CON ", "-rf"])
def test_every_name_of_a_study_gives_one_plain_folder(name):
    folder = folder_name(name)
    assert os.sep not in folder
    assert folder.isascii()
    assert 0 < len(folder) < 100
    assert not folder.startswith((".", "-"))
    assert folder == folder_name(name) != folder_name(name + "x")
