"""Weights & Biases: a run there for each of ours, under our id, so that telling again is the same run."""

import os
from pathlib import Path
from typing import Any

from raystudy.artifacts.files import StoragePath
from raystudy.errors import MissingPackageError, SpecError
from raystudy.execute.trackers import TrackedRun
from raystudy.specs.tracking import WandbTracker

_NAME_CHARACTERS = 128  # of a run's name there, at most


class WandbConnection:
    """A project, told by processes of W&B's own."""

    def __init__(self, spec: WandbTracker, study: str, folder: StoragePath) -> None:
        """Raises MissingPackageError without wandb, SpecError where there is no place for offline runs."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        place = Path(os.environ["WANDB_DIR"]) if "WANDB_DIR" in os.environ else folder
        if not isinstance(place, Path):
            raise SpecError(
                "W&B must have a local folder for what it keeps, but the storage is remote. Set WANDB_DIR to one"
            )
        try:
            import wandb
        except ImportError as error:
            raise MissingPackageError(
                f"wandb must be installed to tell Weights & Biases of runs ({error}). Install raystudy[wandb] here, or "
                f"in an environment of its own, where `raystudy track` needs nothing but the storage"
            ) from error
        place.mkdir(parents=True, exist_ok=True)
        self._wandb: Any = wandb
        self._options = {"project": spec.project or study, "entity": spec.entity, "mode": spec.mode, "dir": str(place)}

    def known(self, study: str) -> set[str]:  # noqa: ARG002
        """It is not asked: a run told again has the same id and is the same."""
        return set()

    def tell(self, run: TrackedRun) -> None:
        """A run with its configuration, curve and summary."""
        theirs = self._wandb.init(
            **self._options,
            id=run.run_id,
            resume="allow",
            name=run.name[:_NAME_CHARACTERS],
            group=str(run.parameters.get("recipe", "")),
            tags=[run.status],
            config={**run.parameters, "raystudy_run_id": run.run_id, "raystudy_study": run.study},
            settings=self._wandb.Settings(console="off", silent=True, disable_git=True, save_code=False),
        )
        for step, row in run.curve:
            theirs.log(dict(row), step=step)
        theirs.summary.update({**run.metrics, "status": run.status, "started_at": run.began})
        theirs.finish(exit_code=0 if run.status == "finished" else 1)

    def close(self) -> None:
        """Every run was finished when it was told."""
