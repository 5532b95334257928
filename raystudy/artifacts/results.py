"""What a result file holds, and the record that it makes together with evaluations and answers. Knows no folders."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raystudy.artifacts.evaluations import check_format, lacking_answers
from raystudy.errors import StorageError
from raystudy.specs.reading import Reading
from raystudy.specs.run import Run, read_run

RESULT_FORMAT = "raystudy-run/1"
Readings = Iterable[Reading]
DONE = ("finished", "diverged", "out-of-memory")  # a failed run is never done


@dataclass(frozen=True)
class Record:
    """What a run left behind. `metrics` maps (name, dataset) to a value; dataset is a validation set's digest.

    `readings` holds the same for other weights than the last, as far as they were asked for and are evaluated.
    """

    run_id: str
    status: str
    metrics: Mapping[tuple[str, str], float]
    result: Mapping[str, Any]
    readings: Mapping[Reading, Mapping[tuple[str, str], float]] = field(default_factory=dict)

    def metric(self, name: str, dataset: str, reading: Reading | None = None) -> float | None:
        """One metric of the last weights, or of a reading; None when that was not evaluated on `dataset`."""
        metrics = self.metrics if reading is None else self.readings.get(reading, {})
        return metrics.get((name, dataset))

    def has_diverged_at(self, reading: Reading) -> bool:
        """Whether the weights of a reading had diverged: they have infinite losses, and answer no task."""
        return math.inf in self.readings.get(reading, {}).values()

    def is_measured(
        self,
        validation: Iterable[str],
        steps: int,
        readings: Readings = (),
        tasks: Iterable[str] = (),
        *,
        last: bool = True,
    ) -> bool:
        """Whether the run, of `steps` steps, has all these losses and answers, the `last` too.

        Of a diverged run those before.
        """
        if self.status == "out-of-memory":
            return True
        is_finished, items, sets = self.status == "finished", tuple(tasks), tuple(validation)
        asked = [r for r in readings if is_finished or r.step < steps]
        is_last_read = not (is_finished and last) or _is_read(self.metrics, sets, items)
        return is_last_read and all(
            _is_read(self.readings.get(r, {}), sets, () if self.has_diverged_at(r) else items) for r in asked
        )

    @property
    def seconds(self) -> float:
        """Wall time of the run."""
        return float(self.result["seconds"]["total"])

    @property
    def earlier_seconds(self) -> float:
        """Those of `used_seconds` that went by in tries before the last, up to the checkpoint that it went on from.

        0 where the record, of an earlier version, does not say.
        """
        return float(self.result["seconds"].get("earlier", 0.0))

    @property
    def used_seconds(self) -> float:
        """Wall time of the run, and of steps of its parent that were taken again for it, of its last tries."""
        return self.seconds + float(self.result["seconds"].get("replay", 0.0))

    @property
    def num_devices(self) -> float:
        """GPUs, or CPU cores where it had none, that the run held; what its record does not say, one a worker."""
        made = self.result.get("provenance", {})
        return float(made.get("num_devices", made.get("workers", 1)))

    @property
    def device_seconds(self) -> float:
        """Wall time of the run times the devices that it held."""
        return self.seconds * self.num_devices


def _is_read(metrics: Mapping[tuple[str, str], float], validation: Iterable[str], tasks: Iterable[str]) -> bool:
    losses = [metrics.get(("loss", dataset)) for dataset in validation]
    return not (any(loss is None or math.isnan(loss) for loss in losses) or lacking_answers(metrics, tasks))


def check_spec(record: Record, run: Run, path: object) -> None:
    """Raises StorageError unless the result's spec is that of `run`."""
    spec = record.result.get("spec")
    # Written by this version the two are equal, which is a tenth of the work; fields added since have defaults.
    if spec == run.model_dump(mode="json"):
        return
    try:
        found = read_run(json.dumps(spec)).run_id
    except ValueError as error:
        raise StorageError(f"{path} must hold the spec of run {run.run_id}, but holds no spec") from error
    if found != run.run_id:
        raise StorageError(f"{path} must hold the result of run {run.run_id}, but its spec is that of run {found}")


def parse_result(run_id: str, result: Any, path: object) -> Record:
    """Check a result, which came from the place `path`; raises StorageError with what is wrong."""
    check_format(result, RESULT_FORMAT, "a result", path)
    if result.get("run_id") != run_id:
        raise StorageError(f"{path} must hold the result of run {run_id}, but holds that of {result.get('run_id')!r}")
    if result.get("status") not in DONE:
        raise StorageError(f"{path} must have a status of {', '.join(DONE)}, but has {result.get('status')!r}")
    try:
        metrics = {(row["name"], row["dataset"]): float(row["value"]) for row in result["metrics"]}
        float(result["seconds"]["total"])
        if not isinstance(result["spec"], dict):
            raise TypeError("its spec is no object")
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} must hold metrics and seconds, but is damaged ({error!r})") from error
    return Record(run_id, result["status"], metrics, result)
