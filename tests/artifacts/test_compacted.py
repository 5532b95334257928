"""Many records in few files: few requests from afar, and never a record that is not there as it was copied."""

import io
import json
import time
import zipfile

import pytest

from raystudy.artifacts import compacted
from raystudy.artifacts.compacted import Copy, pack, unpack
from raystudy.artifacts.evaluations import EVALUATION_FORMAT
from raystudy.artifacts.files import names_in, read_bytes, remove_folder, write_bytes
from raystudy.artifacts.storage import Storage, open_storage
from raystudy.artifacts.verification import verify
from raystudy.errors import StorageError
from raystudy.specs.reading import Reading
from tests.artifacts.test_ledger import RESULT

NUM_RUNS = 40
IDS = [f"{number:032x}" for number in range(NUM_RUNS)]
LAST = Reading(step=3)


def plant(storage: Storage) -> None:
    """A result and an evaluation of another set for every run."""
    write_bytes(storage.study("s").path / "study.yaml", b"name: s")
    columns = {"loss_sum": [2.0], "num_tokens": [1], "num_bytes": [0], "unigram_loss": 3.0}
    for number, run_id in enumerate(IDS):
        result = {**RESULT, "metrics": [{"name": "loss", "dataset": "v", "value": float(number)}]}
        evaluation = {"validation": "other", "step": 3, **columns}
        storage.runs.write_evaluation(run_id, evaluation)
        storage.runs.write_curve(run_id, [{"loss": 1.0}])
        storage.runs.write_result(run_id, result)


def losses(storage: Storage) -> dict[str, tuple[float | None, float | None]]:
    """The loss on the first set and on the other one, as a fresh reader of the study finds them."""
    fresh = Storage(storage.root)
    folder = fresh.study("s").compacted
    with fresh.runs.files.together(NUM_RUNS, folder):
        found = fresh.runs.read_all(dict.fromkeys(IDS), ["v", "other"], {})  # type: ignore[arg-type]
    assert fresh.runs.damage == []
    return {run_id: (record.metric("loss", "v"), record.metric("loss", "other")) for run_id, record in found.items()}


@pytest.fixture
def storage(s3, s3_uri, monkeypatch) -> Storage:
    monkeypatch.setattr(compacted, "FEWEST", 10)
    storage = open_storage(s3_uri)
    plant(storage)
    s3.faults.calls.clear()
    return storage


def test_a_finished_study_is_read_in_few_requests_and_the_driver_copies_only_what_is_new(s3, storage):
    expected = {run_id: (float(number), 2.0) for number, run_id in enumerate(IDS)}
    assert losses(storage) == expected
    assert s3.faults.calls["GET"] == 2 * NUM_RUNS
    folder = storage.study("s").compacted
    storage.runs.files.compact(IDS, folder)
    assert sorted(name.split("-")[0] for name in names_in(folder)) == ["curves", "evaluations", "records"]
    s3.faults.calls.clear()
    began = time.monotonic()
    assert losses(storage) == expected
    assert time.monotonic() - began < 2.0
    assert s3.faults.calls.total() <= 8, s3.faults.calls
    s3.faults.calls.clear()
    Storage(storage.root).runs.files.compact(IDS, folder)
    assert s3.faults.calls["PUT"] == 0, "nothing is new"


def test_what_was_pruned_moved_aside_or_made_anew_is_never_read_from_a_copy(storage):
    folder = storage.study("s").compacted
    storage.runs.files.compact(IDS, folder)
    pruned, damaged, anew = IDS[:3]
    remove_folder(storage.runs.folder(pruned))
    write_bytes(storage.runs.folder(damaged) / "result.json", b"torn")
    changed = {**RESULT, "format": "raystudy-run/1", "run_id": anew, "metrics": [], "note": "made anew"}
    write_bytes(storage.runs.folder(anew) / "result.json", json.dumps(changed).encode())
    mending = Storage(storage.root)
    mending.runs.mends = True
    with mending.runs.files.together(NUM_RUNS, folder):
        found = mending.runs.read_all(dict.fromkeys(IDS), [], {})
        assert mending.runs.read(damaged) is None
    assert set(found) == set(IDS) - {pruned, damaged}
    assert found[anew].result["note"] == "made anew"
    assert read_bytes(storage.runs.folder(damaged) / "result.json.bad-0") == b"torn"
    assert mending.runs.damage[0].endswith("kept as result.json.bad-0 and made again")
    assert set(losses(storage)) == set(IDS) - {pruned, damaged}


def test_a_damaged_file_of_copies_costs_time_only_and_verify_tells_of_it(storage):
    folder = storage.study("s").compacted
    expected = losses(storage)
    storage.runs.files.compact(IDS, folder)
    records, evaluations = (next(n for n in names_in(folder) if n.startswith(kind)) for kind in ("records", "evalu"))
    content = read_bytes(folder / records)
    write_bytes(folder / records, content[: len(content) // 2])
    wrong = {name: Copy(copy.identity, b"{}") for name, copy in unpack(read_bytes(folder / evaluations)).items()}
    write_bytes(folder / evaluations, pack(wrong))
    problems = "\n".join(verify(storage).problems)
    assert f"{records} is damaged, and is not used" in problems
    assert f"{evaluations} must hold what it is a copy of, but does not of" in problems
    (folder / evaluations).unlink()
    assert losses(storage) == expected


def test_many_files_of_copies_are_made_one_and_small_ones_are_not_written(storage, monkeypatch):
    monkeypatch.setattr(compacted, "_MOST_FILES", 2)
    folder, files = storage.study("s").compacted, storage.runs.files
    for most, num_files in ((10, 1), (15, 1), (25, 2), (40, 1)):
        files.compact(IDS[:most], folder)
        names = names_in(folder)
        assert sum(name.startswith("records") for name in names) == num_files
    assert set(losses(storage)) == set(IDS)
    files.compact(IDS, folder)
    assert names_in(folder) == names


def test_a_file_of_copies_that_claims_too_much_or_is_foreign_is_not_opened(monkeypatch):
    copies = {"a/result.json": Copy('"tag"', b"x" * 2000)}
    assert unpack(pack(copies)) == copies
    monkeypatch.setattr(compacted, "_MOST_BYTES", 1000)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("index.json", json.dumps({"format": EVALUATION_FORMAT, "files": {}}))
    for content in (pack(copies), buffer.getvalue(), b"", b"PK"):
        with pytest.raises(StorageError, match="copies of records must be a file of format raystudy-compacted/1"):
            unpack(content)


def test_no_flipped_bit_and_no_foreign_index_raises_anything_else():
    copies = {f"{name}/result.json": Copy('"tag"', b'{"loss": 1.5}' * 3) for name in ("a", "b")}
    content, refused = pack(copies), 0
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            unpack(bytes(flipped))
        except StorageError:
            refused += 1
    assert refused > 2 * len(content)
    nested = "[" * 100_000 + "]" * 100_000
    for index in (f'{{"format": "{compacted.FORMAT}", "files": []}}', nested, "[]", "null"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("index.json", index)
        with pytest.raises(StorageError, match="copies of records must be"):
            unpack(buffer.getvalue())


def test_a_local_storage_has_no_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(compacted, "FEWEST", 1)
    storage = Storage(tmp_path)
    storage.runs.write_result(IDS[0], RESULT)
    storage.runs.files.compact(IDS, storage.study("s").compacted)
    assert names_in(storage.study("s").path) == []
