"""`raystudy.run`: launch a study, on Ray or on this machine alone."""

from collections.abc import Sequence
from pathlib import Path

from raystudy.artifacts.storage import Storage, locate_storage
from raystudy.execute.inputs import need_packages
from raystudy.execute.local import Executor, local_executor
from raystudy.execute.loop import Launch, run_study
from raystudy.execute.progress import Progress
from raystudy.specs.load import LoadedStudy, load_study
from raystudy.study.results import StudyResults


def launch(
    loaded: LoadedStudy,
    storage: Storage,
    *,
    local: bool = False,
    workers: int | None = None,
    address: str | None = None,
    wait: bool = True,
    progress: Progress | None = None,
) -> Launch:
    """Make all runs of `loaded` that are missing on `storage`."""
    chosen = workers if workers is not None else loaded.spec.resources.workers

    def make_executor() -> Executor:
        if local:
            if not loaded.spec.is_synthetic:
                need_packages("torch")
            return local_executor(chosen)
        from raystudy.distribute.tune_executor import TuneExecutor

        return TuneExecutor(address, loaded.spec.resources)

    return run_study(loaded, storage, make_executor, progress or Progress(), wait=wait)


def run(
    study: str | Path,
    *,
    storage: str | Path | None = None,
    local: bool = False,
    workers: int | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
) -> StudyResults:
    """Run the study in the file `study` and return its results.

    Args:
        study: path of a study file.
        storage: folder; default as for the command line.
        local: train on this machine without Ray, in `workers` processes (default one per core).
        address: of a Ray cluster; default RAY_ADDRESS, else a local cluster of its own.
        overrides: `key=value`, as `--set` on the command line.

    Raises:
        IncompleteError: some wanted runs have no result.
    """
    loaded = load_study(Path(study), overrides)
    place = locate_storage(storage, loaded)
    launch(loaded, place, local=local, workers=workers, address=address).raise_if_incomplete()
    return StudyResults(place, place.study(loaded.spec.name))
