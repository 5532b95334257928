"""What an evaluation file holds: the losses of one reading of a run on one validation set. Knows nothing of folders.

Named by the digest of validation set, step and read-out (with its settings), so that the same question has one place.
Weights that are not finite, or that have not trained, have no losses: their evaluation says `"status": "diverged"`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raystudy.errors import StorageError
from raystudy.specs.base import canonical_json, digest
from raystudy.specs.downstream import TASK_METRICS
from raystudy.specs.reading import Reading, Readout

EVALUATION_FORMAT = "raystudy-evaluation/1"
LAST = "last"  # the read-out of the weights as they are
COLUMNS = ("loss_sum", "num_tokens", "num_bytes")
_ANSWERED = next(iter(TASK_METRICS))  # all that answers give are there, or none
_READOUT: TypeAdapter[Readout] = TypeAdapter(Readout)


def plain_readout(readout: Readout | None) -> Any:
    """A read-out as a file holds it: "last", or its kind with what differs from its defaults."""
    return LAST if readout is None else json.loads(canonical_json(readout))


def reading_of(value: Mapping[str, Any]) -> Reading:
    """The reading that an evaluation file is of.

    Raises:
        ValueError: it names none.
    """
    try:
        found = value.get("readout", LAST)
        readout = None if found == LAST else _READOUT.validate_json(json.dumps(found))
        return Reading(step=value["step"], readout=readout)
    except (KeyError, TypeError, ValidationError) as error:
        raise ValueError("it must name a step and a read-out") from error


def evaluation_digest(validation: str, reading: Reading) -> str:
    """Names the evaluation of a reading on the validation set with digest `validation`."""
    readout: Any = LAST if reading.readout is None else reading.readout
    return digest({"validation": validation, "step": reading.step, "readout": readout})


def evaluation_file(run_id: str, evaluation: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the content of an evaluation's file."""
    reading = reading_of(evaluation)
    value = {"format": EVALUATION_FORMAT, **evaluation, "readout": plain_readout(reading.readout), "run_id": run_id}
    return evaluation_digest(evaluation["validation"], reading), value


def evaluated_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Metrics by name of a checked evaluation; an infinite loss where the weights had diverged."""
    if evaluation.get("status") == "diverged":
        return {"loss": math.inf}
    loss, tokens, num_bytes = (sum(evaluation[name]) for name in COLUMNS)
    metrics = {"loss": loss / tokens}
    if num_bytes:  # a synthetic set has no text, nor a unigram loss
        metrics |= {"bits-per-byte": loss / math.log(2) / num_bytes, "unigram-loss": evaluation["unigram_loss"]}
        trigram = evaluation.get("trigram_loss")
        metrics |= {} if trigram is None else {"trigram-loss": trigram}
    return metrics


def lacking_answers(metrics: Mapping[tuple[str, str], float], tasks: Iterable[str]) -> list[str]:
    """Of the items `tasks` (digests), those that weights with these metrics have not answered."""
    return [items for items in tasks if (_ANSWERED, items) not in metrics]


def check_evaluation(run_id: str, validation: str, reading: Reading, value: Any, path: object) -> dict[str, Any]:
    """The evaluation in `value`; raises StorageError with what is wrong."""
    check_format(value, EVALUATION_FORMAT, "an evaluation", path)
    readout = plain_readout(reading.readout)
    about = {"run_id": run_id, "validation": validation, "step": reading.step, "readout": readout}
    found = {"readout": LAST, **value}
    wrong = [f"{key} {found.get(key)!r}" for key, wanted in about.items() if found.get(key) != wanted]
    if wrong:
        raise StorageError(f"{path} must be that of run {run_id} on {validation}, but has {', '.join(wrong)}")
    if value.get("status") == "diverged":
        return dict(value)
    try:
        totals = [sum(map(float, value[name])) for name in COLUMNS]
        is_whole = all(map(math.isfinite, totals)) and totals[1] > 0 and totals[2] >= 0 and "unigram_loss" in value
    except (KeyError, TypeError, ValueError):
        is_whole = False
    if not is_whole:
        raise StorageError(f"{path} must hold losses, tokens and bytes of documents, but is damaged")
    return dict(value)


def evaluation_problem(value: Any, run_id: str) -> str | None:
    """What is wrong with an evaluation of the run `run_id`, or None."""
    if not isinstance(value, dict) or value.get("format") != EVALUATION_FORMAT:
        return f"it must be an evaluation of format {EVALUATION_FORMAT}"
    if value.get("run_id") != run_id:
        return f"it must be of run {run_id}, but is of {value.get('run_id')!r}"
    if not isinstance(value.get("validation"), str):
        return "it must name a validation set"
    try:
        reading_of(value)
    except ValueError as error:
        return str(error)
    if value.get("status") == "diverged":
        return None
    columns = [value.get(name) for name in COLUMNS]
    lengths = {len(column) for column in columns if isinstance(column, list)}
    if len(lengths) != 1 or not all(isinstance(column, list) for column in columns) or lengths == {0}:
        return "its columns loss_sum, num_tokens, num_bytes must be lists of one length"
    if not all(_is_number(number) for column in columns for number in column or ()) or sum(columns[1] or ()) <= 0:
        return "its columns must hold finite numbers, and some tokens"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_format(value: Any, wanted: str, kind: str, path: object) -> None:
    """Raises StorageError when `value` is not a JSON object of the format `wanted`."""
    found = value.get("format") if isinstance(value, dict) else type(value).__name__
    if isinstance(value, dict) and found == wanted:
        return
    name, number = wanted.split("/")
    newer = re.fullmatch(rf"{name}/([0-9]{{1,9}})", found) if isinstance(found, str) else None
    if newer and int(newer[1]) > int(number):
        raise StorageError(
            f"{path} must be {kind} of format {wanted}, but a newer raystudy wrote it ({found}); read it with that one"
        )
    raise StorageError(f"{path} must be {kind} of format {wanted}, but is {found!r}")
