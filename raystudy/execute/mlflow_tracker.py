"""MLflow: a run there for each of ours, under a tag with our id, by which the server itself knows what it has."""

import os
import re
from collections.abc import Iterator
from typing import Any

from raystudy.errors import MissingPackageError, SpecError
from raystudy.execute.trackers import TrackedRun
from raystudy.specs.tracking import MlflowTracker, check_is_one_place

_TAG, _STUDY, _STATUS = "raystudy.run_id", "raystudy.study", "raystudy.status"
_MOST_METRICS, _MOST_CHARACTERS = 900, 500  # MLflow's limits: of a request, and of a parameter's value
_REFUSED = re.compile(r"[^\w\-. /:]")  # what it takes in no metric's name
# A server that does not answer is given up soon: what was not told is told next time.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
# It would print two lines for every run, and tell its makers.
_SILENT = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


class MlflowConnection:
    """An experiment on a tracking server."""

    def __init__(self, spec: MlflowTracker, study: str) -> None:
        """Raises MissingPackageError without mlflow, SpecError where no server is named, or a relative path."""
        uri = spec.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise SpecError(
                "MLflow must have an address. Set track.mlflow.tracking_uri in the study, or MLFLOW_TRACKING_URI"
            )
        try:
            check_is_one_place(uri)
        except ValueError as error:
            raise SpecError(f"MLFLOW_TRACKING_URI: {error}") from error
        for name, value in {**_PATIENCE, **_SILENT}.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import entities
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingPackageError(
                f"mlflow must be installed to tell MLflow of runs ({error}). Install raystudy[mlflow] here, or in an "
                f"environment of its own, where `raystudy track` needs nothing but the storage"
            ) from error
        self._entities: Any = entities
        self._client: Any = MlflowClient(tracking_uri=uri)
        name = spec.experiment or study
        found = self._client.get_experiment_by_name(name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(name)
        self._begun: dict[str, str] = {}  # theirs by ours: begun, and not told to the end

    def known(self, study: str) -> set[str]:
        """Those that have ended there."""
        ended = set()
        for run in self._runs(study):
            ours = run.data.tags.get(_TAG, "")
            if run.info.status in ("FINISHED", "FAILED"):
                ended.add(ours)
            else:
                self._begun[ours] = run.info.run_id
        return ended

    def _runs(self, study: str) -> Iterator[Any]:
        token = None
        quoted = study.replace("\\", "").replace("'", "_")  # its filter knows no escapes; checked once more below
        while True:
            page = self._client.search_runs(
                [self._experiment], f"tags.`{_STUDY}` LIKE '{quoted.replace('_', '%')}'", page_token=token
            )
            yield from (run for run in page if run.data.tags.get(_STUDY) == study)
            token = page.token
            if not token:
                return

    def tell(self, run: TrackedRun) -> None:
        """Parameters, metrics, curve; times are those of the record, so that none is new when told again."""
        began, ended = int(1000 * run.began), int(1000 * (run.began + run.seconds))
        theirs = self._begun.pop(run.run_id, None)
        if theirs is None:
            tags = {_TAG: run.run_id, _STUDY: run.study, _STATUS: run.status}
            made = self._client.create_run(self._experiment, start_time=began, tags=tags, run_name=run.name)
            theirs = made.info.run_id
        parameters = [self._entities.Param(k, str(v)[:_MOST_CHARACTERS]) for k, v in run.parameters.items()]
        metrics = [self._metric(name, value, ended, 0) for name, value in run.metrics.items()]
        metrics += [self._metric(name, value, ended, step) for step, row in run.curve for name, value in row.items()]
        for first in range(0, len(metrics), _MOST_METRICS):
            some = metrics[first : first + _MOST_METRICS]
            self._client.log_batch(theirs, metrics=some, params=parameters if first == 0 else ())
        status = "FINISHED" if run.status == "finished" else "FAILED"
        self._client.set_terminated(theirs, status, end_time=ended)

    def _metric(self, name: str, value: float, at: int, step: int) -> Any:
        return self._entities.Metric(_REFUSED.sub("_", name), value, at, step)

    def close(self) -> None:
        """Nothing waits: every call has been answered."""
