"""What runs answered: the only reader and writer of `runs/<run_id>/tasks/<digest>.json`, and the metrics in it.

One file per task's items, step and read-out: of every item the place of the right choice, and of every choice the
summed log-probability in nats and the number of characters. Metrics follow from these alone.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raystudy.artifacts.evaluations import lacking_answers, plain_readout, reading_of
from raystudy.artifacts.files import StoragePath, parse_json, read_bytes, write_json
from raystudy.artifacts.records import RunLedger
from raystudy.artifacts.results import Record
from raystudy.errors import StorageError, UnreadableError
from raystudy.specs.base import digest
from raystudy.specs.downstream import TASK_METRICS
from raystudy.specs.reading import Reading

ANSWERS_FORMAT = "raystudy-answers/1"


def answers_digest(items: str, reading: Reading) -> str:
    """Names the answers of the weights of a reading to the items with digest `items`."""
    return digest({"items": items, "step": reading.step, "readout": plain_readout(reading.readout)})


def answers_path(folder: StoragePath, items: str, reading: Reading) -> StoragePath:
    """Where a run whose folder is `folder` keeps its answers."""
    return folder / "tasks" / f"{answers_digest(items, reading)}.json"


def write_answers(folder: StoragePath, answers: Mapping[str, Any]) -> None:
    """Write one task's answers (run_id, items, step, readout, right, log_probability, characters)."""
    path = answers_path(folder, answers["items"], reading_of(answers))
    write_json(path, {"format": ANSWERS_FORMAT, **answers})


def read_answers(folder: StoragePath, run_id: str, items: str, reading: Reading) -> dict[str, Any] | None:
    """The answers of a reading of `run_id` to `items`, or None.

    Raises:
        UnreadableError: the system does not let them be read.
        StorageError: they are torn, foreign or another run's.
    """
    path = answers_path(folder, items, reading)
    content = read_bytes(path)
    return None if content is None else _parse_answers(content, path, run_id, items, reading)


def _parse_answers(content: bytes, path: object, run_id: str, items: str, reading: Reading) -> dict[str, Any]:
    value = parse_json(content, path)
    problem = answers_problem(value, run_id)
    if problem is None and (value["items"], reading_of(value)) != (items, reading):
        problem = "its name is not that of its items, step and read-out"
    if problem is not None:
        raise StorageError(f"{path} must hold a run's answers to a task, but {problem}")
    return dict(value)


def answers_problem(value: Any, run_id: str) -> str | None:
    """What is wrong with the answers of the run `run_id`, or None."""
    if not isinstance(value, dict) or value.get("format") != ANSWERS_FORMAT:
        return f"it must be of format {ANSWERS_FORMAT}"
    if value.get("run_id") != run_id:
        return f"it must be of run {run_id}, but is of {value.get('run_id')!r}"
    if not isinstance(value.get("items"), str):
        return "it must name items"
    try:
        reading_of(value)
    except ValueError as error:
        return str(error)
    try:
        rows = list(zip(value["right"], value["log_probability"], value["characters"], strict=True))
        is_whole = bool(rows) and all(_is_item(*row) for row in rows)
    except (KeyError, TypeError, ValueError):
        is_whole = False
    return None if is_whole else "its items must have finite log-probabilities, characters and a right choice"


def _is_item(right: int, log_probability: Sequence[float], characters: Sequence[int]) -> bool:
    are_finite = all(math.isfinite(value) for value in log_probability) and all(count > 0 for count in characters)
    return are_finite and len(log_probability) == len(characters) >= 2 and right in range(len(characters))


def task_metrics(answers: Mapping[str, Any]) -> dict[str, float]:
    """Every metric of `TASK_METRICS`: the mean over items. Of choices that tie for the best, the first is taken."""
    rows = zip(answers["right"], answers["log_probability"], answers["characters"], strict=True)
    per_item = [_of_item(right, np.asarray(logs), np.asarray(characters)) for right, logs, characters in rows]
    means = np.mean(per_item, axis=0)
    return dict(zip(TASK_METRICS, means.tolist(), strict=True))


def _of_item(right: int, logs: Any, characters: Any) -> list[float]:
    """The metrics of one item, in the order of `TASK_METRICS`."""
    per_character = logs / characters
    wrong = np.arange(len(logs)) != right
    shares = np.exp(logs - logs.max())
    return [
        float(np.argmax(logs) == right),
        float(np.argmax(per_character) == right),
        float(shares[right] / shares.sum()),
        float(logs[right] - logs[wrong].max()),
        float(per_character[right] - per_character[wrong].max()),
        float(logs[right]),
        float(per_character[right]),
    ]


def join_answers(ledger: RunLedger, records: Mapping[str, Record], tasks: Iterable[str]) -> dict[str, Record]:
    """The records, those of trainings with the answers to `tasks` (digests of items) given after the run or before."""
    digests = tuple(tasks)
    with ledger.files.together(len(records) if digests else 0):
        ledger.files.fetch(name for record in records.values() for name in _names(record, digests))
        return {run_id: _with_answers(ledger, record, digests) for run_id, record in records.items()}


def _names(record: Record, tasks: Sequence[str]) -> list[str]:
    """The files that may hold a record's answers."""
    if record.result["spec"].get("kind") != "train":
        return []
    steps = record.result["spec"].get("settings", {}).get("steps")
    last = [Reading(step=int(steps))] if isinstance(steps, int) else []
    return [_name(record.run_id, items, reading) for reading in (*last, *record.readings) for items in tasks]


def _name(run_id: str, items: str, reading: Reading) -> str:
    return f"{run_id}/tasks/{answers_digest(items, reading)}.json"


def _with_answers(ledger: RunLedger, record: Record, tasks: Sequence[str]) -> Record:
    if record.result["spec"].get("kind") != "train" or not tasks:
        return record
    metrics = record.metrics
    if record.status == "finished" and (lacking := lacking_answers(metrics, tasks)):
        last = Reading(step=int(record.result["spec"]["settings"]["steps"]))
        metrics = {**metrics, **_answered(ledger, record.run_id, lacking, last)}
    found = record.readings.items()
    readings = {reading: {**own, **_answered(ledger, record.run_id, tasks, reading)} for reading, own in found}
    return replace(record, metrics=metrics, readings=readings)


def _answered(ledger: RunLedger, run_id: str, tasks: Sequence[str], reading: Reading) -> dict[tuple[str, str], float]:
    """What the answers of a reading say, for those of the tasks that have some."""
    metrics: dict[tuple[str, str], float] = {}
    for items in tasks:
        answers = mended_answers(ledger, run_id, items, reading)
        if answers is not None:
            metrics |= {(name, items): value for name, value in task_metrics(answers).items()}
    return metrics


def read_all_answers(ledger: RunLedger, run_id: str) -> list[dict[str, Any]]:
    """All answers of a run; torn or foreign ones are told and left out."""
    found = []
    names = sorted(name for name in ledger.files.names(run_id, "tasks") if name.endswith(".json"))
    ledger.files.fetch(f"{run_id}/tasks/{name}" for name in names)
    for name in (f"{run_id}/tasks/{name}" for name in names):
        shown = ledger.files.shown(name)
        try:
            value = parse_json(ledger.files.read_seen(name)[0] or b"", shown)
            problem = answers_problem(value, run_id)
        except UnreadableError:
            raise
        except StorageError as error:
            problem = str(error)
        if problem is not None:
            ledger.damage.append(f"{shown} must hold a run's answers to a task, but {problem}; it is left out")
        else:
            found.append(value)
    return found


def mended_answers(ledger: RunLedger, run_id: str, items: str, reading: Reading) -> dict[str, Any] | None:
    """As `read_answers`; damage is told with the ledger's, set aside by a ledger that mends, and counts as missing."""
    name = _name(run_id, items, reading)
    content, seen = ledger.files.read_seen(name)
    try:
        return None if content is None else _parse_answers(content, ledger.files.shown(name), run_id, items, reading)
    except UnreadableError:
        raise
    except StorageError as error:
        ledger.put_aside(name, seen, str(error))
        return None
