"""`raystudy.run`: launch a study, on Ray or on this machine alone."""

import os
from collections.abc import Sequence
from pathlib import Path

from raystudy.artifacts.storage import Storage, locate_storage
from raystudy.distribute.same_code import SameCode, SameCodeOnRank
from raystudy.distribute.shared_storage import NotSharedError, in_ray_job
from raystudy.execute.budget import Budget
from raystudy.execute.code_digest import code_digest
from raystudy.execute.gpus import check_gpus, check_group_gpus, visible_gpus
from raystudy.execute.inputs import need_deepspeed, need_packages
from raystudy.execute.launched import Launch
from raystudy.execute.local import Executor, local_executor
from raystudy.execute.loop import run_study
from raystudy.execute.progress import Progress
from raystudy.execute.tracking import TrackingBeside
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
    budget: Budget | None = None,
    resolve_again: bool = False,
) -> Launch:
    """Make all runs of `loaded` that are missing on `storage`, within `budget`.

    Raises:
        SpecError: GPUs are asked for where there are none.
        MissingPackageError: a model is trained by DeepSpeed, which is not installed here.
        NotSharedError: in a Ray job or on several nodes, the storage is the default or a relative path.
    """
    if in_ray_job() and not storage.is_absolute:
        raise NotSharedError("this is a Ray job, whose working directory is a copy that goes with the job")
    resources = loaded.spec.all_resources
    chosen = workers if workers is not None else loaded.spec.resources.workers
    if local or (address is None and "RAY_ADDRESS" not in os.environ):  # a cluster of its own is this machine
        need_deepspeed(loaded.spec)  # before data are built, which may take hours
    by_torch = loaded.spec.needs_torch
    needs_gpus = any(each.gpus_per_run for each in resources)
    if local and needs_gpus:
        if by_torch:
            need_packages("torch")
        check_gpus(resources, len(visible_gpus(by_torch=by_torch)), "this machine")
    has_gpu_groups = any(engine.gpus_per_worker for engine in loaded.spec.deepspeed_engines().values())
    if local and has_gpu_groups:
        need_packages("torch")
        check_group_gpus(loaded.spec, len(visible_gpus()), "this machine")

    def make_executor() -> Executor:
        if local:
            if by_torch:
                need_packages("torch")
            return local_executor(chosen, needs_gpus=needs_gpus or has_gpu_groups, by_torch=by_torch)
        from raystudy.distribute.tune_executor import TuneExecutor

        work, group_work = SameCode(code_digest()), SameCodeOnRank(code_digest())
        return TuneExecutor(address, resources, is_storage_shared=storage.is_absolute, work=work, group_work=group_work)

    told = progress or Progress()
    with TrackingBeside(loaded.spec, storage, told.say):
        return run_study(loaded, storage, make_executor, told, wait=wait, budget=budget, again=resolve_again)


def run(
    study: str | Path,
    *,
    storage: str | Path | None = None,
    local: bool = False,
    workers: int | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
    max_runs: int | None = None,
    max_device_hours: float | None = None,
    resolve_again: bool = False,
) -> StudyResults:
    """Run the study in the file `study` and return its results.

    Args:
        study: path of a study file.
        storage: folder; default as for the command line.
        local: train on this machine without Ray, in `workers` processes (default one per core).
        address: of a Ray cluster; default RAY_ADDRESS, else a local cluster of its own.
        overrides: `key=value`, as `--set` on the command line.
        max_runs: start no more than this many runs now.
        max_device_hours: start no run that would take the device time of this launch beyond this.
        resolve_again: resolve frozen learning rates and shards anew.

    Raises:
        BudgetError: the launch stopped at its budget; the next one goes on.
        IncompleteError: some wanted runs have no result.
    """
    budget = Budget(max_runs, max_device_hours)
    loaded = load_study(Path(study), overrides)
    place = locate_storage(storage, loaded)
    done = launch(
        loaded, place, local=local, workers=workers, address=address, budget=budget, resolve_again=resolve_again
    )
    done.raise_if_incomplete()
    return StudyResults(place, place.study(loaded.spec.name))
