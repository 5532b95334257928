"""What a decoder's training leaves on the storage: spec, curve, weights, evaluations, answers and last its result.

The same whoever trained it, one process or several workers.
"""

import datetime
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raystudy.execute.downstream_work import answer_tasks
from raystudy.execute.evaluations import (
    keep_branch_point,
    keep_diverged,
    keep_reading,
    keep_weights,
    lacking_tasks,
    write_evaluation,
)
from raystudy.execute.floor_work import trigram_floors
from raystudy.execute.workplace import Workplace
from raystudy.specs.reading import Asked, Reading
from raystudy.specs.run import TrainRun

if TYPE_CHECKING:
    from raystudy.execute.workplace import Documents
    from raystudy.train.on_the_way import Keeping
    from raystudy.train.run import Outcome


class Recording:
    """The record of one training in the making; of a run that is trained again only what lacks is written."""

    def __init__(self, run: TrainRun, at: Workplace, documents: "Documents", asked: Asked, *, is_again: bool) -> None:
        self._run, self._at, self._documents, self._asked = run, at, documents, asked
        self._is_again = is_again
        self._started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        at.storage.runs.write_spec(run)

    def keeping(self) -> "Keeping":
        """What is done with what comes up on the way."""
        from raystudy.train.on_the_way import Keeping

        run, at, is_again = self._run, self._at, self._is_again
        return Keeping(
            read=lambda read: keep_reading(run, at, read, is_again=is_again),
            branch_point=lambda step, arrays: keep_branch_point(run, at, step, arrays, is_again=is_again),
        )

    def never_began(self, cause: str) -> str:
        """The run is a branch whose parent has no weights to start from; returns its status."""
        for reading in self._asked.readings:
            if reading.step < self._run.settings.steps:  # of its last step the result tells
                keep_diverged(self._run, self._at, reading, is_again=self._is_again)
        return self._without_outcome("diverged", cause)

    def out_of_memory(self, cause: str) -> str:
        """Memory did not suffice; returns the run's status."""
        return self._without_outcome("out-of-memory", cause)

    def ended(self, outcome: "Outcome", more: Mapping[str, Any] | None = None) -> str:
        """The training has ended; `more` is added to the result. Returns the run's status."""
        run, at = self._run, self._at
        metrics, seconds = _keep_last(run, at, self._documents, outcome, is_again=self._is_again)
        provenance = {**_provenance(at, self._started_at), **outcome.made, "notes": list(at.notes)}
        result = _result(run, outcome.status, metrics, seconds, provenance)
        details: dict[str, Any] = {
            "moved": outcome.moved,
            "epochs_per_source": outcome.epochs,
            "data_order": outcome.data_order,
        }
        details |= {"cause": outcome.cause} if outcome.cause else {}
        at.storage.runs.write_result(run.run_id, {**result, **details, **(more or {})})
        return outcome.status

    def _without_outcome(self, status: str, cause: str) -> str:
        provenance = {**_provenance(self._at, self._started_at), "notes": list(self._at.notes)}
        result = _result(self._run, status, [], {"total": 0.0}, provenance)
        self._at.storage.runs.write_result(self._run.run_id, {**result, "cause": cause})
        return status


def _keep_last(
    run: TrainRun, at: Workplace, documents: "Documents", outcome: "Outcome", *, is_again: bool
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Keep the curve, the last weights, their evaluations and answers; metric rows and seconds for the result.

    Of a run that is trained again, what is there and whole stays: its result tells of it.
    """
    runs, last = at.storage.runs, Reading(step=run.settings.steps)
    if not is_again or not runs.read_curve(run.run_id):
        runs.write_curve(run.run_id, outcome.curve)
    if outcome.status == "finished":
        keep_weights(run, at, last, outcome.weights, is_again=is_again)
    trigram = trigram_floors(at.storage.root, at.view(run.shards), documents)
    for digest, evaluation in outcome.final.items():
        if not is_again or runs.read_evaluation(run.run_id, digest, last) is None:
            write_evaluation(run, at, digest, last, evaluation, outcome.unigram[digest], trigram[digest])
    metrics, seconds = _metrics(at, outcome, trigram), dict(outcome.seconds)
    tasks = lacking_tasks(run, at, last) if is_again else at.downstream
    if outcome.status == "finished" and tasks:
        rows, took = answer_tasks(run, at.storage, tasks, outcome.weights, at.device, last)
        metrics, seconds = metrics + rows, {**seconds, "downstream": took, "total": seconds["total"] + took}
    return metrics, seconds


def _result(
    run: TrainRun, status: str, metrics: list[dict[str, Any]], seconds: Mapping[str, float], provenance: dict[str, Any]
) -> dict[str, Any]:
    return {
        "status": status,
        "spec": run.model_dump(mode="json"),
        "metrics": metrics,
        "num_tokens": run.num_tokens,
        "seconds": dict(seconds),
        "provenance": provenance,
    }


def _metrics(at: Workplace, outcome: "Outcome", trigram: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Rows of name, dataset, value, unit, direction. Losses that are not finite, as of a diverged run, are left out."""
    rows = []
    for digest, name in at.validation.items():
        values = [("initial-loss", outcome.initial[digest].nats_per_token, "nats per token")]
        values.append(("unigram-loss", outcome.unigram[digest], "nats per token"))
        floor = trigram[digest]
        values += [] if floor is None else [("trigram-loss", floor, "nats per token")]
        if outcome.status == "finished":
            values.append(("loss", outcome.final[digest].nats_per_token, "nats per token"))
            values.append(("bits-per-byte", outcome.final[digest].bits_per_byte, "bits per byte"))
        rows += [
            {
                "name": metric,
                "dataset": digest,
                "dataset_name": name,
                "value": value,
                "unit": unit,
                "direction": "lower-is-better",
            }
            for metric, value, unit in values
            if math.isfinite(value)
        ]
    return rows


def _provenance(at: Workplace, started_at: str) -> dict[str, Any]:
    from raystudy.train.process import versions

    packages = {**at.about["packages"], **versions()}
    return {**at.about, "packages": packages, "started_at": started_at}
