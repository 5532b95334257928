"""Executes jobs as trials of Ray Tune: one fresh Tuner per wave, never a restored one.

The ledger is the truth; Tune only places work. Actors are reused (a trial start costs seconds otherwise),
scheduling is first in, first out, and Tune writes no logs of its own. A trial's parameters show recipe,
model, learning rate and seed beside the run's id, so that Tune's own tools stay readable.
"""

import json
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from raystudy.distribute.connection import connected, import_ray
from raystudy.execute.work import Job, JobReport, do_job
from raystudy.specs.study import Resources

_REPORT = "raystudy_report"


def run_trial(config: dict[str, Any], jobs: dict[str, str]) -> dict[str, Any]:
    """What a trial does: one job, whose report is the trial's only result."""
    report = do_job(Job(**json.loads(jobs[config["run"]["run_id"]])))
    return {_REPORT: json.dumps(report.as_dict())}


class TuneExecutor:
    """Runs jobs on the Ray cluster at `address` (None: see connection.py)."""

    def __init__(self, address: str | None, resources: Resources) -> None:
        self._address, self._resources = address, resources
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(connected(self._address))
        self._scratch = self._open.enter_context(tempfile.TemporaryDirectory(prefix="raystudy-tune-"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def run(self, jobs: Sequence[Job]) -> Iterator[JobReport]:
        """One Tuner over all jobs; reports come as trials end."""
        reports: queue.Queue[JobReport | BaseException | None] = queue.Queue()
        fit = threading.Thread(target=self._fit, args=(jobs, reports), daemon=True)
        fit.start()
        left = {job.spec().run_id for job in jobs}
        while (report := reports.get()) is not None:
            if isinstance(report, BaseException):
                raise report
            left.discard(report.run_id)
            yield report
        fit.join()
        for run_id in sorted(left):
            yield JobReport(run_id, "failed", cause="the trial ended without a report")

    def _fit(self, jobs: Sequence[Job], reports: "queue.Queue[JobReport | BaseException | None]") -> None:
        try:
            self._tuner(jobs, reports).fit()
        except BaseException as error:
            reports.put(error)
        else:
            reports.put(None)

    def _tuner(self, jobs: Sequence[Job], reports: "queue.Queue[JobReport | BaseException | None]") -> Any:
        import_ray()
        from ray import tune

        by_id = {job.spec().run_id: json.dumps(asdict(job)) for job in jobs}
        trainable = tune.with_resources(
            tune.with_parameters(run_trial, jobs=by_id),
            {"cpu": self._resources.cpus_per_run, "gpu": self._resources.gpus_per_run},
        )
        return tune.Tuner(
            trainable,
            param_space={"run": tune.grid_search([_shown(job) for job in jobs])},
            tune_config=tune.TuneConfig(reuse_actors=True),
            run_config=tune.RunConfig(
                name="wave",
                storage_path=tempfile.mkdtemp(dir=self._scratch),
                verbose=0,
                callbacks=[_reporter(reports)],
            ),
        )


def _shown(job: Job) -> dict[str, Any]:
    """What Tune shows of a job."""
    run = job.spec()
    settings = {"lr": run.settings.lr, "seed": run.seed, "steps": run.settings.steps}
    return {"run_id": run.run_id, "recipe": job.recipe, "model": job.model, **settings}


def _reporter(reports: "queue.Queue[JobReport | BaseException | None]") -> Any:
    """A Tune callback that passes each trial's report, or its first cause of death, to the loop."""
    from ray.tune import Callback

    class Reporter(Callback):  # type: ignore[misc]
        def __init__(self, put: Callable[[JobReport], None]) -> None:
            self._put = put

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune pickles its callbacks; no one unpickles this one

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:  # noqa: ARG002
            if _REPORT in result:
                self._put(JobReport(**json.loads(result[_REPORT])))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
            self._put(JobReport(trial.config["run"]["run_id"], "failed", cause=_first_cause(trial)))

    return Reporter(reports.put)


def _first_cause(trial: Any) -> str:
    error = trial.get_error() if hasattr(trial, "get_error") else None
    text = str(error).strip() if error is not None else "the worker died"
    lines = [line for line in text.splitlines() if line.strip()]
    return f"the worker died: {lines[0][:200]}" if lines else "the worker died"
