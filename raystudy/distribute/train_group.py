"""One task of several workers as one run of Ray Train: the workers are placed, watched and started again if lost.

Loaded in a Tune trial and in the processes that Ray Train starts, never in the driver (it loads torch). Ray's own
checkpoints are not used: the work finds its own on the storage, and passes over members that have a record.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from raystudy.distribute.first_cause import first_cause, own_errors
from raystudy.distribute.shapes import engine_of
from raystudy.execute.work import RunReport, Task, failed_reports

_MOST_START_FAILURES = 3  # Ray's own default tries for ever
_COLLECTIVE_SECONDS = 3600  # at least, of patience with a rank that evaluates alone or reads slowly


class OwnError(Exception):
    """The work itself raised: to start the workers again would end the same."""


class StopAtOwnError(UserCallback):  # type: ignore[misc]
    """Ends a run of Ray Train that would try again after an error that comes again; Ray tries only lost workers again.

    Called in Ray Train's controller, which takes an error of a callback for the end of the run.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Called with the errors of all ranks that have one."""
        if own_errors(worker_exceptions):
            raise OwnError(first_cause(worker_exceptions, self._workers))


def on_worker(config: dict[str, Any]) -> str | None:
    """What each worker does; the reports of rank 0, as JSON, are what the run returns.

    Returned and not reported by `ray.train.report`, which would wait for every rank, also one that fails.
    """
    reports = config["work"](Task(**json.loads(config["task"])))
    return json.dumps([asdict(report) for report in reports]) if reports else None


def train_group(task: Task, attempt: int, work: Callable[[Task], list[RunReport]]) -> list[RunReport]:
    """Make the runs of `task` with all workers of its group, each of which calls `work`; never raises for a failure.

    `attempt`: how often the task was tried before in this launch; part of the name, which Ray must never see twice (it
    would return what a run of that name returned before).
    """
    engine, started = engine_of(task), time.monotonic()
    resources = {"CPU": engine.cpus_per_worker} | ({"GPU": engine.gpus_per_worker} if engine.gpus_per_worker else {})
    with tempfile.TemporaryDirectory(prefix="raystudy-train-", ignore_cleanup_errors=True) as folder:
        trainer = TorchTrainer(
            on_worker,
            train_loop_config={"task": json.dumps(asdict(task)), "work": work},
            torch_config=TorchConfig(
                backend="nccl" if engine.gpus_per_worker else "gloo",
                timeout_s=int(max(_COLLECTIVE_SECONDS, 2 * 60 * engine.hang_minutes)),
            ),
            scaling_config=ScalingConfig(
                num_workers=engine.workers, use_gpu=bool(engine.gpus_per_worker), resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=f"ref-{task.task_id}-a{attempt}",
                storage_path=os.path.realpath(folder),
                failure_config=FailureConfig(
                    max_failures=engine.max_failures, controller_failure_limit=_MOST_START_FAILURES
                ),
                callbacks=[StopAtOwnError(engine.workers)],
            ),
        )
        try:
            returned = getattr(trainer.fit(), "return_value", None)
        except TrainingFailedError as error:
            return failed_reports(task, _cause(error, engine.workers), time.monotonic() - started)
    if returned is None:
        return failed_reports(task, "the workers ended without a report", time.monotonic() - started)
    return [RunReport(**report) for report in json.loads(returned)]


def _cause(error: TrainingFailedError, workers: int) -> str:
    failure = getattr(error, "controller_failure", None)
    if isinstance(failure, OwnError):
        return str(failure)
    if failure is not None:
        return f"Ray Train could not start the workers: {str(failure).strip().splitlines()[0][:300]}"
    return first_cause(getattr(error, "worker_failures", {}), workers)
